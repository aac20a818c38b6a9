package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
)

// counter is a desk in a bubble, and the calls that came through it.
type counter struct {
	*desk
	mu    sync.Mutex
	calls []Notice
	at    []time.Duration // since the start
	most  int             // at a time
	now   int
}

// newCounter returns a desk whose target does tell.
func newCounter(cfg Config, tell func(ctx context.Context, n Notice) error) (c *counter, end func()) {
	c = &counter{}
	begin := time.Now()
	steps := Steps{Tell: func(ctx context.Context, _ string, n Notice) error {
		c.mu.Lock()
		c.calls, c.at = append(c.calls, n), append(c.at, time.Since(begin))
		c.now++
		c.most = max(c.most, c.now)
		c.mu.Unlock()
		err := tell(ctx, n)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.now--
		return err
	}}
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // never asked
	c.desk = NewWorker(rdb, steps, testkit.Discard(), cfg).desk("site")
	return c, func() { rdb.Close() }
}

// say tells the desk of tags within budget, in the way of an event.
func (c *counter) say(budget, patience time.Duration, tags ...string) TargetResult {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	r := &run{w: c.w}
	if r.plan.Coalesce = patience; patience > 0 {
		r.arrive = func() {}
	}
	return r.tell(ctx, "site", Notice{Purge: event.Purge{Tags: tags}, Event: event.Event{ReceivedAt: time.Now()}})
}

func gathering(t *testing.T, tell func(ctx context.Context, n Notice) error, body func(t *testing.T, c *counter, wg *sync.WaitGroup)) {
	synctest.Test(t, func(t *testing.T) {
		c, end := newCounter(Config{Coalesce: true}, tell)
		var wg sync.WaitGroup
		body(t, c, &wg)
		wg.Wait()
		end()
		time.Sleep(time.Minute) // timers run out
	})
}

func takes(d time.Duration) func(context.Context, Notice) error {
	return func(context.Context, Notice) error { time.Sleep(d); return nil }
}

func TestNoticesDuringACallBecomeOneCall(t *testing.T) {
	gathering(t, takes(100*time.Millisecond), func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		for i := range 1000 {
			wg.Go(func() {
				if res := c.say(time.Second, 0, "posts", fmt.Sprint("p", i%50)); !res.OK || res.Attempts != 1 {
					t.Errorf("notice %d: %+v, want it told at once", i, res)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if len(c.calls) != 2 || len(c.calls[0].Purge.Tags) != 2 || len(c.calls[1].Purge.Tags) != 51 {
			t.Errorf("%d calls, want the first and one of all others, each tag once", len(c.calls))
		}
	})
}

func TestLoneNoticeNeverWaits(t *testing.T) {
	gathering(t, takes(time.Millisecond), func(t *testing.T, c *counter, _ *sync.WaitGroup) {
		for range 10 {
			begin := time.Now()
			c.say(time.Second, 200*time.Millisecond, "posts")
			if took := time.Since(begin); took != time.Millisecond {
				t.Errorf("told in %v, want only the time of the call", took)
			}
			time.Sleep(callPause)
		}
	})
}

func TestQuickCallsAreSpaced(t *testing.T) {
	gathering(t, takes(time.Millisecond), func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		for range 1000 { // a second long
			wg.Go(func() { c.say(time.Second, 0, "posts") })
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		if n := len(c.calls); n < 19 || n > 22 {
			t.Errorf("a thousand events in a second made %d calls, want one each %v", n, callPause)
		}
	})
}

func TestNobodyWaitsForEventsThatCannotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := newCounter(Config{Concurrency: 2}, takes(time.Millisecond))
		c.say(time.Second, 0, "posts")
		var wg sync.WaitGroup
		for range 2 { // all that this worker runs at a time
			wg.Go(func() { c.say(time.Second, 0, "posts") })
		}
		wg.Wait()
		if want := []time.Duration{0, time.Millisecond}; !slices.Equal(c.at, want) {
			t.Errorf("calls began at %v, want %v: both events of the worker waited", c.at, want)
		}
		end()
		time.Sleep(time.Minute)
	})
}

func TestSlowCallHoldsNobodyBackForLong(t *testing.T) {
	hangs := func(ctx context.Context, n Notice) error { <-ctx.Done(); return ctx.Err() }
	gathering(t, hangs, func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		for i := range 10 {
			wg.Go(func() { c.say(5*time.Second, 0, fmt.Sprint("t", i)) })
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		c.mu.Lock()
		defer c.mu.Unlock()
		if want := []time.Duration{0, callHolds, 2 * callHolds, 3 * callHolds}; !slices.Equal(c.at, want) {
			t.Errorf("calls began at %v, want %v, and never more than %d at a time", c.at, want, maxCalls)
		}
	})
}

func TestEventLeavesWithItsOwnBudget(t *testing.T) {
	gathering(t, takes(time.Second), func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		wg.Go(func() { c.say(5*time.Second, 0, "first") })
		synctest.Wait()
		wg.Go(func() {
			if res := c.say(5*time.Second, 0, "patient"); !res.OK {
				t.Errorf("an event with time left: %+v, want it told", res)
			}
		})
		synctest.Wait()
		begin := time.Now()
		if res := c.say(300*time.Millisecond, 0, "hasty"); res.OK || time.Since(begin) != 300*time.Millisecond {
			t.Errorf("an event without time left: %+v after %v, want it given up", res, time.Since(begin))
		}
		if res := c.say(10*time.Millisecond, 0, "late"); res.OK {
			t.Errorf("an event that leaves before its call: %+v, want it given up", res)
		}
		wg.Wait()
		for _, n := range c.calls {
			if slices.Contains(n.Purge.Tags, "late") {
				t.Errorf("a call tells %q, though nobody waits for late any more", n.Purge.Tags)
			}
		}
	})
}

func TestCallsAreBounded(t *testing.T) {
	gathering(t, takes(20*time.Millisecond), func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		told := map[string]bool{}
		for i := range 1000 {
			wg.Go(func() {
				if res := c.say(10*time.Second, 0, "posts", fmt.Sprint("p", i)); !res.OK {
					t.Errorf("notice %d: %+v", i, res)
				}
			})
		}
		var large []string
		for i := range 3 * maxCallTags { // one event may name more than a call takes
			large = append(large, fmt.Sprint("l", i))
		}
		wg.Go(func() { c.say(10*time.Second, 0, large...) })
		wg.Wait()
		for _, n := range c.calls {
			if len(n.Purge.Tags) > maxCallTags && !slices.Equal(n.Purge.Tags, large) {
				t.Errorf("a call of %d tags, want at most %d", len(n.Purge.Tags), maxCallTags)
			}
			for _, tag := range n.Purge.Tags {
				told[tag] = true
			}
		}
		if len(told) != 1001+len(large) || c.most != maxCalls || len(c.calls) > 20 {
			t.Errorf("%d tags told in %d calls, %d at a time, want %d in few and %d at a time", len(told), len(c.calls), c.most, 1001+len(large), maxCalls)
		}
	})
}

// What a site refuses must not keep it from hearing of other events.
func TestRefusedNoticeSpoilsNoOther(t *testing.T) {
	refuses := func(_ context.Context, n Notice) error {
		time.Sleep(10 * time.Millisecond)
		switch {
		case slices.Contains(n.Purge.Tags, "bad"):
			return fmt.Errorf("400: %w", ErrRefused)
		case slices.Contains(n.Purge.Tags, "worse"):
			panic("boom")
		}
		return nil
	}
	gathering(t, refuses, func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		for i := range 90 {
			tag := fmt.Sprint("p", i)
			if i == 40 {
				tag = "bad"
			} else if i == 70 {
				tag = "worse"
			}
			wg.Go(func() {
				if res, good := c.say(10*time.Second, 0, tag), tag != "bad" && tag != "worse"; res.OK != good || !good && !errorIsShort(res) {
					t.Errorf("notice of %s: %+v, want told = %v", tag, res, good)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if n := len(c.calls); n > 60 {
			t.Errorf("%d calls to tell two refused notices from 88 others", n)
		}
	})
	// Where all say the same there is nothing to tell apart.
	gathering(t, refuses, func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		for range 100 {
			wg.Go(func() { c.say(10*time.Second, 0, "bad") })
			synctest.Wait()
		}
		wg.Wait()
		if n := len(c.calls); n != 2 {
			t.Errorf("a hundred refusals of one tag took %d calls, want 2", n)
		}
	})
	// A target that gives up for its own reasons is not asked again in parts.
	down := func(context.Context, Notice) error {
		time.Sleep(10 * time.Millisecond)
		return fmt.Errorf("down: %w", ErrGiveUp)
	}
	gathering(t, down, func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		for i := range 50 {
			wg.Go(func() { c.say(10*time.Second, 0, fmt.Sprint("p", i)) })
			synctest.Wait()
		}
		wg.Wait()
		if n := len(c.calls); n != 2 {
			t.Errorf("a dead target was called %d times, want 2", n)
		}
	})
}

func errorIsShort(res TargetResult) bool {
	return res.Error != "" && len(res.Error) <= maxText+len("…")
}

func TestNoticesWaitForGroupsThatAreUnderWay(t *testing.T) {
	const patience = 200 * time.Millisecond
	gathering(t, takes(time.Millisecond), func(t *testing.T, c *counter, wg *sync.WaitGroup) {
		groups := c.w.groups
		open := func() {
			groups.mu.Lock()
			defer groups.mu.Unlock()
			if groups.early++; groups.early == 1 {
				groups.quiet = make(chan struct{})
			}
		}
		open()
		for i := range 10 {
			wg.Go(func() { c.say(time.Second, patience, fmt.Sprint("t", i)) })
			time.Sleep(10 * time.Millisecond)
		}
		groups.arrived()
		wg.Wait()
		if want := []time.Duration{100 * time.Millisecond}; !slices.Equal(c.at, want) {
			t.Errorf("calls at %v, want one at %v, when the last group had come", c.at, want)
		}

		open() // one that takes long
		begin := time.Now()
		wg.Go(func() { c.say(time.Second, patience, "a") })
		time.Sleep(50 * time.Millisecond)
		wg.Go(func() { c.say(time.Second, patience, "b") })
		wg.Wait()
		if took := time.Since(begin); took != patience+time.Millisecond || len(c.calls) != 2 {
			t.Errorf("two notices told after %v in %d calls, want one call after the patience of the first", took, len(c.calls)-1)
		}

		time.Sleep(time.Second)
		begin = time.Now()
		wg.Go(func() { c.say(time.Second, patience, "c") })
		time.Sleep(20 * time.Millisecond)
		c.say(time.Second, 0, "d") // of a rule that does not coalesce
		wg.Wait()
		if took := time.Since(begin); took != 21*time.Millisecond || len(c.calls) != 3 {
			t.Errorf("told after %v in %d calls, want both with the one that cannot wait", took, len(c.calls)-2)
		}
		groups.arrived()
	})
}

func TestCallTellsTheNewestOfAll(t *testing.T) {
	at := time.Now()
	n := func(id string, sec int, seq uint64, p event.Purge) *telling {
		return &telling{notice: Notice{Event: event.Event{ID: id, ReceivedAt: at.Add(time.Duration(sec) * time.Second)}, Seq: seq, Purge: p, Fields: map[string]any{"id": id}}}
	}
	got := union([]*telling{
		n("b", 2, 7, event.Purge{Tags: []string{"x", "y"}, Paths: []string{"/x"}}),
		n("c", 3, 8, event.Purge{Tags: []string{"y", "/x"}, All: true}),
		n("a", 1, 9, event.Purge{Paths: []string{"/x", "/y"}, Keys: []string{"k"}}),
	})
	if got.Event.ID != "c" || got.Fields["id"] != "c" || got.Seq != 9 || !got.Purge.All ||
		!slices.Equal(got.Purge.Tags, []string{"x", "y", "/x"}) || !slices.Equal(got.Purge.Paths, []string{"/x", "/y"}) || !slices.Equal(got.Purge.Keys, []string{"k"}) {
		t.Errorf("union = %+v, want the newest event, the last seq and all purges, each once", got)
	}
	if !errors.Is(ErrRefused, ErrGiveUp) {
		t.Error("ErrRefused is no ErrGiveUp")
	}
}
