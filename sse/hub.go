// Package sse streams changes to browsers as server-sent events.
//
// A Hub keeps the last changes as encoded frames in one ring, and one cursor
// for each subscriber. Broadcast never blocks and never writes: it appends to
// the ring and wakes whoever listens to one of the channels. Each stream then
// writes everything from its cursor to the head that matches: live, replay
// after a reconnect and catching up after a stall are that one loop, so there
// is no gap and no repeat between them.
//
//	hub := sse.NewHub(logger, cfg)
//	go changes.Tail(ctx, hub)
//	router.Handle("/api/events", sse.NewHandler(hub, changes.Range, logger, cfg))
//
// What a stream carries, in this order:
//
//   - retry: 2000, at once.
//   - event: ready, whose id is the position that the stream goes on from. For a
//     reconnect that is the position the client came with, so a cut right after
//     it repeats nothing less: what was missed follows.
//   - or event: reset and then event: ready, both with the new position, when
//     the missed changes are not known to be whole. The reset comes first and
//     is what moves the client's position: were it the other way round, a cut
//     between the two would leave a client at the new position that was never
//     told to refetch. A reset may also come later, for the same reasons.
//   - changes without a name, each with its position as id; event: ping without
//     an id on a quiet stream; event: goaway before a close that we want.
//
// All subscribers see the changes of their channels in the same order. One
// that fell behind the ring is served from the log in pages, at its own speed;
// more than Config.MergeOver missed changes become one; past Config.MaxReplay,
// or when the log does not reach back, it is told to reset. Never silence.
package sse

import (
	"log/slog"
	"math/rand/v2"
	"sort"
	"sync"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Hub is the ring and its subscribers.
type Hub struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	ready     chan struct{} // closed by the first Reset or Broadcast
	readyOnce sync.Once
	empty     chan struct{} // holds one: the last subscriber left

	waking []*subscriber // used by Broadcast alone, which one goroutine calls

	mu sync.Mutex

	// The ring: frames, oldest first. A stored element never changes, so a slice
	// of it may be read without mu.
	frames []*frame
	bytes  int            // of the frames' wire
	from   event.Position // everything after it is in the ring
	head   event.Position // newest position

	subs    map[*subscriber]struct{}
	topics  map[string]map[*subscriber]struct{} // channel → its subscribers
	all     map[*subscriber]struct{}            // those of "*"
	byAddrs map[string]int                      // client address → streams
}

// subscriber is one stream's cursor. Fields below mu belong to Hub.mu.
type subscriber struct {
	channels map[string]struct{}
	all      bool
	addr     string
	wake     chan struct{} // holds one

	// mu:
	pos     event.Position // the cursor: all up to it is written, or not for this subscriber
	pending bool           // there may be a matching frame after pos
	behind  bool           // what follows pos must come from the log
	reset   string         // reason of a reset to be told; before anything else
	due     time.Time      // when to tell it
}

// NewHub returns an empty Hub. It has no position, and its streams wait, until the first Reset.
func NewHub(log *slog.Logger, cfg Config) *Hub {
	h := &Hub{
		cfg: cfg.withDefaults(), log: log, ready: make(chan struct{}), empty: make(chan struct{}, 1),
		subs: map[*subscriber]struct{}{}, topics: map[string]map[*subscriber]struct{}{}, all: map[*subscriber]struct{}{}, byAddrs: map[string]int{},
	}
	h.metrics = newMetrics(cfg.Metrics, h)
	return h
}

// Broadcast adds records, oldest first, and wakes those who listen. One goroutine calls it.
func (h *Hub) Broadcast(recs []event.Record) {
	if len(recs) == 0 {
		return
	}
	now := time.Now()
	added := make([]*frame, len(recs))
	for i, r := range recs {
		added[i] = newFrame(r, now)
	}
	h.metrics.frames.Add(float64(len(recs)))
	defer h.readyOnce.Do(func() { close(h.ready) })

	h.mu.Lock()
	wake := h.waking[:0]
	for _, f := range added {
		before := h.head
		h.frames = append(h.frames, f)
		h.bytes += len(f.wire)
		h.head = f.pos
		listeners := h.all
		if f.isForAll() {
			listeners = h.subs
		}
		for s := range listeners {
			if s.notice(f, before) {
				wake = append(wake, s)
			}
		}
		for _, ch := range f.channels {
			for s := range h.topics[ch] {
				if s.notice(f, before) {
					wake = append(wake, s)
				}
			}
		}
	}
	h.evict(now)
	h.mu.Unlock()

	// Outside mu, which each of them takes first thing.
	for _, s := range wake {
		s.signal()
	}
	clear(wake)
	h.waking = wake
}

// notice tells s that f waits for it; before is the position of the frame
// before f. It reports whether s must be woken: not if something waits already.
func (s *subscriber) notice(f *frame, before event.Position) bool {
	if s.pending || s.behind || s.reset != "" || f.pos.Compare(s.pos) <= 0 {
		return false
	}
	s.pending = true
	if before.Compare(s.pos) > 0 {
		s.pos = before // what came since its last write was not for it
	}
	return true
}

func (s *subscriber) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// evict drops frames beyond the bounds of the ring. A subscriber whose cursor
// was on them finds out when it looks.
func (h *Hub) evict(now time.Time) {
	n := 0
	for n < len(h.frames)-1 && (len(h.frames)-n > h.cfg.RingLen || h.bytes > h.cfg.RingBytes || now.Sub(h.frames[n].at) > h.cfg.RingAge) {
		h.bytes -= len(h.frames[n].wire)
		h.from = h.frames[n].pos
		n++
	}
	h.frames = h.frames[n:] // append moves the rest to a new array in time
}

// Reset empties the ring and tells every subscriber to refetch, spread over
// Config.ResetSpread: what follows comes after position at.
func (h *Hub) Reset(reason string, at event.Position) {
	defer h.readyOnce.Do(func() { close(h.ready) })
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frames, h.bytes = nil, 0
	h.from, h.head = at, at
	for s := range h.subs {
		s.reset, s.due = reason, time.Now().Add(rand.N(max(h.cfg.ResetSpread, 1)))
		s.signal()
	}
}

// Subscribers returns how many streams are open.
func (h *Hub) Subscribers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs)
}

// Channels returns how many channels somebody listens to.
func (h *Hub) Channels() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.topics)
}

// Position returns the newest position, zero before the first.
func (h *Hub) Position() event.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.head
}

// join adds a subscriber whose cursor is after pos, or at the head when pos is
// nil. It returns nil when there are too many.
func (h *Hub) join(channels []string, all bool, addr string, pos *event.Position) *subscriber {
	s := &subscriber{channels: make(map[string]struct{}, len(channels)), all: all, addr: addr, wake: make(chan struct{}, 1)}
	for _, ch := range channels {
		s.channels[ch] = struct{}{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.subs) >= h.cfg.MaxSubscribers || h.cfg.MaxPerAddress > 0 && h.byAddrs[addr] >= h.cfg.MaxPerAddress {
		return nil
	}
	h.subs[s] = struct{}{}
	h.byAddrs[addr]++
	if all {
		h.all[s] = struct{}{}
	}
	for ch := range s.channels {
		if h.topics[ch] == nil {
			h.topics[ch] = map[*subscriber]struct{}{}
		}
		h.topics[ch][s] = struct{}{}
	}
	if pos == nil {
		s.pos = h.head
	} else {
		// Ahead of the ring: this node lags, or the position is none of the log. The log knows.
		h.seek(s, *pos)
		s.behind = s.behind || pos.Compare(h.head) > 0
	}
	return s
}

// seek sets the cursor of s after pos. A position ahead of the ring waits there.
func (h *Hub) seek(s *subscriber, pos event.Position) {
	s.pos = pos
	s.behind = pos.Compare(h.from) < 0
	s.pending = !s.behind && pos.Compare(h.head) < 0
}

// leave is the other half of join.
func (h *Hub) leave(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
	delete(h.all, s)
	for ch := range s.channels {
		if delete(h.topics[ch], s); len(h.topics[ch]) == 0 {
			delete(h.topics, ch)
		}
	}
	if len(h.subs) == 0 {
		select {
		case h.empty <- struct{}{}:
		default:
		}
	}
	if h.byAddrs[s.addr]--; h.byAddrs[s.addr] == 0 {
		delete(h.byAddrs, s.addr)
	}
}

// batch is what a stream does next: the first of its cases that is set.
type batch struct {
	hold   time.Duration // wait so long before a reset is told
	reset  string        // tell a reset to position at
	behind bool          // ask the log for what follows at
	frames []*frame      // write these; merged when merge is set
	merge  bool
	more   bool // cut at maxBatch: what follows frames waits already, and nobody will wake for it

	at   event.Position // where the cursor stands, or stood before frames
	head event.Position // newest position of the hub
}

// maxBatch is how many bytes of frames are written at a time.
const maxBatch = 32 << 10

// take moves the cursor of s over what it returns. buf is used for the frames.
func (h *Hub) take(s *subscriber, buf []*frame) batch {
	h.mu.Lock()
	b := batch{at: s.pos, head: h.head}
	switch {
	case s.reset != "":
		defer h.mu.Unlock()
		if b.hold = time.Until(s.due); b.hold > 0 {
			return b
		}
		b.reset, b.at, b.hold = s.reset, h.head, 0
		s.reset, s.pending, s.behind, s.pos = "", false, false, h.head
		return b
	case s.behind:
		h.mu.Unlock()
		b.behind = true
		return b
	case !s.pending:
		h.mu.Unlock()
		return b
	case s.pos.Compare(h.from) < 0: // fell off the ring
		s.behind, s.pending = true, false
		h.mu.Unlock()
		b.behind = true
		return b
	}
	ring := h.frames[sort.Search(len(h.frames), func(i int) bool { return h.frames[i].pos.Compare(s.pos) > 0 }):]
	s.pending, s.pos = false, h.head
	h.mu.Unlock()

	b.frames = buf[:0]
	for _, f := range ring {
		if f.wants(s.channels, s.all) {
			b.frames = append(b.frames, f)
		}
	}
	if b.merge = len(b.frames) > h.cfg.MergeOver; b.merge {
		return b
	}
	size := 0
	for i, f := range b.frames {
		if size += len(f.wire); size > maxBatch && i > 0 {
			h.advance(s, b.frames[i-1].pos) // back to where this batch ends
			clear(b.frames[i:])
			b.frames, b.more = b.frames[:i], true
			break
		}
	}
	return b
}

// advance sets the cursor of s to pos, up to which it was served, and reports
// whether the ring reaches back to there.
func (h *Hub) advance(s *subscriber, pos event.Position) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.reset != "" {
		return true
	}
	h.seek(s, pos)
	return !s.behind
}

// mustReset makes the next take tell s to reset.
func (h *Hub) mustReset(s *subscriber, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.reset == "" {
		s.reset, s.due = reason, time.Time{}
	}
}
