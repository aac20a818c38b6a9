package target

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// newMetrics returns metrics that all targets of a registry share; nil for a
// nil registry.
func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		return nil
	}
	return &metrics{
		calls: shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_target_calls_total", Help: "Calls to targets, each try counted, by outcome: ok, refused, failed.",
		}, []string{"target", "outcome"})),
		seconds: shared(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "freshwire_target_seconds", Help: "Time of a call to a target.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
		}, []string{"target"})),
	}
}

// shared registers c, or returns what an earlier target registered.
func shared[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		return already.ExistingCollector.(C)
	} else if err != nil {
		panic(err)
	}
	return c
}

func (m *metrics) called(target string, err error, took time.Duration) {
	if m == nil {
		return
	}
	outcome := "ok"
	switch {
	case errors.Is(err, ErrRefused):
		outcome = "refused"
	case err != nil:
		outcome = "failed"
	}
	m.calls.WithLabelValues(target, outcome).Inc()
	m.seconds.WithLabelValues(target).Observe(took.Seconds())
}
