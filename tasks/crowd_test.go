package tasks

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

// crowd is a site with the real log, whose plans coalesce.
type crowd struct {
	*site
	log *feed.Log

	mu      sync.Mutex
	changes []event.Change // that were added
	notices []Notice
}

func newCrowd(rdb redis.UniversalClient, ns string) *crowd {
	return &crowd{site: newSite(rdb, ns), log: feed.New(rdb, testkit.Discard(), feed.Config{Namespace: ns})}
}

// steps have plans that wait for window.
func (c *crowd) steps(window time.Duration) Steps {
	st := c.site.steps()
	targets("site")(&st)
	plan := st.Plan
	st.Plan = func(ev event.Event) rules.Plan {
		p := plan(ev)
		p.Purge.Paths = []string{"/blog/" + ev.Slug}
		p.Fields = map[string]any{"title": ev.Slug}
		p.Coalesce = window
		return p
	}
	st.Tell = func(_ context.Context, _ string, n Notice) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.notices = append(c.notices, n)
		return nil
	}
	st.Append = func(ctx context.Context, ch event.Change) (string, bool, error) {
		at, added, err := c.log.Append(ctx, ch)
		if added {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.changes = append(c.changes, ch)
		}
		return at.String(), added, err
	}
	return st
}

func (c *crowd) told() ([]event.Change, []Notice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.changes), slices.Clone(c.notices)
}

// ids returns the events that a change stands for.
func ids(c event.Change) []string {
	if len(c.IDs) == 0 {
		return []string{c.ID}
	}
	return c.IDs
}

// edit returns the nth edit of an entity.
func edit(entity string, n int) event.Event {
	ev := news(n)
	ev.ID = event.NewID("blog", entity, strconv.Itoa(n))
	ev.Entity, ev.Slug, ev.ReceivedAt = entity, entity, ev.ReceivedAt.Add(time.Duration(n)*time.Microsecond)
	return ev
}

// assertEachOnce checks that every event is told of in one change, and that its
// record says so.
func assertEachOnce(t *testing.T, q *Queue, changes []event.Change, evs []event.Event) {
	t.Helper()
	times := map[string]int{}
	for _, c := range changes {
		for _, id := range ids(c) {
			times[id]++
		}
		if got := ids(c)[len(ids(c))-1]; got != c.ID {
			t.Errorf("change %s: the last of its ids is %s, want its own", c.ID, got)
		}
	}
	for _, ev := range evs {
		if n := times[ev.ID]; n != 1 {
			t.Errorf("event %s was told %d times, want once", ev.ID, n)
		}
		if rec := finished(t, q.records, ev.ID); rec.Status != Done || rec.Position == "" {
			t.Errorf("event %s is %s at %q: %s", ev.ID, rec.Status, rec.Position, rec.Error)
		}
	}
	if len(times) != len(evs) {
		t.Errorf("%d events were told, want %d", len(times), len(evs))
	}
}

func TestBulkPublishIsFewCallsAndAChangeForEachEntity(t *testing.T) {
	t.Parallel()
	const entities = 2000
	server := testkit.StartServer(t)
	rdb := redisAs(t, server, WorkerOptions)
	c := newCrowd(rdb, "fw")
	log := testkit.Discard()
	steps := c.steps(window)
	plan := steps.Plan
	steps.Plan = func(ev event.Event) rules.Plan {
		p := plan(ev)
		p.Purge = event.Purge{Tags: []string{"posts"}}
		return p
	}
	q := NewQueue(rdb, log, Config{})
	var evs []event.Event
	for n := range entities {
		evs = append(evs, edit(strconv.Itoa(n), n))
	}
	for part := range slices.Chunk(evs, 500) {
		if _, err := q.EnqueueAll(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	testkit.Go(t, NewWorker(rdb, steps, log, Config{Coalesce: true}).Run)
	for n := entities / 4; n <= entities; n += entities / 4 {
		testkit.Until(t, "more are told", func() bool { changes, _ := c.told(); return len(changes) >= n })
	}
	took := time.Since(begin)
	changes, notices := c.told()
	assertEachOnce(t, q, changes, evs)
	if len(changes) != entities {
		t.Errorf("%d changes, want one for each of %d entities", len(changes), entities)
	}
	if n, most := len(notices), int(took/window)+3; n > most {
		t.Errorf("%d events that purge one tag cost the site %d calls in %v, want at most one a window: %d", entities, n, took, most)
	}
	t.Logf("%d events: %d calls, %d changes in %v", entities, len(notices), len(changes), took)
}
