package cache

import (
	"context"
	"time"
)

const (
	leastBatch = 10                    // names; where one takes a millisecond, others wait for ten
	mostBatch  = 160                   // names; Redis may run a whole pipeline before it turns to others, 10 µs for each
	quickBatch = 2 * time.Millisecond  // what takes less is doubled
	slowBatch  = 4 * time.Millisecond  // what takes longer is halved
	maxPause   = 50 * time.Millisecond // after one batch
)

// gait fits work to one server: batches that keep it for a few milliseconds,
// and after each as much rest for others. What a batch took longer than the
// shortest one counts as the server's work: also that for others, so that a
// busy one gets more time. Not for use by several goroutines.
type gait struct {
	batch int           // names in the next batch
	trip  time.Duration // the shortest batch yet: what the way takes, whatever is asked
	owed  time.Duration // rest for what was done; below 0 after a rest that was longer than meant
}

func newGait() *gait { return &gait{batch: leastBatch, trip: maxPause} }

// did notes that a batch of n names took so long.
func (g *gait) did(n int, took time.Duration) {
	g.trip = min(g.trip, took)
	work := took - g.trip
	switch {
	case work > slowBatch:
		g.batch = max(g.batch/2, leastBatch)
	case work < quickBatch && 2*n > g.batch:
		g.batch = min(g.batch*2, mostBatch)
	}
	g.worked(max(work, took/2)) // a few names may be work, too
}

// worked notes work whose size is not ours to choose.
func (g *gait) worked(took time.Duration) { g.owed += min(took, maxPause) }

// rest leaves the server to others. The system's timers are a millisecond
// late: what it slept too long is work that needs no other rest.
func (g *gait) rest(ctx context.Context) {
	if g.owed <= 0 {
		return
	}
	start := time.Now()
	pause(ctx, g.owed)
	g.owed = max(g.owed-time.Since(start), -slowBatch)
}

// pause leaves the server to others for as long as the last batch took, at
// most maxPause.
func pause(ctx context.Context, took time.Duration) {
	t := time.NewTimer(min(took, maxPause))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
