package feed

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	appended, repeated, ended, ranges, reconnects prometheus.Counter
	resets                                        *prometheus.CounterVec
	lag                                           prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, l *Log) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_log_" + name, Help: help})
	}
	m := &metrics{
		appended:   counter("appended_total", "Changes appended to the log."),
		repeated:   counter("repeated_total", "Changes that were in the log already."),
		ended:      counter("ended_sessions_total", "Ends of sessions appended to the log."),
		ranges:     counter("ranges_total", "Reads of the log's history."),
		reconnects: counter("tail_failures_total", "Reads of the tail that failed and were tried again."),
		resets:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_log_resets_total", Help: "Times that the tail told its sink to reset."}, []string{"reason"}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "freshwire_log_lag_seconds", Help: "Age of the newest change when the tail took it, by the clocks of Redis and this host.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30}}),
	}
	if reg != nil {
		ready := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "freshwire_log_tail_ready", Help: "1 while the tail is connected and has caught up."}, func() float64 {
			if l.Ready() {
				return 1
			}
			return 0
		})
		reg.MustRegister(m.appended, m.repeated, m.ended, m.ranges, m.reconnects, m.resets, m.lag, ready)
	}
	return m
}
