package tasks

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Bounds of calls to one target. What one call carries is also what fails
// together, and what all its events wait for.
const (
	maxCalls     = 4                      // at a time
	callPause    = 50 * time.Millisecond  // between the beginnings of two calls; a lone event never waits
	callHolds    = 250 * time.Millisecond // so long at most a call keeps the next one from beginning
	maxCallTags  = 100
	maxCallPaths = 100
	refusedShare = 16 // of a refused call is told in one of the next
)

// desk gathers what events have to tell one target. While a call is under way,
// and for a moment after it, notices wait, and the next call carries all of
// them: thousands of events that purge one tag cost the site a few calls.
type desk struct {
	w    *Worker
	name string

	mu      sync.Mutex
	waiting []*telling      // oldest first
	tags    map[string]bool // of all that wait
	paths   map[string]bool
	calls   int  // under way
	holding int  // that keep the next one from beginning
	watched bool // a goroutine waits for the time of the first that waits
}

// telling is the notice of one event, on its way to the target.
type telling struct {
	notice   Notice
	deadline time.Time     // nobody waits for the answer after it
	patient  time.Time     // until then it may wait for groups that are under way
	most     int           // notices in its call
	over     chan struct{} // closed when the call has ended
	err      error         // of the call
	company  int           // notices in the call; 1 if it said no more than this one
}

func (w *Worker) desk(target string) *desk {
	w.desksMu.Lock()
	defer w.desksMu.Unlock()
	d := w.desks[target]
	if d == nil {
		d = &desk{w: w, name: target}
		d.recount()
		w.desks[target] = d
	}
	return d
}

// tell tells the target of n, in a call with other notices: at most so many
// where most is not 0. It returns how many they were, or 1 if the call said no
// more than n. For so long as patience, n may wait for groups that are under way.
func (d *desk) tell(ctx context.Context, n Notice, patience time.Duration, most int) (company int, err error) {
	t := &telling{notice: n, patient: time.Now().Add(patience), most: most, over: make(chan struct{})}
	t.deadline, _ = ctx.Deadline()
	d.w.metrics.notices.WithLabelValues(d.name).Inc()
	d.mu.Lock()
	d.waiting = append(d.waiting, t)
	d.count(t)
	d.pump()
	d.mu.Unlock()
	select {
	case <-t.over:
		return t.company, t.err
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.waiting, t); i >= 0 {
		d.waiting = slices.Delete(d.waiting, i, i+1)
		d.recount()
	}
	return 1, context.Cause(ctx)
}

func (d *desk) count(t *telling) {
	for _, tag := range t.notice.Purge.Tags {
		d.tags[tag] = true
	}
	for _, path := range t.notice.Purge.Paths {
		d.paths[path] = true
	}
}

func (d *desk) recount() {
	d.tags, d.paths = map[string]bool{}, map[string]bool{}
	for _, t := range d.waiting {
		d.count(t)
	}
}

// pump begins the calls whose time has come. The caller holds mu.
func (d *desk) pump() {
	for len(d.waiting) > 0 && d.calls < maxCalls {
		full := len(d.tags) > maxCallTags || len(d.paths) > maxCallPaths
		apart := d.waiting[0].most > 0
		all := len(d.waiting) >= d.w.cfg.taken() // of the events that this worker has
		switch {
		case full || apart || all: // nothing is gained by waiting
		case d.holding > 0:
			return // who holds pumps again
		case !d.ripe():
			d.watch()
			return
		}
		batch := d.take()
		d.calls++
		d.holding++
		d.w.running.Add(1)
		go d.call(batch)
	}
}

// ripe reports whether there is no point in waiting for more notices.
func (d *desk) ripe() bool {
	now := time.Now()
	if slices.ContainsFunc(d.waiting, func(t *telling) bool { return !now.Before(t.patient) }) {
		return true
	}
	select {
	case <-d.w.groups.calm():
		return true
	default:
		return false
	}
}

// watch pumps when what waits may have become ripe.
func (d *desk) watch() {
	if d.watched {
		return
	}
	d.watched = true
	patience := time.NewTimer(time.Until(d.waiting[0].patient))
	calm := d.w.groups.calm()
	go func() {
		defer patience.Stop()
		select {
		case <-patience.C:
		case <-calm:
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.watched = false
		d.pump()
	}()
}

// take removes the notices of the next call from those that wait, oldest
// first: as many as fit into it, at least one.
func (d *desk) take() []*telling {
	tags, paths := map[string]bool{}, map[string]bool{}
	most := 0
	n := 0
	for _, t := range d.waiting {
		if t.most > 0 && (most == 0 || t.most < most) {
			most = t.most
		}
		for _, tag := range t.notice.Purge.Tags {
			tags[tag] = true
		}
		for _, path := range t.notice.Purge.Paths {
			paths[path] = true
		}
		if n > 0 && (len(tags) > maxCallTags || len(paths) > maxCallPaths || most > 0 && n >= most) {
			break
		}
		n++
	}
	batch := slices.Clone(d.waiting[:n])
	d.waiting = slices.Delete(d.waiting, 0, n)
	d.recount()
	return batch
}

// call tells the target of a batch.
func (d *desk) call(batch []*telling) {
	defer d.w.running.Done()
	begin := time.Now()
	release := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.holding--
		d.pump()
	}
	aged := time.AfterFunc(callHolds, release)
	latest := batch[0].deadline
	for _, t := range batch {
		if t.deadline.After(latest) {
			latest = t.deadline
		}
	}
	ctx, cancel := context.WithDeadline(d.w.base, latest)
	defer cancel()
	n := union(batch)
	d.w.metrics.tells.WithLabelValues(d.name).Inc()
	err := d.once(ctx, n)

	for _, t := range batch {
		t.err, t.company = err, 1
		if p := t.notice.Purge; len(n.Purge.Tags) > len(p.Tags) || len(n.Purge.Paths) > len(p.Paths) || n.Purge.All != p.All {
			t.company = len(batch)
		}
		close(t.over)
	}
	if aged.Stop() {
		aged.Reset(callPause - time.Since(begin)) // at once when that is over
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls--
	d.pump()
}

// once runs beside the attempts, so a panic must not get out of here.
func (d *desk) once(ctx context.Context, n Notice) (err error) {
	defer func() {
		if x := recover(); x != nil {
			d.w.log.ErrorContext(ctx, "panic", "event_id", n.Event.ID, "step", "tell", "target", d.name, "err", x, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v: %w", x, ErrRefused)
		}
	}()
	return d.w.steps.Tell(ctx, d.name, n)
}

// union is one notice of all in the batch; its event is the newest.
func union(batch []*telling) Notice {
	n := batch[0].notice
	if len(batch) == 1 {
		return n
	}
	n.Purge = event.Purge{}
	have := map[string]bool{}
	add := func(kind string, to *[]string, list []string) {
		for _, v := range list {
			if !have[kind+v] {
				have[kind+v] = true
				*to = append(*to, v)
			}
		}
	}
	for _, t := range batch {
		p := t.notice.Purge
		add("t", &n.Purge.Tags, p.Tags)
		add("k", &n.Purge.Keys, p.Keys)
		add("g", &n.Purge.Patterns, p.Patterns)
		add("p", &n.Purge.Paths, p.Paths)
		n.Purge.All = n.Purge.All || p.All
		n.Seq = max(n.Seq, t.notice.Seq)
		if t.notice.Event.ReceivedAt.After(n.Event.ReceivedAt) {
			n.Event, n.Fields = t.notice.Event, t.notice.Fields
		}
	}
	return n
}
