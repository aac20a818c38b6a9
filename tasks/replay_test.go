package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

// replays is a queue whose worker notes what it planned for.
type replays struct {
	*Queue
	site *site

	mu      sync.Mutex
	planned []event.Event
}

func newReplays(t *testing.T, rdb redis.UniversalClient, cfg Config) *replays {
	r := &replays{Queue: NewQueue(rdb, testkit.Logger(t), cfg), site: newSite(rdb, cmp.Or(cfg.Namespace, "fw"))}
	steps := r.site.steps()
	plan := steps.Plan
	steps.Plan = func(ev event.Event) rules.Plan {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.planned = append(r.planned, ev)
		return plan(ev)
	}
	testkit.Go(t, NewWorker(rdb, steps, testkit.Logger(t), cfg).Run)
	return r
}

func (r *replays) last() event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.planned[len(r.planned)-1]
}

func (r *replays) done(t *testing.T, ev event.Event) {
	t.Helper()
	mustEnqueue(t, r.Queue, ev)
	finished(t, r.records, ev.ID)
}

// replay replays and waits until the log holds n entries.
func (r *replays) replay(t *testing.T, query ReplayQuery, queued, entries int) {
	t.Helper()
	n, err := r.Replay(t.Context(), query)
	if err != nil || n != queued {
		t.Fatalf("Replay(%+v) = %d, %v, want %d", query, n, err, queued)
	}
	testkit.Until(t, fmt.Sprintf("the log holds %d entries", entries), func() bool { return len(r.site.log(t)) == entries })
}

func replayOfAPublishedEventIsPublishedAgainUnderANewID(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	r := newReplays(t, rdb, cfg)
	ev := news(1)
	ev.Keep, ev.Tags, ev.Guessed = time.Hour, []string{"a-tag"}, true
	r.done(t, ev)
	start := time.Now()
	r.replay(t, ReplayQuery{IDs: []string{ev.ID, ev.ID}}, 1, 2)
	id := r.site.log(t)[1]
	rec := finished(t, r.records, id)
	if id == ev.ID || rec.ReplayOf != ev.ID || rec.DeliveryID != ev.DeliveryID || !slices.Equal(rec.Tags, ev.Tags) || rec.ReceivedAt.Before(start) {
		t.Errorf("replayed as %+v, want an event of its own that names %s", rec, ev.ID)
	}
	if again := r.last(); string(again.Payload) != string(ev.Payload) || again.Keep != ev.Keep || again.Entity != ev.Entity {
		t.Errorf("the rules were given %+v, want it with its payload", again)
	}
	r.replay(t, ReplayQuery{IDs: []string{id}}, 1, 3) // a replay can be replayed
	if rec := finished(t, r.records, r.site.log(t)[2]); rec.ReplayOf != id {
		t.Errorf("replay of a replay names %q, want %q", rec.ReplayOf, id)
	}
	if mustEnqueue(t, r.Queue, ev) {
		t.Error("after the replay the first delivery is new again")
	}

	rdb.Del(t.Context(), r.keys.record(ev.ID)) // its record has ended before its payload
	r.replay(t, ReplayQuery{IDs: []string{ev.ID}}, 1, 4)
}

func TestReplayWithoutAKeptPayloadUsesTheRecord(t *testing.T) {
	t.Parallel()
	r := newReplays(t, testkit.Redis(t), Config{})
	ev := news(1)
	ev.PreviousSlug, ev.Version, ev.Environment = "old", "7", "main"
	ev.Purge = &event.Purge{Tags: []string{"x"}}
	r.done(t, ev)
	r.replay(t, ReplayQuery{Since: time.Now().Add(-time.Hour)}, 1, 2)
	got := r.last()
	if len(got.Payload) != 0 || got.Purge == nil || !slices.Equal(got.Purge.Tags, ev.Purge.Tags) {
		t.Errorf("replayed with payload %s and purge %+v, want none and %+v", got.Payload, got.Purge, ev.Purge)
	}
	want := ev
	want.ID, want.ReplayOf, want.ReceivedAt, want.Payload, want.Purge = got.ID, ev.ID, got.ReceivedAt, got.Payload, got.Purge
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("replayed %+v, want %+v", got, want)
	}
}

// What was to be purged is too long for the record: to run the rules in its
// place would be another event.
func TestReplayDoesNotGuessWhatWasPurged(t *testing.T) {
	t.Parallel()
	r := newReplays(t, testkit.Redis(t), Config{})
	ev := news(1)
	ev.Purge = &event.Purge{Tags: []string{strings.Repeat("x", maxRecordedPurge+1)}}
	r.done(t, ev)
	n, err := r.Replay(t.Context(), ReplayQuery{IDs: []string{ev.ID}})
	if unknown := (*UnknownError)(nil); !errors.As(err, &unknown) || n != 0 {
		t.Errorf("Replay = %d, %v, want an UnknownError", n, err)
	}
}

func replayOfAFailedEventRunsItOn(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	mustEnqueueAll(t, q, batch(0, 3)...)
	for n := range 2 {
		if err := q.inspect.ArchiveTask(cfg.Namespace, news(n).ID); err != nil {
			t.Fatal(err)
		}
	}
	// Event 2 waits: it is left alone.
	if n, err := q.Replay(t.Context(), ReplayQuery{Status: Failed}); n != 2 || err != nil {
		t.Errorf("Replay of those that failed = %d, %v, want 2", n, err)
	}
	for n := range 3 {
		if state := rdb.HGet(t.Context(), q.keys.task(news(n).ID), "state").Val(); state != "pending" {
			t.Errorf("task %d is %q, want pending", n, state)
		}
		if rec, err := q.records.Get(t.Context(), news(n).ID); err != nil || rec.Status != Queued || rec.ReplayOf != "" {
			t.Errorf("event %d is %s, %v, a replay of %q, want itself, queued", n, rec.Status, err, rec.ReplayOf)
		}
	}
	if n := rdb.LLen(t.Context(), q.keys.pending()).Val(); n != 3 {
		t.Errorf("%d tasks wait, want 3", n)
	}
	if n, err := q.Replay(t.Context(), ReplayQuery{Since: time.Now().Add(-time.Hour)}); n != 0 || err != nil {
		t.Errorf("Replay while all wait = %d, %v, want 0", n, err)
	}
	info, err := q.inspect.GetTaskInfo(cfg.Namespace, news(0).ID)
	if err != nil {
		t.Fatal(err)
	}
	if env, err := decodePayload(news(0).ID, info.Payload); err != nil || len(env.Event.Payload) == 0 {
		t.Errorf("the payload of the failed event is lost: %v", err)
	}
}

func TestReplayNamesUnknownEventsAndHoldsNothingBack(t *testing.T) {
	t.Parallel()
	r := newReplays(t, testkit.Redis(t), Config{})
	r.done(t, news(1))
	r.done(t, news(2))
	ids := []string{news(1).ID}
	for n := range 40 {
		ids = append(ids, fmt.Sprint("nobody-", n))
	}
	ids = append(ids, news(2).ID)
	n, err := r.Replay(t.Context(), ReplayQuery{IDs: ids})
	unknown := (*UnknownError)(nil)
	if n != 2 || !errors.As(err, &unknown) || !errors.Is(err, ErrNotFound) || len(unknown.IDs) != 40 {
		t.Fatalf("Replay = %d, %v, want 2 and 40 unknown", n, err)
	}
	if text := err.Error(); !strings.Contains(text, "nobody-0") || !strings.Contains(text, "30 more") || strings.Contains(text, "nobody-20") {
		t.Errorf("it says %q, want some of the names", text)
	}
	if _, err := r.Replay(t.Context(), ReplayQuery{IDs: make([]string, MaxReplayIDs+1)}); err == nil {
		t.Error("Replay of too many ids = nil")
	}
}

func TestReplayTakesWhatFitsOldestFirst(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	now := time.Now().UTC()
	var want []string // old ids of those that fit, oldest first
	var evs []event.Event
	const events = 2300 // more than two pages of the index
	for n := range events {
		ev := news(n)
		ev.ReceivedAt = now.Add(time.Duration(n-events) * time.Second)
		evs = append(evs, ev)
	}
	mustEnqueueAll(t, q, evs...)
	rdb.Del(t.Context(), q.keys.pending())
	pipe := rdb.Pipeline()
	for n, ev := range evs {
		status := Done
		if n%100 == 0 {
			status = Ignored
		}
		pipe.Del(t.Context(), q.keys.task(ev.ID))
		pipe.HSet(t.Context(), q.keys.record(ev.ID), "status", string(status))
		if n >= 300 && status == Done {
			want = append(want, ev.ID)
		}
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := q.Replay(t.Context(), ReplayQuery{Since: evs[300].ReceivedAt, Status: Done})
	if err != nil || got != len(want) {
		t.Fatalf("Replay = %d, %v, want %d", got, err, len(want))
	}
	waiting := rdb.LRange(t.Context(), q.keys.pending(), 0, -1).Val()
	slices.Reverse(waiting)
	for _, id := range waiting { // the replays are over, too
		rdb.Del(t.Context(), q.keys.task(id))
		rdb.HSet(t.Context(), q.keys.record(id), "status", string(Done))
	}
	if got, err := q.Replay(t.Context(), ReplayQuery{Since: evs[300].ReceivedAt, Status: Done}); err != nil || got != len(want) {
		t.Errorf("the same query again = %d, %v, want %d: each event once", got, err, len(want))
	}
	if len(waiting) != len(want) {
		t.Fatalf("%d tasks wait, want %d", len(waiting), len(want))
	}
	for i, n := range []int{0, 1, 998, len(want) - 1} {
		rec, err := q.records.Get(t.Context(), waiting[n])
		if err != nil || rec.ReplayOf != want[n] {
			t.Errorf("%d: task %d replays %s, %v, want %s", i, n, rec.ReplayOf, err, want[n])
		}
	}
}

func TestReplayStopsWhereTheQueueIsFull(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	q := NewQueue(rdb, testkit.Logger(t), Config{QueueCap: 40})
	for n := range 100 {
		ev := news(n)
		q.records.queued(context.Background(), ev.ReceivedAt, ev)
		rdb.HSet(t.Context(), q.keys.record(ev.ID), "status", string(Done))
	}
	n, err := q.Replay(t.Context(), ReplayQuery{Status: Done})
	if waiting := rdb.LLen(t.Context(), q.keys.pending()).Val(); !errors.Is(err, ErrBusy) || n == 0 || int64(n) != waiting {
		t.Errorf("Replay into a small queue = %d, %v with %d waiting, want ErrBusy and a true number", n, err, waiting)
	}
}
