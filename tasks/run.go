package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hibiken/asynq"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/rules"
)

// publishedBefore is the note of an event that an earlier attempt published,
// whose answer was lost.
const publishedBefore = "published before"

// run is one attempt at one event.
type run struct {
	w        *Worker
	ev       event.Event // with what was recalled
	queuedAt time.Time
	opening  opening
	follow   *followUp // nil unless it looks again for another event
	lastTry  bool
	inside   bool // holds one of the worker's slots

	start   time.Time
	step    string    // that runs now
	since   time.Time // when it began
	took    []any     // step, duration for the log
	status  Status
	outcome Outcome
	plan    rules.Plan
	mark    remembered

	unnamed   string // the type as told, where another was recalled
	pages     []Page // that the event may be about, besides its own
	forgotten bool   // there were more of them

	tagsBefore tagsBefore

	others []*run // that this run stands for, oldest first; this one is the newest
	arrive func() // tells the coalescer that the targets are next; nil outside of a group
}

// process is Asynq's handler.
func (w *Worker) process(ctx context.Context, task *asynq.Task) error {
	w.running.Add(1)
	defer w.running.Done()
	ctx, cancel := context.WithTimeoutCause(ctx, w.budget(), errBudget)
	defer cancel()

	id, _ := asynq.GetTaskID(ctx)
	retried, _ := asynq.GetRetryCount(ctx)
	limit, _ := asynq.GetMaxRetry(ctx)
	now := time.Now()
	r := &run{w: w, start: now, since: now, step: "start", lastTry: retried >= limit, status: Running}
	defer r.leave()
	entered := r.enter(ctx)

	env, err := decodePayload(id, task.Payload())
	if err != nil {
		r.step = "decode"
		r.ev = event.Event{ID: id, ReceivedAt: now}
		r.queuedAt = now
		if errors.Is(err, errPoison) {
			err = fmt.Errorf("%w: %w", err, asynq.SkipRetry)
		}
	} else {
		r.ev, r.queuedAt, r.follow = env.Event, env.EnqueuedAt, env.Follow
		if entered != nil {
			err = fmt.Errorf("start: %w: %w", entered, context.Cause(ctx))
		}
	}
	r.opening = w.records.begin(ctx, r.ev, r.follow, r.queuedAt)
	r.mark = r.opening.mark
	if r.mark == (remembered{}) && env.Mark != nil && env.Event.Purge != nil {
		r.mark = remember(*env.Mark, *env.Event.Purge)
	}
	r.outcome.step("received", r.ev.ReceivedAt, r.ev.ReceivedAt)
	r.outcome.step("queued", r.queuedAt, r.ev.ReceivedAt)
	r.outcome.step("started", now, r.ev.ReceivedAt)
	if err == nil {
		err = r.recovered(ctx, r.prepare)
	}
	switch {
	case err != nil || r.status != Running:
	case r.coalesces():
		r.leave() // waiting costs nobody a slot
		err = w.groups.join(ctx, r)
	default:
		err = r.recovered(ctx, r.publish)
	}
	return r.finish(ctx, err)
}

// budget is how long an attempt may take.
func (w *Worker) budget() time.Duration {
	if w.steps.Settle == nil {
		return runBudget
	}
	return runBudget + w.cfg.settleBudget()
}

// enter waits until one of the worker's slots is free: so many events do
// something at a time, of all those that Asynq has handed out.
func (r *run) enter(ctx context.Context) error {
	select {
	case r.w.slots <- struct{}{}:
		r.inside = true
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no room to run: %w", ErrPaused)
	}
}

func (r *run) leave() {
	if r.inside {
		r.inside = false
		<-r.w.slots
	}
}

// recovered runs steps; a panic of one is its error.
func (r *run) recovered(ctx context.Context, steps func(context.Context) error) (err error) {
	defer func() {
		if x := recover(); x != nil {
			r.w.log.ErrorContext(ctx, "panic", "event_id", r.ev.ID, "step", r.step, "err", x, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", x)
		}
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", err, context.Cause(ctx)) // says whether it was the worker or the event
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", r.step, err)
		}
	}()
	return steps(ctx)
}

// prepare finds out what the event means. It ends the attempt, by the status,
// when nothing is left to do.
func (r *run) prepare(ctx context.Context) error {
	if r.opening.position != "" { // published, but the queue was not told
		r.status, r.outcome.Position, r.outcome.Note = Done, r.opening.position, publishedBefore
		return nil
	}
	if r.follow != nil {
		return r.prepareFollowUp(ctx)
	}
	r.begin("recall")
	if err := r.recall(ctx); err != nil {
		return err
	}
	r.begin("plan")
	r.plan = r.planAll()
	if err := r.recallTags(ctx); err != nil {
		return err
	}
	r.planned()
	r.end("planned")
	if len(r.plan.Rules) == 0 && r.ev.Purge == nil {
		r.status, r.outcome.Note = Ignored, "no rule"
	}
	return nil
}

// planned notes the plan.
func (r *run) planned() {
	r.outcome.Plan, r.outcome.Problems = recordPlan(r.plan), nil
	for _, p := range head(r.plan.Problems) {
		r.outcome.Problems = append(r.outcome.Problems, cut(p))
	}
}

// publish takes the event through the rest of its life. Whatever returns early
// is run again from the top, so each step stands where it may be repeated.
func (r *run) publish(ctx context.Context) (err error) {
	s := r.w.steps
	purge := r.plan.Purge
	about := r.subject()
	settles := r.settles(about)
	prior := r.mark.prior(purge)
	if settles && !r.mark.Settled {
		prior = Mark{} // of before a wait: what readers filled in during it may be old
	}

	r.begin("invalidate")
	mark, err := s.Invalidate(ctx, about, prior)
	if err != nil {
		return err
	}
	r.end("invalidated")
	r.remember(ctx, mark)

	r.begin("barrier")
	mark, report, err := s.Barrier(ctx, about, mark)
	if err != nil {
		return err
	}
	if !report.Settled {
		return fmt.Errorf("readers did not all confirm seq %d within %v", mark.Seq, report.Waited)
	}
	r.outcome.Nodes, r.outcome.WaitedMS = report.Nodes, millis(report.Waited)
	r.end("settled")
	r.remember(ctx, mark)

	if settles && !r.mark.Settled {
		if mark, err = r.settle(ctx, about, mark); err != nil {
			return err
		}
		if r.follow != nil && r.unsettled() { // nobody is told twice of the same
			return r.rest(ctx)
		}
	}

	hottest := r.hottest(ctx)

	r.begin("reclaim")
	deleted, left, err := s.Reclaim(ctx, purge, mark)
	if err != nil {
		return err
	}
	r.outcome.Deleted, r.outcome.Degraded = deleted, len(left) > 0 || r.unsettled()
	for _, l := range head(left) {
		r.outcome.Problems = append(r.outcome.Problems, cut("reclaim: "+l))
	}
	r.end("reclaimed")

	if r.arrive != nil {
		r.arrive()
	}
	if err := r.refillAndTell(ctx, mark, hottest); err != nil {
		return err
	}
	if r.unsettled() {
		r.begin("follow up")
		if err := r.followUp(ctx, about); err != nil {
			return err
		}
	}

	r.begin("append")
	if err := r.append(ctx, mark); err != nil {
		return err
	}
	r.end("published")
	r.status = Done
	return nil
}

// append tells browsers, in one change for all that the run stands for. One
// that another worker has published in the meantime is left out; where it was
// the newest, the change is the next one's.
func (r *run) append(ctx context.Context, m Mark) error {
	told := append(slices.Clone(r.others), r)
	for {
		newest := told[len(told)-1]
		position, added, err := r.w.steps.Append(ctx, r.change(newest, told, m))
		if err != nil {
			return err
		}
		newest.outcome.Position = position
		if added {
			for _, other := range told[:len(told)-1] {
				other.outcome.Position, other.outcome.Note = position, "coalesced with "+newest.ev.ID
			}
			r.w.metrics.coalesced.Add(float64(len(told) - 1))
			return nil
		}
		newest.outcome.Note = publishedBefore
		if told = told[:len(told)-1]; len(told) == 0 {
			return nil
		}
	}
}

// change is what subscribers are told: that the newest is different now.
func (r *run) change(newest *run, told []*run, m Mark) event.Change {
	ev := newest.ev
	c := event.Change{
		ID: ev.ID, Seq: m.Seq, Event: ev.Kind(), Source: ev.Source, Type: ev.Type, Action: ev.Action,
		Entity: ev.Entity, Slug: ev.Slug, Locale: ev.Locale,
		Tags: r.plan.Purge.Tags, Paths: r.plan.Purge.Paths, Channels: r.plan.Channels,
		At: ev.ReceivedAt, Degraded: r.outcome.Degraded, Superseded: newest.outcome.Superseded, Fields: r.plan.Fields,
	}
	if len(told) > 1 {
		for _, t := range told {
			c.IDs = append(c.IDs, t.ev.ID)
		}
	}
	return c
}

// remember keeps the mark before anything is built on it, so that a later
// attempt reuses it. Should that fail, the later attempt makes void once more.
func (r *run) remember(ctx context.Context, m Mark) {
	r.outcome.Seq = m.Seq
	next := remember(m, r.plan.Purge)
	next.Settled = r.mark.Settled && r.mark.Mark == m
	if next != r.mark {
		r.mark = next
		r.save(ctx, Running, &r.mark)
	}
}

func (r *run) save(ctx context.Context, status Status, mark *remembered) {
	if r.opening.attempt == 0 {
		// The record could not be opened; perhaps it can by now.
		if r.opening = r.w.records.begin(ctx, r.ev, r.follow, r.queuedAt); r.opening.attempt == 0 {
			return
		}
	}
	r.w.records.update(ctx, r.ev.ID, r.opening.attempt, status, &r.outcome, mark)
}

func (r *run) begin(step string) { r.step, r.since = step, time.Now() }

func (r *run) end(done string) { r.endAt(done, time.Now()) }

func (r *run) endAt(done string, at time.Time) {
	r.outcome.step(done, at, r.ev.ReceivedAt)
	r.w.metrics.steps.WithLabelValues(r.step).Observe(at.Sub(r.since).Seconds())
	r.took = append(r.took, r.step+"_ms", millis(at.Sub(r.since)))
}

// finish writes what became of the attempt, and returns what Asynq is to know.
func (r *run) finish(ctx context.Context, err error) error {
	level := slog.LevelInfo
	switch {
	case err == nil:
		now := time.Now()
		r.outcome.step("done", now, r.ev.ReceivedAt)
		if r.status == Done && r.follow == nil && r.outcome.Note != publishedBefore {
			r.w.metrics.latency.Observe(now.Sub(r.ev.ReceivedAt).Seconds())
		}
	case errors.Is(err, asynq.SkipRetry) || r.lastTry:
		r.status, level = Failed, slog.LevelError
	default:
		r.status, level = Retrying, slog.LevelWarn
	}
	var mark *remembered
	if err != nil {
		r.outcome.Error = cut(err.Error())
	} else {
		mark = &remembered{} // it has served
	}
	// The record is written also when the worker stops, or time is up.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if !r.inside && ctx.Err() == nil {
		_ = r.enter(ctx) // hundreds may end together
	}
	r.save(wctx, r.status, mark)

	r.w.metrics.events.WithLabelValues(string(r.status)).Inc()
	r.w.metrics.seconds.Observe(time.Since(r.start).Seconds())
	args := []any{"event_id", r.ev.ID, "source", r.ev.Source, "event", r.ev.Kind(), "entity", r.ev.Entity,
		"tags", head(r.plan.Purge.Tags), "entries", r.outcome.Deleted, "seq", r.outcome.Seq, "position", r.outcome.Position,
		"status", r.status, "attempt", r.opening.attempt, "took", time.Since(r.start)}
	args = append(args, r.took...)
	if len(r.others) > 0 {
		args = append(args, "coalesced", len(r.others))
	}
	if r.outcome.Superseded {
		args = append(args, "superseded", true)
	}
	if r.outcome.Note != "" {
		args = append(args, "note", r.outcome.Note)
	}
	if r.outcome.Degraded {
		args = append(args, "degraded", true)
	}
	if r.unsettled() {
		args = append(args, "unsettled", r.outcome.Awaited.Note, "follow_up", r.outcome.Awaited.FollowUp)
	}
	if r.follow != nil {
		args = append(args, "follows", r.follow.Of)
	}
	if err != nil {
		args = append(args, "err", err)
	}
	r.w.log.Log(ctx, level, "event", args...)
	return err
}
