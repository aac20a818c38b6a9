package read

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// RouteStats is what became of a route's reads since this process began.
type RouteStats struct {
	Route       string                        `json:"route"`
	Reads       uint64                        `json:"reads"`
	Hits        uint64                        `json:"hits"`
	HitRate     float64                       `json:"hit_rate"` // of all reads, 0 to 1
	ByReason    map[string]map[string]float64 `json:"by_reason"`
	OriginCalls uint64                        `json:"origin_calls"`
	P50         time.Duration                 `json:"p50_ns"` // of answers, between the bounds of the metric's buckets
	P99         time.Duration                 `json:"p99_ns"`
}

// Stats tells of each route, in the order of the config.
func (rd *Reader) Stats() []RouteStats {
	rd.mu.RLock()
	routes := slices.Clone(rd.routes)
	rd.mu.RUnlock()
	out := make([]RouteStats, len(routes))
	for i, rt := range routes {
		out[i] = rt.stats()
	}
	return out
}

func (rt *Route) stats() RouteStats {
	s := RouteStats{Route: rt.cfg.Path, ByReason: map[string]map[string]float64{}}
	for _, m := range collect(rt.metrics.requests, rt.cfg.Path) {
		n := m.GetCounter().GetValue()
		if n == 0 {
			continue
		}
		verdict, reason := label(m, "verdict"), label(m, "reason")
		if s.ByReason[verdict] == nil {
			s.ByReason[verdict] = map[string]float64{}
		}
		s.ByReason[verdict][reason] = n
		s.Reads += uint64(n)
		if verdict == verdictHit {
			s.Hits += uint64(n)
		}
	}
	if s.Reads > 0 {
		s.HitRate = float64(s.Hits) / float64(s.Reads)
	}
	for _, m := range collect(rt.Reader.metrics.originSeconds, rt.cfg.Path) {
		if outcome := label(m, "outcome"); outcome != "skipped" && outcome != "crowded" {
			s.OriginCalls += m.GetHistogram().GetSampleCount()
		}
	}
	for _, m := range collect(rt.Reader.metrics.seconds, rt.cfg.Path) {
		s.P50, s.P99 = quantile(m.GetHistogram(), .5), quantile(m.GetHistogram(), .99)
	}
	return s
}

// collect returns the metrics of c that are of a route.
func collect(c prometheus.Collector, route string) []*dto.Metric {
	ch := make(chan prometheus.Metric, 16)
	go func() {
		c.Collect(ch)
		close(ch)
	}()
	var out []*dto.Metric
	for m := range ch {
		var d dto.Metric
		if m.Write(&d) == nil && label(&d, "route") == route {
			out = append(out, &d)
		}
	}
	return out
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// quantile guesses within a bucket as if its values lay evenly. Beyond the last
// bound it is that bound.
func quantile(h *dto.Histogram, q float64) time.Duration {
	bounds := map[float64]uint64{}
	for _, b := range h.GetBucket() {
		bounds[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	if h.GetSampleCount() == 0 {
		return 0
	}
	rank := q * float64(h.GetSampleCount())
	low, below := 0.0, 0.0
	for _, high := range slices.Sorted(maps.Keys(bounds)) {
		upTo := float64(bounds[high])
		if upTo >= rank && upTo > below {
			return seconds64(low + (high-low)*(rank-below)/(upTo-below))
		}
		low, below = high, upTo
	}
	return seconds64(low)
}

func seconds64(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
