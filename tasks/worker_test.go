package tasks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

// with returns steps changed by f.
func with(s *site, f func(*Steps)) Steps {
	steps := s.steps()
	f(&steps)
	return steps
}

func targets(names ...string) func(*Steps) {
	return func(s *Steps) {
		plan := s.Plan
		s.Plan = func(ev event.Event) rules.Plan {
			p := plan(ev)
			p.Targets = names
			return p
		}
	}
}

func TestEventGoesThroughItsStepsInOrder(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	var change event.Change
	var notice Notice
	steps := with(s, func(st *Steps) {
		targets("site")(st)
		tell, add := st.Tell, st.Append
		st.Tell = func(ctx context.Context, name string, n Notice) error { notice = n; return tell(ctx, name, n) }
		st.Append = func(ctx context.Context, c event.Change) (string, bool, error) { change = c; return add(ctx, c) }
	})
	q := NewQueue(rdb, log, Config{})
	testkit.Go(t, NewWorker(rdb, steps, log, Config{}).Run)
	ev := news(1)
	mustEnqueue(t, q, ev)
	rec := finished(t, q.records, ev.ID)

	if got, want := s.heard(), []string{"plan", "invalidate", "barrier", "reclaim", "tell site", "append"}; !slices.Equal(got, want) {
		t.Errorf("steps = %q, want %q", got, want)
	}
	want := event.Change{ID: ev.ID, Seq: 1, Event: "post.update", Source: "blog", Type: "post", Action: event.Update, Entity: "1", Slug: "hello",
		Locale: "en", Tags: []string{"posts", "post:1"}, Paths: []string{"/blog"}, Channels: []string{"posts"}, At: ev.ReceivedAt,
		Fields: map[string]any{"title": "t"}}
	if !reflect.DeepEqual(change, want) {
		t.Errorf("change = %+v, want %+v", change, want)
	}
	if notice.Seq != 1 || notice.Event.ID != ev.ID || !slices.Equal(notice.Purge.Tags, want.Tags) {
		t.Errorf("notice = %+v, want event %s at seq 1 with its tags", notice, ev.ID)
	}
	if rec.Status != Done || rec.Attempts != 1 || rec.Seq != 1 || rec.Position != "1-0" || rec.Nodes != 2 || rec.Deleted != 3 || rec.Error != "" {
		t.Errorf("record = %+v, want done at once, seq 1, position 1-0", rec)
	}
	if rec.Plan == nil || rec.Plan.Counts["tags"] != 2 || !slices.Equal(rec.Plan.Rules, []int{0}) {
		t.Errorf("record's plan = %+v, want 2 tags by rule 0", rec.Plan)
	}
	if len(rec.Targets) != 1 || !rec.Targets[0].OK || rec.Targets[0].Attempts != 1 {
		t.Errorf("record's targets = %+v, want site told at once", rec.Targets)
	}
	var names []string
	for i, st := range rec.Steps {
		names = append(names, st.Step)
		if i > 0 && (st.At.Before(rec.Steps[i-1].At) || st.MS < rec.Steps[i-1].MS) {
			t.Errorf("step %s at %v is before step %s", st.Step, st.At, rec.Steps[i-1].Step)
		}
	}
	if want := []string{"received", "queued", "started", "planned", "invalidated", "settled", "reclaimed", "told", "published", "done"}; !slices.Equal(names, want) {
		t.Errorf("steps of the record = %q, want %q", names, want)
	}
	if mark, _ := rdb.HGet(t.Context(), q.keys.record(ev.ID), "mark").Result(); mark != "" {
		t.Errorf("mark %s is kept after the event was done", mark)
	}
}

// A purge that the caller spelt out needs no rule.
func TestPurgeOfTheEventsOwnNeedsNoRule(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	steps := with(s, func(st *Steps) {
		st.Plan = func(ev event.Event) rules.Plan { return rules.Plan{Purge: *ev.Purge, Channels: []string{"site"}} }
	})
	q := NewQueue(rdb, log, Config{})
	testkit.Go(t, NewWorker(rdb, steps, log, Config{}).Run)
	ev := news(1)
	ev.Purge = &event.Purge{Paths: []string{"/a"}}
	mustEnqueue(t, q, ev)
	if rec := finished(t, q.records, ev.ID); rec.Status != Done || !slices.Equal(rec.Plan.Paths, []string{"/a"}) {
		t.Errorf("record = %+v, want done with path /a", rec)
	}
}

func TestPoisonFailsAtOnceAndTheQueueGoesOn(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	q := NewQueue(rdb, log, Config{Concurrency: 1})
	for id, payload := range map[string]string{"p1": "{", "p2": `{"v":1}`, "p3": `{"v":1,"event":{"id":"other"}}`, "p4": "\xff\x00"} {
		if _, err := q.client.Enqueue(asynq.NewTask(taskType, []byte(payload)), (Config{Namespace: "fw"}).taskOptions(id)...); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Go(t, NewWorker(rdb, s.steps(), log, Config{Concurrency: 1}).Run)
	mustEnqueue(t, q, news(1))
	if rec := finished(t, q.records, news(1).ID); rec.Status != Done {
		t.Errorf("event behind poison is %s, want done", rec.Status)
	}
	for _, id := range []string{"p1", "p2", "p3", "p4"} {
		rec := finished(t, q.records, id)
		if rec.Status != Failed || rec.Attempts != 1 || !strings.Contains(rec.Error, "cannot be read") {
			t.Errorf("poison %s is %s after %d attempts: %q, want failed after one", id, rec.Status, rec.Attempts, rec.Error)
		}
	}
	failed, _, err := q.records.List(t.Context(), Failed, 0, "")
	if err != nil || len(failed) != 4 {
		t.Errorf("List(failed) = %d records, %v, want 4", len(failed), err)
	}
}

// bubble runs body with an embedded store in virtual time.
func bubble(t *testing.T, body func(t *testing.T, rdb *redis.Client)) {
	synctest.Test(t, func(t *testing.T) {
		rdb, closeAll := embedded()
		body(t, rdb)
		closeAll()
		time.Sleep(time.Minute) // virtual: timers of the client run out
	})
}

// run starts a worker and returns what stops it and waits.
func start(t *testing.T, w *Worker) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}

func TestFailedStepIsTriedAgainAfterOneTwoFiveSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSite(rdb, "fw")
		var at []time.Duration
		begin := time.Now()
		steps := with(s, func(st *Steps) {
			add := st.Append
			st.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
				if at = append(at, time.Since(begin)); len(at) < 4 {
					return "", false, errors.New("no")
				}
				return add(ctx, c)
			}
		})
		q := NewQueue(rdb, testkit.Discard(), Config{Embedded: true})
		defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{Embedded: true}))()
		mustEnqueue(t, q, news(1))
		rec := having(t, q.records, news(1).ID, Retrying)
		if rec.Error != "append: no" {
			t.Errorf("error of the record = %q, want %q", rec.Error, "append: no")
		}
		rec = finished(t, q.records, news(1).ID)
		if rec.Status != Done || rec.Attempts != 4 || rec.Error != "" {
			t.Errorf("record = %s after %d attempts, error %q, want done after 4", rec.Status, rec.Attempts, rec.Error)
		}
		// Asynq counts whole seconds and looks once a second.
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second} {
			if gap := at[i+1] - at[i]; gap < want*4/5-time.Second || gap > want*6/5+2*time.Second {
				t.Errorf("pause %d = %v, want about %v", i+1, gap, want)
			}
		}
		for i, prior := range s.marks {
			if want := (Mark{Seq: 1, Member: "1:x", Epoch: "e"}); i > 0 && prior != want {
				t.Errorf("attempt %d made void under %v, want the mark of the first, %v", i+1, prior, want)
			}
		}
		if seq := rdb.Get(t.Context(), s.ns.own("test:seq")).Val(); seq != "1" {
			t.Errorf("made void %s times, want once", seq)
		}
	})
}

func TestPanicInAnyStepIsAnErrorOfTheEvent(t *testing.T) {
	for _, step := range []string{"plan", "invalidate", "barrier", "reclaim", "append"} {
		t.Run(step, func(t *testing.T) {
			bubble(t, func(t *testing.T, rdb *redis.Client) {
				s := newSite(rdb, "fw")
				var armed atomic.Bool
				armed.Store(true)
				boom := func(name string) {
					if name == step && armed.CompareAndSwap(true, false) {
						panic("boom")
					}
				}
				q := NewQueue(rdb, testkit.Discard(), Config{})
				defer start(t, NewWorker(rdb, hooked(s.steps(), boom, nil), testkit.Discard(), Config{}))()
				mustEnqueue(t, q, news(1))
				if rec := having(t, q.records, news(1).ID, Retrying); rec.Error != step+": panic: boom" {
					t.Errorf("error of the record = %q, want the panic in %s", rec.Error, step)
				}
				if rec := finished(t, q.records, news(1).ID); rec.Status != Done || rec.Attempts != 2 {
					t.Errorf("record = %s after %d attempts, want done after 2", rec.Status, rec.Attempts)
				}
				assertOnceIn(t, s, news(1).ID)
			})
		})
	}
}

func assertOnceIn(t *testing.T, s *site, id string) {
	t.Helper()
	if got := s.log(t); len(got) != 1 || got[0] != id {
		t.Errorf("log = %q, want %q once", got, id)
	}
}

// hooked calls before and after around each step, by name.
func hooked(s Steps, before, after func(step string)) Steps {
	around := func(name string) func() {
		if before != nil {
			before(name)
		}
		return func() {
			if after != nil {
				after(name)
			}
		}
	}
	hooked := Steps{
		Plan: func(ev event.Event) rules.Plan { defer around("plan")(); return s.Plan(ev) },
		Invalidate: func(ctx context.Context, about Subject, m Mark) (Mark, error) {
			defer around("invalidate")()
			return s.Invalidate(ctx, about, m)
		},
		Barrier: func(ctx context.Context, about Subject, m Mark) (Mark, Report, error) {
			defer around("barrier")()
			return s.Barrier(ctx, about, m)
		},
		Reclaim: func(ctx context.Context, p event.Purge, m Mark) (int, []string, error) {
			defer around("reclaim")()
			return s.Reclaim(ctx, p, m)
		},
		Tell: func(ctx context.Context, name string, n Notice) error {
			defer around("tell")()
			return s.Tell(ctx, name, n)
		},
		Append: func(ctx context.Context, c event.Change) (string, bool, error) {
			defer around("append")()
			return s.Append(ctx, c)
		},
	}
	if s.Settle != nil {
		hooked.Settle = func(ctx context.Context, about Subject, m Mark) (Mark, Settlement, error) {
			defer around("settle")()
			return s.Settle(ctx, about, m)
		}
	}
	return hooked
}

func TestTargetsDelayTheNewsOnlyWithinTheirBudget(t *testing.T) {
	type tell func(ctx context.Context, attempt int) error
	ok := func(context.Context, int) error { return nil }
	tests := []struct {
		name     string
		tell     tell
		attempts int
		degraded bool
		within   time.Duration // of virtual time
	}{
		{"up", ok, 1, false, time.Second},
		{"back at the third try", func(_ context.Context, n int) error {
			if n < 3 {
				return errors.New("down")
			}
			return nil
		}, 3, false, time.Second},
		{"down", func(context.Context, int) error { return errors.New("down") }, maxTells, true, 3 * time.Second},
		{"refuses", func(context.Context, int) error { return fmt.Errorf("401: %w", ErrGiveUp) }, 1, true, time.Second},
		{"panics", func(context.Context, int) error { panic("boom") }, 1, true, time.Second},
		{"hangs", func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }, 1, true, 11 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, rdb *redis.Client) {
				s := newSite(rdb, "fw")
				var change event.Change
				var n atomic.Int32
				steps := with(s, func(st *Steps) {
					targets("site", "other")(st)
					st.Tell = func(ctx context.Context, name string, _ Notice) error {
						if name == "other" {
							return nil
						}
						return tt.tell(ctx, int(n.Add(1)))
					}
					add := st.Append
					st.Append = func(ctx context.Context, c event.Change) (string, bool, error) { change = c; return add(ctx, c) }
				})
				q := NewQueue(rdb, testkit.Discard(), Config{})
				defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{}))()
				begin := time.Now()
				mustEnqueue(t, q, news(1))
				rec := finished(t, q.records, news(1).ID)
				if took := time.Since(begin); took > tt.within {
					t.Errorf("published after %v, want within %v", took, tt.within)
				}
				if rec.Status != Done || rec.Degraded != tt.degraded || change.Degraded != tt.degraded {
					t.Errorf("record %s, degraded %v, change degraded %v, want done and %v", rec.Status, rec.Degraded, change.Degraded, tt.degraded)
				}
				site, other := rec.Targets[0], rec.Targets[1]
				if site.Attempts != tt.attempts || site.OK == tt.degraded || (site.Error != "") != tt.degraded {
					t.Errorf("result = %+v, want %d attempts, ok = %v", site, tt.attempts, !tt.degraded)
				}
				if !other.OK {
					t.Errorf("other target = %+v, want it told", other)
				}
			})
		})
	}
}

func TestMarkThatTheStoreLostIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSite(rdb, "fw")
		var change event.Change
		steps := with(s, func(st *Steps) {
			barrier, add := st.Barrier, st.Append
			var n int
			st.Barrier = func(ctx context.Context, about Subject, m Mark) (Mark, Report, error) {
				if n++; n == 1 { // the ledger forgot it during the wait
					m, _, err := barrier(ctx, about, Mark{Seq: 77, Member: "77:y", Epoch: "f"})
					rdb.SAdd(ctx, s.ns.own("test:marks"), "77:y")
					return m, Report{Settled: true}, err
				}
				return barrier(ctx, about, m)
			}
			var failed bool
			st.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
				if !failed {
					failed = true
					return "", false, errors.New("no")
				}
				change = c
				return add(ctx, c)
			}
		})
		q := NewQueue(rdb, testkit.Discard(), Config{})
		defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{}))()
		mustEnqueue(t, q, news(1))
		finished(t, q.records, news(1).ID)
		if want := (Mark{Seq: 77, Member: "77:y", Epoch: "f"}); s.marks[1] != want || change.Seq != 77 {
			t.Errorf("second attempt got the mark %v and told seq %d, want the barrier's %v", s.marks[1], change.Seq, want)
		}
	})
}

// After a change of the rules an event may mean another purge: the mark of the old one does not cover it.
func TestMarkOfAnotherPurgeIsNotReused(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSite(rdb, "fw")
		steps := with(s, func(st *Steps) {
			var plans int
			st.Plan = func(event.Event) rules.Plan {
				plans++
				return rules.Plan{Rules: []int{0}, Purge: event.Purge{Tags: []string{fmt.Sprint("v", plans)}}}
			}
			add := st.Append
			st.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
				if plans == 1 {
					return "", false, errors.New("no")
				}
				return add(ctx, c)
			}
		})
		q := NewQueue(rdb, testkit.Discard(), Config{})
		defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{}))()
		mustEnqueue(t, q, news(1))
		if rec := finished(t, q.records, news(1).ID); rec.Seq != 2 {
			t.Errorf("seq = %d, want 2: made void again for the new tags", rec.Seq)
		}
		if s.marks[1] != (Mark{}) {
			t.Errorf("the second attempt got the mark %v of another purge", s.marks[1])
		}
	})
}

func TestNothingIsPublishedBeforeReadersKnow(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSite(rdb, "fw")
		var settled atomic.Bool
		steps := with(s, func(st *Steps) {
			st.Barrier = func(_ context.Context, _ Subject, m Mark) (Mark, Report, error) {
				return m, Report{Settled: settled.Load()}, nil
			}
		})
		q := NewQueue(rdb, testkit.Discard(), Config{})
		defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{}))()
		mustEnqueue(t, q, news(1))
		rec := having(t, q.records, news(1).ID, Retrying)
		if !strings.Contains(rec.Error, "readers did not all confirm seq 1") || len(s.log(t)) != 0 {
			t.Errorf("error %q, log %q, want nothing published and why", rec.Error, s.log(t))
		}
		settled.Store(true)
		finished(t, q.records, news(1).ID)
		assertOnceIn(t, s, news(1).ID)
	})
}

// The worker had published when its answer to the queue was lost.
func TestPublishedEventIsNotRunAgain(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	q := NewQueue(rdb, log, Config{})
	mustEnqueue(t, q, news(1))
	rdb.Set(t.Context(), q.keys.seen(news(1).ID), "9-0", 0)
	testkit.Go(t, NewWorker(rdb, s.steps(), log, Config{}).Run)
	if rec := finished(t, q.records, news(1).ID); rec.Status != Done || rec.Position != "9-0" || rec.Note != "published before" {
		t.Errorf("record = %s at %s, %q, want done at 9-0, published before", rec.Status, rec.Position, rec.Note)
	}
	if got := s.heard(); len(got) != 0 {
		t.Errorf("steps %q ran again, want none", got)
	}
}

// What another program wrote may never be deletable: that must not keep an
// edit from browsers.
func TestKeysThatCannotBeDeletedDegradeTheNotice(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSite(rdb, "fw")
		var told event.Change
		steps := with(s, func(st *Steps) {
			st.Reclaim = func(context.Context, event.Purge, Mark) (int, []string, error) {
				return 1, []string{`"tag:posts" is not a set`}, nil
			}
			appendLog := st.Append
			st.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
				told = c
				return appendLog(ctx, c)
			}
		})
		q := NewQueue(rdb, testkit.Discard(), Config{})
		stop := start(t, NewWorker(rdb, steps, testkit.Discard(), Config{}))
		mustEnqueue(t, q, news(1))
		rec := finished(t, q.records, news(1).ID)
		stop()
		if rec.Status != Done || rec.Attempts != 1 || !rec.Degraded || !slices.Contains(rec.Problems, `reclaim: "tag:posts" is not a set`) {
			t.Errorf("record = %s after %d attempts, degraded %v, problems %q", rec.Status, rec.Attempts, rec.Degraded, rec.Problems)
		}
		if !told.Degraded {
			t.Errorf("browsers are told %+v, want degraded", told)
		}
	})
}

func TestStoppingWorkerLetsEventsFinish(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSite(rdb, "fw")
		entered := make(chan struct{})
		steps := with(s, func(st *Steps) {
			st.Reclaim = func(context.Context, event.Purge, Mark) (int, []string, error) {
				close(entered)
				time.Sleep(5 * time.Second)
				return 0, nil, nil
			}
		})
		q := NewQueue(rdb, testkit.Discard(), Config{})
		stop := start(t, NewWorker(rdb, steps, testkit.Discard(), Config{}))
		mustEnqueue(t, q, news(1))
		<-entered
		stop()
		if rec, err := q.records.Get(t.Context(), news(1).ID); err != nil || rec.Status != Done || rec.Attempts != 1 {
			t.Errorf("record = %s after %d attempts, %v, want done after one", rec.Status, rec.Attempts, err)
		}
	})
}

func TestStoppingWorkerHandsBackWhatItCannotFinish(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		t.Run(fmt.Sprintf("step obeys its context=%v", obeys), func(t *testing.T) {
			bubble(t, func(t *testing.T, rdb *redis.Client) {
				s := newSite(rdb, "fw")
				entered := make(chan struct{})
				stuck := with(s, func(st *Steps) {
					st.Reclaim = func(ctx context.Context, _ event.Purge, _ Mark) (int, []string, error) {
						close(entered)
						if obeys {
							<-ctx.Done()
							return 0, nil, ctx.Err()
						}
						time.Sleep(9 * time.Second)
						return 0, nil, ctx.Err()
					}
				})
				q := NewQueue(rdb, testkit.Discard(), Config{})
				stop := start(t, NewWorker(rdb, stuck, testkit.Discard(), Config{}))
				mustEnqueue(t, q, news(1))
				<-entered
				begin := time.Now()
				stop()
				if took := time.Since(begin); took > 11*time.Second {
					t.Errorf("stopping took %v, want at most 11s", took)
				}
				if rec, err := q.records.Get(t.Context(), news(1).ID); err != nil || rec.Status == Done || rec.Status == Failed {
					t.Errorf("record = %s, %v, want it to wait", rec.Status, err)
				}
				info, err := q.inspect.GetTaskInfo("fw", news(1).ID)
				if err != nil || info.Retried != 0 {
					t.Errorf("task = %+v, %v, want no attempt spent", info, err)
				}
				defer start(t, NewWorker(rdb, s.steps(), testkit.Discard(), Config{}))()
				if rec := finished(t, q.records, news(1).ID); rec.Status != Done || rec.Attempts != 2 {
					t.Errorf("record = %s after %d attempts, want done by another worker", rec.Status, rec.Attempts)
				}
				assertOnceIn(t, s, news(1).ID)
			})
		})
	}
}

// Without guard the loop would ask again at once, and virtual time stand still.
func TestAbsentRedisIsAskedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		o := redis.UniversalOptions{Addrs: []string{"127.0.0.1:1"}, Dialer: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
		}}
		WorkerOptions(&o)
		rdb := redis.NewClient(o.Simple())
		rdb.AddHook(countEvalSha{&asked})
		stop := start(t, NewWorker(rdb, Steps{}, testkit.Discard(), Config{}))
		time.Sleep(10 * time.Second)
		// 50 pauses of 200 ms; the other scripts of Asynq and the reaper ask now and then.
		if n := asked.Load(); n < 10 || n > 100 {
			t.Errorf("an absent Redis was asked %d times in 10s, want about 60", n)
		}
		stop()
		rdb.Close()
		time.Sleep(time.Minute)
	})
}

type countEvalSha struct{ n *atomic.Int32 }

func (c countEvalSha) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c countEvalSha) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (c countEvalSha) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			c.n.Add(1)
		}
		return next(ctx, cmd)
	}
}

func TestRedisThatComesBackIsUsedAgain(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	s, log := newSite(server.Client(t), "fw"), testkit.Logger(t)
	q := NewQueue(redisAs(t, server, IngestOptions), log, Config{})
	testkit.Go(t, NewWorker(redisAs(t, server, WorkerOptions), s.steps(), log, Config{}).Run)
	mustEnqueue(t, q, news(1))
	finished(t, q.records, news(1).ID)
	server.Kill()
	server.Start(t)
	testkit.Until(t, "an event is accepted again", func() bool { _, err := q.Enqueue(t.Context(), news(2)); return err == nil })
	testkit.Until(t, "it is published", func() bool { return slices.Contains(s.log(t), news(2).ID) })
}

func TestRetryDelaysAndWhatCountsAsFailure(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer rdb.Close()
	w := NewWorker(rdb, Steps{}, testkit.Discard(), Config{})
	for n, want := range []time.Duration{1e9, 2e9, 5e9, 15e9, 60e9, 300e9, 300e9, 300e9} {
		for range 100 {
			if got := w.retryDelay(n, errors.New("x"), nil); got < want*4/5 || got > want*6/5 {
				t.Errorf("retryDelay(%d) = %v, want %v ± 20%%", n, got, want)
			}
		}
	}
	if got := w.retryDelay(3, fmt.Errorf("x: %w", asynq.ErrLeaseExpired), nil); got != 0 {
		t.Errorf("retryDelay after a lost lease = %v, want 0", got)
	}
	refused := fmt.Errorf("invalidate: %w", rdb.Ping(t.Context()).Err())
	for _, tt := range []struct {
		name     string
		err      error
		draining bool
		want     bool
	}{
		{"any error", errors.New("x"), false, true},
		{"lost lease", asynq.ErrLeaseExpired, false, true},
		{"deadline", context.DeadlineExceeded, false, true},
		{"too slow", errBudget, false, true},
		{"cancelled by an operator", context.Canceled, false, true},
		{"cancelled by a stop", context.Canceled, true, false},
		{"handed back", fmt.Errorf("x: %w", errDrain), false, false},
		{"Redis refuses", refused, false, false},
		{"Redis fails over", fmt.Errorf("x: %w", replyError("READONLY You can't write against a read only replica.")), false, false},
		{"Redis is full", replyError("OOM command not allowed"), false, false},
		{"mistake in a script", replyError("ERR wrong number of arguments"), false, true},
		{"open breaker", fmt.Errorf("x: %w", ErrPaused), false, false},
	} {
		w.draining.Store(tt.draining)
		if got := w.isFailure(tt.err); got != tt.want {
			t.Errorf("isFailure(%s: %v) = %v, want %v", tt.name, tt.err, got, tt.want)
		}
	}
}

type replyError string

func (e replyError) Error() string { return string(e) }
func (e replyError) RedisError()   {}

func TestEventIsPublishedOnACluster(t *testing.T) {
	t.Parallel()
	rdb := testkit.Cluster(t)
	log := testkit.Logger(t)
	for _, ns := range []string{"fw", "site-2", "abc"} { // on different masters
		cfg := Config{Namespace: ns}
		s := newSite(rdb, ns)
		q := NewQueue(rdb, log, cfg)
		w := NewWorker(rdb, s.steps(), log, cfg)
		if _, _, _, err := w.reapOnce(t.Context(), []string{"nobody"}); err != nil {
			t.Fatal(err)
		}
		testkit.Go(t, w.Run)
		for n := range 20 {
			mustEnqueue(t, q, news(n))
		}
		for n := range 20 {
			if rec := finished(t, q.records, news(n).ID); rec.Status != Done {
				t.Errorf("%s: event %d is %s: %s", ns, n, rec.Status, rec.Error)
			}
		}
		assertOnce(t, s, 20)
		if list, _, err := q.records.List(t.Context(), Done, 200, ""); err != nil || len(list) != 20 {
			t.Errorf("%s: List(done) = %d records, %v, want 20", ns, len(list), err)
		}
	}
}
