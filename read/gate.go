package read

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// gate bounds the requests that one origin has to answer at a time: an origin
// is a CMS, and a cold cache must not be its end.
type gate struct {
	places  chan struct{}
	waiting atomic.Int64
	gauge   prometheus.Gauge
}

// maxWaiting bounds those who wait for one origin; a queue longer than that
// answers nobody in time.
const maxWaiting = 1000

var errCrowd = errors.New("read: too many requests wait for the origin")

func newGate(places int, waiting prometheus.Gauge) *gate {
	return &gate{places: make(chan struct{}, places), gauge: waiting}
}

// enter waits for a place, which leave gives back.
func (g *gate) enter(ctx context.Context) error {
	select {
	case g.places <- struct{}{}:
		return nil
	default:
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > maxWaiting {
		return fmt.Errorf("%w: %w", errOriginBusy, errCrowd)
	}
	g.gauge.Inc()
	defer g.gauge.Dec()
	select {
	case g.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return fmt.Errorf("%w: %w", errOriginBusy, context.Canceled)
		}
		return fmt.Errorf("%w: %w", errOriginBusy, errCrowd)
	}
}

func (g *gate) leave() { <-g.places }
