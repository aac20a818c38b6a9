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
	// All of evs had come before any of these runs can begin: one run stands for
	// all that share a guess.
	taken := map[string]string{} // guessed id → such a run
	for j, i := range open {
		if added[i] = news[j]; added[i] && evs[i].Guessed {
			taken[evs[i].ID] = evs[i].ID
		}
	}
	for _, i := range open {
		if !evs[i].Guessed {
			continue
		}
		run, ok := taken[evs[i].ID]
		if !ok {
			if run, err = q.again(ctx, evs[i]); err != nil {
				return nil, err
			}
			taken[evs[i].ID] = run
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
// event that it takes effect with. All twins are looked at together: whoever
// repeats a delivery for ever must not hold up those of others.
func (q *Queue) again(ctx context.Context, ev event.Event) (run string, err error) {
	first := ev.ID
	ids := []string{first}
	for n := 1; n < maxTwins; n++ {
		ids = append(ids, event.NewID(ev.Source, "twin", first, strconv.Itoa(n)))
	}
	twins, err := q.twins(ctx, ids)
	if err != nil {
		return "", err
	}
	for n, id := range ids {
		if n > 0 && twins[n].free {
			ev.ID = id
			added, err := q.accept(ctx, []event.Event{ev})
			if err != nil {
				return "", err
			}
			if added[0] {
				return id, nil
			}
			now, err := q.twins(ctx, ids[n:n+1]) // somebody else was faster
			if err != nil {
				return "", err
			}
			twins[n] = now[0]
		}
		if twins[n].waits {
			return id, nil
		}
	}
	// So many saves are a replay, or a machine's. One run after the end of this
	// stretch of time stands for all that come within it.
	ev.ID = event.NewID(ev.Source, "twin", first, strconv.FormatInt(time.Now().UnixNano()/int64(twinPause), 10), "late")
	_, err = q.accept(ctx, []event.Event{ev}, asynq.ProcessIn(twinPause))
	return ev.ID, err
}

// twin is where one of the runs of a guess is.
type twin struct {
	// waits says that no worker has ever begun it, so that it will make the old
	// content void after now. One that waits again after a failure goes on with
	// the mark that it made before.
	waits bool
	free  bool // neither over nor in the queue, or at rest there
}

// twins looks at events with the given ids.
func (q *Queue) twins(ctx context.Context, ids []string) ([]twin, error) {
	var over endings
	states, attempts := make([]*redis.StringCmd, len(ids)), make([]*redis.StringCmd, len(ids))
	err := q.pipes.do(ctx, 3*len(ids)+1, 0, func(pipe redis.Pipeliner) {
		over = q.endings(ctx, pipe, ids)
		for i, id := range ids {
			states[i] = pipe.HGet(ctx, q.keys.task(id), "state")
			attempts[i] = pipe.HGet(ctx, q.keys.record(id), "attempts")
		}
	})
	if err != nil {
		return nil, err
	}
	if err := over.err(); err != nil {
		return nil, err
	}
	all := make([]twin, len(ids))
	for i := range ids {
		if err := errors.Join(answered(states[i]), answered(attempts[i])); err != nil {
			return nil, err
		}
		state, begun := states[i].Val(), attempts[i].Val() != "" && attempts[i].Val() != "0"
		all[i] = twin{waits: state == "pending" && !begun, free: !over.of(i) && (state == "" || state == "archived")}
	}
	return all, nil
}
