package journal

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	appended  prometheus.Counter
	forwarded prometheus.Counter
	resent    prometheus.Counter
	records   prometheus.Gauge
	bytes     prometheus.Gauge
	fsync     prometheus.Histogram
	errors    *prometheus.CounterVec // by operation
	damaged   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		appended: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_journal_appended_total",
			Help: "Records put on the disk."})),
		forwarded: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_journal_forwarded_total",
			Help: "Records handed on for the first time by this process."})),
		resent: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_journal_resent_total",
			Help: "Records handed on once more: after an error, or since the store forgot them."})),
		records: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "freshwire_journal_backlog_records",
			Help: "Records that wait to be handed on."})),
		bytes: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "freshwire_journal_backlog_bytes",
			Help: "Bytes that wait to be handed on."})),
		fsync: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "freshwire_journal_fsync_seconds",
			Help: "Time of one fsync, which all that wait share.", Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}})),
		errors: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_journal_errors_total",
			Help: "Failed operations: write, read, deliver, advance, over, note, remove."}, []string{"operation"})),
		damaged: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_journal_damaged_total",
			Help: "Segments found with unreadable bytes, or missing."})),
	}
}

// backlog sets the gauges.
func (m *metrics) backlog(p position) {
	m.records.Set(float64(p.records))
	m.bytes.Set(float64(p.bytes))
}

// register returns c, or the collector that took its place before.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	err := reg.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if old, ok := already.ExistingCollector.(C); ok {
			return old
		}
	}
	if err != nil {
		panic(err) // two different metrics of one name: a mistake in this file
	}
	return c
}
