package main

import (
	"cmp"
	"context"
	"encoding/json"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/roster"
	"github.com/freshwire/freshwire/sse"
	"github.com/freshwire/freshwire/tasks"
)

const (
	announceEvery = 3 * time.Second // each node says how its streams are; who says nothing for 10s is gone
	countEvery    = time.Second     // deliveries are added to the records of events
	maxCounted    = 2000            // events at a time: each costs Redis some 5 µs
)

// streamCounts are the counts of a node, or of all together. The counters begin
// with the process.
type streamCounts struct {
	Subscribers int     `json:"subscribers"`
	Blocked     int     `json:"blocked"` // streams whose socket takes no more for now
	Deliveries  uint64  `json:"deliveries"`
	Bytes       uint64  `json:"bytes"`
	Merged      uint64  `json:"merged"`
	Stalled     uint64  `json:"stalled"`
	Replays     uint64  `json:"replays"`
	Resets      uint64  `json:"resets"`
	Goaways     uint64  `json:"goaways"`
	LagMS       float64 `json:"lag_ms"` // how long the log has had something that the node has not; of all: the most
}

// streamNode is what GET /admin/streams shows of one node.
type streamNode struct {
	Name     string    `json:"name"` // host:port
	ID       string    `json:"id"`   // of the process
	Role     string    `json:"role"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	At       time.Time `json:"at"` // when it said so, by its clock
	Ready    bool      `json:"ready"`
	Draining bool      `json:"draining"`
	Channels int       `json:"channels"` // that somebody listens to by name
	Position string    `json:"position"` // in the log
	streamCounts
}

// streamTotal is the sum of all nodes.
type streamTotal struct {
	Nodes int `json:"nodes"`
	streamCounts
}

func (t *streamTotal) add(n streamNode) {
	t.Nodes++
	t.Subscribers += n.Subscribers
	t.Blocked += n.Blocked
	t.Deliveries += n.Deliveries
	t.Bytes += n.Bytes
	t.Merged += n.Merged
	t.Stalled += n.Stalled
	t.Replays += n.Replays
	t.Resets += n.Resets
	t.Goaways += n.Goaways
	t.LagMS = max(t.LagMS, n.LagMS)
}

// reporter tells others of the streams of this process.
type reporter struct {
	app   *app
	self  streamNode // what does not change
	nodes *roster.Roster
	hub   *sse.Hub
	log   *feed.Log
	count func(ctx context.Context, streams map[string]int) error

	uncounted prometheus.Counter
	failing   bool // since the last log line

	others atomic.Pointer[streamTotal] // what other nodes said last; of the web role alone, for its page
}

func (a *app) newReporter(addr net.Addr) *reporter {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	_, port, _ := net.SplitHostPort(addr.String())
	records := a.records
	if records == nil { // this process streams only
		cfg := a.configs.Tasks
		cfg.Registerer = nil // a worker tells of the queue
		records = tasks.NewRecords(a.tailing, a.log, cfg)
	}
	r := &reporter{app: a, nodes: roster.New(a.tailing, roster.Config{Namespace: a.env.Namespace, Name: "streams"}), hub: a.hub, log: a.changes, count: records.CountDelivered,
		self: streamNode{Name: net.JoinHostPort(host, port), ID: newID(), Role: a.roles.String(), Version: version(), Started: a.started.UTC()},
		uncounted: prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_sse_uncounted_total",
			Help: "Events whose deliveries did not come into their records: too many at a time, or Redis was away."})}
	a.reg.MustRegister(r.uncounted)
	return r
}

// run reports until ctx ends, and takes this process off the list. What it
// cannot tell is left out: streams do not wait for it.
func (r *reporter) run(ctx context.Context) error {
	announce, count := time.NewTicker(announceEvery), time.NewTicker(countEvery)
	defer announce.Stop()
	defer count.Stop()
	r.announce(ctx)
	for {
		select {
		case <-announce.C:
			r.announce(ctx)
		case <-count.C:
			r.countDelivered(ctx)
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			r.countDelivered(end)
			r.note(end, r.nodes.Leave(end, r.self.ID))
			return nil
		}
	}
}

func (r *reporter) announce(ctx context.Context) {
	lag, err := r.log.Lag(ctx)
	if err == nil {
		var word []byte
		if word, err = json.Marshal(r.now(lag)); err == nil {
			err = r.nodes.Announce(ctx, r.self.ID, word)
		}
	}
	if err == nil && r.app.roles.web {
		err = r.hear(ctx)
	}
	r.note(ctx, err)
}

// hear takes what the other nodes said last.
func (r *reporter) hear(ctx context.Context) error {
	nodes, err := r.all(ctx)
	if err != nil {
		return err
	}
	var others streamTotal
	for _, n := range nodes {
		if n.ID != r.self.ID {
			others.add(n)
		}
	}
	r.others.Store(&others)
	return nil
}

// all returns the nodes that stream, newest first.
func (r *reporter) all(ctx context.Context) ([]streamNode, error) {
	words, err := r.nodes.List(ctx)
	if err != nil {
		return nil, err
	}
	nodes := []streamNode{}
	for _, word := range words {
		var n streamNode
		if err := json.Unmarshal(word, &n); err != nil { // of another version
			r.app.log.WarnContext(ctx, "a stream node cannot be read", "err", err)
			continue
		}
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(x, y streamNode) int { return cmp.Or(y.Started.Compare(x.Started), cmp.Compare(x.ID, y.ID)) })
	return nodes, nil
}

// now returns how this node's streams are.
func (r *reporter) now(lag time.Duration) streamNode {
	s, n := r.hub.Stats(), r.self
	n.At, n.Ready, n.Draining = time.Now().UTC(), r.log.Ready(), r.app.draining.Load()
	n.Channels, n.Position = s.Channels, s.Position.String()
	n.streamCounts = streamCounts{Subscribers: s.Subscribers, Blocked: s.Blocked, Deliveries: s.Deliveries, Bytes: s.Bytes, Merged: s.Merged,
		Stalled: s.Stalled, Replays: s.Replays, Resets: s.Resets, Goaways: s.Goaways, LagMS: float64(lag.Microseconds()) / 1000}
	return n
}

// countDelivered adds what was delivered since the last time to the records of events.
func (r *reporter) countDelivered(ctx context.Context) {
	streams, left := perEvent(r.hub.Delivered())
	if len(streams) > 0 {
		if err := r.count(ctx, streams); err != nil {
			left += len(streams)
			r.note(ctx, err)
		}
	}
	r.uncounted.Add(float64(left))
}

// perEvent returns to how many streams each event went, and how many events are
// left out: the newest of too many.
func perEvent(all []sse.Delivery) (streams map[string]int, left int) {
	streams = map[string]int{}
	for _, d := range all {
		for _, id := range d.IDs {
			if _, known := streams[id]; !known && len(streams) == maxCounted {
				left++
				continue
			}
			streams[id] += d.Streams
		}
	}
	return streams, left
}

// note logs the first of several errors in a row.
func (r *reporter) note(ctx context.Context, err error) {
	if err != nil && !r.failing {
		r.app.log.WarnContext(ctx, "streams not reported", "err", err)
	}
	r.failing = err != nil
}

// listStreams answers GET /admin/streams: the nodes that stream, newest first,
// and what they do together.
func (a *app) listStreams(ctx context.Context) (any, error) {
	nodes, err := a.reporter.all(ctx)
	if err != nil {
		return nil, err
	}
	var total streamTotal
	for _, n := range nodes {
		total.add(n)
	}
	return map[string]any{"nodes": nodes, "total": total}, nil
}
