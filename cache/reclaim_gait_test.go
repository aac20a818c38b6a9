package cache

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// walk lets a gait meet a server so far away that takes so long for each name,
// and returns the last batches.
func walk(g *gait, trip, each time.Duration) (last []int) {
	for i := range 60 {
		n := g.batch
		g.did(n, trip+time.Duration(n)*each)
		if i >= 50 {
			last = append(last, n)
		}
	}
	return last
}

func TestBatchFollowsTheServer(t *testing.T) {
	const µs, ms = time.Microsecond, time.Millisecond
	tests := []struct {
		name        string
		trip, each  time.Duration
		least, most int
	}{
		{"quick: as many as may be", ms / 10, µs, mostBatch, mostBatch},
		{"as measured: some milliseconds", ms, 14 * µs, 80, mostBatch},
		{"far away is not slow", 8 * ms, µs, mostBatch, mostBatch},
		{"large values: few", ms, 300 * µs, leastBatch, 20},
		{"hardly answers: as few as can be", ms, 2 * ms, leastBatch, 20},
	}
	for _, tt := range tests {
		for _, n := range walk(newGait(), tt.trip, tt.each) {
			if n < tt.least || n > tt.most {
				t.Errorf("%s: batch of %d, want %d to %d", tt.name, n, tt.least, tt.most)
			}
		}
	}

	g := newGait()
	walk(g, ms, 10*µs)
	for _, n := range walk(g, ms, 300*µs) {
		if n > 20 {
			t.Errorf("batch of %d after the server became slow, want at most 20", n)
		}
	}
	g = newGait()
	for range 50 {
		g.did(3, ms)
	}
	if g.batch > leastBatch {
		t.Errorf("batch of %d though there were never more than 3 names", g.batch)
	}
}

func TestRestIsAsLongAsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const trip, work = time.Millisecond, 3 * time.Millisecond
		g := newGait()
		g.did(1, trip)
		g.rest(t.Context())
		start := time.Now()
		for range 100 {
			g.did(g.batch, trip+work)
			g.rest(t.Context())
		}
		if got := time.Since(start); got != 100*work {
			t.Errorf("rested %v for %v of work", got, 100*work)
		}

		g.worked(time.Hour)
		start = time.Now()
		g.rest(t.Context())
		if got := time.Since(start); got != maxPause {
			t.Errorf("rested %v after an hour, want %v", got, maxPause)
		}

		g.owed = -time.Millisecond // overslept
		g.worked(work)
		start = time.Now()
		g.rest(t.Context())
		if got := time.Since(start); got != work-time.Millisecond {
			t.Errorf("rested %v after having rested a millisecond too long, want %v", got, work-time.Millisecond)
		}

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		g.worked(work)
		start = time.Now()
		g.rest(ended)
		if got := time.Since(start); got != 0 {
			t.Errorf("rested %v for a caller that has left", got)
		}
	})
}
