package cache

import (
	"context"
	"math/rand/v2"
	"time"
)

// dueEarly reports whether e should be fetched again before it expires, so that
// of many readers one, and not all of them, finds it expired: the closer to the
// end and the longer the fetch takes, the likelier. XFetch, by Vattani,
// Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede
// Prevention", VLDB 2015, with β = 1.
//
// What was due once is due until refreshEarly begins it, which it does once: who
// has just looked e up may not know yet that the next one is there.
func (e *Entry) dueEarly(at time.Time) bool {
	left := e.FreshUntil.Sub(at)
	if left > 20*e.Took { // the odds are below 1 in 10^8
		return false
	}
	if e.early.Load() == notDue && time.Duration(float64(e.Took)*rand.ExpFloat64()) >= left {
		e.early.CompareAndSwap(notDue, due)
	}
	return e.early.Load() == due
}

const (
	notDue = iota
	due
	begun
)

// refreshEarly begins the fetch of what will follow the entry that a read hit,
// if that is due.
func (s *Store) refreshEarly(ctx context.Context, w errand) {
	if s.faults.neverEarly || !w.seen.dueEarly(s.now().wall) || !w.seen.early.CompareAndSwap(due, begun) {
		return
	}
	if _, err := s.join(ctx, w, false); err != nil {
		w.seen.early.Store(due) // too many fetches
		return
	}
	s.metrics.early.Inc()
}

// shorten takes up to a tenth off a life, so that what was filled together does
// not expire together.
func (s *Store) shorten(ttl time.Duration) time.Duration {
	return ttl - time.Duration(float64(ttl)*jitter*s.random())
}

const jitter = 0.1
