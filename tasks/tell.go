package tasks

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	maxTells    = 5
	tellBackoff = 100 * time.Millisecond // doubles: a dead target costs an event a second and a half
	// afterTargets is what is left of an attempt for the log and the record.
	afterTargets = 5 * time.Second
)

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
