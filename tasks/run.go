package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/hibiken/asynq"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/rules"
)

// run is one attempt at one event.
type run struct {
	w        *Worker
	ev       event.Event
	queuedAt time.Time
	opening  opening
	lastTry  bool

	start   time.Time
	step    string    // that runs now
	since   time.Time // when it began
	took    []any     // step, duration for the log
	status  Status
	outcome Outcome
	plan    rules.Plan
	mark    remembered
}

// process is Asynq's handler.
func (w *Worker) process(ctx context.Context, task *asynq.Task) error {
	w.running.Add(1)
	defer w.running.Done()
	ctx, cancel := context.WithTimeoutCause(ctx, runBudget, errBudget)
	defer cancel()

	id, _ := asynq.GetTaskID(ctx)
	retried, _ := asynq.GetRetryCount(ctx)
	limit, _ := asynq.GetMaxRetry(ctx)
	now := time.Now()
	r := &run{w: w, start: now, since: now, step: "decode", lastTry: retried >= limit, status: Running}

	env, err := decodePayload(id, task.Payload())
	if err != nil {
		r.ev = event.Event{ID: id, ReceivedAt: now}
		r.queuedAt = now
		if errors.Is(err, errPoison) {
			err = fmt.Errorf("%w: %w", err, asynq.SkipRetry)
		}
	} else {
		r.ev, r.queuedAt = env.Event, env.EnqueuedAt
	}
	r.opening = w.records.begin(ctx, r.ev, r.queuedAt)
	r.mark = r.opening.mark
	if r.mark == (remembered{}) && env.Mark != nil && env.Event.Purge != nil {
		r.mark = remember(*env.Mark, *env.Event.Purge)
	}
	r.outcome.step("received", r.ev.ReceivedAt, r.ev.ReceivedAt)
	r.outcome.step("queued", r.queuedAt, r.ev.ReceivedAt)
	r.outcome.step("started", now, r.ev.ReceivedAt)
	if err == nil {
		err = r.recovered(ctx)
	}
	return r.finish(ctx, err)
}

// recovered runs the steps; a panic of one is its error.
func (r *run) recovered(ctx context.Context) (err error) {
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
	return r.steps(ctx)
}

// steps takes an event through its life. Whatever returns early is run again
// from the top, so each step stands where it may be repeated.
func (r *run) steps(ctx context.Context) (err error) {
	s := r.w.steps
	if r.opening.position != "" { // published, but the queue was not told: nothing is left to do
		r.status, r.outcome.Position, r.outcome.Note = Done, r.opening.position, "published before"
		return nil
	}

	r.begin("plan")
	r.plan = s.Plan(r.ev)
	r.outcome.Plan = recordPlan(r.plan)
	for _, p := range head(r.plan.Problems) {
		r.outcome.Problems = append(r.outcome.Problems, cut(p))
	}
	r.end("planned")
	if len(r.plan.Rules) == 0 && r.ev.Purge == nil {
		r.status, r.outcome.Note = Ignored, "no rule"
		return nil
	}
	purge := r.plan.Purge

	r.begin("invalidate")
	mark, err := s.Invalidate(ctx, purge, r.mark.prior(purge))
	if err != nil {
		return err
	}
	r.end("invalidated")
	r.remember(ctx, mark)

	r.begin("barrier")
	mark, report, err := s.Barrier(ctx, purge, mark)
	if err != nil {
		return err
	}
	if !report.Settled {
		return fmt.Errorf("readers did not all confirm seq %d within %v", mark.Seq, report.Waited)
	}
	r.outcome.Nodes, r.outcome.WaitedMS = report.Nodes, millis(report.Waited)
	r.end("settled")
	r.remember(ctx, mark)

	r.begin("reclaim")
	deleted, left, err := s.Reclaim(ctx, purge, mark)
	if err != nil {
		return err
	}
	r.outcome.Deleted, r.outcome.Degraded = deleted, len(left) > 0
	for _, l := range head(left) {
		r.outcome.Problems = append(r.outcome.Problems, cut("reclaim: "+l))
	}
	r.end("reclaimed")

	if len(r.plan.Targets) > 0 {
		r.save(ctx, Running, nil) // targets may take long: let people see where it is
		r.begin("tell")
		notice := Notice{Event: r.ev, Purge: purge, Seq: mark.Seq, Fields: r.plan.Fields}
		targets, degraded := r.tellAll(ctx, r.plan.Targets, notice)
		r.outcome.Targets, r.outcome.Degraded = targets, degraded || r.outcome.Degraded
		if ctx.Err() != nil { // a worker that stops is no fault of the targets
			return errors.New("stopped while telling targets")
		}
		r.end("told")
	}

	r.begin("append")
	position, added, err := s.Append(ctx, r.change(mark))
	if err != nil {
		return err
	}
	r.outcome.Position = position
	if !added {
		r.outcome.Note = "published before"
	}
	r.end("published")
	r.w.metrics.latency.Observe(time.Since(r.ev.ReceivedAt).Seconds())
	r.status = Done
	return nil
}

// change is what subscribers are told.
func (r *run) change(m Mark) event.Change {
	return event.Change{
		ID: r.ev.ID, Seq: m.Seq, Event: r.ev.Kind(), Source: r.ev.Source, Type: r.ev.Type, Action: r.ev.Action,
		Entity: r.ev.Entity, Slug: r.ev.Slug, Locale: r.ev.Locale,
		Tags: r.plan.Purge.Tags, Paths: r.plan.Purge.Paths, Channels: r.plan.Channels,
		At: r.ev.ReceivedAt, Degraded: r.outcome.Degraded, Fields: r.plan.Fields,
	}
}

// remember keeps the mark before anything is built on it, so that a later
// attempt reuses it. Should that fail, the later attempt makes void once more.
func (r *run) remember(ctx context.Context, m Mark) {
	r.outcome.Seq = m.Seq
	if next := remember(m, r.plan.Purge); next != r.mark {
		r.mark = next
		r.save(ctx, Running, &r.mark)
	}
}

func (r *run) save(ctx context.Context, status Status, mark *remembered) {
	if r.opening.attempt == 0 {
		// The record could not be opened; perhaps it can by now.
		if r.opening = r.w.records.begin(ctx, r.ev, r.queuedAt); r.opening.attempt == 0 {
			return
		}
	}
	r.w.records.update(ctx, r.ev.ID, r.opening.attempt, status, &r.outcome, mark)
}

func (r *run) begin(step string) { r.step, r.since = step, time.Now() }

func (r *run) end(done string) {
	now := time.Now()
	r.outcome.step(done, now, r.ev.ReceivedAt)
	r.w.metrics.steps.WithLabelValues(r.step).Observe(now.Sub(r.since).Seconds())
	r.took = append(r.took, r.step+"_ms", millis(now.Sub(r.since)))
}

// finish writes what became of the attempt, and returns what Asynq is to know.
func (r *run) finish(ctx context.Context, err error) error {
	level := slog.LevelInfo
	switch {
	case err == nil:
		now := time.Now()
		r.outcome.step("done", now, r.ev.ReceivedAt)
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
	r.save(wctx, r.status, mark)

	r.w.metrics.events.WithLabelValues(string(r.status)).Inc()
	r.w.metrics.seconds.Observe(time.Since(r.start).Seconds())
	args := []any{"event_id", r.ev.ID, "source", r.ev.Source, "event", r.ev.Kind(), "entity", r.ev.Entity,
		"tags", head(r.plan.Purge.Tags), "entries", r.outcome.Deleted, "seq", r.outcome.Seq, "position", r.outcome.Position,
		"status", r.status, "attempt", r.opening.attempt, "took", time.Since(r.start)}
	args = append(args, r.took...)
	if r.outcome.Note != "" {
		args = append(args, "note", r.outcome.Note)
	}
	if r.outcome.Degraded {
		args = append(args, "degraded", true)
	}
	if err != nil {
		args = append(args, "err", err)
	}
	r.w.log.Log(ctx, level, "event", args...)
	return err
}
