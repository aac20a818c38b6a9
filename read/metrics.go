package read

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/cache"
)

// Reasons of a verdict, beside those of notStorable and the details of the
// cache. There are few, and none comes from a request.
const (
	reasonFresh         = "fresh"
	reasonCold          = "cold"    // miss: nothing was there
	reasonVoid          = "void"    // miss: an event made void what was there
	reasonExpired       = "expired" // miss: too old, or made void later
	reasonCollapsed     = "collapsed"
	reasonAuthorization = "authorization"
	reasonCollision     = "key-collision"
	reasonUser          = "user"
)

// reason is why an answer has its verdict.
func (j *errand) reason(res cache.Result) string {
	switch {
	case res.Detail != "":
		return res.Detail
	case res.Verdict == cache.Hit:
		return reasonFresh
	case j.found() == "":
		return reasonCollapsed
	}
	return j.found()
}

// errorReasons name errors; the first that errors.Is matches wins.
var errorReasons = []struct {
	err    error
	reason string
}{
	{errUser, reasonUser}, {errAddress, "address"}, {cache.ErrKey, "address"}, {errAfter, "address"}, {errNowhere, "nowhere"}, {errMethod, "method"},
	{cache.ErrCrowded, cache.DetailCrowded}, {cache.ErrOldView, cache.DetailOriginLag}, {errCrowd, "origin-crowded"}, {errOriginBusy, "origin-busy"}, {errOriginSlow, "origin-slow"}, {errOriginFailed, "origin-failed"},
	{errTooLarge, "too-large"}, {errStrange, "strange"}, {context.Canceled, "cancelled"}, {errOriginAway, "origin-away"}, {context.DeadlineExceeded, "timeout"},
}

func reasonOf(err error) string {
	for _, r := range errorReasons {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return "other"
}

// metrics count reads. The label route is the path in the config, not of a
// request, so there are as many series as there are routes.
type metrics struct {
	requests       *prometheus.CounterVec
	seconds        *prometheus.HistogramVec
	originSeconds  *prometheus.HistogramVec
	foreignEntries *prometheus.CounterVec
	learnt         *prometheus.CounterVec
	cut            *prometheus.CounterVec
	notJSON        *prometheus.CounterVec
	waiting        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"route"}, labels...))
	}
	m := &metrics{
		requests: counter("freshwire_read_requests_total", "Answered reads, by route, by hit, miss, stale, bypass or error, and by why.", "verdict", "reason"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "freshwire_read_seconds",
			Help:    "Time from a read's arrival to the end of its answer.",
			Buckets: []float64{.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		originSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "freshwire_read_origin_seconds",
			Help:    "Time that the origin took, by outcome: 2xx, 4xx, 5xx, timeout, unreachable …",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route", "outcome"}),
		foreignEntries: counter("freshwire_read_key_collisions_total", "Reads whose key held the content of another origin address, and so went to the origin."),
		learnt:         counter("freshwire_read_tags_learned", "Tags that answers of the origin told."),
		cut:            counter("freshwire_read_tags_cut_total", "Tags that were too many or too long: of answers, which then every event voids, or for the next cache, which lacks them."),
		notJSON:        counter("freshwire_read_bodies_not_json_total", "Bodies that were to tell tags or a version, and are no JSON."),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "freshwire_read_origin_waiting",
			Help: "Requests that wait for their turn to ask an origin.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.originSeconds, m.foreignEntries, m.learnt, m.cut, m.notJSON, m.waiting)
	}
	return m
}

// routeMetrics are those of one route. What a hit needs is looked up once.
type routeMetrics struct {
	requests   *prometheus.CounterVec // by verdict and reason
	hits       prometheus.Counter
	seconds    prometheus.Observer
	origin     prometheus.ObserverVec
	collisions prometheus.Counter
	learnt     prometheus.Counter
	cut        prometheus.Counter
	notJSON    prometheus.Counter
}

func (m *metrics) of(route string) routeMetrics {
	mine := prometheus.Labels{"route": route}
	requests := m.requests.MustCurryWith(mine)
	return routeMetrics{
		requests:   requests,
		hits:       requests.WithLabelValues(verdictHit, reasonFresh),
		seconds:    m.seconds.With(mine),
		origin:     m.originSeconds.MustCurryWith(mine),
		collisions: m.foreignEntries.With(mine),
		learnt:     m.learnt.With(mine),
		cut:        m.cut.With(mine),
		notJSON:    m.notJSON.With(mine),
	}
}

func (m routeMetrics) asked(outcome string, took time.Duration) {
	m.origin.WithLabelValues(outcome).Observe(took.Seconds())
}

func (m routeMetrics) count(verdict, reason string) {
	m.requests.WithLabelValues(verdict, reason).Inc()
}
