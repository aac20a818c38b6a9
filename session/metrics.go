package session

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	created, ended      prometheus.Counter
	found, none, failed prometheus.Counter // lookups
}

func newMetrics(reg prometheus.Registerer) *metrics {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_session_lookups_total", Help: "Times that a session was looked up, by outcome: found, none, failed."}, []string{"outcome"})
	m := &metrics{
		created: prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_sessions_created_total", Help: "Sessions made."}),
		ended:   prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_sessions_ended_total", Help: "Sessions ended before their time."}),
		found:   lookups.WithLabelValues("found"),
		none:    lookups.WithLabelValues("none"),
		failed:  lookups.WithLabelValues("failed"),
	}
	if reg != nil {
		reg.MustRegister(m.created, m.ended, lookups)
	}
	return m
}
