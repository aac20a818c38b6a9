package cache

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// idle is a latency that a test simulates.
func idle(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[int(q*float64(len(ds)-1))]
}

// shortLease keeps barriers short. Steps of a test take far less, on a busy machine too.
const shortLease = 300 * time.Millisecond

// node makes a Store that nobody runs: the test syncs it, step by step.
func node(t testing.TB, rdb redis.UniversalClient, change ...func(*options)) *Store {
	t.Helper()
	o := options{lease: shortLease, now: now, scripts: shipped}
	for _, c := range change {
		c(&o)
	}
	return newStore(rdb, testkit.Logger(t), Config{}, o)
}

// syncNow is one step of a node.
func syncNow(t testing.TB, nodes ...*Store) {
	t.Helper()
	for _, s := range nodes {
		if err := s.turnAfter().wait(t.Context()); err != nil {
			t.Fatalf("sync: %v", err)
		}
		for { // the acknowledgement of news follows by itself
			s.turns.mu.Lock()
			running := s.turns.running
			s.turns.mu.Unlock()
			if running == nil {
				break
			}
			running.wait(t.Context())
		}
	}
}

// steady syncs a worker until it knows how evenly the server's clock runs.
func steady(t testing.TB, s *Store) {
	t.Helper()
	testkit.Until(t, "the worker trusts the server's clock", func() bool {
		syncNow(t, s)
		return s.pace.believable(s.now().mono, s.lease) > 0
	})
}

// settled waits until the phantom lease of a new ledger is over.
func settled(t testing.TB, s *Store) {
	t.Helper()
	steady(t, s)
	p := Purge{Tags: []string{"settling"}}
	barrier(t, s, p, invalidate(t, s, p))
	syncNow(t, s)
}

func invalidate(t testing.TB, s *Store, p Purge) Mark {
	t.Helper()
	m, err := s.Invalidate(t.Context(), p, Mark{})
	if err != nil {
		t.Fatalf("Invalidate(%+v): %v", p, err)
	}
	return m
}

func barrier(t testing.TB, s *Store, p Purge, m Mark) (Mark, Report) {
	t.Helper()
	m, r, err := s.Barrier(t.Context(), p, m)
	if err != nil || !r.Settled {
		t.Fatalf("Barrier = %+v, %v", r, err)
	}
	return m, r
}

func tag(tags ...string) Purge { return Purge{Tags: tags} }

// answers is a fill that always answers body.
func answers(body string) FillFunc {
	return func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 200, Body: []byte(body), TTL: time.Minute}, nil
	}
}

func fetch(t testing.TB, s *Store, req Request, fill FillFunc) Result {
	t.Helper()
	r, err := s.Fetch(t.Context(), req, fill)
	if err != nil {
		t.Fatalf("Fetch(%q): %v", req.Key, err)
	}
	return r
}

// saw is what a reader cares for: "body verdict".
func saw(r Result) string { return text(r.Entry) + " " + string(r.Verdict) }

func text(e *Entry) string {
	b, err := e.Body()
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// hold makes a node hold an entry in its hands, as a cache in memory would.
func hold(t testing.TB, s *Store, key string, tags ...string) *Entry {
	t.Helper()
	r := fetch(t, s, Request{Key: key, Tags: tags}, answers("old"))
	testkit.Until(t, "the entry may be served", func() bool {
		syncNow(t, s)
		return s.state(key, r.Entry, nil).servable()
	})
	return r.Entry
}

// caught reports whether a variant without a repair goes wrong. The machine may
// be so slow that leases run out by themselves, so it has several tries.
func caught(goesWrong func() bool) bool {
	for range 10 {
		if goesWrong() {
			return true
		}
	}
	return false
}

// onServers runs a step check on a real Redis by both protocols, and on the
// embedded store.
func onServers(t *testing.T, check func(t *testing.T, rdb redis.UniversalClient)) {
	t.Helper()
	t.Parallel()
	for _, protocol := range []int{3, 2} {
		t.Run("redis RESP"+strconv.Itoa(protocol), func(t *testing.T) {
			t.Parallel()
			rdb := redis.NewClient(&redis.Options{Addr: testkit.StartServer(t).Addr, Protocol: protocol})
			t.Cleanup(func() { rdb.Close() })
			check(t, rdb)
		})
	}
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		t.Cleanup(func() { rdb.Close() })
		check(t, rdb)
	})
}

// without takes a repair out of a script.
func without(t testing.TB, file, repair, instead string) func(*options) {
	t.Helper()
	found := false
	s := newScripts(func(name, source string) string {
		if name == file && strings.Contains(source, repair) {
			found = true
			return strings.ReplaceAll(source, repair, instead)
		}
		return source
	})
	if !found {
		t.Fatalf("%s.lua has no %q", file, repair)
	}
	return func(o *options) { o.scripts = s }
}

// skewed adds what the key "skew" says to the server's time, in seconds.
func skewed(edits ...func(name, source string) string) func(*options) {
	s := newScripts(func(name, source string) string {
		for _, edit := range edits {
			source = edit(name, source)
		}
		return strings.ReplaceAll(source, "redis.call('TIME')",
			"redis.call('TIME'); t[1] = t[1] + (redis.call('GET', 'skew') or 0)")
	})
	return func(o *options) { o.scripts = s }
}

// ledgerCopy is what a replica held at some moment.
type ledgerCopy struct {
	sets map[string][]redis.Z
	meta map[string]string
}

func copyLedger(t testing.TB, rdb redis.UniversalClient) ledgerCopy {
	t.Helper()
	n := names{ns: "fw"}
	c := ledgerCopy{sets: map[string][]redis.Z{}}
	var err error
	for _, key := range []string{n.ledger(), n.seqs(), n.ack(), n.live()} {
		if c.sets[key], err = rdb.ZRangeWithScores(t.Context(), key, 0, -1).Result(); err != nil {
			t.Fatal(err)
		}
	}
	if c.meta, err = rdb.HGetAll(t.Context(), n.meta()).Result(); err != nil {
		t.Fatal(err)
	}
	return c
}

// restore is a failover to the replica that held c.
func (c ledgerCopy) restore(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	n := names{ns: "fw"}
	if err := rdb.Del(t.Context(), n.ledger(), n.seqs(), n.ack(), n.live(), n.meta()).Err(); err != nil {
		t.Fatal(err)
	}
	for key, members := range c.sets {
		if len(members) > 0 {
			if err := rdb.ZAdd(t.Context(), key, members...).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for field, value := range c.meta {
		if err := rdb.HSet(t.Context(), n.meta(), field, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// aged is what c would be, had it been made that much earlier.
func (c ledgerCopy) aged(by time.Duration) ledgerCopy {
	old := ledgerCopy{sets: map[string][]redis.Z{}, meta: c.meta}
	for key, members := range c.sets {
		for _, z := range members {
			if digits, nonce, ok := strings.Cut(z.Member.(string), ":"); ok && strings.HasSuffix(key, ":seqs") {
				seq, _ := strconv.ParseUint(digits, 10, 64)
				z.Member = fmt.Sprint(seq-uint64(by.Microseconds()), ":", nonce)
			}
			z.Score -= float64(by.Microseconds())
			old.sets[key] = append(old.sets[key], z)
		}
	}
	return old
}

// otherHost is what the next script sees when another server process answers.
func otherHost(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	if err := rdb.HSet(t.Context(), names{ns: "fw"}.meta(), "host", "another").Err(); err != nil {
		t.Fatal(err)
	}
}

func events(t testing.TB, rdb redis.UniversalClient) int {
	t.Helper()
	n, err := rdb.ZCard(t.Context(), names{ns: "fw"}.seqs()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// clocks are both clocks of a machine, moved by the test.
type clocks struct {
	mu sync.Mutex
	at instant
}

func newClocks() *clocks {
	return &clocks{at: instant{mono: time.Hour, wall: time.Now().Round(0)}}
}

func (c *clocks) now() instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clocks) move(mono, wall time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at.mono += mono
	c.at.wall = c.at.wall.Add(wall)
}

func (c *clocks) set(o *options) { o.now = c.now }

// hook calls around with every command that a client sends.
type hook struct {
	around func(ctx context.Context, cmd redis.Cmder, send func() error) error
}

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return h.around(ctx, cmd, func() error { return next(ctx, cmd) })
	}
}

// sends reports whether cmd carries a Redis key of that name.
func sends(cmd redis.Cmder, name string) bool {
	return slices.ContainsFunc(cmd.Args(), func(a any) bool { return a == any(name) })
}
