package sse

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	frames, deliveries, bytes, merged, stalled, replays prometheus.Counter
	resets, goaways                                     *prometheus.CounterVec
	lag                                                 prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_sse_" + name, Help: help})
	}
	byReason := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_sse_" + name, Help: help}, []string{"reason"})
	}
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "freshwire_sse_" + name, Help: help}, func() float64 { return float64(f()) })
	}
	m := &metrics{
		frames:     counter("frames_total", "Changes put into the ring."),
		deliveries: counter("deliveries_total", "Changes written to subscribers, merged ones too."),
		bytes:      counter("written_bytes_total", "Bytes written to subscribers."),
		merged:     counter("merged_total", "Times that a subscriber got what it missed as one change."),
		stalled:    counter("stalled_total", "Streams closed because their socket stayed blocked."),
		replays:    counter("replays_total", "Streams that began at a client's position."),
		resets:     byReason("resets_total", "Resets told to subscribers."),
		goaways:    byReason("goaways_total", "Streams that were asked to go away."),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "freshwire_sse_delivery_seconds", Help: "From taking a change to having written it to a subscriber.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 10}}),
	}
	if reg != nil {
		reg.MustRegister(m.frames, m.deliveries, m.bytes, m.merged, m.stalled, m.replays, m.resets, m.goaways, m.lag,
			gauge("subscribers", "Open streams.", h.Subscribers), gauge("channels", "Channels that somebody listens to.", h.Channels))
	}
	return m
}
