package main

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// stats is what the live page's tiles show. Counters count since the start of
// this process; the page makes rates of them. Of other nodes only streams are shown.
type stats struct {
	Uptime      float64            `json:"uptime_s"`
	Version     string             `json:"version"`
	Position    string             `json:"position"`
	Subscribers float64            `json:"subscribers"`  // of all nodes
	StreamNodes int                `json:"stream_nodes"` // that have them
	Queue       map[string]float64 `json:"queue"`
	Cache       map[string]float64 `json:"cache"`
	Events      map[string]float64 `json:"events"`
}

// serveStats answers GET /_freshwire/stats from what /metrics shows too.
func (a *app) serveStats(w http.ResponseWriter, r *http.Request) {
	families, err := a.reg.Gather()
	if err != nil {
		a.log.WarnContext(r.Context(), "gathering metrics", "err", err)
	}
	by := func(name, label string) map[string]float64 { return sums(families, name, label) }
	s := stats{
		Uptime:      time.Since(a.started).Seconds(),
		Version:     version(),
		Position:    a.changes.Position().String(),
		Subscribers: by("freshwire_sse_subscribers", "")[""],
		StreamNodes: 1,
		Queue:       by("freshwire_queue_tasks", "state"),
		Cache:       by("freshwire_read_requests_total", "verdict"),
		Events:      by("freshwire_events_total", "status"),
	}
	if others := a.reporter.others.Load(); others != nil {
		s.Subscribers += float64(others.Subscribers)
		s.StreamNodes += others.Nodes
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(s)
}

// sums adds up the values of one metric by the value of a label.
func sums(families []*dto.MetricFamily, name, label string) map[string]float64 {
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			key := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == label {
					key = l.GetValue()
				}
			}
			out[key] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// requestID returns the caller's id of the request if it is a sane one (1 to 64
// letters, digits, '_', '.', '-'), else a new one, as the value of a header.
func requestID(r *http.Request) []string {
	if given := r.Header["X-Request-Id"]; len(given) > 0 && isRequestID(given[0]) {
		return given[:1:1]
	}
	return []string{newID()}
}

func isRequestID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '.' || c == '-') {
			return false
		}
	}
	return true
}

var (
	idPrefix = strconv.FormatUint(rand.Uint64(), 36) + "-"
	idCount  atomic.Uint64
)

// newID returns a word that is not in the log yet. Nothing depends on its being hard to guess.
func newID() string {
	var buf [40]byte
	return string(strconv.AppendUint(append(buf[:0], idPrefix...), idCount.Add(1), 36))
}

// describeTask writes a task's payload for the dashboard, without what the CMS
// sent: it may hold personal data.
func describeTask(_ string, payload []byte) string {
	var envelope map[string]any
	if err := json.Unmarshal(payload, &envelope); err != nil {
		return "(not readable)"
	}
	if ev, ok := envelope["event"].(map[string]any); ok {
		delete(ev, "payload")
	}
	out, err := json.MarshalIndent(envelope, "", "  ")
	if err != nil {
		return "(not readable)"
	}
	return string(out)
}
