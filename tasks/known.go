package tasks

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// endings are the replies that tell which of some events are over.
type endings struct {
	seen   *redis.SliceCmd
	status []*redis.StringCmd
}

func (q *Queue) endings(ctx context.Context, pipe redis.Pipeliner, ids []string) endings {
	seen := make([]string, len(ids))
	e := endings{status: make([]*redis.StringCmd, len(ids))}
	for i, id := range ids {
		seen[i] = q.keys.seen(id)
		e.status[i] = pipe.HGet(ctx, q.keys.record(id), "status")
	}
	e.seen = pipe.MGet(ctx, seen...)
	return e
}

func (e endings) err() error {
	err := e.seen.Err()
	for _, s := range e.status {
		if err == nil {
			err = answered(s)
		}
	}
	return err
}

// of reports whether event i is published, or ignored.
func (e endings) of(i int) bool {
	return e.seen.Val()[i] != nil || Status(e.status[i].Val()) == Ignored
}

// Over reports which events are published or ignored, so that nobody needs to
// enqueue them again. The ids are those of events, or of JournalID.
func (q *Queue) Over(ctx context.Context, ids []string) ([]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	pipe := q.rdb.Pipeline()
	e := q.endings(ctx, pipe, ids)
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = q.keys.got(id)
	}
	got := pipe.MGet(ctx, keys...)
	_, _ = pipe.Exec(ctx) // each reply is looked at
	if err := errors.Join(e.err(), got.Err()); err != nil {
		return nil, fmt.Errorf("asking which events are over: %w", err)
	}
	over := make([]bool, len(ids))
	var runs []string
	var of []int
	for i := range ids {
		over[i] = e.of(i)
		if run, ok := got.Val()[i].(string); ok && !over[i] {
			runs, of = append(runs, run), append(of, i)
		}
	}
	if len(runs) == 0 {
		return over, nil
	}
	pipe = q.rdb.Pipeline()
	e = q.endings(ctx, pipe, runs)
	_, _ = pipe.Exec(ctx)
	if err := e.err(); err != nil {
		return nil, fmt.Errorf("asking which events are over: %w", err)
	}
	for j, i := range of {
		over[i] = e.of(j)
	}
	return over, nil
}

// knownPatience is how long a webhook that waits for its disk may wait for
// Known beside.
const knownPatience = 200 * time.Millisecond

// errUnasked is returned by Known while Redis is left alone.
var errUnasked = errors.New("tasks: Redis did not answer a moment ago")

// Known reports which events are accepted already: published, ignored, waiting,
// running, or to be tried again. An event that failed for good is not known: the
// same delivery runs it again. The answer may be out of date when it comes, so
// it is for words, not for deeds.
//
// It is quick: concurrent callers share a round trip, it gives up after 200 ms,
// and for a second after a failure it does not ask.
func (q *Queue) Known(ctx context.Context, ids []string) (known []bool, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	if !q.breaker.allow(time.Now()) {
		return nil, errUnasked
	}
	known, err = q.known(ctx, ids)
	switch {
	case err == nil:
		q.breaker.closed()
	case !errors.Is(err, context.Canceled): // a caller who left says nothing about Redis
		q.breaker.opened(time.Now())
	}
	return known, err
}

func (q *Queue) known(ctx context.Context, ids []string) ([]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, knownPatience)
	defer cancel()
	var over endings
	states := make([]*redis.StringCmd, len(ids))
	err := q.asking.do(ctx, 2*len(ids)+1, 0, func(pipe redis.Pipeliner) {
		over = q.endings(ctx, pipe, ids)
		for i, id := range ids {
			states[i] = pipe.HGet(ctx, q.keys.task(id), "state")
		}
	})
	if err != nil {
		return nil, err
	}
	if err := over.err(); err != nil {
		return nil, err
	}
	known := make([]bool, len(ids))
	for i, state := range states {
		if err := answered(state); err != nil {
			return nil, err
		}
		known[i] = over.of(i) || state.Val() != "" && state.Val() != "archived"
	}
	return known, nil
}

// breaker lets one caller try again a second after a failure.
type breaker struct {
	until atomic.Int64 // unix ns; 0: closed
}

const breakerPause = time.Second

func (b *breaker) allow(now time.Time) bool {
	until := b.until.Load()
	return until == 0 || now.UnixNano() >= until && b.until.CompareAndSwap(until, now.Add(breakerPause).UnixNano())
}

func (b *breaker) opened(now time.Time) { b.until.Store(now.Add(breakerPause).UnixNano()) }

func (b *breaker) closed() {
	if b.until.Load() != 0 {
		b.until.Store(0)
	}
}
