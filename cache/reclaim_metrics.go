package cache

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type reclaimMetrics struct {
	entries prometheus.Counter
	seconds prometheus.Histogram
	queue   prometheus.Gauge
	dropped prometheus.Counter
}

func newReclaimMetrics(reg prometheus.Registerer) *reclaimMetrics {
	f := promauto.With(reg)
	return &reclaimMetrics{
		entries: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_reclaimed_entries_total",
			Help: "Void entries deleted to give their memory back.",
		}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "freshwire_cache_reclaim_seconds",
			Help:    "Time to delete the void entries of one scope, pauses included.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60},
		}),
		queue: f.NewGauge(prometheus.GaugeOpts{
			Name: "freshwire_cache_reclaim_queue",
			Help: "Scopes whose void entries wait to be deleted.",
		}),
		dropped: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_reclaim_dropped_total",
			Help: "Scopes left to the expiry of their entries: queue full, or Redis failed too often.",
		}),
	}
}
