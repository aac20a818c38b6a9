package tasks

import (
	"context"
	"errors"
	"slices"
	"time"
)

// subject is what the run is about: the newest of its events that is news. A
// replay may have come last, and announces nothing.
func (r *run) subject() Subject {
	newest := r
	if all := append(slices.Clone(r.others), r); !r.news() {
		for _, m := range slices.Backward(all) {
			if m.news() {
				newest = m
				break
			}
		}
	}
	return Subject{Event: newest.ev, Purge: r.plan.Purge, News: newest.news()}
}

func (r *run) news() bool { return !r.outcome.Superseded && r.ev.ReplayOf == "" }

// settles reports whether the run waits for the origin.
func (r *run) settles(s Subject) bool {
	st := r.w.steps
	return st.Settle != nil && s.News && (st.Settles == nil || st.Settles(s))
}

// unsettled reports whether the origin was awaited in vain.
func (r *run) unsettled() bool { return r.outcome.Awaited != nil && !r.outcome.Awaited.Shown }

// settle waits for the origin. Until that is over, the mark is not good enough
// for a later attempt, see publish.
func (r *run) settle(ctx context.Context, s Subject, mark Mark) (Mark, error) {
	if r.arrive != nil {
		r.arrive() // the calls of others need not wait for this
	}
	r.save(ctx, Running, nil) // it may take long: let people see where it is
	r.begin("settle")
	r.leave()
	mark, got, err := r.await(ctx, s, mark)
	switch {
	case ctx.Err() != nil:
		return mark, errors.New("stopped while waiting for the origin")
	case err != nil:
		return mark, err
	}
	if err := r.enter(ctx); err != nil {
		return mark, err
	}
	r.end("awaited")
	r.w.metrics.settle.Observe(got.Waited.Seconds())
	r.outcome.Awaited = &Awaited{Shown: got.Settled, MS: millis(got.Waited), Note: cut(got.Note)}
	r.remember(ctx, mark)
	if !got.Settled {
		r.w.metrics.unsettled.Inc()
		return mark, nil
	}
	r.mark.Settled = true
	r.save(ctx, Running, &r.mark)
	return mark, nil
}

// await leaves the time that telling takes, and room for events that do not wait.
func (r *run) await(ctx context.Context, s Subject, mark Mark) (Mark, Settlement, error) {
	select {
	case r.w.waits <- struct{}{}:
		defer func() { <-r.w.waits }()
	default:
		return mark, Settlement{Note: "too many events wait for their origins"}, nil
	}
	budget := r.w.cfg.settleBudget()
	if deadline, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(deadline)-r.w.cfg.TargetBudget-afterTargets)
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return r.w.steps.Settle(ctx, s, mark)
}
