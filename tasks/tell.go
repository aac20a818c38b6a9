package tasks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/freshwire/freshwire/rules"
)

const (
	maxTells    = 5
	tellBackoff = 100 * time.Millisecond // doubles: a dead target costs an event a second and a half
	// afterTargets is what is left of an attempt for the log and the record.
	afterTargets = 5 * time.Second
)

// refillAndTell fills the most read entries again, and meanwhile tells the
// targets: browsers wait for both. Neither holds up the next events.
func (r *run) refillAndTell(ctx context.Context, mark Mark) error {
	refills := r.w.steps.Refill != nil && r.plan.Refill > 0 && !r.unsettled() // which would bring the old version
	tells := len(r.plan.Targets) > 0
	if !refills && !tells {
		return nil
	}
	r.save(ctx, Running, nil) // it may take long: let people see where it is
	r.begin("tell")
	r.leave()
	var refill refilled
	var refilling sync.WaitGroup
	if refills {
		refilling.Go(func() { refill = r.w.refill(ctx, r.ev.ID, r.plan, mark) })
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

// refillTimeout is how long browsers wait at most for entries to be filled again.
const refillTimeout = 2 * time.Second

// refilled is what came of filling entries again.
type refilled struct {
	entries int
	err     error
	at      time.Time
}

// refill runs beside the attempt, so a panic must not get out of here.
func (w *Worker) refill(ctx context.Context, id string, p rules.Plan, mark Mark) (r refilled) {
	ctx, cancel := context.WithTimeout(ctx, refillTimeout)
	defer cancel()
	defer func() {
		if x := recover(); x != nil {
			w.log.ErrorContext(ctx, "panic", "event_id", id, "step", "refill", "err", x, "stack", string(debug.Stack()))
			r.err = fmt.Errorf("panic: %v", x)
		}
		r.at = time.Now()
	}()
	r.entries, r.err = w.steps.Refill(ctx, p.Purge, mark, p.Refill)
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

// tellAll tells the targets at the same time, and reports whether one of them
// was given up. It ends within the budget: browsers wait for it.
func (r *run) tellAll(ctx context.Context, names []string, n Notice) ([]TargetResult, bool) {
	budget := r.w.cfg.TargetBudget
	if deadline, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(deadline)-afterTargets)
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	results := make([]TargetResult, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { results[i] = r.tell(ctx, name, n) })
	}
	wg.Wait()
	degraded := false
	for _, res := range results {
		degraded = degraded || !res.OK
	}
	return results, degraded
}

// tell tells one target, again if that may help.
func (r *run) tell(ctx context.Context, name string, n Notice) TargetResult {
	start := time.Now()
	res := TargetResult{Name: name}
	pause := tellBackoff
	patience, most := time.Duration(0), 0
	if r.arrive != nil {
		patience = r.plan.Coalesce
	}
	for {
		res.Attempts++
		company, err := r.w.desk(name).tell(ctx, n, patience, most)
		if err == nil {
			res.OK = true
			break
		}
		res.Error = cut(err.Error())
		patience = 0
		if errors.Is(err, ErrRefused) && company > 1 && res.Attempts < maxTells {
			most = max(1, company/refusedShare)
			continue
		}
		if errors.Is(err, ErrGiveUp) || res.Attempts == maxTells || !sleep(ctx, pause-pause/5+rand.N(2*pause/5)) {
			break
		}
		pause *= 2
	}
	if res.OK {
		res.Error = ""
		r.w.metrics.targets.WithLabelValues(name, "ok").Inc()
	} else {
		r.w.metrics.targets.WithLabelValues(name, "given_up").Inc()
	}
	res.MS = millis(time.Since(start))
	return res
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
