package cache

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	reads     map[Verdict]prometheus.Counter
	collapsed prometheus.Counter
	crowded   prometheus.Counter
	early     prometheus.Counter
	void      *prometheus.CounterVec
	refused   *prometheus.CounterVec
	oldViews  *prometheus.CounterVec
	fills     prometheus.Histogram
	waits     prometheus.Counter
	barrier   prometheus.Histogram
	givenBack prometheus.Counter
	lost      prometheus.Counter
	syncs     prometheus.Counter
	syncErrs  prometheus.Counter
}

// newMetrics makes the Store's metrics and registers them where reg is not nil.
func newMetrics(reg prometheus.Registerer, m *mirror) *metrics {
	f := promauto.With(reg)
	reads := f.NewCounterVec(prometheus.CounterOpts{
		Name: "freshwire_cache_reads_total", Help: "Reads by what they were answered with.",
	}, []string{"verdict"})
	out := &metrics{
		reads: map[Verdict]prometheus.Counter{},
		collapsed: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_collapsed_total", Help: "Reads that shared the fetch of another.",
		}),
		crowded: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_crowded_total", Help: "Reads that shared no fetch, since too many were in flight, or too many waited for it.",
		}),
		early: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_early_refreshes_total", Help: "Entries that were fetched again before they expired.",
		}),
		waits: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_lease_waits_total", Help: "Fetches that waited for that of another process.",
		}),
		oldViews: f.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_cache_old_views_total", Help: "Answers that showed less than an event announced, by what came of them.",
		}, []string{"then"}),
		void: f.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_cache_void_total", Help: "Entries found void at a read, by the kind of scope that voided them.",
		}, []string{"scope"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_cache_refused_total", Help: "Fetched answers that were not stored, by reason.",
		}, []string{"reason"}),
		fills: f.NewHistogram(prometheus.HistogramOpts{
			Name: "freshwire_cache_fill_seconds", Help: "Time of one fetch from the origin.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		barrier: f.NewHistogram(prometheus.HistogramOpts{
			Name: "freshwire_cache_barrier_seconds", Help: "Time until every node heeded an event.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .05, .1, .5, 1, 2, 2.1, 5},
		}),
		givenBack: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_given_back_total", Help: "Scopes that a failover lost and this node invalidated again.",
		}),
		lost: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_ledger_lost_total", Help: "Times that the ledger was found lost, which makes everything cached void.",
		}),
		syncs: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_syncs_total", Help: "Times that the mirror of the ledger was brought up to date.",
		}),
		syncErrs: f.NewCounter(prometheus.CounterOpts{
			Name: "freshwire_cache_sync_errors_total", Help: "Times that it could not be.",
		}),
	}
	for _, v := range []Verdict{Hit, Miss, Stale, Bypass} {
		out.reads[v] = reads.WithLabelValues(string(v))
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "freshwire_cache_mirror_lag_seconds", Help: "Age of what this node knows of the ledger.",
	}, func() float64 { return m.age().Seconds() })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "freshwire_cache_ledger_scopes", Help: "Scopes that this node knows to be void up to some event.",
	}, func() float64 { return float64(m.size()) })
	return out
}
