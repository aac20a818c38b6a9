package tasks

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
)

const (
	maxTwins  = 16              // runs of one guess before they are spaced
	twinPause = 5 * time.Second // between them then

	gotTTL = 24 * time.Hour
)

// JournalID is the id under which a journal may keep ev, so that Over tells
// what became of it: its own or, where that is a guess that other deliveries
// share, one of this very delivery.
func JournalID(ev event.Event) string {
	if !ev.Guessed {
		return ev.ID
	}
	return event.NewID(ev.Source, "delivery", ev.ID, strconv.FormatInt(ev.ReceivedAt.UnixNano(), 10))
}

// acceptGuesses takes evs in, some of which have a guessed id. The key "got" of
// a delivery names the event that it takes effect with, so that the same
// delivery handed over again does not look like another save.
func (q *Queue) acceptGuesses(ctx context.Context, evs []event.Event) ([]bool, error) {
	added := make([]bool, len(evs))
	open, err := q.ungot(ctx, evs)
	if err != nil || len(open) == 0 {
		return added, err
	}
	chosen := make([]event.Event, len(open))
	for j, i := range open {
		chosen[j] = evs[i]
	}
	news, err := q.accept(ctx, chosen)
	if err != nil {
		return nil, err
	}
	runs := map[string]string{} // key of a guessed delivery → event that it runs as
	for j, i := range open {
		added[i] = news[j]
		if !evs[i].Guessed {
			continue
		}
		run := evs[i].ID
		if !added[i] {
			if run, err = q.again(ctx, evs[i]); err != nil {
				return nil, err
			}
		}
		runs[q.keys.got(JournalID(evs[i]))] = run
	}
	return added, q.got(ctx, runs)
}

func (q *Queue) got(ctx context.Context, runs map[string]string) error {
	var replies []*redis.StatusCmd
	err := q.pipes.do(ctx, len(runs), 0, func(pipe redis.Pipeliner) {
		for key, run := range runs {
			replies = append(replies, pipe.Set(ctx, key, run, gotTTL))
		}
	})
	if err != nil {
		return err
	}
	for _, r := range replies {
		err = errors.Join(err, r.Err())
	}
	return err
}

// ungot returns the indices of evs, without the guessed deliveries that were
// taken in before.
func (q *Queue) ungot(ctx context.Context, evs []event.Event) (open []int, err error) {
	got := make([]*redis.IntCmd, len(evs))
	err = q.pipes.do(ctx, len(evs), 0, func(pipe redis.Pipeliner) {
		for i, ev := range evs {
			if ev.Guessed {
				got[i] = pipe.Exists(ctx, q.keys.got(JournalID(ev)))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for i, cmd := range got {
		if cmd == nil {
			open = append(open, i)
			continue
		}
		n, err := cmd.Result()
		if err != nil {
			return nil, err
		}
		if n == 0 {
			open = append(open, i)
		}
	}
	return open, nil
}

// again takes in a save whose guessed id is taken, and returns the id of the
// event that it takes effect with.
func (q *Queue) again(ctx context.Context, ev event.Event) (run string, err error) {
	first := ev.ID
	for n := range maxTwins {
		if n > 0 {
			ev.ID = event.NewID(ev.Source, "twin", first, strconv.Itoa(n))
			added, err := q.accept(ctx, []event.Event{ev})
			if err != nil {
				return "", err
			}
			if added[0] {
				return ev.ID, nil
			}
		}
		if waits, err := q.waits(ctx, ev.ID); waits || err != nil {
			return ev.ID, err
		}
	}
	// So many saves are a replay, or a machine's. One run after the end of this
	// stretch of time stands for all that come within it.
	ev.ID = event.NewID(ev.Source, "twin", first, strconv.FormatInt(time.Now().UnixNano()/int64(twinPause), 10), "late")
	_, err = q.accept(ctx, []event.Event{ev}, asynq.ProcessIn(twinPause))
	return ev.ID, err
}

// waits reports whether no worker has ever begun the event, so that it will
// make the old content void after now. One that waits again after a failure
// goes on with the mark that it made before.
func (q *Queue) waits(ctx context.Context, id string) (bool, error) {
	var state, attempts *redis.StringCmd
	err := q.pipes.do(ctx, 2, 0, func(pipe redis.Pipeliner) {
		state = pipe.HGet(ctx, q.keys.task(id), "state")
		attempts = pipe.HGet(ctx, q.keys.record(id), "attempts")
	})
	if err != nil {
		return false, err
	}
	for _, cmd := range []*redis.StringCmd{state, attempts} {
		if err := answered(cmd); err != nil {
			return false, err
		}
	}
	begun := attempts.Val() != "" && attempts.Val() != "0"
	return state.Val() == "pending" && !begun, nil
}
