package tasks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

func TestSameDeliveryInParallelTakesEffectOnce(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log, cfg := newSite(rdb, "fw"), testkit.Logger(t), Config{}
	q := NewQueue(rdb, log, cfg)
	for range 2 {
		testkit.Go(t, NewWorker(rdb, s.steps(), log, cfg).Run)
	}
	const events = 30
	var g errgroup.Group
	var added [events]atomic.Int32
	for n := range events {
		ev := news(n)
		for range 1 + n%5 {
			g.Go(func() error {
				ok, err := q.Enqueue(t.Context(), ev)
				if ok {
					added[n].Add(1)
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for n := range events {
		if rec := finished(t, q.records, news(n).ID); rec.Status != Done {
			t.Errorf("event %d is %s (%s), want done", n, rec.Status, rec.Error)
		}
		if added[n].Load() == 0 {
			t.Errorf("event %d: nobody was told that it was added", n)
		}
	}
	assertOnce(t, s, events)
}

// assertOnce holds that events 0 to n-1 are each in the log once.
func assertOnce(t *testing.T, s *site, n int) {
	t.Helper()
	for _, complaint := range notOnce(s.log(t), n) {
		t.Error(complaint)
	}
}

// notOnce says what keeps the log from holding each of events 0 to n-1 once.
func notOnce(log []string, n int) (complaints []string) {
	count := map[string]int{}
	for _, id := range log {
		count[id]++
	}
	for i := range n {
		if got := count[news(i).ID]; got != 1 {
			complaints = append(complaints, fmt.Sprintf("event %d is %d times in the log, want once", i, got))
		}
	}
	if len(count) > n {
		complaints = append(complaints, fmt.Sprintf("%d events in the log, want %d", len(count), n))
	}
	return complaints
}

// Each event's first run fails. As built, all are
// published once; with one property broken on purpose, the same check must
// complain, or it proves nothing.
func TestCheckerCatchesBrokenQueues(t *testing.T) {
	const events = 5
	built := func(q *Queue, ev event.Event) error {
		_, err := q.Enqueue(context.Background(), ev)
		return err
	}
	for _, tc := range []struct {
		name    string
		enqueue func(q *Queue, ev event.Event) error
		forget  bool   // the log does not remember what it has
		want    string // of every complaint; empty: none
	}{
		{"as built", built, false, ""},
		{"tasks that are never tried again", func(q *Queue, ev event.Event) error {
			payload, err := encodePayload(ev, time.Now())
			if err != nil {
				return err
			}
			_, err = q.client.Enqueue(asynq.NewTask(taskType, payload), append((Config{Namespace: "fw"}).taskOptions(ev.ID), asynq.MaxRetry(0))...)
			return err
		}, false, "is 0 times"},
		{"an acknowledgement before the queue has it", func(q *Queue, ev event.Event) error {
			ctx, cancel := context.WithCancel(context.Background())
			cancel() // the process dies here
			q.Enqueue(ctx, ev)
			return nil
		}, false, "is 0 times"},
		{"a log that forgets what it has", built, true, "is 2 times"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, rdb *redis.Client) {
				s := newSite(rdb, "fw")
				var mu sync.Mutex
				failed := map[string]bool{}
				steps := with(s, func(st *Steps) {
					add, barrier := st.Append, st.Barrier
					firstTime := func(id string) bool {
						mu.Lock()
						defer mu.Unlock()
						first := !failed[id]
						failed[id] = true
						return first
					}
					st.Barrier = func(ctx context.Context, about Subject, m Mark) (Mark, Report, error) {
						if !tc.forget && firstTime(about.Purge.Tags[1]) {
							return m, Report{}, errors.New("the connection broke")
						}
						return barrier(ctx, about, m)
					}
					st.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
						position, added, err := add(ctx, c)
						if tc.forget {
							rdb.Del(ctx, s.ns.seen(c.ID))
							if firstTime(c.ID) {
								err = errors.New("the answer was lost")
							}
						}
						return position, added, err
					}
				})
				q := NewQueue(rdb, testkit.Discard(), Config{})
				stop := start(t, NewWorker(rdb, steps, testkit.Discard(), Config{}))
				for i := range events {
					if err := tc.enqueue(q, news(i)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(10 * time.Second) // virtual: the retry after a second has had its turn
				stop()
				complaints := notOnce(s.log(t), events)
				if tc.want == "" && len(complaints) > 0 || tc.want != "" && len(complaints) != events {
					t.Errorf("%d complaints: %q", len(complaints), complaints)
				}
				for _, c := range complaints {
					if !strings.Contains(c, tc.want) {
						t.Errorf("complaint %q, want one of %q", c, tc.want)
					}
				}
			})
		})
	}
}

func TestRedeliveryIsADuplicate(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	steps := s.steps()
	plan := steps.Plan
	steps.Plan = func(ev event.Event) rules.Plan {
		if ev.Entity == "2" {
			return rules.Plan{}
		}
		return plan(ev)
	}
	q := NewQueue(rdb, log, Config{})
	if !mustEnqueue(t, q, news(1)) {
		t.Error("first delivery: added = false, want true")
	}
	if mustEnqueue(t, q, news(1)) {
		t.Error("redelivery while it waits: added = true, want false")
	}
	testkit.Go(t, NewWorker(rdb, steps, log, Config{}).Run)
	finished(t, q.records, news(1).ID)
	if mustEnqueue(t, q, news(1)) {
		t.Error("redelivery after it was published: added = true, want false")
	}
	mustEnqueue(t, q, news(2))
	if rec := finished(t, q.records, news(2).ID); rec.Status != Ignored || rec.Note != "no rule" {
		t.Errorf("event that no rule wants is %s, note %q, want ignored, no rule", rec.Status, rec.Note)
	}
	if mustEnqueue(t, q, news(2)) {
		t.Error("redelivery after it was ignored: added = true, want false")
	}
	if got := s.log(t); len(got) != 1 {
		t.Errorf("log holds %v, want event 1 alone", got)
	}
}

// A repeat that is only guessed may be a second save. It is left out while the
// first one waits, and takes effect after it once the first one has begun.
func TestSecondSaveWithEqualBytesIsNotLost(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	steps := s.steps()
	begun, goOn := make(chan string), make(chan struct{})
	barrier := steps.Barrier
	steps.Barrier = func(ctx context.Context, about Subject, m Mark) (Mark, Report, error) {
		begun <- m.Member
		<-goOn
		return barrier(ctx, about, m)
	}
	save := news(1)
	save.Guessed = true
	q := NewQueue(rdb, log, Config{})
	if !mustEnqueue(t, q, delivered(save)) {
		t.Error("the first save: added = false, want true")
	}
	if mustEnqueue(t, q, delivered(save)) {
		t.Error("the same bytes while it waits: added = true, want a duplicate")
	}
	if n := rdb.LLen(t.Context(), q.keys.pending()).Val(); n != 1 {
		t.Errorf("%d tasks wait, want one for both", n)
	}
	testkit.Go(t, NewWorker(rdb, steps, log, Config{Concurrency: 1}).Run)
	first := testkit.Wait(t, begun, "the first save to be void")
	for range 3 { // a second save, twice repeated: one more run
		if mustEnqueue(t, q, delivered(save)) {
			t.Error("the same bytes after it has begun: called new, want a duplicate")
		}
	}
	if n := rdb.LLen(t.Context(), q.keys.pending()).Val(); n != 1 {
		t.Errorf("%d tasks wait, want one for the second save and its repeats", n)
	}
	close(goOn)
	second := testkit.Wait(t, begun, "the second save to be made void on its own")
	if first == second {
		t.Error("the second save rests on the invalidation of the first")
	}
	testkit.Until(t, "both saves are published", func() bool { return len(s.log(t)) == 2 })
	go func() { // a third save, after all is over, in the same window
		for range begun {
		}
	}()
	mustEnqueue(t, q, delivered(save))
	testkit.Until(t, "the third save is published", func() bool { return len(s.log(t)) == 3 })
}

// delivered returns ev as a delivery of its own.
func delivered(ev event.Event) event.Event {
	ev.ReceivedAt = time.Now().UTC()
	return ev
}

// Whoever repeats one delivery for ever must not make an event of each.
func TestReplayedGuessIsSpaced(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	save := news(1)
	save.Guessed = true
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	const repeats = 60
	start := time.Now()
	for range repeats {
		mustEnqueue(t, q, delivered(save))
		// Each run begins at once.
		for _, id := range rdb.LRange(t.Context(), q.keys.pending(), 0, -1).Val() {
			rdb.HSet(t.Context(), q.keys.record(id), "attempts", 1)
		}
	}
	runs := rdb.LLen(t.Context(), q.keys.pending()).Val()
	late := rdb.ZCard(t.Context(), q.keys.asynq("scheduled")).Val()
	if runs != maxTwins || late < 1 || late > 2+int64(time.Since(start)/twinPause) {
		t.Errorf("%d repeats made %d runs at once and %d later, want %d and one in %v", repeats, runs, late, maxTwins, twinPause)
	}
}

// A journal hands deliveries on one batch after the other, with a bound of
// time for each: one that is repeated for ever must not hold up the rest.
func TestRepeatedGuessesCostFewRoundTrips(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	save := news(1)
	save.Guessed = true
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	mustEnqueue(t, q, delivered(save))
	rdb.Set(t.Context(), q.keys.seen(save.ID), "1-0", 0) // published, and all its twins
	for n := 1; n < maxTwins; n++ {
		rdb.Set(t.Context(), q.keys.seen(event.NewID(save.Source, "twin", save.ID, strconv.Itoa(n))), "1-0", 0)
	}
	rdb.Del(t.Context(), q.keys.task(save.ID), q.keys.pending())

	var saves []event.Event
	for n := range 128 {
		ev := delivered(save)
		ev.ReceivedAt = ev.ReceivedAt.Add(time.Duration(n)) // each a delivery of its own
		saves = append(saves, ev)
	}
	g := newGate()
	close(g.open)
	g.held = make(chan struct{}, 5000)
	rdb.AddHook(g)
	mustEnqueueAll(t, q, saves...)
	if n := g.flights.Load(); n > 12 {
		t.Errorf("128 repeats of one delivery took %d round trips, want a dozen", n)
	}
	if n := rdb.ZCard(t.Context(), q.keys.asynq("scheduled")).Val(); n != 1 {
		t.Errorf("%d later runs for them, want one", n)
	}
	for _, ev := range saves {
		if run := rdb.Get(t.Context(), q.keys.got(JournalID(ev))).Val(); run == "" {
			t.Fatal("a delivery takes effect with no event")
		}
	}
}

func TestFailedEventRunsAgainWhenItsDeliveryIsRepeated(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	steps := s.steps()
	var repaired atomic.Bool
	appendChange := steps.Append
	steps.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
		if !repaired.Load() {
			return "", false, fmt.Errorf("broken for good: %w", asynq.SkipRetry)
		}
		return appendChange(ctx, c)
	}
	q := NewQueue(rdb, log, Config{})
	testkit.Go(t, NewWorker(rdb, steps, log, Config{}).Run)
	mustEnqueue(t, q, news(1))
	if rec := finished(t, q.records, news(1).ID); rec.Status != Failed || rec.Error == "" {
		t.Fatalf("record says %s, error %q, want failed and why", rec.Status, rec.Error)
	}
	testkit.Until(t, "the task is archived", func() bool {
		state, _ := rdb.HGet(t.Context(), q.keys.task(news(1).ID), "state").Result()
		return state == "archived"
	})
	repaired.Store(true)
	// The name of the queue is lost, too: Asynq's inspector then knows no such queue.
	rdb.Del(t.Context(), asynqQueues)
	if !mustEnqueue(t, q, news(1)) {
		t.Error("redelivery of a failed event: added = false, want true")
	}
	testkit.Until(t, "the event is published", func() bool { return len(s.log(t)) == 1 })
	having(t, q.records, news(1).ID, Done)
	if prior := s.marks[len(s.marks)-1]; prior != (Mark{}) {
		t.Errorf("the new life got the mark %v of the failed one, want none", prior)
	}
}

func TestEmptiedStoreLearnsTheQueueAgain(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	mustEnqueue(t, q, news(1))
	rdb.FlushAll(t.Context())
	q.registered.Store(0) // a second has passed
	mustEnqueue(t, q, news(2))
	if known, err := rdb.SIsMember(t.Context(), asynqQueues, "fw").Result(); err != nil || !known {
		t.Errorf("queue known after the store was emptied = %v, %v, want true", known, err)
	}
	rdb.FlushAll(t.Context())
	w := NewWorker(rdb, Steps{}, testkit.Logger(t), Config{})
	if _, _, _, err := w.reapOnce(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if known, _ := rdb.SIsMember(t.Context(), asynqQueues, "fw").Result(); !known {
		t.Error("a worker does not make the queue known again")
	}
}

func TestEmbeddedQueueRefusesWhenTooManyWait(t *testing.T) {
	t.Parallel()
	rdb, closeAll := embedded()
	defer closeAll()
	q := NewQueue(rdb, testkit.Logger(t), Config{Embedded: true})
	waiting := make([]any, embeddedBacklog)
	for i := range waiting {
		waiting[i] = i
	}
	rdb.RPush(t.Context(), q.keys.pending(), waiting...)
	if added, err := q.Enqueue(t.Context(), news(1)); !errors.Is(err, ErrBusy) || added {
		t.Errorf("Enqueue on a full queue = %v, %v, want ErrBusy", added, err)
	}
	rdb.LPop(t.Context(), q.keys.pending())
	if !mustEnqueue(t, q, news(1)) {
		t.Error("added = false when there is room again, want true")
	}
}

func TestEnqueueFailsFast(t *testing.T) {
	t.Parallel()
	s := testkit.StartServer(t)
	q := NewQueue(redisAs(t, s, IngestOptions), testkit.Logger(t), Config{})
	mustEnqueue(t, q, news(1))
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := q.Enqueue(t.Context(), news(2)); err == nil {
		t.Error("Enqueue on a hanging Redis = nil, want an error")
	}
	if took := time.Since(start); took > 1800*time.Millisecond {
		t.Errorf("Enqueue on a hanging Redis took %v; the fastest sender waits 2s", took)
	}
	s.Signal(syscall.SIGCONT)
	s.Kill()
	if _, err := q.Enqueue(t.Context(), news(2)); err == nil {
		t.Error("Enqueue without Redis = nil, want an error")
	}
}

// Asynq reads half a second as half an hour, and a lock of Unique outlives a conflict.
func TestTaskOptionsAreWholeSecondsWithoutLocks(t *testing.T) {
	got := map[asynq.OptionType]any{}
	for _, o := range (Config{Namespace: "fw"}).taskOptions("id") {
		got[o.Type()] = o.Value()
	}
	for _, bad := range []asynq.OptionType{asynq.UniqueOpt, asynq.RetentionOpt, asynq.GroupOpt, asynq.ProcessInOpt, asynq.ProcessAtOpt, asynq.DeadlineOpt} {
		if v, ok := got[bad]; ok {
			t.Errorf("option %v = %v, want none", bad, v)
		}
	}
	for _, settle := range []time.Duration{0, 1500 * time.Millisecond, 30*time.Second + 1, 5 * time.Minute} {
		for _, o := range (Config{Namespace: "fw", SettleTimeout: settle}).taskOptions("id") {
			if d, ok := o.Value().(time.Duration); ok && (d < settle+taskTimeout || d%time.Second != 0) {
				t.Errorf("Timeout(%v), want whole seconds, and room to wait %v", d, settle)
			}
		}
	}
	if n, _ := got[asynq.MaxRetryOpt].(int); n < 1 {
		t.Errorf("MaxRetry(%d): a crash would archive the task", n)
	}
	if got[asynq.TaskIDOpt] != "id" || got[asynq.QueueOpt] != "fw" {
		t.Errorf("options %v, want the event's id and the namespace's queue", got)
	}
	if runBudget >= taskTimeout || drainAfter >= shutdownTimeout || runBudget-15*time.Second < afterTargets {
		t.Error("budgets do not nest: an attempt must end before Asynq ends it")
	}
}

func TestNamespacesDoNotMeet(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	log := testkit.Logger(t)
	one, two := newSite(rdb, "one"), newSite(rdb, "two")
	q1, q2 := NewQueue(rdb, log, Config{Namespace: "one"}), NewQueue(rdb, log, Config{Namespace: "two"})
	testkit.Go(t, NewWorker(rdb, one.steps(), log, Config{Namespace: "one"}).Run)
	if !mustEnqueue(t, q1, news(1)) || !mustEnqueue(t, q2, news(1)) {
		t.Fatal("the same event in two namespaces: want it added in both")
	}
	finished(t, q1.records, news(1).ID)
	if rec, err := q2.records.Get(t.Context(), news(1).ID); err != nil || rec.Status != Queued {
		t.Errorf("event of the other namespace is %s, %v, want queued", rec.Status, err)
	}
	testkit.Go(t, NewWorker(rdb, two.steps(), log, Config{Namespace: "two"}).Run)
	finished(t, q2.records, news(1).ID)
	if a, b := one.log(t), two.log(t); len(a) != 1 || len(b) != 1 {
		t.Errorf("logs hold %d and %d entries, want 1 and 1", len(a), len(b))
	}
}

func TestConfigMistakesAreAllShown(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("zero Config: %v", err)
	}
	err := Config{Namespace: "Has Space", Concurrency: -1, TargetBudget: time.Hour, RecordTTL: time.Second, RecordCap: -1, QueueCap: -1, SettleTimeout: 6 * time.Minute}.Validate()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 7 {
		t.Errorf("Validate() = %v, want seven mistakes", err)
	}
}
