package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
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
		client:  asynq.NewClientFromRedisClient(rdb),
		inspect: asynq.NewInspectorFromRedisClient(rdb),
		records: NewRecords(rdb, log, cfg),
		metrics: newMetrics(rdb, cfg),
	}
}

// Enqueue accepts ev for later work. It reports whether ev was added; false
// means that an event with the same ID is accepted already, or was published in
// the last days. An event that failed for good is run again, which counts as
// added. After nil, Redis holds the event.
//
// Where the ID is a guess (Event.Guessed), an earlier event with it may have
// been another save. So ev is only left out while that one waits: what has
// begun may have made the old content void before this save, and ev runs after
// it under an ID of its own. It is still called a duplicate.
func (q *Queue) Enqueue(ctx context.Context, ev event.Event) (added bool, err error) {
	if !ev.Guessed {
		return q.enqueue(ctx, ev)
	}
	first := ev.ID
	for n := range maxTwins {
		if n > 0 {
			ev.ID = event.NewID(ev.Source, "twin", first, strconv.Itoa(n))
		}
		if added, err = q.enqueue(ctx, ev); added || err != nil {
			return added && n == 0, err
		}
		if waits, err := q.waits(ctx, ev.ID); waits || err != nil {
			return false, err
		}
	}
	// So many saves are a replay, or a machine's. One run after the end of this
	// stretch of time stands for all that come within it.
	ev.ID = event.NewID(ev.Source, "twin", first, strconv.FormatInt(time.Now().UnixNano()/int64(twinPause), 10), "late")
	_, err = q.enqueue(ctx, ev, asynq.ProcessIn(twinPause))
	return false, err
}

const (
	maxTwins  = 16              // runs of one guess before they are spaced
	twinPause = 5 * time.Second // between them then
)

// waits reports whether no worker has ever begun the event, so that it will
// make the old content void after now. One that waits again after a failure
// goes on with the mark that it made before.
func (q *Queue) waits(ctx context.Context, id string) (bool, error) {
	pipe := q.rdb.Pipeline()
	state := pipe.HGet(ctx, q.keys.task(id), "state")
	attempts := pipe.HGet(ctx, q.keys.record(id), "attempts")
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return false, err
	}
	begun := attempts.Val() != "" && attempts.Val() != "0"
	return state.Val() == "pending" && !begun, nil
}

func (q *Queue) enqueue(ctx context.Context, ev event.Event, more ...asynq.Option) (added bool, err error) {
	now := time.Now()
	payload, err := encodePayload(ev, now)
	if err != nil {
		return false, err
	}
	// A task can vanish between two looks at it (done, or deleted by an
	// operator), so look again; thrice is more than it takes.
	for range 3 {
		known, err := q.known(ctx, ev.ID)
		if err != nil || known {
			return q.accepted(ctx, ev, now, false, err)
		}
		_, err = q.client.EnqueueContext(ctx, asynq.NewTask(taskType, payload), append(taskOptions(q.cfg.Namespace, ev.ID), more...)...)
		if err == nil {
			return q.accepted(ctx, ev, now, true, nil)
		}
		if !errors.Is(err, asynq.ErrTaskIDConflict) {
			return q.accepted(ctx, ev, now, false, err)
		}
		state, err := q.conflict(ev.ID)
		if err != nil || state != conflictVanished {
			return q.accepted(ctx, ev, now, state == conflictRevived, err)
		}
	}
	return q.accepted(ctx, ev, now, false, errors.New("its task comes and goes"))
}

// taskOptions are the options of every task. Never Unique (its lock outlives a
// conflict), never Retention (the seen key is smaller), whole seconds only.
func taskOptions(namespace, id string) []asynq.Option {
	return []asynq.Option{asynq.TaskID(id), asynq.Queue(namespace), asynq.MaxRetry(maxRetry), asynq.Timeout(taskTimeout)}
}

func (q *Queue) accepted(ctx context.Context, ev event.Event, now time.Time, added bool, err error) (bool, error) {
	switch {
	case err != nil:
		q.metrics.events.WithLabelValues("refused").Inc()
		return false, fmt.Errorf("enqueueing event %q: %w", ev.ID, err)
	case added:
		q.records.queued(ctx, ev, now)
		q.metrics.events.WithLabelValues(string(Queued)).Inc()
	default:
		q.metrics.events.WithLabelValues("duplicate").Inc()
	}
	return added, nil
}

// known reports whether the event is over: published, or ignored. It returns
// ErrBusy when there is no room for one more.
func (q *Queue) known(ctx context.Context, id string) (bool, error) {
	pipe := q.rdb.Pipeline()
	seen := pipe.Exists(ctx, q.keys.seen(id))
	status := pipe.HGet(ctx, q.keys.record(id), "status")
	var waiting *redis.IntCmd
	if q.cfg.Embedded {
		waiting = pipe.LLen(ctx, q.keys.pending())
	}
	// Asynq's client registers its queue once; an emptied store would not know
	// it any more, and the dashboard would say that there is none.
	now := time.Now().UnixNano()
	if last := q.registered.Load(); now-last > int64(time.Second) && q.registered.CompareAndSwap(last, now) {
		pipe.SAdd(ctx, asynqQueues, q.cfg.Namespace)
	}
	_, _ = pipe.Exec(ctx) // each reply is looked at below; the name is written again in a second
	if err := seen.Err(); err != nil {
		return false, err
	}
	if err := status.Err(); err != nil && !errors.Is(err, redis.Nil) {
		return false, err
	}
	if seen.Val() > 0 || Status(status.Val()) == Ignored {
		return true, nil
	}
	if waiting != nil && waiting.Val() >= embeddedBacklog {
		return false, ErrBusy
	}
	return false, nil
}

type conflict int

const (
	conflictWaits    conflict = iota // the task waits, runs, or will be retried
	conflictRevived                  // it had failed for good, and runs again now
	conflictVanished                 // it is not there any more
)

// conflict finds out what the task is that holds the id. An archived one keeps
// its id for weeks: left alone, a repaired event would be accepted and never run.
func (q *Queue) conflict(id string) (conflict, error) {
	info, err := q.inspect.GetTaskInfo(q.cfg.Namespace, id)
	switch {
	case errors.Is(err, asynq.ErrQueueNotFound):
		q.registered.Store(0) // make it known at the next look
		return conflictVanished, nil
	case errors.Is(err, asynq.ErrTaskNotFound):
		return conflictVanished, nil
	case err != nil:
		return conflictWaits, err
	case info.State != asynq.TaskStateArchived:
		return conflictWaits, nil
	}
	if err := q.inspect.RunTask(q.cfg.Namespace, id); err != nil {
		return conflictVanished, nil // somebody else was faster: look again
	}
	return conflictRevived, nil
}
