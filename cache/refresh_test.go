package cache

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/freshwire/freshwire/internal/testkit"
)

// slowly answers with the number of the call; calls that a reader waits for
// take that long by the test's clock.
func slowly(c *clocks, takes time.Duration, calls *atomic.Int64) FillFunc {
	return func(_ context.Context, held *Entry) (Fill, error) {
		if held == nil {
			c.move(takes, takes)
		}
		return Fill{Status: 200, Body: []byte(strconv.FormatInt(calls.Add(1), 10)), TTL: time.Minute}, nil
	}
}

func TestEntryIsFetchedAgainBeforeItExpires(t *testing.T) {
	t.Parallel()
	judge := func(t *testing.T, change ...func(*options)) (calls int64, last string) {
		c := newClocks()
		s := node(t, testkit.Redis(t), append(change, c.set, func(o *options) {
			o.lease = time.Hour
			o.random = func() float64 { return 0 } // the whole minute
		})...)
		syncNow(t, s)
		var asked atomic.Int64
		fill := slowly(c, time.Second, &asked)
		req := Request{Key: "k"}
		fetch(t, s, req, fill)
		if took := fetch(t, s, req, fill).Entry.Took; took != time.Second {
			t.Errorf("took %v, want 1s", took)
		}
		c.move(39*time.Second, 39*time.Second) // 21 s before its end: the odds are e^-21
		for range 1000 {
			fetch(t, s, req, fill)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times long before the end, want once", n)
		}
		c.move(20900*time.Millisecond, 20900*time.Millisecond) // 0.1 s before its end
		for range 100 {                                        // the odds that none is due: 0.095^100
			r, peeked := s.Peek(req)
			if !peeked {
				r = fetch(t, s, req, fill)
			}
			if r.Verdict != Hit {
				t.Errorf("read is a %s, want a hit", r.Verdict)
			}
		}
		testkit.Until(t, "what flies has landed", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.flights) == 0
		})
		return asked.Load(), text(fetch(t, s, req, fill).Entry)
	}
	if calls, last := judge(t); calls != 2 || last != "2" {
		t.Errorf("the origin was asked %d times, the last read saw %q; want 2, 2", calls, last)
	}
	if calls, _ := judge(t, func(o *options) { o.faults.neverEarly = true }); calls != 1 {
		t.Errorf("the origin was asked %d times", calls)
	}
	if calls, last := judge(t, func(o *options) { o.faults.refreshFindsItself = true }); calls != 1 || last != "1" {
		t.Errorf("a refresh that takes the entry for its result: asked %d times, saw %q; this test proves nothing", calls, last)
	}
}

// The odds of a refresh: e^(-left/took).
func TestOddsOfAnEarlyRefresh(t *testing.T) {
	t.Parallel()
	at := time.Now()
	for _, tc := range []struct {
		took, left time.Duration
		low, high  int // of 10,000
	}{
		{time.Second, 21 * time.Second, 0, 0},
		{time.Second, 3 * time.Second, 350, 650},          // 0.0498
		{time.Second, time.Second, 3400, 3950},            // 0.368
		{time.Second, 100 * time.Millisecond, 8800, 9300}, // 0.905
		{time.Second, 0, 10_000, 10_000},
		{0, time.Millisecond, 0, 0},
	} {
		due := 0
		for range 10_000 {
			if (&Entry{FreshUntil: at.Add(tc.left), Took: tc.took}).dueEarly(at) {
				due++
			}
		}
		if due < tc.low || due > tc.high {
			t.Errorf("%v before the end, a fetch of %v: due %d times of 10,000, want %d to %d", tc.left, tc.took, due, tc.low, tc.high)
		}
	}
}

// What Peek left to Fetch since it was due is not weighed a second time.
func TestRefreshThatPeekFoundDueBegins(t *testing.T) {
	t.Parallel()
	c := newClocks()
	s := node(t, testkit.Redis(t), c.set, func(o *options) { o.lease = time.Hour })
	syncNow(t, s)
	var asked atomic.Int64
	fill := slowly(c, time.Second, &asked)
	for round := range 20 {
		req := Request{Key: fmt.Sprint("k", round)}
		fetch(t, s, req, fill)
		e := s.memory.get(req.Key)
		c.move(e.FreshUntil.Sub(c.now().wall)-2*time.Second, e.FreshUntil.Sub(c.now().wall)-2*time.Second)
		for {
			if _, ok := s.Peek(req); !ok {
				break
			}
		}
		if r := fetch(t, s, req, fill); r.Verdict != Hit {
			t.Fatalf("round %d: read is a %s, want a hit", round, r.Verdict)
		}
		testkit.Until(t, "the next one is there", func() bool { return s.memory.get(req.Key) != e })
	}
	if n := testutil.ToFloat64(s.metrics.early); n != 20 {
		t.Errorf("%v refreshes counted, want 20", n)
	}
}

func TestLivesAreShortenedByUpToATenth(t *testing.T) {
	t.Parallel()
	c := newClocks()
	s := node(t, testkit.Redis(t), c.set)
	seen := map[time.Duration]bool{}
	for range 1000 {
		e := s.newEntry(Request{Key: "k"}, nil, Fill{Status: 200, TTL: time.Hour, SWR: time.Minute}, s.mirror.position())
		life := e.FreshUntil.Sub(c.now().wall)
		if life > time.Hour || life <= 54*time.Minute {
			t.Fatalf("an hour became %v", life)
		}
		if swr := e.StaleUntil.Sub(e.FreshUntil); swr != time.Minute {
			t.Fatalf("a minute of staleness became %v", swr)
		}
		seen[life] = true
	}
	if len(seen) < 900 {
		t.Errorf("%d different lives of 1,000: they end together", len(seen))
	}
}
