package tasks

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Browsers wait for the entries that a rule wants to be filled again.
const (
	hottestTimeout = time.Second
	refillTimeout  = 2 * time.Second
)

// hottest returns how to ask for the entries that are filled again. They are
// looked up before they are reclaimed.
func (r *run) hottest(ctx context.Context) []string {
	n, st := r.plan.Refill, r.w.steps
	if n == 0 || st.Hottest == nil || st.Refill == nil || r.unsettled() { // the origin would give the old version
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hottestTimeout)
	defer cancel()
	entries, err := st.Hottest(ctx, r.plan.Purge, n)
	if err != nil {
		r.outcome.Problems = append(r.outcome.Problems, cut("refill: "+err.Error()))
	}
	return entries
}

// refillAndTell fills entries again, and meanwhile tells the targets: browsers
// wait for both. Neither holds up the next events.
func (r *run) refillAndTell(ctx context.Context, mark Mark, entries []string) error {
	refills, tells := len(entries) > 0, len(r.plan.Targets) > 0
	if !refills && !tells {
		return nil
	}
	r.save(ctx, Running, nil) // it may take long: let people see where it is
	r.begin("tell")
	r.leave()
	var refill refilled
	var refilling sync.WaitGroup
	if refills {
		refilling.Go(func() { refill = r.w.refill(ctx, r.ev.ID, entries) })
	}
	if tells {
		notice := Notice{Event: r.ev, Purge: r.plan.Purge, Seq: mark.Seq, Fields: r.plan.Fields}
		targets, degraded := r.tellAll(ctx, r.plan.Targets, notice)
		r.outcome.Targets, r.outcome.Degraded = targets, degraded || r.outcome.Degraded
	}
	told := time.Now()
	refilling.Wait()
	if ctx.Err() != nil { // a worker that stops is no fault of the targets
		return errors.New("stopped while telling targets")
	}
	if err := r.enter(ctx); err != nil {
		return err
	}
	if refills && refill.at.Before(told) {
		r.endRefill(refill)
	}
	if tells {
		r.endAt("told", told)
	}
	if refills && !refill.at.Before(told) {
		r.endRefill(refill)
	}
	return nil
}

// refilled is what came of filling entries again.
type refilled struct {
	entries int
	err     error
	at      time.Time
}

// refill runs beside the attempt, so a panic must not get out of here.
func (w *Worker) refill(ctx context.Context, id string, entries []string) (r refilled) {
	ctx, cancel := context.WithTimeout(ctx, refillTimeout)
	defer cancel()
	defer func() {
		if x := recover(); x != nil {
			w.log.ErrorContext(ctx, "panic", "event_id", id, "step", "refill", "err", x, "stack", string(debug.Stack()))
			r.err = fmt.Errorf("panic: %v", x)
		}
		r.at = time.Now()
	}()
	r.entries, r.err = w.steps.Refill(ctx, entries)
	return r
}

func (r *run) endRefill(refill refilled) {
	step := r.step
	r.step = "refill"
	r.endAt("refilled", refill.at)
	r.step = step
	r.outcome.Refilled = refill.entries
	r.w.metrics.refilled.Add(float64(refill.entries))
	if refill.err != nil { // the next reader fills them
		r.outcome.Problems = append(r.outcome.Problems, cut("refill: "+refill.err.Error()))
	}
}
