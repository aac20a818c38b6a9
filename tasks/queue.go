package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
)

// Queue takes events in. Its methods may be called from many goroutines.
type Queue struct {
	cfg     Config
	keys    keys
	rdb     redis.UniversalClient
	client  *asynq.Client
	inspect *asynq.Inspector
	records *Records
	metrics *metrics

	pipes   *pipelines // of enqueues
	asking  *pipelines // of Known, which must not wait behind them
	breaker breaker    // of Known
	rounds  rounds     // of Replicated

	registered atomic.Int64 // unix ns at which the queue's name was last written
}

// NewQueue returns a Queue on rdb, which should have IngestOptions and stays
// the caller's to close.
func NewQueue(rdb redis.UniversalClient, log *slog.Logger, cfg Config) *Queue {
	cfg = cfg.withDefaults()
	return &Queue{
		cfg:     cfg,
		keys:    keys(cfg.Namespace),
		rdb:     rdb,
		client:  asynq.NewClientFromRedisClient(recorder{rdb}),
		inspect: asynq.NewInspectorFromRedisClient(rdb),
		records: NewRecords(rdb, log, cfg),
		metrics: newMetrics(rdb, cfg),
		pipes:   &pipelines{rdb: rdb},
		asking:  &pipelines{rdb: rdb},
	}
}

// Enqueue accepts ev for later work. It reports whether ev was added; false
// means that an event with the same ID is accepted already, or was published in
// the last days. An event that failed for good is run again, which counts as
// added. After nil, Redis holds the event.
func (q *Queue) Enqueue(ctx context.Context, ev event.Event) (added bool, err error) {
	all, err := q.EnqueueAll(ctx, []event.Event{ev})
	return err == nil && all[0], err
}

// EnqueueAll accepts evs in their order, and reports of each what Enqueue
// would. After an error nothing may be counted on; to repeat it is harmless.
//
// Where the ID is a guess (Event.Guessed), an earlier event with it may have
// been another save. So ev is only left out while that one waits: what has
// begun may have made the old content void before this save, and ev runs after
// it under an ID of its own. It is still called a duplicate. The very same
// delivery (Event.ReceivedAt tells) takes effect once, however often it is
// handed over.
func (q *Queue) EnqueueAll(ctx context.Context, evs []event.Event) (added []bool, err error) {
	added, err = q.acceptAll(ctx, evs)
	if err != nil {
		q.metrics.events.WithLabelValues("refused").Add(float64(len(evs)))
		if len(evs) == 1 {
			return nil, fmt.Errorf("enqueueing event %q: %w", evs[0].ID, err)
		}
		return nil, fmt.Errorf("enqueueing %d events: %w", len(evs), err)
	}
	n := 0
	for _, a := range added {
		if a {
			n++
		}
	}
	q.metrics.events.WithLabelValues(string(Queued)).Add(float64(n))
	q.metrics.events.WithLabelValues("duplicate").Add(float64(len(evs) - n))
	return added, nil
}

func (q *Queue) acceptAll(ctx context.Context, evs []event.Event) ([]bool, error) {
	if slices.ContainsFunc(evs, func(ev event.Event) bool { return ev.Guessed }) {
		return q.acceptGuesses(ctx, evs)
	}
	return q.accept(ctx, evs)
}

// accept takes evs in under their own ids.
func (q *Queue) accept(ctx context.Context, evs []event.Event, more ...asynq.Option) ([]bool, error) {
	if len(evs) == 0 {
		return nil, nil
	}
	now := time.Now()
	calls, err := q.enqueues(ctx, evs, now, more)
	if err != nil {
		return nil, err
	}
	added := make([]bool, len(evs))
	open := make([]int, len(evs))
	for i := range open {
		open[i] = i
	}
	// A task can vanish between two looks at it (done, or deleted by an
	// operator), so look again; four times is more than it takes.
	var live []event.Event // not over
	for range 4 {
		if open, err = q.unknown(ctx, evs, open); err != nil || len(open) == 0 {
			break
		}
		if live == nil {
			for _, i := range open {
				live = append(live, evs[i])
			}
		}
		if open, err = q.enqueue(ctx, evs, calls, open, added); err != nil || len(open) == 0 {
			break
		}
	}
	switch {
	case err != nil:
		return nil, err
	case len(open) > 0:
		return nil, fmt.Errorf("task of event %q comes and goes", evs[open[0]].ID)
	}
	// Also of those that were there: whoever enqueued them may not have got to it.
	q.records.queued(ctx, now, live...)
	return added, nil
}

// enqueues returns the script of Asynq's that enqueues each event, and before
// it the command that keeps a copy for replay, where one is wanted.
func (q *Queue) enqueues(ctx context.Context, evs []event.Event, now time.Time, more []asynq.Option) ([]call, error) {
	ctx, calls := record(ctx)
	for i, ev := range evs {
		payload, err := encodePayload(ev, now)
		if err != nil {
			return nil, err
		}
		options := append(q.cfg.taskOptions(ev.ID), more...)
		if _, err := q.client.EnqueueContext(ctx, asynq.NewTask(taskType, payload), options...); err != nil {
			return nil, err
		}
		if len(*calls) != i+1 {
			return nil, fmt.Errorf("this version of asynq enqueues with %d scripts for %d tasks", len(*calls), i+1)
		}
		if ev.Keep > 0 {
			doc, err := EncodeEvent(ev)
			if err != nil {
				return nil, err
			}
			(*calls)[i].before = []any{"set", q.keys.kept(ev.ID), doc, "px", (ev.Keep + timeToRun).Milliseconds()}
		}
	}
	return *calls, nil
}

// taskOptions are the options of every task. Never Unique (its lock outlives a
// conflict), never Retention (the seen key is smaller), whole seconds only.
func (c Config) taskOptions(id string) []asynq.Option {
	return []asynq.Option{asynq.TaskID(id), asynq.Queue(c.Namespace), asynq.MaxRetry(maxRetry), asynq.Timeout(taskTimeout + c.settleBudget())}
}

// unknown returns those of evs[open] that are not over: neither published nor
// ignored. It returns ErrBusy when there are some and no room for them.
func (q *Queue) unknown(ctx context.Context, evs []event.Event, open []int) ([]int, error) {
	ids := make([]string, len(open))
	for j, i := range open {
		ids[j] = evs[i].ID
	}
	var over endings
	var waiting *redis.IntCmd
	err := q.pipes.do(ctx, len(ids)+3, 0, func(pipe redis.Pipeliner) {
		over = q.endings(ctx, pipe, ids)
		waiting = pipe.LLen(ctx, q.keys.pending())
		// Asynq's client registers its queue once; an emptied store would not know
		// it any more, and the dashboard would say that there is none.
		now := time.Now().UnixNano()
		if last := q.registered.Load(); now-last > int64(time.Second) && q.registered.CompareAndSwap(last, now) {
			pipe.SAdd(ctx, asynqQueues, q.cfg.Namespace)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(over.err(), waiting.Err()); err != nil {
		return nil, err
	}
	still := open[:0]
	for j, i := range open {
		if !over.of(j) {
			still = append(still, i)
		}
	}
	if len(still) > 0 && waiting.Val() >= int64(q.cfg.backlog()) {
		return nil, ErrBusy
	}
	return still, nil
}

// enqueue enqueues evs[open], notes those that were added, and returns those
// whose task vanished while it was looked at.
func (q *Queue) enqueue(ctx context.Context, evs []event.Event, calls []call, open []int, added []bool) (vanished []int, err error) {
	chosen := make([]call, len(open))
	for j, i := range open {
		chosen[j] = calls[i]
	}
	replies, err := q.pipes.run(ctx, chosen)
	if err != nil {
		return nil, err
	}
	var held []int
	for j, i := range open {
		n, err := replies[j].Int()
		if err != nil {
			return nil, err
		}
		if added[i] = n == 1; !added[i] {
			held = append(held, i)
		}
	}
	if len(held) == 0 {
		return nil, nil
	}
	return q.resolve(ctx, evs, held, added)
}

// resolve finds out what the tasks are that hold the ids of evs[held]. One that
// waits, runs or will be retried is as good as this event. An archived one
// keeps its id for weeks: left alone, a repaired event would be accepted and
// never run.
func (q *Queue) resolve(ctx context.Context, evs []event.Event, held []int, added []bool) (vanished []int, err error) {
	states := make([]*redis.StringCmd, len(held))
	err = q.pipes.do(ctx, len(held), 0, func(pipe redis.Pipeliner) {
		for j, i := range held {
			states[j] = pipe.HGet(ctx, q.keys.task(evs[i].ID), "state")
		}
	})
	if err != nil {
		return nil, err
	}
	for j, i := range held {
		if err := answered(states[j]); err != nil {
			return nil, err
		}
		switch states[j].Val() {
		case "archived":
			if added[i] = q.revive(evs[i].ID); !added[i] {
				if err := q.bury(ctx, evs[i].ID); err != nil {
					return nil, err
				}
				vanished = append(vanished, i)
			}
		case "":
			vanished = append(vanished, i)
		}
	}
	return vanished, nil
}

// bury removes a task that calls itself archived and is in no archive, as a
// Redis that evicts keys leaves it: it holds its id, and can never run again.
func (q *Queue) bury(ctx context.Context, id string) error {
	tx := q.rdb.TxPipeline()
	place := tx.ZScore(ctx, q.keys.archived(), id)
	state := tx.HGet(ctx, q.keys.task(id), "state")
	if _, err := tx.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	if errors.Is(place.Err(), redis.Nil) && state.Val() == "archived" {
		return q.rdb.Del(ctx, q.keys.task(id)).Err()
	}
	return nil
}

// revive runs an archived task again. It reports false when there is none, be
// it that somebody else was faster.
func (q *Queue) revive(id string) bool {
	err := q.inspect.RunTask(q.cfg.Namespace, id)
	if errors.Is(err, asynq.ErrQueueNotFound) {
		q.registered.Store(0) // make it known at the next look
	}
	return err == nil
}
