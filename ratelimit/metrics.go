package ratelimit

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	admitted, refused           prometheus.Counter // by Redis
	memory                      prometheus.Counter // refused as before, without asking
	localAdmitted, localRefused prometheus.Counter // by this node alone
	errors                      prometheus.Counter
	local                       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "freshwire_rate_limit_requests_total",
		Help: "Requests by verdict (admitted, refused) and by who knew: redis, memory (refused just before), local (Redis is away).",
	}, []string{"verdict", "by"})
	m := &metrics{
		admitted:      requests.WithLabelValues("admitted", "redis"),
		refused:       requests.WithLabelValues("refused", "redis"),
		memory:        requests.WithLabelValues("refused", "memory"),
		localAdmitted: requests.WithLabelValues("admitted", "local"),
		localRefused:  requests.WithLabelValues("refused", "local"),
		errors:        prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_rate_limit_errors_total", Help: "Times that Redis could not count a request, or not in time."}),
		local:         prometheus.NewGauge(prometheus.GaugeOpts{Name: "freshwire_rate_limit_local", Help: "1 while this node counts alone, since Redis is away or slow."}),
	}
	if reg != nil {
		reg.MustRegister(requests, m.errors, m.local)
	}
	return m
}
