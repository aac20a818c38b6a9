package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts deliveries. Labels come from the configuration and from our
// own words, never from a request, so their number is bounded.
type metrics struct {
	deliveries *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	secrets    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_webhook_deliveries_total",
			Help: "Deliveries by source and by what became of them: queued, duplicate, ignored, or why refused.",
		}, []string{"source", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "freshwire_webhook_seconds",
			Help:    "Time from the first look at a delivery to its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"source"}),
		secrets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_webhook_secret_used_total",
			Help: "Verified deliveries by the secret that matched: secret, previous_secrets[0], or the label of one of secrets.",
		}, []string{"source", "label"}),
	}
	if reg != nil {
		reg.MustRegister(m.deliveries, m.seconds, m.secrets)
	}
	return m
}

// count counts one answer to a source; name is empty for a URL that is no source's.
func (m *metrics) count(name string, a answer, took time.Duration) {
	m.deliveries.WithLabelValues(name, a.outcome).Inc()
	m.seconds.WithLabelValues(name).Observe(took.Seconds())
	if a.secret != "" {
		m.secrets.WithLabelValues(name, a.secret).Inc()
	}
}
