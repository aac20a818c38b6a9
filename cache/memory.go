package cache

import (
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// memory holds entries in this process, so that most reads need no network. It
// is told of no purge: its entries are judged at each read, like those of Redis.
// The nil memory holds nothing.
type memory struct {
	entries *otter.Cache[string, *Entry]
}

// newMemory returns a memory of so many bytes, nil for none.
func newMemory(bytes int64, now func() instant, reg prometheus.Registerer) *memory {
	if bytes <= 0 {
		return nil
	}
	m := &memory{otter.Must(&otter.Options[string, *Entry]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(key string, e *Entry) uint32 { return uint32(e.weight(key)) },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(item otter.Entry[string, *Entry]) time.Duration {
			return max(1, item.Value.end().Sub(now().wall))
		}),
	})}
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "freshwire_cache_memory_bytes", Help: "Memory that cached answers take in this process.",
	}, func() float64 { return float64(m.entries.WeightedSize()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "freshwire_cache_memory_entries", Help: "Cached answers in this process's memory.",
	}, func() float64 { return float64(m.entries.EstimatedSize()) })
	return m
}

// get returns the entry of key, nil where there is none.
func (m *memory) get(key string) *Entry {
	if m == nil {
		return nil
	}
	e, _ := m.entries.GetIfPresent(key)
	return e
}

// keep holds e, unless an entry of a later fetch is there.
func (m *memory) keep(key string, e *Entry) {
	if m == nil || e.body.absent {
		return
	}
	m.entries.Compute(key, func(held *Entry, found bool) (*Entry, otter.ComputeOp) {
		if found && held.Epoch == e.Epoch && (held.Token > e.Token || held.Token == e.Token && held.StoredAt.After(e.StoredAt)) {
			return held, otter.CancelOp
		}
		return e, otter.WriteOp
	})
}

// end is when e can serve nobody any more.
func (e *Entry) end() time.Time {
	end := e.FreshUntil
	for _, until := range []time.Time{e.StaleUntil, e.ErrorUntil} {
		if until.After(end) {
			end = until
		}
	}
	return end
}
