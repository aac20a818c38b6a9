package tasks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

const window = 200 * time.Millisecond

func TestBurstOnOneEntityIsOneRun(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		reg := prometheus.NewRegistry()
		q := NewQueue(rdb, testkit.Discard(), Config{Registerer: reg})
		var evs []event.Event
		for n := range 100 {
			ev := edit("1", n)
			ev.Version, ev.Slug = strconv.Itoa(n), fmt.Sprint("v", n/50)
			if n == 30 {
				ev.Action = event.Delete
			}
			evs = append(evs, ev)
		}
		for i := range evs { // the newest does not come last
			mustEnqueue(t, q, evs[(i+50)%100])
		}
		var lines bytes.Buffer
		log := slog.New(slog.NewTextHandler(&lines, nil))
		stop := start(t, NewWorker(rdb, c.steps(window), log, Config{Coalesce: true, Registerer: reg}))
		finished(t, q.records, evs[0].ID)
		changes, notices := c.told()
		assertEachOnce(t, q, changes, evs)
		if len(changes) != 1 || len(notices) != 1 {
			t.Fatalf("100 edits gave %d changes and %d calls, want one of each", len(changes), len(notices))
		}
		got, newest := changes[0], evs[99]
		if got.ID != newest.ID || len(got.IDs) != 100 || got.Slug != "v1" || got.Action != event.Update || got.Fields["title"] != "v1" || got.Superseded {
			t.Errorf("change = %+v, want what the newest, %s, says", got, newest.ID)
		}
		if want := []string{"/blog/v0", "/blog/v1"}; !slices.Equal(slices.Sorted(slices.Values(got.Paths)), want) || !slices.Equal(notices[0].Purge.Paths, got.Paths) {
			t.Errorf("paths %q, told %q, want %q: what any of them purges", got.Paths, notices[0].Purge.Paths, want)
		}
		if notices[0].Event.ID != newest.ID {
			t.Errorf("the site is told of %s, want the newest, %s", notices[0].Event.ID, newest.ID)
		}
		if seq := rdb.Get(t.Context(), c.ns.own("test:seq")).Val(); seq != "1" {
			t.Errorf("made void %s times, want once", seq)
		}
		leader, other := finished(t, q.records, newest.ID), finished(t, q.records, evs[30].ID)
		if leader.Note != "" || other.Note != "coalesced with "+newest.ID || other.Position != leader.Position || other.Seq != leader.Seq || len(other.Targets) != 1 {
			t.Errorf("records of the newest %+v and of another %+v, want one run", leader, other)
		}
		var names []string
		for _, st := range other.Steps {
			names = append(names, st.Step)
		}
		if want := []string{"received", "queued", "started", "planned", "gathered", "invalidated", "settled", "reclaimed", "told", "published", "done"}; !slices.Equal(names, want) {
			t.Errorf("steps of the other's record = %q, want %q", names, want)
		}
		testkit.Until(t, "the queue is empty", func() bool { return rdb.Exists(t.Context(), q.keys.active(), q.keys.pending()).Val() == 0 })
		stop()
		for name, want := range map[string]float64{"freshwire_events_coalesced_total": 99, "freshwire_target_notices_total": 1, "freshwire_target_tells_total": 1} {
			if got := gathered(t, reg, name, ""); got != want {
				t.Errorf("%s = %v, want %v", name, got, want)
			}
		}
		if n := strings.Count(lines.String(), "msg=event "); n != 100 || strings.Count(lines.String(), "coalesced=99") != 1 {
			t.Errorf("the log has %d lines of events, want one each, and one that stands for 99 others", n)
		}
	})
}

func TestWindowIsCountedFromTheFirstEdit(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		q := NewQueue(rdb, testkit.Discard(), Config{})
		defer start(t, NewWorker(rdb, c.steps(window), testkit.Discard(), Config{Coalesce: true}))()
		var evs []event.Event
		for n := range 25 { // one edit each 50 ms, for longer than a second
			evs = append(evs, edit("1", n))
			mustEnqueue(t, q, evs[n])
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(2 * window)
		changes, _ := c.told()
		assertEachOnce(t, q, changes, evs)
		if len(changes) < 4 || len(changes) > 7 {
			t.Errorf("25 edits in 1.25s gave %d changes, want about one for each window", len(changes))
		}
		for _, ev := range evs {
			rec := finished(t, q.records, ev.ID)
			if took := rec.Steps[len(rec.Steps)-1].MS; took > 300 {
				t.Errorf("an edit was published after %v ms, want at most its window and a look at the queue", took)
			}
		}
	})
}

// A reader fills in again what a run made void; an edit after that needs a run
// of its own. The same check fails for a coalescer that takes it into the run.
func TestEditDuringARunGetsItsOwn(t *testing.T) {
	for name, broken := range map[string]bool{"as built": false, "members join a running group": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, rdb *redis.Client) {
				c := newCrowd(rdb, "fw")
				q := NewQueue(rdb, testkit.Discard(), Config{})
				var origin, cached atomic.Int64 // versions; 0: void
				var group *group
				var w *Worker
				steps := c.steps(window)
				invalidate, barrier := steps.Invalidate, steps.Barrier
				steps.Invalidate = func(ctx context.Context, about Subject, m Mark) (Mark, error) {
					cached.Store(0)
					return invalidate(ctx, about, m)
				}
				var barriers atomic.Int32
				steps.Barrier = func(ctx context.Context, about Subject, m Mark) (Mark, Report, error) {
					if barriers.Add(1) == 1 {
						cached.Store(origin.Load()) // a reader comes
						if broken {
							w.groups.mu.Lock()
							w.groups.open[group.id] = group
							w.groups.mu.Unlock()
						}
						origin.Store(2)
						mustEnqueue(t, q, edit("1", 2))
						time.Sleep(time.Second)
					}
					return barrier(ctx, about, m)
				}
				w = NewWorker(rdb, steps, testkit.Discard(), Config{Coalesce: true})
				defer start(t, w)()
				origin.Store(1)
				mustEnqueue(t, q, edit("1", 1))
				time.Sleep(window / 2)
				w.groups.mu.Lock()
				for _, group = range w.groups.open {
				}
				w.groups.mu.Unlock()
				testkit.Until(t, "the queue is empty", func() bool { return rdb.Exists(t.Context(), q.keys.active(), q.keys.pending()).Val() == 0 })
				stale := cached.Load() != 0 && cached.Load() != origin.Load()
				if stale != broken {
					t.Errorf("version %d is cached of %d: stale = %v, want %v", cached.Load(), origin.Load(), stale, broken)
				}
				if changes, _ := c.told(); !broken && len(changes) != 2 {
					t.Errorf("%d changes, want one for each edit", len(changes))
				}
			})
		})
	}
}

func TestFailedRunIsTriedAgainForAllItsMembers(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		q := NewQueue(rdb, testkit.Discard(), Config{})
		steps := c.steps(window)
		add := steps.Append
		var failed atomic.Bool
		steps.Append = func(ctx context.Context, ch event.Change) (string, bool, error) {
			if failed.CompareAndSwap(false, true) {
				return "", false, errors.New("no")
			}
			return add(ctx, ch)
		}
		defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{Coalesce: true}))()
		var evs []event.Event
		for n := range 10 {
			evs = append(evs, edit("1", n))
			mustEnqueue(t, q, evs[n])
		}
		for _, ev := range evs {
			if rec := having(t, q.records, ev.ID, Retrying); rec.Error != "append: no" {
				t.Errorf("error of %s = %q, want that of the run", ev.ID, rec.Error)
			}
		}
		for _, ev := range evs {
			if rec := finished(t, q.records, ev.ID); rec.Status != Done || rec.Attempts != 2 {
				t.Errorf("event %s is %s after %d attempts, want done after 2", ev.ID, rec.Status, rec.Attempts)
			}
		}
		changes, _ := c.told()
		assertEachOnce(t, q, changes, evs)
	})
}

// A mark covers the edits that were there when it was made, and no later one.
func TestMarkOfOneMemberIsNotReusedForOthers(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		q := NewQueue(rdb, testkit.Discard(), Config{})
		steps := c.steps(window)
		add := steps.Append
		var failed atomic.Bool
		steps.Append = func(ctx context.Context, ch event.Change) (string, bool, error) {
			if failed.CompareAndSwap(false, true) {
				return "", false, errors.New("no")
			}
			return add(ctx, ch)
		}
		defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{Coalesce: true}))()
		first, second := edit("1", 1), edit("1", 2)
		mustEnqueue(t, q, first)
		having(t, q.records, first.ID, Retrying)
		rdb.ZAddXX(t.Context(), q.keys.retry(), redis.Z{Score: float64(time.Now().Unix()), Member: first.ID})
		testkit.Until(t, "it runs again", func() bool {
			rec, err := q.records.Get(t.Context(), first.ID)
			return err == nil && rec.Attempts == 2
		})
		mustEnqueue(t, q, second)
		finished(t, q.records, second.ID)
		changes, _ := c.told()
		if len(changes) != 1 || len(changes[0].IDs) != 2 || changes[0].Seq != 2 {
			t.Errorf("changes = %+v, want one of both, made void again at seq 2", changes)
		}
	})
}

func TestPublishedMembersAreLeftOut(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		q := NewQueue(rdb, testkit.Discard(), Config{})
		steps := c.steps(window)
		var evs []event.Event
		for n := range 4 {
			evs = append(evs, edit("1", n))
			mustEnqueue(t, q, evs[n])
		}
		// One was published before it was taken, and the newest while the group ran.
		before, _, err := c.log.Append(t.Context(), event.Change{ID: evs[1].ID})
		if err != nil {
			t.Fatal(err)
		}
		barrier := steps.Barrier
		var meanwhile event.Position
		steps.Barrier = func(ctx context.Context, about Subject, m Mark) (Mark, Report, error) {
			if meanwhile, _, err = c.log.Append(ctx, event.Change{ID: evs[3].ID}); err != nil {
				return m, Report{}, err
			}
			return barrier(ctx, about, m)
		}
		defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{Coalesce: true}))()
		finished(t, q.records, evs[0].ID)
		for i, want := range []string{"", before.String(), "", meanwhile.String()} {
			rec := finished(t, q.records, evs[i].ID)
			if rec.Status != Done || want != "" && (rec.Position != want || rec.Note != publishedBefore) {
				t.Errorf("event %d is %s at %s, %q, want it where it was published, %s", i, rec.Status, rec.Position, rec.Note, want)
			}
		}
		changes, _ := c.told()
		if len(changes) != 1 || changes[0].ID != evs[2].ID || !slices.Equal(changes[0].IDs, []string{evs[0].ID, evs[2].ID}) {
			t.Errorf("changes = %+v, want one of the first and the third", changes)
		}
	})
}

func TestStoppingWorkerRunsOpenGroupsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		q := NewQueue(rdb, testkit.Discard(), Config{})
		stop := start(t, NewWorker(rdb, c.steps(time.Hour), testkit.Discard(), Config{Coalesce: true}))
		var evs []event.Event
		for n := range 20 {
			evs = append(evs, edit(strconv.Itoa(n%5), n))
			mustEnqueue(t, q, evs[n])
		}
		time.Sleep(5 * time.Second)
		if changes, _ := c.told(); len(changes) != 0 {
			t.Fatalf("%d changes before the window was over", len(changes))
		}
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("stopping took %v, want no wait for windows", took)
		}
		changes, _ := c.told()
		assertEachOnce(t, q, changes, evs)
		if len(changes) != 5 {
			t.Errorf("%d changes, want one for each entity", len(changes))
		}
	})
}

func TestWaitingEventsTakeNoSlot(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		q := NewQueue(rdb, testkit.Discard(), Config{})
		steps := c.steps(window)
		var running, most atomic.Int32
		steps.Reclaim = func(context.Context, event.Purge, Mark) (int, []string, error) {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(10 * time.Millisecond)
			running.Add(-1)
			return 0, nil, nil
		}
		defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{Coalesce: true, Concurrency: 2}))()
		var evs []event.Event
		begin := time.Now()
		for n := range 60 {
			evs = append(evs, edit(strconv.Itoa(n), n))
			mustEnqueue(t, q, evs[n])
		}
		for _, ev := range evs {
			finished(t, q.records, ev.ID)
		}
		// One window for all, 30 times 10 ms, and a wait for company: 30 windows would be 6 s.
		if took := time.Since(begin); took > time.Second {
			t.Errorf("60 entities took %v, want the windows to pass together", took)
		}
		if n := most.Load(); n != 2 {
			t.Errorf("%d ran at a time, want 2", n)
		}
	})
}

func TestGroupIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		w := NewWorker(rdb, c.steps(0), testkit.Discard(), Config{})
		ctx, cancel := context.WithTimeout(t.Context(), runBudget)
		defer cancel()
		var wg sync.WaitGroup
		begin := time.Now()
		for n := range maxGroup + 1 {
			ev := edit("1", n)
			r := &run{w: w, ev: ev, opening: opening{attempt: 1}, status: Running, plan: rules.Plan{Coalesce: window, Rules: []int{0}}}
			wg.Go(func() {
				if err := w.groups.join(ctx, r); err != nil || r.status != Done {
					t.Errorf("event %d is %s: %v", n, r.status, err)
				}
			})
			synctest.Wait()
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("the full group ran after %v, want at once", took)
		}
		wg.Wait()
		changes, _ := c.told()
		if len(changes) != 2 || len(changes[0].IDs) != maxGroup || len(changes[1].IDs) != 0 {
			t.Errorf("%d changes, the first of %d events, want %d and then one alone", len(changes), len(changes[0].IDs), maxGroup)
		}
	})
}

func TestMembersAreSortedByWhatIsKnownOfTheirAge(t *testing.T) {
	at := time.Now()
	member := func(id, version string, sec int, superseded bool) *run {
		return &run{ev: event.Event{ID: id, Version: version, ReceivedAt: at.Add(time.Duration(sec) * time.Second)}, outcome: Outcome{Superseded: superseded}}
	}
	for name, tc := range map[string]struct {
		members []*run
		want    string
	}{
		"by version":                           {[]*run{member("c", "10", 1, false), member("a", "8", 3, false), member("b", "9", 2, false)}, "a b c"},
		"by receipt where one has none":        {[]*run{member("c", "8", 3, false), member("b", "", 2, false), member("a", "9", 1, false)}, "a b c"},
		"by receipt where kinds differ":        {[]*run{member("b", "8", 2, false), member("a", "2026-01-01T00:00:00Z", 1, false)}, "a b"},
		"by receipt where they are hashes":     {[]*run{member("b", "aa", 2, false), member("a", "bb", 1, false)}, "a b"},
		"superseded ones are never the newest": {[]*run{member("a", "aa", 2, true), member("c", "bb", 1, false), member("b", "5", 3, true)}, "a b c"},
		"equal ones by id":                     {[]*run{member("b", "", 1, false), member("a", "", 1, false)}, "a b"},
	} {
		byAge(tc.members)
		got := ""
		for _, m := range tc.members {
			got += " " + m.ev.ID
		}
		if got[1:] != tc.want {
			t.Errorf("%s: sorted%s, want %s", name, got, tc.want)
		}
	}
}
