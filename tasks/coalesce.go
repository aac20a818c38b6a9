package tasks

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/internal/version"
	"github.com/freshwire/freshwire/rules"
)

// maxGroup is how many events one run stands for, at most.
const maxGroup = 1000

// coalescer makes one run of a burst of events on one entity. The first opens
// a group, which takes in what comes within its window, closes, and is then run:
//
//	edit 1   edit 2  |closes| invalidate → … → append
//	|<--- window --->|          edit 3: opens the next group
//
// A group that runs takes nobody in: readers may have filled in again what it
// made void, with content from before edit 3. So the last edit always runs.
//
// Groups are in memory alone. The tasks of all members stay active in Asynq
// until their run is over and share its result, so what dies with a worker is
// run again.
type coalescer struct {
	w *Worker

	mu    sync.Mutex
	open  map[entityID]*group
	early int           // groups that have not come to their targets
	quiet chan struct{} // closed while there are none
}

// entityID is what a burst of edits is about.
type entityID struct{ source, environment, kind, entity, locale string }

type group struct {
	id      entityID
	members []*run        // guarded by the coalescer's mu until the group closes
	full    chan struct{} // closed when it has all the members it can take
	over    chan struct{} // closed after its run
	err     error         // of the run; set before over is closed
}

func newCoalescer(w *Worker) *coalescer {
	c := &coalescer{w: w, open: map[entityID]*group{}, quiet: make(chan struct{})}
	close(c.quiet)
	return c
}

// coalesces reports whether the event waits for others on its entity.
func (r *run) coalesces() bool {
	return r.plan.Coalesce > 0 && r.ev.Entity != "" && r.ev.Purge == nil
}

// join makes r a member of its entity's group, and returns the result of the
// group's run. The context of a member gives its group a deadline, but ends no
// wait: the run may be writing to r, and is over soon after its own deadline.
func (c *coalescer) join(ctx context.Context, r *run) error {
	r.begin("gather")
	id := entityID{r.ev.Source, r.ev.Environment, r.ev.Type, r.ev.Entity, r.ev.Locale}
	c.mu.Lock()
	g := c.open[id]
	if g == nil {
		g = &group{id: id, full: make(chan struct{}), over: make(chan struct{})}
		c.open[id] = g
		if c.early++; c.early == 1 {
			c.quiet = make(chan struct{})
		}
		deadline, _ := ctx.Deadline() // the earliest of all members'
		go c.run(g, r.plan.Coalesce, deadline)
	}
	g.members = append(g.members, r)
	if len(g.members) == maxGroup {
		delete(c.open, id)
		close(g.full)
	}
	c.mu.Unlock()
	<-g.over
	return g.err
}

// run waits for the members of g and runs them.
func (c *coalescer) run(g *group, window time.Duration, deadline time.Time) {
	timer := time.NewTimer(window)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.full:
	case <-c.w.stopping:
	}
	c.mu.Lock()
	if c.open[g.id] == g {
		delete(c.open, g.id)
	}
	members := slices.Clone(g.members)
	c.mu.Unlock()

	ctx, cancel := context.WithDeadlineCause(c.w.base, deadline, errBudget)
	defer cancel()
	arrive := sync.OnceFunc(c.arrived)
	g.err = runTogether(ctx, members, arrive)
	arrive()
	close(g.over)
}

// arrived counts out a group that has come to its targets, or to its end.
func (c *coalescer) arrived() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.early--; c.early == 0 {
		close(c.quiet)
	}
}

// calm returns a channel that is closed when every group has come to its
// targets. When that is so already, it is closed.
func (c *coalescer) calm() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quiet
}

// runTogether runs members as one: the newest, with the plans of all. Nothing
// that one of them would have purged stays, and what is told is the newest.
func runTogether(ctx context.Context, members []*run, arrive func()) error {
	byAge(members)
	r := members[len(members)-1]
	r.others, r.arrive = members[:len(members)-1], arrive
	defer r.leave()
	for _, m := range members {
		m.end("gathered")
	}
	if len(r.others) > 0 {
		plans := make([]rules.Plan, len(members))
		for i, m := range members {
			plans[i] = m.plan
		}
		r.plan = rules.Merge(plans...)
		r.planned()
		// A mark of an earlier attempt of one does not cover the edits of the others.
		r.mark = remembered{}
	}
	shared := len(r.outcome.Steps)
	err := r.recovered(ctx, func(ctx context.Context) error {
		if err := r.enter(ctx); err != nil {
			return err
		}
		return r.publish(ctx)
	})
	for _, m := range r.others {
		m.share(r, shared)
	}
	return err
}

// share notes for m what the run of r has done for it. Steps of r are shared
// from the given one on.
func (m *run) share(r *run, from int) {
	o, of := &m.outcome, r.outcome
	m.status = r.status
	o.Seq, o.Nodes, o.WaitedMS, o.Deleted, o.Targets, o.Degraded = of.Seq, of.Nodes, of.WaitedMS, of.Deleted, of.Targets, of.Degraded
	o.Refilled, o.Awaited = of.Refilled, of.Awaited
	for _, s := range of.Steps[from:] {
		o.step(s.Step, s.At, m.ev.ReceivedAt)
	}
}

// byAge sorts by version where all have one of the same kind, else by time of
// receipt; those whose entity is known in a newer version come first. The
// order is the same in every attempt.
func byAge(members []*run) {
	kind := ""
	ranked := true
	for _, m := range members {
		v := version.Rank(m.ev.Version)
		ranked = ranked && v != "" && (kind == "" || kind == v[:1])
		kind = v[:min(1, len(v))]
	}
	slices.SortStableFunc(members, func(a, b *run) int {
		if a.outcome.Superseded != b.outcome.Superseded {
			if a.outcome.Superseded {
				return -1
			}
			return 1
		}
		byVersion := 0
		if ranked {
			byVersion = cmp.Compare(version.Rank(a.ev.Version), version.Rank(b.ev.Version))
		}
		return cmp.Or(byVersion, a.ev.ReceivedAt.Compare(b.ev.ReceivedAt), cmp.Compare(a.ev.ID, b.ev.ID))
	})
}
