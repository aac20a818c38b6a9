package tasks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
)

// ReplayQuery says which events to run again: those that fit all that is given.
type ReplayQuery struct {
	IDs    []string  // at most MaxReplayIDs; none: all that have a record
	Since  time.Time // received at or after it; zero: whenever
	Status Status    // empty: any
}

// MaxReplayIDs is how many events one query may name.
const MaxReplayIDs = 1000

// replayPage bounds what is read at once: each event may have a payload of a MiB.
const replayPage = 32

// UnknownError is returned by Replay for ids of which nothing is known (any
// more), and for events whose meaning was not kept. It is an ErrNotFound.
type UnknownError struct{ IDs []string }

func (e *UnknownError) Error() string {
	const shown = 10
	text := fmt.Sprintf("%v: %s", ErrNotFound, strings.Join(e.IDs[:min(len(e.IDs), shown)], ", "))
	if more := len(e.IDs) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (e *UnknownError) Unwrap() error { return ErrNotFound }

// Replay runs events again, oldest first, and returns how many. One that failed
// for good goes on as itself; any other becomes a new event (Event.ReplayOf),
// with its payload if that was kept (Event.Keep). Events that wait or run are
// left alone; so are replays and follow-ups that are over, unless they are named,
// or a second query would double everything. Ids that are unknown hold nothing else back; they make an
// *UnknownError at the end.
func (q *Queue) Replay(ctx context.Context, query ReplayQuery) (queued int, err error) {
	if len(query.IDs) > MaxReplayIDs {
		return 0, fmt.Errorf("replay of %d events, at most %d at once", len(query.IDs), MaxReplayIDs)
	}
	now := time.Now()
	var unknown []string
	taken := map[string]bool{} // an id may be listed twice: it came again when its record had ended
	replay := func(ids []string) error {
		ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
			defer func() { taken[id] = true }()
			return taken[id]
		})
		for page := range slices.Chunk(ids, replayPage) {
			n, lost, err := q.replayPage(ctx, page, query, now)
			queued, unknown = queued+n, append(unknown, lost...)
			if err != nil {
				return err
			}
		}
		return nil
	}
	if len(query.IDs) > 0 {
		err = replay(query.IDs)
	} else {
		err = q.eachRecord(ctx, query.Since, now, replay)
	}
	if err == nil && len(unknown) > 0 {
		err = &UnknownError{unknown}
	}
	if err != nil {
		return queued, fmt.Errorf("replaying events: %w", err)
	}
	return queued, nil
}

// eachRecord calls do for the events received from since until just before
// now, oldest first: those that a replay adds are later.
func (q *Queue) eachRecord(ctx context.Context, since, now time.Time, do func([]string) error) error {
	from, until := "["+member(since, ""), "("+member(now, "")
	if since.IsZero() {
		from = "-"
	}
	for {
		members, err := q.rdb.ZRangeByLex(ctx, q.keys.index(), &redis.ZRangeBy{Min: from, Max: until, Count: 1000}).Result()
		if err != nil {
			return err
		}
		if len(members) == 0 {
			return nil
		}
		ids := make([]string, len(members))
		for i, m := range members {
			ids[i] = idOf(m)
		}
		if err := do(ids); err != nil {
			return err
		}
		from = "(" + members[len(members)-1]
	}
}

// replayPage runs those of a few events again that fit the query. It returns
// those that it cannot make out, of the ones that were asked for by name.
func (q *Queue) replayPage(ctx context.Context, ids []string, query ReplayQuery, now time.Time) (queued int, unknown []string, err error) {
	stored, err := q.stored(ctx, ids)
	if err != nil {
		return 0, nil, err
	}
	var again, news []event.Event
	for i, id := range ids {
		s := stored[i]
		switch {
		case !s.known:
			if len(query.IDs) > 0 {
				unknown = append(unknown, id)
			}
		case query.Status != "" && s.status != query.Status, s.ev.ReceivedAt.Before(query.Since):
		case s.status == Queued || s.status == Running || s.status == Retrying:
		case s.archived:
			again = append(again, s.ev)
		case len(query.IDs) == 0 && (s.ev.ReplayOf != "" || s.follows != ""): // what it repeats, or follows, stands for it
		case s.ev.Purge != nil && s.ev.Purge.Empty(): // too long for the record
			unknown = append(unknown, id)
		default:
			news = append(news, replayOf(s.ev, now))
		}
	}
	// Under its own id an archived event is as new as its redelivery.
	added, err := q.accept(ctx, again)
	if err != nil {
		return 0, unknown, err
	}
	for _, a := range added {
		if a {
			queued++
		}
	}
	added, err = q.EnqueueAll(ctx, news)
	for _, a := range added {
		if a {
			queued++
		}
	}
	return queued, unknown, err
}

// replayOf returns the event that repeats ev.
func replayOf(ev event.Event, now time.Time) event.Event {
	ev.ReplayOf = ev.ID
	ev.ID = event.NewID(ev.Source, "replay", ev.ID, rand.Text())
	ev.ReceivedAt = now.UTC()
	ev.Guessed = false
	return ev
}

// storedEvent is what is left of an event.
type storedEvent struct {
	known    bool
	ev       event.Event // without its payload, unless that was kept
	follows  string      // the event that it follows up
	status   Status
	archived bool // its task is there, and rests
}

func (q *Queue) stored(ctx context.Context, ids []string) ([]storedEvent, error) {
	raw := make([]struct {
		record      *redis.SliceCmd
		state, kept *redis.StringCmd
	}, len(ids))
	pipe := q.rdb.Pipeline()
	for i, id := range ids {
		raw[i].record = pipe.HMGet(ctx, q.keys.record(id), "event", "status")
		raw[i].state = pipe.HGet(ctx, q.keys.task(id), "state")
		raw[i].kept = pipe.Get(ctx, q.keys.kept(id))
	}
	_, _ = pipe.Exec(ctx) // each reply is looked at
	out := make([]storedEvent, len(ids))
	for i, r := range raw {
		for _, cmd := range []redis.Cmder{r.record, r.state, r.kept} {
			if err := answered(cmd); err != nil {
				return nil, err
			}
		}
		s := &out[i]
		doc, _ := r.record.Val()[0].(string)
		status, _ := r.record.Val()[1].(string)
		var stored recordedEvent
		s.known = doc != "" && json.Unmarshal([]byte(doc), &stored) == nil && stored.Validate() == nil
		s.ev, s.follows = stored.Event, stored.Follows
		s.archived = r.state.Val() == "archived"
		if s.status = truth(Status(status), r.state.Val()); s.status == "" {
			s.status = stateless(r.state.Val())
		}
		if kept, err := DecodeEvent([]byte(r.kept.Val())); err == nil {
			s.known, s.ev = true, kept
		}
	}
	return out, nil
}

// stateless is the status of an event without a record.
func stateless(task string) Status {
	switch task {
	case "archived":
		return Failed
	case "":
		return Done // or ignored: over, in any case
	}
	return Queued
}
