package cache

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Hot is an entry that is read often.
type Hot struct {
	Key    string
	Target string // how to ask for it, see Request.Target
	Reads  uint64 // of the last minutes by all processes, about; 0 where it is only known to be there
}

// Bounds of what a process notes and tells of its reads.
const (
	hotSample   = 8    // one read of so many is counted
	hotCounters = 2000 // entries with a counter
	hotTold     = 500  // entries that other processes are told of
	hotTexts    = 256 << 10
	hotScopes   = 4 << 10 // bytes of one entry's scopes
	hotFaded    = time.Minute
	hotTell     = 2 * time.Second
	hotLife     = 15 * time.Second // of what a process told
	hotCached   = time.Second      // for Hottest
)

// hot finds the entries that are read most, in bounded memory: the Space-Saving
// summary of Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent
// and Top-k Elements in Data Streams", ICDT 2005, over a sample of the reads.
// Counters are halved each minute, so that it follows the day.
type hot struct {
	mu       sync.Mutex
	counters map[string]*counter
	least    counterHeap // the same, the smallest at the front
	changed  bool        // since it was told

	listMu sync.Mutex
	listed []hotRow // of all processes
	listAt time.Duration
}

// counter counts reads of one entry.
type counter struct {
	key     string
	target  string   // of the entry that was read last
	scopes  []string // likewise
	n       uint64
	foreign uint64 // of n, what the counter's former key had: too much at most
	at      int    // in the heap
}

// sure is how many reads were counted at least.
func (c *counter) sure() uint64 { return c.n - c.foreign }

func newHot() *hot { return &hot{counters: make(map[string]*counter)} }

// noteRead counts a read of e, one of hotSample. The others take no lock, and
// nobody waits for one: a sample may lack some.
func (s *Store) noteRead(key string, e *Entry) {
	if rand.Uint32()%hotSample == 0 && !e.Negative && s.hot.mu.TryLock() {
		s.hot.note(key, e)
		s.hot.mu.Unlock()
	}
}

// note counts a read. The caller holds the lock.
func (h *hot) note(key string, e *Entry) {
	h.changed = true
	c, ok := h.counters[key]
	switch {
	case ok:
		c.n, c.target, c.scopes = c.n+1, e.Target, e.scopes
		heap.Fix(&h.least, c.at)
	case len(h.least) < hotCounters:
		c = &counter{key: key, target: e.Target, scopes: e.scopes, n: 1}
		h.counters[key] = c
		heap.Push(&h.least, c)
	default:
		// The least counter is taken over with what it has, so that a key which
		// comes often enough cannot fail to rise.
		c = h.least[0]
		delete(h.counters, c.key)
		c.key, c.target, c.scopes, c.foreign = key, e.Target, e.scopes, c.n
		c.n++
		h.counters[key] = c
		heap.Fix(&h.least, 0)
	}
}

// fade halves all counters, and drops those that had one read.
func (h *hot) fade() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.least {
		c.n, c.foreign = c.n/2, c.foreign/2
		if c.n == 0 {
			delete(h.counters, c.key)
		}
	}
	h.least = slices.DeleteFunc(h.least, func(c *counter) bool { return c.n == 0 })
	for i, c := range h.least {
		c.at = i
	}
	heap.Init(&h.least)
	h.changed = true
}

// hotRow is an entry as processes tell each other: key, target, reads, scopes.
type hotRow struct {
	Hot
	scopes []string
}

func (r hotRow) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{r.Key, r.Target, r.Reads, r.scopes})
}

func (r *hotRow) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[4]any{&r.Key, &r.Target, &r.Reads, &r.scopes})
}

// top returns what other processes are told, the most read first.
func (h *hot) top() []hotRow {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed = false
	list := slices.SortedFunc(maps.Values(h.counters), func(a, b *counter) int {
		return cmp.Or(cmp.Compare(b.sure(), a.sure()), cmp.Compare(a.key, b.key))
	})
	rows := make([]hotRow, 0, min(len(list), hotTold))
	size := 0
	for _, c := range list {
		row := hotRow{Hot{c.key, c.target, c.sure() * hotSample}, c.scopes}
		own := 0
		for i, scope := range row.scopes {
			if own += len(scope) + 3; own > hotScopes { // a purge of the others does not find it here
				row.scopes = row.scopes[:i]
				break
			}
		}
		if size += min(own, hotScopes) + len(row.Key) + len(row.Target) + 40; size > hotTexts/2 || len(rows) == hotTold { // half: JSON may escape
			break
		}
		rows = append(rows, row)
	}
	return rows
}

func (h *hot) hasChanged() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (n names) hot(node string) string { return n.own("hot:" + node) } // string, JSON: what that node's readers read most

// runHot tells other processes what is read most here, until ctx ends.
func (s *Store) runHot(ctx context.Context) {
	tell := time.NewTicker(hotTell)
	defer tell.Stop()
	fade := time.NewTicker(hotFaded)
	defer fade.Stop()
	told := s.now().mono
	for {
		select {
		case <-tell.C:
			if now := s.now().mono; s.hot.hasChanged() || now-told > hotLife/2 {
				s.tellHot(ctx)
				told = now
			}
		case <-fade.C:
			s.hot.fade()
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) tellHot(ctx context.Context) {
	rows := s.hot.top()
	if len(rows) == 0 {
		return
	}
	b, err := json.Marshal(rows)
	if err == nil && len(b) <= hotTexts {
		err = s.rdb.Set(ctx, s.names.hot(s.node), b, hotLife).Err()
	}
	if err != nil && ctx.Err() == nil {
		s.log.DebugContext(ctx, "most read entries not told", "err", err)
	}
}

// Hottest returns at most n entries that p touches and that can be asked for
// again, the most read first. Where the reads that were noted do not give n of
// them, what is stored under p's tags, paths and keys makes up for it: ask
// before the entries are reclaimed.
func (s *Store) Hottest(ctx context.Context, p Purge, n int) ([]Hot, error) {
	if n <= 0 {
		return nil, nil
	}
	rows, err := s.hotRows(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding what is read most: %w", err)
	}
	p.Soft = false
	named := slices.DeleteFunc(scopes(p), func(s string) bool { return s == negative })
	out := hottest(rows, newTouch(named), n)
	if len(out) < n {
		more, err := s.stored(ctx, named, out, n-len(out))
		if err != nil {
			return nil, fmt.Errorf("finding what is stored: %w", err)
		}
		out = append(out, more...)
	}
	return out, nil
}

// hottest adds up the reads of what t touches.
func hottest(rows []hotRow, t touch, n int) []Hot {
	sum := map[string]*Hot{}
	for _, row := range rows {
		if row.Target == "" || len(t.by(row.Key, row.scopes)) == 0 {
			continue
		}
		if h, ok := sum[row.Key]; ok {
			h.Reads += row.Reads
		} else {
			sum[row.Key] = &row.Hot
		}
	}
	list := slices.SortedFunc(maps.Values(sum), func(a, b *Hot) int {
		return cmp.Or(cmp.Compare(b.Reads, a.Reads), cmp.Compare(a.Key, b.Key))
	})
	out := make([]Hot, 0, min(n, len(list)))
	for _, h := range list[:min(n, len(list))] {
		out = append(out, *h)
	}
	return out
}

// hotRows reads what all processes told, at most once a second.
func (s *Store) hotRows(ctx context.Context) ([]hotRow, error) {
	h := s.hot
	h.listMu.Lock()
	defer h.listMu.Unlock()
	now := s.now().mono
	if h.listAt != 0 && now-h.listAt < hotCached {
		return h.listed, nil
	}
	nodes, err := s.rdb.ZRange(ctx, s.names.live(), 0, -1).Result()
	if err != nil {
		return nil, err
	}
	nodes = slices.DeleteFunc(nodes, func(node string) bool { return node == "#" || node == "?" })
	var rows []hotRow
	for batch := range slices.Chunk(nodes, 16) {
		keys := make([]string, len(batch))
		for i, node := range batch {
			keys[i] = s.names.hot(node)
		}
		told, err := s.rdb.MGet(ctx, keys...).Result()
		if err != nil {
			return nil, err
		}
		for i, v := range told {
			var own []hotRow
			if text, ok := v.(string); !ok {
				continue
			} else if err := json.Unmarshal([]byte(text), &own); err != nil {
				s.log.DebugContext(ctx, "most read entries of a node cannot be read", "node", batch[i], "err", err)
			}
			rows = append(rows, own...)
		}
	}
	h.listed, h.listAt = rows, now
	return rows, nil
}

// stored returns entries under the scopes, besides those in known.
func (s *Store) stored(ctx context.Context, scopes []string, known []Hot, n int) ([]Hot, error) {
	after := fmt.Sprint("(", s.now().wall.UnixMilli())
	seen := make(map[string]bool, len(known))
	for _, h := range known {
		seen[h.Key] = true
	}
	var keys []string
	for _, scope := range scopes {
		if len(keys) >= 4*n {
			break // some have no target
		}
		var under []string
		if key, ok := strings.CutPrefix(scope, keyScope); ok {
			under = []string{key}
		} else if indexed(scope) {
			var err error
			if under, err = s.members(ctx, scope, after, (n+indexShards-1)/indexShards+1); err != nil {
				return nil, err
			}
		}
		for _, key := range under {
			if !seen[key] {
				seen[key] = true
				keys = append(keys, key)
			}
		}
	}
	heads, err := s.heads(ctx, keys)
	if err != nil {
		return nil, err
	}
	var out []Hot
	for i, e := range heads {
		if e != nil && e.Target != "" && !e.Negative && len(out) < n {
			out = append(out, Hot{Key: keys[i], Target: e.Target})
		}
	}
	return out, nil
}

// counterHeap implements heap.Interface: the smallest counter at the front.
type counterHeap []*counter

func (h counterHeap) Len() int           { return len(h) }
func (h counterHeap) Less(i, j int) bool { return h[i].n < h[j].n }
func (h counterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *counterHeap) Push(c any) {
	c.(*counter).at = len(*h)
	*h = append(*h, c.(*counter))
}
func (h *counterHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
