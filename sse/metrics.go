package sse

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	frames, deliveries, bytes, merged, stalled, replays, dropped, passes atomic.Uint64
	resetAll, goneAway                                                   atomic.Uint64 // of all reasons
	blocked                                                              atomic.Int64
	resets, goaways                                                      *prometheus.CounterVec
	lag                                                                  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	byReason := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_sse_" + name, Help: help}, []string{"reason"})
	}
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "freshwire_sse_" + name, Help: help}, func() float64 { return float64(f()) })
	}
	counter := func(name, help string, n *atomic.Uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "freshwire_sse_" + name, Help: help}, func() float64 { return float64(n.Load()) })
	}
	m := &metrics{
		resets:  byReason("resets_total", "Resets told to subscribers."),
		goaways: byReason("goaways_total", "Streams that were asked to go away."),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "freshwire_sse_delivery_seconds", Help: "From taking a change to having written it to the last of the subscribers that keep up.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 10}}),
	}
	if reg != nil {
		reg.MustRegister(m.resets, m.goaways, m.lag,
			counter("frames_total", "Changes put into the ring.", &m.frames),
			counter("deliveries_total", "Changes written to subscribers, merged ones too.", &m.deliveries),
			counter("written_bytes_total", "Bytes written to subscribers.", &m.bytes),
			counter("merged_total", "Times that a subscriber got what it missed as one change.", &m.merged),
			counter("stalled_total", "Streams closed because their socket stayed blocked.", &m.stalled),
			counter("replays_total", "Streams that began at a client's position.", &m.replays),
			counter("passes_total", "Rounds of writing; deliveries by this is how many went out in one.", &m.passes),
			counter("live_dropped_total", "Messages of other programs that came faster than they could be written.", &m.dropped),
			gauge("subscribers", "Open streams.", h.Subscribers),
			gauge("channels", "Channels that somebody listens to.", h.Channels),
			gauge("blocked", "Streams whose socket takes no more for now.", func() int { return int(m.blocked.Load()) }))
	}
	return m
}

// add empties t into the counters.
func (m *metrics) add(t *tally) {
	if t.bytes > 0 {
		m.bytes.Add(t.bytes)
		m.deliveries.Add(t.deliveries)
		*t = tally{}
	}
}

func (m *metrics) reset(reason string) {
	m.resets.WithLabelValues(reason).Inc()
	m.resetAll.Add(1)
}

func (m *metrics) goaway(reason string) {
	m.goaways.WithLabelValues(reason).Inc()
	m.goneAway.Add(1)
}
