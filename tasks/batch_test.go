package tasks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
)

// A promise holds on a Redis, on a cluster, and on the embedded store.
func TestPromisesHoldOnEachStore(t *testing.T) {
	t.Parallel()
	promises := []struct {
		name  string
		holds func(t *testing.T, rdb redis.UniversalClient, cfg Config)
	}{
		{"batch is taken in in its order", batchIsTakenInInItsOrder},
		{"same batch five times in parallel takes effect once", sameBatchFiveTimesInParallelTakesEffectOnce},
		{"archived events of a batch run again", archivedEventsOfABatchRunAgain},
		{"a task that no archive holds runs again", taskThatNoArchiveHoldsRunsAgain},
		{"forgotten scripts are taught again", forgottenScriptsAreTaughtAgain},
		{"large payloads fit into a batch", largePayloadsFitIntoABatch},
		{"queue refuses above its cap", queueRefusesAboveItsCap},
		{"payload is kept for replay only when wanted", payloadIsKeptForReplayOnlyWhenWanted},
		{"guessed delivery handed over again takes effect once", guessedDeliveryHandedOverAgainTakesEffectOnce},
		{"known and over tell where an event is", knownAndOverTellWhereAnEventIs},
		{"mark moves only from where it stands", markMovesOnlyFromWhereItStands},
		{"marks of nodes that are gone are dropped", marksOfNodesThatAreGoneAreDropped},
		{"replay of a published event is published again under a new id", replayOfAPublishedEventIsPublishedAgainUnderANewID},
		{"replay of a failed event runs it on", replayOfAFailedEventRunsItOn},
		{"pages of all locales are purged by an id alone", pagesOfAllLocalesArePurgedByAnIDAlone},
	}
	for _, p := range promises {
		t.Run("standalone/"+p.name, func(t *testing.T) {
			t.Parallel()
			p.holds(t, testkit.Redis(t), Config{Namespace: "fw"})
		})
		t.Run("embedded/"+p.name, func(t *testing.T) {
			t.Parallel()
			rdb, closeAll := embedded()
			t.Cleanup(closeAll)
			p.holds(t, rdb, Config{Namespace: "fw", Embedded: true})
		})
	}
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		if testing.Short() {
			t.Skip("starts three servers")
		}
		rdb := testkit.Cluster(t)
		for n, p := range promises {
			t.Run(p.name, func(t *testing.T) { p.holds(t, rdb, Config{Namespace: fmt.Sprint("site", n)}) })
		}
		t.Run("a replica is asked for where the queue is", func(t *testing.T) { asksTheMaster(t, rdb) })
	})
}

func batch(from, to int) []event.Event {
	var evs []event.Event
	for n := from; n < to; n++ {
		evs = append(evs, news(n))
	}
	return evs
}

func mustEnqueueAll(t testing.TB, q *Queue, evs ...event.Event) []bool {
	t.Helper()
	added, err := q.EnqueueAll(context.Background(), evs)
	if err != nil || len(added) != len(evs) {
		t.Fatalf("EnqueueAll(%d events) = %d answers, %v", len(evs), len(added), err)
	}
	return added
}

func batchIsTakenInInItsOrder(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	ctx := t.Context()
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	rdb.Set(ctx, q.keys.seen(news(3).ID), "1-0", 0)
	rdb.HSet(ctx, q.keys.record(news(5).ID), "status", string(Ignored))
	evs := append(batch(0, 520), news(7), news(9)) // two of them twice; more than one flight takes
	added := mustEnqueueAll(t, q, evs...)
	var want []string
	for i, ev := range evs {
		fresh := i < 520 && i != 3 && i != 5
		if added[i] != fresh {
			t.Errorf("event %d: added = %v, want %v", i, added[i], fresh)
		}
		if fresh {
			want = append(want, ev.ID)
		}
	}
	waiting := rdb.LRange(ctx, q.keys.pending(), 0, -1).Val()
	slices.Reverse(waiting) // the next one is at the right
	if !slices.Equal(waiting, want) {
		t.Errorf("%d tasks wait, want %d in the order of the batch", len(waiting), len(want))
	}
	for _, n := range []int{0, 128, 519} {
		if rec, err := q.records.Get(ctx, news(n).ID); err != nil || rec.Status != Queued {
			t.Errorf("record of event %d: %s, %v, want queued", n, rec.Status, err)
		}
	}
	rdb.Del(ctx, q.keys.record(news(20).ID)) // as if the one who enqueued it had died before it noted that
	if again := mustEnqueueAll(t, q, evs...); slices.Contains(again, true) {
		t.Error("the same batch again: something was added")
	}
	if rec, err := q.records.Get(ctx, news(20).ID); err != nil || rec.Status != Queued {
		t.Errorf("an event that waits without a record is %s, %v, want queued", rec.Status, err)
	}
	if n := rdb.LLen(ctx, q.keys.pending()).Val(); int(n) != len(want) {
		t.Errorf("%d tasks wait after it came again, want %d", n, len(want))
	}
}

func sameBatchFiveTimesInParallelTakesEffectOnce(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	s, log := newSite(rdb, cfg.Namespace), testkit.Logger(t)
	q := NewQueue(rdb, log, cfg)
	testkit.Go(t, NewWorker(rdb, s.steps(), log, cfg).Run)
	const events = 20
	var g errgroup.Group
	var added [events]atomic.Int32
	for shift := range 5 {
		evs := batch(0, events)
		evs = append(evs[shift*4:], evs[:shift*4]...)
		g.Go(func() error {
			took, err := q.EnqueueAll(context.Background(), evs)
			for i, ok := range took {
				if ok {
					added[(i+shift*4)%events].Add(1)
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for n := range events {
		finished(t, q.records, news(n).ID)
		if added[n].Load() == 0 { // more than one may be: it can be over between the question and the enqueue
			t.Errorf("event %d: nobody was told that it was added", n)
		}
	}
	assertOnce(t, s, events)
}

func archivedEventsOfABatchRunAgain(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	ctx := t.Context()
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	mustEnqueueAll(t, q, batch(0, 3)...)
	for n := range 2 {
		if err := q.inspect.ArchiveTask(cfg.Namespace, news(n).ID); err != nil {
			t.Fatal(err)
		}
	}
	// The name of the queue is lost, too: Asynq's inspector then knows no such queue.
	rdb.Del(ctx, asynqQueues)
	added := mustEnqueueAll(t, q, news(0), news(1), news(2), news(0))
	if want := []bool{true, true, false, false}; !slices.Equal(added, want) {
		t.Errorf("added = %v, want %v: two had failed, one waits, one is there twice", added, want)
	}
	if n := rdb.LLen(ctx, q.keys.pending()).Val(); n != 3 {
		t.Errorf("%d tasks wait, want 3", n)
	}
}

// A Redis that evicts keys may take the archive and leave its tasks.
func taskThatNoArchiveHoldsRunsAgain(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	mustEnqueueAll(t, q, news(0))
	if err := q.inspect.ArchiveTask(cfg.Namespace, news(0).ID); err != nil {
		t.Fatal(err)
	}
	rdb.Del(t.Context(), q.keys.archived())
	if added := mustEnqueueAll(t, q, news(0), news(1)); !added[0] || !added[1] {
		t.Errorf("added = %v, want both: the first had failed", added)
	}
	if n := rdb.LLen(t.Context(), q.keys.pending()).Val(); n != 2 {
		t.Errorf("%d tasks wait, want 2", n)
	}
}

func forgottenScriptsAreTaughtAgain(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	for round := range 3 {
		if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if added := mustEnqueueAll(t, q, batch(round*10, round*10+10)...); slices.Contains(added, false) {
			t.Errorf("round %d: added = %v, want all", round, added)
		}
	}
	waiting := rdb.LRange(t.Context(), q.keys.pending(), 0, -1).Val()
	slices.Reverse(waiting)
	for n, id := range waiting {
		if id != news(n).ID {
			t.Fatalf("task %d is not event %d: the order is lost", n, n)
		}
	}
	if len(waiting) != 30 {
		t.Errorf("%d tasks wait, want 30", len(waiting))
	}
}

func largePayloadsFitIntoABatch(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	evs := batch(0, 12)
	for i := range evs {
		evs[i].Payload = []byte(`"` + strings.Repeat("x", 400<<10) + `"`)
	}
	if added := mustEnqueueAll(t, q, evs...); slices.Contains(added, false) {
		t.Errorf("added = %v, want all", added)
	}
	info, err := q.inspect.GetTaskInfo(cfg.Namespace, evs[11].ID)
	if err != nil {
		t.Fatal(err)
	}
	if env, err := decodePayload(evs[11].ID, info.Payload); err != nil || len(env.Event.Payload) != 400<<10+2 {
		t.Errorf("the last one holds %d bytes, %v", len(env.Event.Payload), err)
	}
}

func queueRefusesAboveItsCap(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	cfg.QueueCap = 10
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	mustEnqueueAll(t, q, batch(0, 10)...)
	if added, err := q.EnqueueAll(t.Context(), batch(9, 12)); !errors.Is(err, ErrBusy) || added != nil {
		t.Errorf("EnqueueAll on a full queue = %v, %v, want ErrBusy", added, err)
	}
	if n := rdb.LLen(t.Context(), q.keys.pending()).Val(); n != 10 {
		t.Errorf("%d tasks wait after it was refused, want 10", n)
	}
	rdb.Set(t.Context(), q.keys.seen(news(50).ID), "1-0", 0)
	if added := mustEnqueueAll(t, q, news(50)); added[0] {
		t.Error("an event that is over counts as added")
	}
}

func payloadIsKeptForReplayOnlyWhenWanted(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	kept := news(1)
	kept.Keep = time.Hour
	mustEnqueueAll(t, q, kept, news(2))
	doc, err := rdb.Get(t.Context(), q.keys.kept(kept.ID)).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := DecodeEvent(doc); err != nil || string(ev.Payload) != string(kept.Payload) {
		t.Errorf("kept %s, %v, want the payload %s", ev.Payload, err, kept.Payload)
	}
	if ttl := rdb.TTL(t.Context(), q.keys.kept(kept.ID)).Val(); ttl < time.Hour || ttl > time.Hour+timeToRun {
		t.Errorf("it is kept for %v, want an hour after it is over", ttl)
	}
	if n := rdb.Exists(t.Context(), q.keys.kept(news(2).ID)).Val(); n != 0 {
		t.Error("an event that asks for nothing is kept")
	}
}

// A journal hands an event over again after a crash, also one whose id is a
// guess. Another save with equal bytes has another time of receipt.
func guessedDeliveryHandedOverAgainTakesEffectOnce(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	ctx := t.Context()
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	first := delivered(news(1))
	first.Guessed = true
	second := first
	second.ReceivedAt = first.ReceivedAt.Add(time.Second)
	if added := mustEnqueueAll(t, q, first, news(2)); !added[0] || !added[1] {
		t.Fatalf("added = %v, want both", added)
	}
	begun := func() { // by a worker that takes what waits
		for _, id := range rdb.LRange(ctx, q.keys.pending(), 0, -1).Val() {
			rdb.HSet(ctx, q.keys.record(id), "attempts", 1)
		}
	}
	begun()
	if added := mustEnqueueAll(t, q, first, news(2)); added[0] || added[1] {
		t.Errorf("handed over again: added = %v, want none", added)
	}
	waiting := func() int64 { return rdb.LLen(ctx, q.keys.pending()).Val() }
	if waiting() != 2 {
		t.Fatalf("%d tasks wait, want 2", waiting())
	}
	for range 3 {
		mustEnqueueAll(t, q, first, second)
		begun()
		if waiting() != 3 {
			t.Fatalf("%d tasks wait, want one more for the second save", waiting())
		}
	}

	ids := []string{JournalID(first), JournalID(second), news(2).ID}
	rdb.Set(ctx, q.keys.seen(first.ID), "1-0", 0)
	over, err := q.Over(ctx, ids)
	if want := []bool{true, false, false}; err != nil || !slices.Equal(over, want) {
		t.Errorf("Over after the first save was published = %v, %v, want %v", over, err, want)
	}
	rdb.Set(ctx, q.keys.seen(rdb.Get(ctx, q.keys.got(ids[1])).Val()), "2-0", 0)
	over, err = q.Over(ctx, ids)
	if want := []bool{true, true, false}; err != nil || !slices.Equal(over, want) {
		t.Errorf("Over after the second one was = %v, %v, want %v", over, err, want)
	}
}

// Asynq's client is pinned to one script for each enqueue, and its reply to 1 or 0.
func TestRecorderWritesDownWhatAsynqWouldRun(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	for name, more := range map[string][]asynq.Option{"now": nil, "later": {asynq.ProcessIn(time.Minute)}} {
		ev := news(len(name))
		calls, err := q.enqueues(t.Context(), []event.Event{ev}, time.Now(), more)
		if err != nil || len(calls) != 1 {
			t.Fatalf("%s: %d calls, %v, want one", name, len(calls), err)
		}
		if n := rdb.Exists(t.Context(), q.keys.task(ev.ID)).Val(); n != 0 {
			t.Errorf("%s: the task is there before its call was sent", name)
		}
		for _, want := range []int{1, 0} {
			replies, err := q.pipes.run(t.Context(), calls)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := replies[0].Int(); n != want || err != nil {
				t.Errorf("%s: reply %d, %v, want %d", name, n, err, want)
			}
		}
	}
}

// gate is a hook that counts pipelines and can hold them.
type gate struct {
	flights atomic.Int32
	held    chan struct{} // a pipeline waits
	open    chan struct{}
}

func newGate() *gate { return &gate{held: make(chan struct{}, 100), open: make(chan struct{})} }

func (g *gate) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if len(cmds) == 2 && cmds[0].Name() == "client" { // a new connection
			return next(ctx, cmds)
		}
		g.flights.Add(1)
		g.held <- struct{}{}
		<-g.open
		return next(ctx, cmds)
	}
}

func TestConcurrentCallersShareAPipeline(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	mustEnqueue(t, q, news(7))
	g := newGate()
	rdb.AddHook(g)
	known := func(n int) error {
		got, err := q.known(context.WithoutCancel(t.Context()), []string{news(n).ID})
		if err == nil && got[0] != (n == 7) {
			err = fmt.Errorf("Known(%d) = %v", n, got[0])
		}
		return err
	}
	var callers errgroup.Group
	callers.Go(func() error { known(7); return nil }) // may be out of patience when the gate opens
	testkit.Wait(t, g.held, "the first pipeline")
	for n := range 50 {
		callers.Go(func() error {
			return q.asking.do(t.Context(), 1, 0, func(p redis.Pipeliner) { p.Exists(t.Context(), fmt.Sprint(n)) })
		})
	}
	left, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		gone <- q.asking.do(left, 1, 0, func(p redis.Pipeliner) { t.Error("a caller who had left was served") })
	}()
	testkit.Until(t, "all callers wait", func() bool {
		q.asking.mu.Lock()
		defer q.asking.mu.Unlock()
		return len(q.asking.waiting) == 51
	})
	leave()
	if err := testkit.Wait(t, gone, "the caller to leave"); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who leaves gets %v", err)
	}
	close(g.open)
	if err := callers.Wait(); err != nil {
		t.Error(err)
	}
	if n := g.flights.Load(); n != 2 {
		t.Errorf("%d pipelines for 51 callers, want 2", n)
	}
	if err := known(7); err != nil {
		t.Error(err)
	}
}

func TestEmbeddedStoreTakesPipelinesOfAnySize(t *testing.T) {
	t.Parallel()
	rdb, closeAll := embedded()
	defer closeAll()
	pipe := rdb.Pipeline()
	for n := range 2000 {
		pipe.Set(t.Context(), fmt.Sprint("key", n), strings.Repeat("x", 1000), 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := rdb.DBSize(t.Context()).Val(); n != 2000 {
		t.Errorf("%d keys, want 2000", n)
	}
}

func TestClosedPipeTellsTheReader(t *testing.T) {
	here, there := net.Pipe()
	conn, err := EmbeddedDialer(func() (net.Conn, error) { return here, nil })(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	there.Close()
	if n, err := conn.Write([]byte("PING")); n != 4 || err != nil {
		t.Errorf("Write = %d, %v; it takes all, and the read tells", n, err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("Read from a closed pipe = nil, want an error")
	}
}
