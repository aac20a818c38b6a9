package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

// listener notes what steps append and tell.
type listener struct {
	mu      sync.Mutex
	changes []event.Change
	notices []Notice
}

func (l *listener) on(st *Steps) {
	add := st.Append
	st.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
		position, added, err := add(ctx, c)
		if added {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.changes = append(l.changes, c)
		}
		return position, added, err
	}
	st.Tell = func(_ context.Context, _ string, n Notice) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.notices = append(l.notices, n)
		return nil
	}
}

func (l *listener) heard() ([]event.Change, []Notice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.changes), slices.Clone(l.notices)
}

// settling makes void once more, as an origin that lagged asks for.
func settling(st *Steps, settled func(s Subject) bool) {
	invalidate := st.Invalidate
	st.Settle = func(ctx context.Context, s Subject, _ Mark) (Mark, Settlement, error) {
		shown := settled(s)
		m, err := invalidate(ctx, s, Mark{})
		if !shown {
			return m, Settlement{Waited: time.Second, Note: "it shows an older one"}, err
		}
		return m, Settlement{Settled: true, Waited: time.Second}, err
	}
}

// hurried looks again sooner: virtual time costs processor time, too.
func hurried(w *Worker) *Worker {
	w.pauses = []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}
	return w
}

func TestFollowUpsLookAgainAfterOneFiveAndFifteenMinutes(t *testing.T) {
	t.Parallel()
	if got := NewWorker(testkit.Redis(t), Steps{}, testkit.Discard(), Config{}).pauses; !slices.Equal(got, []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}) {
		t.Errorf("pauses = %v", got)
	}
}

func followUpID(id string, n int) string { return event.NewID("blog", "follow-up", id, fmt.Sprint(n)) }

func TestNotificationWaitsForTheOriginAndHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log, l := newSite(rdb, "fw"), testkit.Logger(t), &listener{}
	asked, shown := make(chan Subject, 1), make(chan struct{})
	reg := prometheus.NewRegistry()
	cfg := Config{Concurrency: 1, Registerer: reg}
	w := NewWorker(rdb, with(s, func(st *Steps) {
		targets("site")(st)
		l.on(st)
		settling(st, func(s Subject) bool {
			if s.Event.Entity == "1" {
				asked <- s
				<-shown
			}
			return true
		})
		st.Settles = func(s Subject) bool { return s.Event.Entity != "3" }
	}), log, cfg)
	q := NewQueue(rdb, log, cfg)
	testkit.Go(t, w.Run)
	first := news(1)
	first.Version = "7"
	mustEnqueue(t, q, first)
	got := testkit.Wait(t, asked, "the origin to be asked")
	if got.Event.ID != first.ID || got.Event.Version != "7" || !got.News || !slices.Equal(got.Purge.Tags, []string{"posts", "post:1"}) {
		t.Errorf("asked about %+v, want version 7 of the event, and its purge", got)
	}
	for _, n := range []int{2, 3} { // with the only slot
		mustEnqueue(t, q, news(n))
		if rec := finished(t, q.records, news(n).ID); rec.Status != Done {
			t.Errorf("event %d behind one that waits is %s: %s", n, rec.Status, rec.Error)
		}
	}
	changes, notices := l.heard()
	if len(changes) != 2 || len(notices) != 2 {
		t.Errorf("told of %d events in %d calls while the first waits, want 2 and 2", len(changes), len(notices))
	}
	close(shown)
	rec := finished(t, q.records, first.ID)
	changes, _ = l.heard()
	if c := changes[len(changes)-1]; c.ID != first.ID || c.Seq != rec.Seq || c.Degraded || c.Seq <= changes[0].Seq {
		t.Errorf("change = %+v, want the first event's under the mark of after its wait", c)
	}
	if rec.Awaited == nil || !rec.Awaited.Shown || rec.Awaited.MS != 1000 || rec.Degraded {
		t.Errorf("record = %+v, awaited %+v, want shown after 1s", rec, rec.Awaited)
	}
	var names []string
	for _, st := range rec.Steps {
		names = append(names, st.Step)
	}
	if want := "invalidated settled awaited reclaimed told published"; !strings.Contains(strings.Join(names, " "), want) {
		t.Errorf("steps of the record = %q, want %q in them", names, want)
	}
	if rec := finished(t, q.records, news(3).ID); rec.Awaited != nil {
		t.Errorf("awaited %+v, though there was nothing to wait for", rec.Awaited)
	}
	if n := testutil.ToFloat64(w.metrics.unsettled); n != 0 {
		t.Errorf("%v events are counted as unsettled, want 0", n)
	}
}

// What an origin shows late goes out as degraded at first, and again when it is there.
func TestUnsettledEventIsToldAgainOnceTheOriginShowsIt(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s, l := newSite(rdb, "fw"), &listener{}
		var asked atomic.Int32
		begin := time.Now()
		var at []time.Duration
		steps := with(s, func(st *Steps) {
			targets("site", "cdn")(st)
			plan := st.Plan
			st.Plan = func(ev event.Event) rules.Plan {
				p := plan(ev)
				p.Fields["id"], p.Refill = int64(9007199254740993), 5
				return p
			}
			l.on(st)
			settling(st, func(s Subject) bool {
				at = append(at, time.Since(begin))
				return asked.Add(1) == 3
			})
			st.Hottest = func(_ context.Context, _ event.Purge, n int) ([]string, error) { return make([]string, n), nil }
			st.Refill = func(_ context.Context, entries []string) (int, error) { return len(entries), nil }
		})
		reg := prometheus.NewRegistry()
		cfg := Config{Embedded: true, Registerer: reg}
		q := NewQueue(rdb, testkit.Discard(), cfg)
		w := hurried(NewWorker(rdb, steps, testkit.Discard(), cfg))
		defer start(t, w)()
		ev := news(1)
		ev.Version, ev.Locale = "7", ""
		mustEnqueue(t, q, ev)

		rec := finished(t, q.records, ev.ID)
		second, third := followUpID(ev.ID, 1), followUpID(ev.ID, 2)
		if rec.Status != Done || !rec.Degraded || rec.Refilled != 0 || rec.Awaited == nil || rec.Awaited.Shown || rec.Awaited.Note == "" || rec.Awaited.FollowUp != second {
			t.Fatalf("record = %+v, awaited %+v, want done, degraded, with a note and the follow-up %s", rec, rec.Awaited, second)
		}
		if rec := having(t, q.records, second, Queued); rec.Follows != ev.ID || rec.Entity != "1" || rec.Version != "7" {
			t.Errorf("record of the follow-up = %+v, want queued, of the same entity, following %s", rec, ev.ID)
		}
		if changes, notices := l.heard(); len(changes) != 1 || !changes[0].Degraded || len(notices) != 2 {
			t.Errorf("changes %+v, %d notices, want a degraded change and both targets told", changes, len(notices))
		}

		rec = finished(t, q.records, second)
		if rec.Status != Ignored || rec.Note != "the origin does not show it yet" || rec.Awaited.FollowUp != third {
			t.Errorf("first follow-up = %s %q, awaited %+v, want nothing done but the next one", rec.Status, rec.Note, rec.Awaited)
		}
		rec = finished(t, q.records, third)
		if rec.Status != Done || rec.Degraded || rec.Follows != ev.ID || rec.Refilled != 5 || len(rec.Targets) != 2 {
			t.Errorf("second follow-up = %+v, want done, with both targets told and entries filled", rec)
		}
		changes, notices := l.heard()
		if len(changes) != 2 || len(notices) != 4 {
			t.Fatalf("%d changes and %d notices, want 2 and 4: told once more", len(changes), len(notices))
		}
		first, again := changes[0], changes[1]
		if again.ID != third || again.Degraded || again.Seq <= first.Seq || again.Entity != "1" || !slices.Equal(again.Tags, first.Tags) ||
			!slices.Equal(again.Channels, first.Channels) || again.At != first.At || len(again.IDs) != 0 {
			t.Errorf("second change = %+v, want %+v again, no longer degraded", again, first)
		}
		if a, b := fmt.Sprint(first.Fields), fmt.Sprint(again.Fields); a != b {
			t.Errorf("fields = %s, want %s", b, a)
		}
		for i, want := range w.pauses[:2] {
			if gap := at[i+1] - at[i]; gap < want-time.Second || gap > want+3*time.Second {
				t.Errorf("looked again after %v, want %v", gap, want)
			}
		}
		if n := testutil.ToFloat64(w.metrics.unsettled); n != 2 {
			t.Errorf("%v waits are counted as unsettled, want 2", n)
		}
		if n := testutil.ToFloat64(w.metrics.events.WithLabelValues("duplicate")); n != 0 {
			t.Errorf("%v duplicates are counted, want 0", n)
		}
	})
}

func TestNobodyLooksForEver(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s, l := newSite(rdb, "fw"), &listener{}
		steps := with(s, func(st *Steps) { l.on(st); settling(st, func(Subject) bool { return false }) })
		q := NewQueue(rdb, testkit.Discard(), Config{Embedded: true})
		defer start(t, hurried(NewWorker(rdb, steps, testkit.Discard(), Config{Embedded: true})))()
		mustEnqueue(t, q, news(1))
		rec := finished(t, q.records, followUpID(news(1).ID, 3))
		if rec.Status != Ignored || rec.Note != "the origin does not show it; nobody looks again" || rec.Awaited.FollowUp != "" {
			t.Errorf("last follow-up = %s %q, awaited %+v", rec.Status, rec.Note, rec.Awaited)
		}
		if changes, _ := l.heard(); len(changes) != 1 {
			t.Errorf("%d changes, want only the degraded one", len(changes))
		}
		if n := rdb.ZCard(t.Context(), s.ns.asynq("scheduled")).Val(); n != 0 {
			t.Errorf("%d tasks are scheduled after the last follow-up", n)
		}
		// A second query for all events does not repeat what follows others.
		if n, err := q.Replay(t.Context(), ReplayQuery{}); n != 1 || err != nil {
			t.Errorf("Replay of all = %d, %v, want the one event that came from outside", n, err)
		}
	})
}

// Whoever is newer waits for the origin itself.
func TestFollowUpIsOverWhenSomethingNewerIsKnown(t *testing.T) {
	newer := map[string]func(ev *event.Event){
		"received later": func(ev *event.Event) { ev.ReceivedAt = ev.ReceivedAt.Add(time.Second) },
		"a newer version, received before": func(ev *event.Event) {
			ev.Version, ev.ReceivedAt = "8", ev.ReceivedAt.Add(-time.Second)
		},
		"removed": func(ev *event.Event) {
			ev.Action, ev.Version, ev.ReceivedAt = event.Delete, "", ev.ReceivedAt.Add(time.Second)
		},
	}
	older := map[string]func(ev *event.Event){
		"superseded": func(ev *event.Event) { ev.Version, ev.ReceivedAt = "6", ev.ReceivedAt.Add(time.Second) },
		"a replay":   func(ev *event.Event) { ev.ReplayOf, ev.ReceivedAt = "x", ev.ReceivedAt.Add(time.Second) },
		"another entity": func(ev *event.Event) {
			ev.Entity, ev.Version, ev.ReceivedAt = "2", "8", ev.ReceivedAt.Add(time.Second)
		},
	}
	check := func(name string, change func(*event.Event), over bool) {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, rdb *redis.Client) {
				s, l := newSite(rdb, "fw"), &listener{}
				first := news(1)
				first.Version = "7"
				var asked atomic.Int32
				steps := with(s, func(st *Steps) {
					l.on(st)
					settling(st, func(s Subject) bool { return asked.Add(1) > 1 })
				})
				q := NewQueue(rdb, testkit.Discard(), Config{Embedded: true})
				defer start(t, hurried(NewWorker(rdb, steps, testkit.Discard(), Config{Embedded: true})))()
				mustEnqueue(t, q, first)
				finished(t, q.records, first.ID)
				second := news(2)
				second.Entity, second.ReceivedAt = "1", first.ReceivedAt
				change(&second)
				mustEnqueue(t, q, second)
				finished(t, q.records, second.ID)
				rec := finished(t, q.records, followUpID(first.ID, 1))
				changes, _ := l.heard()
				if over && (rec.Status != Ignored || !rec.Superseded || rec.Seq != 0 || len(changes) != 2) {
					t.Errorf("follow-up = %s %q at seq %d, %d changes, want it over without a word", rec.Status, rec.Note, rec.Seq, len(changes))
				}
				if !over && (rec.Status != Done || len(changes) != 3) {
					t.Errorf("follow-up = %s %q, %d changes, want it told: nothing newer is known", rec.Status, rec.Note, len(changes))
				}
			})
		})
	}
	for name, change := range newer {
		check(name, change, true)
	}
	for name, change := range older {
		check(name, change, false)
	}
}

// A superseded event and a replay announce nothing, so nothing is waited for.
func TestOldNewsDoesNotWait(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	var asked, told sync.Map
	steps := with(s, func(st *Steps) {
		settling(st, func(s Subject) bool { asked.Store(s.Event.ID, true); return true })
		invalidate := st.Invalidate
		st.Invalidate = func(ctx context.Context, s Subject, m Mark) (Mark, error) {
			told.Store(s.Event.ID, s.News)
			return invalidate(ctx, s, m)
		}
	})
	cfg := Config{Concurrency: 1}
	q := NewQueue(rdb, log, cfg)
	newest, old, replay := news(1), news(2), news(3)
	newest.Version = "2"
	old.Entity, old.Version = "1", "1"
	replay.Entity, replay.ReplayOf = "1", "x"
	testkit.Go(t, NewWorker(rdb, steps, log, cfg).Run)
	for _, ev := range []event.Event{newest, old, replay} {
		mustEnqueue(t, q, ev)
		rec := finished(t, q.records, ev.ID) // before the next: queues have their turns at random
		_, waited := asked.Load(ev.ID)
		isNews, _ := told.Load(ev.ID)
		if want := ev.ID == newest.ID; rec.Status != Done || waited != want || isNews != want {
			t.Errorf("event of version %q, replay of %q: %s, waited %v, news %v, want %v", ev.Version, ev.ReplayOf, rec.Status, waited, isNews, want)
		}
	}
}

// The newest version of a burst counts, and a replay among them is no news.
func TestBurstWaitsForItsNewestVersion(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCrowd(rdb, "fw")
		var subjects []Subject
		st := c.steps(window)
		settling(&st, func(s Subject) bool { subjects = append(subjects, s); return len(subjects) > 1 })
		q := NewQueue(rdb, testkit.Discard(), Config{})
		var evs []event.Event
		for n := range 10 {
			ev := edit("1", n)
			ev.Version = fmt.Sprint("hash", n) // in no order: the time counts
			if n == 9 {
				ev.ReplayOf = "x"
			}
			evs = append(evs, ev)
			mustEnqueue(t, q, ev)
		}
		defer start(t, hurried(NewWorker(rdb, st, testkit.Discard(), Config{})))()
		for _, ev := range evs {
			rec := finished(t, q.records, ev.ID)
			if rec.Status != Done || !rec.Degraded || rec.Awaited == nil || rec.Awaited.FollowUp == "" {
				t.Errorf("member of the burst = %+v, want degraded, with a follow-up", rec)
			}
		}
		if len(subjects) != 1 || subjects[0].Event.ID != evs[8].ID || !subjects[0].News {
			t.Fatalf("waited for %+v, want once, for the newest that is no replay", subjects)
		}
		rec := finished(t, q.records, followUpID(evs[8].ID, 1))
		changes, notices := c.told()
		if rec.Status != Done || len(changes) != 2 || len(notices) != 2 || changes[1].Degraded || len(changes[0].IDs) != 10 {
			t.Errorf("follow-up = %s, %d changes, %d notices, want the burst told once more", rec.Status, len(changes), len(notices))
		}
	})
}

// A reader fills in the old version while the origin lags; then the worker ends.
//
//	attempt 1: void (mark 1) → a reader fills in the old one → interrupted
//	attempt 2: the origin shows the new one at the first look
//
// With the mark of before the wait, attempt 2 would make nothing void.
func TestMarkOfBeforeAWaitIsNotReused(t *testing.T) {
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprintf("broken=%v", broken), func(t *testing.T) {
			bubble(t, func(t *testing.T, rdb *redis.Client) {
				s := newSite(rdb, "fw")
				q := NewQueue(rdb, testkit.Discard(), Config{Embedded: true})
				ev := news(1)
				cached, attempts := "", 0
				served := "" // when browsers are told
				steps := with(s, func(st *Steps) {
					invalidate, add := st.Invalidate, st.Append
					st.Invalidate = func(ctx context.Context, about Subject, prior Mark) (Mark, error) {
						m, err := invalidate(ctx, about, prior)
						if m != prior {
							cached = ""
						}
						return m, err
					}
					st.Settle = func(ctx context.Context, _ Subject, m Mark) (Mark, Settlement, error) {
						if attempts++; attempts == 1 {
							cached = "old"
							if broken {
								mark := rdb.HGet(ctx, q.keys.record(ev.ID), "mark").Val()
								rdb.HSet(ctx, q.keys.record(ev.ID), "mark", strings.TrimSuffix(mark, "}")+`,"settled":true}`)
							}
							return m, Settlement{}, errors.New("the connection broke")
						}
						return m, Settlement{Settled: true}, nil
					}
					st.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
						served = cached
						return add(ctx, c)
					}
				})
				defer start(t, NewWorker(rdb, steps, testkit.Discard(), Config{Embedded: true}))()
				mustEnqueue(t, q, ev)
				finished(t, q.records, ev.ID)
				if stale := served == "old"; stale != broken {
					t.Errorf("readers are served the old version when browsers are told: %v, want %v", stale, broken)
				}
			})
		})
	}
}

// An interrupted run waits again only where it must: a mark of after the wait stands.
func TestWaitOfAKilledWorkerIsNotRepeatedOnceItIsOver(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts processes")
	}
	server := testkit.StartServer(t)
	for _, tc := range []struct {
		when, step string
		made       string // how often anything was made void, by both workers
		waits      int    // of the second worker
	}{
		{"before", "settle", "3", 1},
		{"after", "settle", "4", 1},
		{"before", "append", "2", 0},
		{"after", "append", "2", 0},
	} {
		t.Run(tc.when+" "+tc.step, func(t *testing.T) {
			rdb := server.Client(t)
			ns := "settle-" + tc.when + "-" + tc.step
			s, cfg := newSite(rdb, ns), Config{Namespace: ns}
			q := NewQueue(rdb, testkit.Logger(t), cfg)
			mustEnqueue(t, q, news(1))
			killHolder(t, server, ns, tc.when, tc.step)
			if err := rdb.ZAddXX(t.Context(), q.keys.lease(), redis.Z{Score: float64(time.Now().Unix() - 5), Member: news(1).ID}).Err(); err != nil {
				t.Fatal(err)
			}
			var waits atomic.Int32
			w := NewWorker(rdb, with(s, func(st *Steps) {
				targets("site")(st)
				settling(st, func(Subject) bool { waits.Add(1); return true })
			}), testkit.Logger(t), cfg)
			w.reapEvery = 50 * time.Millisecond
			testkit.Go(t, w.Run)
			rec := finished(t, q.records, news(1).ID)
			made := rdb.Get(t.Context(), s.ns.own("test:seq")).Val()
			if rec.Status != Done || made != tc.made || int(waits.Load()) != tc.waits {
				t.Errorf("record = %s, made void %s times, waited %d times, want done, %s, %d", rec.Status, made, waits.Load(), tc.made, tc.waits)
			}
			assertOnceIn(t, s, news(1).ID)
		})
	}
}

// The follow-up is there before anybody hears of the event, once.
func TestFollowUpOfAKilledWorkerIsThereOnce(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts processes")
	}
	server := testkit.StartServer(t)
	for _, when := range []string{"before", "after"} {
		t.Run(when+" append", func(t *testing.T) {
			rdb := server.Client(t)
			ns := "unsettled-" + when
			s, cfg := newSite(rdb, ns), Config{Namespace: ns}
			q := NewQueue(rdb, testkit.Logger(t), cfg)
			ev := news(1)
			mustEnqueue(t, q, ev)
			killHolder(t, server, ns, when, "append")
			if err := rdb.ZAddXX(t.Context(), q.keys.lease(), redis.Z{Score: float64(time.Now().Unix() - 5), Member: ev.ID}).Err(); err != nil {
				t.Fatal(err)
			}
			w := NewWorker(rdb, with(s, func(st *Steps) { settling(st, func(Subject) bool { return false }) }), testkit.Logger(t), cfg)
			w.reapEvery = 50 * time.Millisecond
			testkit.Go(t, w.Run)
			finished(t, q.records, ev.ID)
			scheduled := rdb.ZRange(t.Context(), q.keys.asynq("scheduled"), 0, -1).Val()
			if want := []string{followUpID(ev.ID, 1)}; !slices.Equal(scheduled, want) {
				t.Errorf("scheduled = %q, want %q", scheduled, want)
			}
		})
	}
}

func TestEventsBeyondTheRoomForWaitingGoOutDegraded(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	w := NewWorker(rdb, with(s, func(st *Steps) { settling(st, func(Subject) bool { return true }) }), log, Config{})
	if room := cap(w.waits); room >= w.cfg.taken() || room < w.cfg.taken()/2 {
		t.Errorf("%d of %d events may wait, want most of them, but not all", room, w.cfg.taken())
	}
	for range cap(w.waits) {
		w.waits <- struct{}{}
	}
	q := NewQueue(rdb, log, Config{})
	testkit.Go(t, w.Run)
	mustEnqueue(t, q, news(1))
	rec := finished(t, q.records, news(1).ID)
	if rec.Status != Done || !rec.Degraded || rec.Awaited.Shown || rec.Awaited.FollowUp == "" || !strings.Contains(rec.Awaited.Note, "too many") {
		t.Errorf("record = %+v, awaited %+v, want degraded, and looked for later", rec, rec.Awaited)
	}
}

func TestWaitingEventIsHandedBackWhenTheWorkerStops(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSite(rdb, "fw")
		waiting := make(chan struct{}, 1)
		steps := with(s, func(st *Steps) {
			st.Settle = func(ctx context.Context, _ Subject, m Mark) (Mark, Settlement, error) {
				waiting <- struct{}{}
				<-ctx.Done()
				return m, Settlement{Note: "its time is up"}, nil
			}
		})
		q := NewQueue(rdb, testkit.Discard(), Config{})
		stop := start(t, NewWorker(rdb, steps, testkit.Discard(), Config{}))
		mustEnqueue(t, q, news(1))
		testkit.Wait(t, waiting, "the event to wait")
		stop()
		if rec, err := q.records.Get(t.Context(), news(1).ID); err != nil || rec.Status == Done || len(s.log(t)) != 0 {
			t.Errorf("event of a stopped worker is %s, %v, %d changes, want it left to others", rec.Status, err, len(s.log(t)))
		}
		if n := rdb.ZCard(t.Context(), s.ns.asynq("scheduled")).Val(); n != 0 {
			t.Errorf("%d follow-ups, though the wait was not over", n)
		}
		defer start(t, NewWorker(rdb, with(s, func(st *Steps) { settling(st, func(Subject) bool { return true }) }), testkit.Discard(), Config{}))()
		if rec := finished(t, q.records, news(1).ID); rec.Status != Done || rec.Degraded {
			t.Errorf("record = %s, degraded %v, want done by the next worker", rec.Status, rec.Degraded)
		}
	})
}

// Settle has what Config promises, and telling has its time after it.
func TestTimeToSettleIsBoundedByTheBudgets(t *testing.T) {
	for _, timeout := range []time.Duration{0, 30 * time.Second, 90500 * time.Millisecond, 5 * time.Minute} {
		bubble(t, func(t *testing.T, rdb *redis.Client) {
			s := newSite(rdb, "fw")
			var had, left time.Duration
			steps := with(s, func(st *Steps) {
				add := st.Append
				st.Settle = func(ctx context.Context, _ Subject, m Mark) (Mark, Settlement, error) {
					deadline, _ := ctx.Deadline()
					had = time.Until(deadline)
					return m, Settlement{Settled: true}, nil
				}
				st.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
					deadline, _ := ctx.Deadline()
					left = time.Until(deadline)
					return add(ctx, c)
				}
			})
			cfg := Config{Embedded: true, SettleTimeout: timeout}
			q := NewQueue(rdb, testkit.Discard(), cfg)
			defer start(t, NewWorker(rdb, steps, testkit.Discard(), cfg))()
			mustEnqueue(t, q, news(1))
			rec := finished(t, q.records, news(1).ID)
			want := max(timeout, maxLag)
			if rec.Status != Done || had < want+afterWait-time.Second || had > want+afterWait+time.Second || left-had < 15*time.Second+afterTargets-time.Second {
				t.Errorf("settle timeout %v: %s, had %v to settle and %v in all, want %v, and the time that targets and the log take", timeout, rec.Status, had, left, want+afterWait)
			}
		})
	}
}

func TestEntriesAreRefilledBeforeAnybodyIsTold(t *testing.T) {
	type refill func(ctx context.Context, n int) (int, error)
	for _, tc := range []struct {
		name    string
		refill  refill
		filled  int
		problem string
		within  time.Duration
	}{
		{"all", func(_ context.Context, n int) (int, error) { return n, nil }, 20, "", time.Second},
		{"some", func(context.Context, int) (int, error) { return 3, errors.New("the origin is away") }, 3, "refill: the origin is away", time.Second},
		{"hangs", func(ctx context.Context, _ int) (int, error) { <-ctx.Done(); return 1, ctx.Err() }, 1, "refill: context deadline exceeded", refillTimeout + time.Second},
		{"panics", func(context.Context, int) (int, error) { panic("boom") }, 0, "refill: panic: boom", time.Second},
	} {
		for _, names := range [][]string{nil, {"site"}} {
			t.Run(fmt.Sprint(tc.name, names), func(t *testing.T) {
				bubble(t, func(t *testing.T, rdb *redis.Client) {
					s := newSite(rdb, "fw")
					steps := with(s, func(st *Steps) {
						targets(names...)(st)
						plan := st.Plan
						st.Plan = func(ev event.Event) rules.Plan {
							p := plan(ev)
							p.Refill = 20
							return p
						}
						st.Hottest = func(_ context.Context, p event.Purge, n int) ([]string, error) {
							if len(p.Tags) != 2 || slices.Contains(s.heard(), "reclaim") {
								t.Errorf("Hottest(%+v) after %q, want the purge, before it is reclaimed", p, s.heard())
							}
							return slices.Repeat([]string{"/a"}, n), nil
						}
						st.Refill = func(ctx context.Context, entries []string) (int, error) {
							defer s.called("refill")
							return tc.refill(ctx, len(entries))
						}
					})
					q := NewQueue(rdb, testkit.Discard(), Config{Embedded: true})
					w := NewWorker(rdb, steps, testkit.Discard(), Config{Embedded: true})
					defer start(t, w)()
					begin := time.Now()
					mustEnqueue(t, q, news(1))
					rec := finished(t, q.records, news(1).ID)
					if took := time.Since(begin); rec.Status != Done || rec.Degraded || rec.Refilled != tc.filled || took > tc.within {
						t.Errorf("record = %+v after %v, want done with %d filled within %v", rec, took, tc.filled, tc.within)
					}
					if got := strings.Join(rec.Problems, "; "); got != tc.problem {
						t.Errorf("problems = %q, want %q", got, tc.problem)
					}
					if heard := s.heard(); tc.name != "panics" && slices.Index(heard, "refill") > slices.Index(heard, "append") {
						t.Errorf("steps = %q, want refill before append", heard)
					}
					for i, st := range rec.Steps {
						if i > 0 && st.At.Before(rec.Steps[i-1].At) {
							t.Errorf("step %s is before step %s", st.Step, rec.Steps[i-1].Step)
						}
					}
					if n := testutil.ToFloat64(w.metrics.refilled); int(n) != tc.filled {
						t.Errorf("freshwire_refilled_total = %v, want %d", n, tc.filled)
					}
				})
			})
		}
	}
}
