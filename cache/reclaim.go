package cache

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// Reclaimed says what a Reclaim gave back.
type Reclaimed struct {
	Entries int  // deleted before it returned
	Done    bool // false: the rest is left to the background
}

// Bounds of the reclaimer. What it leaves undone expires by itself: these
// entries are void already, nobody is served them.
const (
	reclaimInline  = 2 * time.Second  // how long Reclaim deletes before it leaves the rest to the background
	reclaimQueue   = 10_000           // scopes that wait
	reclaimTries   = 5                // of one scope, when Redis fails
	reclaimBackoff = time.Second / 10 // after the first failure, doubled after each
)

// Reclaim deletes the entries that p made void at m, until ctx ends and for at
// most two seconds; the rest is left to Run. Entries filled after m stay. An
// error is of Redis, and leaves the rest to Run, too: nobody is served these
// entries, and they expire.
func (s *Store) Reclaim(ctx context.Context, p Purge, m Mark) (Reclaimed, error) {
	return s.reclaim.now(ctx, scopes(p), m)
}

// ReclaimLater is Reclaim for who does not wait: it only queues.
func (s *Store) ReclaimLater(p Purge, m Mark) { s.reclaim.later(scopes(p), m) }

// reclaimer gives the memory of void entries back, one scope at a time and
// with pauses, so that other clients of Redis do not feel it.
type reclaimer struct {
	rdb     redis.UniversalClient
	names   names
	log     *slog.Logger
	metrics *reclaimMetrics
	backoff time.Duration
	inline  time.Duration // reclaimInline, save in tests

	mu     sync.Mutex
	queued map[string]Mark // :: scope → newest event that made it void
	order  []string        // scopes of queued, oldest first; may hold some that are gone from it
	wake   chan struct{}   // holds one signal: the queue was empty and is not
}

func newReclaimer(rdb redis.UniversalClient, n names, log *slog.Logger, reg prometheus.Registerer) *reclaimer {
	return &reclaimer{
		rdb: rdb, names: n, log: log, metrics: newReclaimMetrics(reg), backoff: reclaimBackoff, inline: reclaimInline,
		queued: make(map[string]Mark),
		wake:   make(chan struct{}, 1),
	}
}

// now deletes what m made void under the scopes until ctx ends, at most
// r.inline, and queues what it did not get to. An error is of Redis; then
// too the rest is queued.
func (r *reclaimer) now(ctx context.Context, scopes []string, m Mark) (Reclaimed, error) {
	ctx, cancel := context.WithTimeout(ctx, r.inline)
	defer cancel()
	var keys, rest []string
	for _, scope := range scopes {
		switch {
		case strings.HasPrefix(scope, keyScope):
			keys = append(keys, scope)
		case reclaimable(scope):
			rest = append(rest, scope)
		}
	}
	slices.SortStableFunc(rest, indexFirst)

	var out Reclaimed
	n, err := r.keys(ctx, keys, m)
	out.Entries = n
	if err != nil {
		r.later(scopes, m)
		return out, err
	}
	for i, scope := range rest {
		n, err := 0, ctx.Err()
		if err == nil {
			n, err = r.reclaim(ctx, scope, m)
		}
		out.Entries += n
		if err != nil {
			r.later(rest[i:], m)
			if ctx.Err() != nil {
				err = nil // time is up: that is no failure
			}
			return out, err
		}
	}
	out.Done = true
	return out, nil
}

// later queues the scopes. It never blocks.
func (r *reclaimer) later(scopes []string, m Mark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, scope := range scopes {
		if reclaimable(scope) {
			r.push(scope, m)
		}
	}
	r.metrics.queue.Set(float64(len(r.queued)))
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// push adds one scope: one that waits already is deleted once, for the newest
// event, and one that waits for everything to be deleted is not queued.
func (r *reclaimer) push(scope string, m Mark) {
	if all, ok := r.queued[everyone]; ok && scope != everyone && covers(all, m) {
		return
	}
	if was, ok := r.queued[scope]; ok {
		if !covers(was, m) {
			r.queued[scope] = m
		}
		if scope != everyone {
			return
		}
		m = r.queued[scope]
	}
	if scope == everyone {
		for s, was := range r.queued {
			if covers(m, was) {
				delete(r.queued, s)
			}
		}
		r.order = slices.DeleteFunc(r.order, func(s string) bool { _, ok := r.queued[s]; return !ok })
	}
	if len(r.queued) >= reclaimQueue {
		r.metrics.dropped.Inc()
		return
	}
	r.queued[scope] = m
	r.order = append(r.order, scope)
}

// covers reports whether deleting what a made void deletes what b made void.
// Seqs of two epochs have no order: the later call is right.
func covers(a, b Mark) bool { return a.Epoch == b.Epoch && a.Seq >= b.Seq }

// pop takes the scope that has waited longest.
func (r *reclaimer) pop() (scope string, m Mark, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 && !ok {
		scope, r.order = r.order[0], r.order[1:]
		m, ok = r.queued[scope]
	}
	delete(r.queued, scope)
	r.metrics.queue.Set(float64(len(r.queued)))
	return scope, m, ok
}

// run deletes what is queued until ctx ends. What waits then is left to expire.
func (r *reclaimer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if scope, m, ok := r.pop(); ok {
			r.retry(ctx, scope, m)
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
		}
	}
	return nil
}

// retry deletes one scope, and tries again while Redis fails.
func (r *reclaimer) retry(ctx context.Context, scope string, m Mark) {
	start := time.Now()
	entries, wait := 0, r.backoff
	for try := 1; ; try++ {
		n, err := r.reclaim(ctx, scope, m)
		entries += n
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if entries > 0 {
				r.log.DebugContext(ctx, "reclaimed", "scope", scope, "entries", entries, "took", time.Since(start))
			}
			return
		case try == reclaimTries:
			r.metrics.dropped.Inc()
			r.log.WarnContext(ctx, "reclaim given up, entries expire by themselves", "scope", scope, "entries", entries, "err", err)
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait *= 2
	}
}

// reclaimable reports whether the entries of a scope can be found without
// reading all: a directory of paths has no index, its entries expire.
func reclaimable(scope string) bool {
	switch {
	case scope == everyone, strings.HasPrefix(scope, keyScope), strings.HasPrefix(scope, globScope):
		return true
	}
	return indexed(scope)
}

// indexFirst puts scopes whose entries are listed before those that need a
// look at every name.
func indexFirst(a, b string) int {
	switch {
	case indexed(a) == indexed(b):
		return 0
	case indexed(a):
		return -1
	}
	return 1
}
