package read

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count reads. The label route is the path in the config, not of a
// request, so there are as many series as there are routes.
type metrics struct {
	requests       *prometheus.CounterVec
	seconds        *prometheus.HistogramVec
	originSeconds  *prometheus.HistogramVec
	foreignEntries *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_read_requests_total",
			Help: "Answered reads, by route and by hit, miss, stale, bypass or error.",
		}, []string{"route", "verdict"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "freshwire_read_seconds",
			Help:    "Time from a read's arrival to the end of its answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		originSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "freshwire_read_origin_seconds",
			Help:    "Time that the origin took, by outcome: 2xx, 4xx, 5xx, timeout, unreachable …",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route", "outcome"}),
		foreignEntries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_read_key_collisions_total",
			Help: "Reads whose key held the content of another origin address, and so went to the origin.",
		}, []string{"route"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.originSeconds, m.foreignEntries)
	}
	return m
}

// routeMetrics are those of one route, looked up once: a hit pays no map of labels.
type routeMetrics struct {
	verdicts   map[string]prometheus.Counter
	seconds    prometheus.Observer
	collisions prometheus.Counter
	origin     prometheus.ObserverVec
}

func (m *metrics) of(route string) routeMetrics {
	verdicts := map[string]prometheus.Counter{}
	for _, v := range []string{verdictHit, verdictMiss, verdictStale, verdictBypass, verdictError} {
		verdicts[v] = m.requests.WithLabelValues(route, v)
	}
	return routeMetrics{
		verdicts:   verdicts,
		seconds:    m.seconds.WithLabelValues(route),
		collisions: m.foreignEntries.WithLabelValues(route),
		origin:     m.originSeconds.MustCurryWith(prometheus.Labels{"route": route}),
	}
}

func (m routeMetrics) asked(outcome string, took time.Duration) {
	m.origin.WithLabelValues(outcome).Observe(took.Seconds())
}

func (m routeMetrics) answered(verdict string, took time.Duration) {
	m.verdicts[verdict].Inc()
	m.seconds.Observe(took.Seconds())
}
