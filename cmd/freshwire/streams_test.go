package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/sse"
)

func TestDeliveriesAreCountedPerEvent(t *testing.T) {
	streams, left := perEvent([]sse.Delivery{
		{IDs: []string{"a"}, Streams: 3},
		{IDs: []string{"b", "c"}, Streams: 2}, // coalesced
		{IDs: []string{"a"}, Streams: 1},
	})
	if want := map[string]int{"a": 4, "b": 2, "c": 2}; !maps.Equal(streams, want) || left != 0 {
		t.Errorf("counted %v and left out %d, want %v", streams, left, want)
	}
	var many []sse.Delivery
	for i := range maxCounted + 5 {
		many = append(many, sse.Delivery{IDs: []string{fmt.Sprint(i)}, Streams: 1})
	}
	many = append(many, sse.Delivery{IDs: []string{"0"}, Streams: 1}) // it is counted already
	streams, left = perEvent(many)
	if len(streams) != maxCounted || left != 5 || streams["0"] != 2 {
		t.Errorf("%d events counted, %d left out, the first %d times", len(streams), left, streams["0"])
	}
}

// shown is the answer of GET /admin/streams.
type shown struct {
	Nodes []streamNode
	Total streamTotal
}

func showStreams(t *testing.T, a *app) (s shown) {
	t.Helper()
	answer, err := a.listStreams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(answer)
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStreamNodesAreListedNewestFirst(t *testing.T) {
	a := testApp(t, "", nil)
	say := func(name string, age time.Duration, subscribers int, lag float64) {
		n := streamNode{Name: name, ID: name, Started: a.started.Add(-age), streamCounts: streamCounts{Subscribers: subscribers, Deliveries: 10, LagMS: lag}}
		word, _ := json.Marshal(n)
		if err := a.reporter.nodes.Announce(t.Context(), n.ID, word); err != nil {
			t.Fatal(err)
		}
	}
	if s := showStreams(t, a); s.Nodes == nil || len(s.Nodes) != 0 {
		t.Errorf("without nodes the list is %v, want []", s.Nodes)
	}
	say("old", time.Hour, 5, 2)
	say("new", time.Minute, 7, 40)
	say("middle", time.Minute*2, 1, 0)
	if err := a.reporter.nodes.Announce(t.Context(), "strange", []byte(`{"started":5}`)); err != nil {
		t.Fatal(err)
	}
	s := showStreams(t, a)
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	if fmt.Sprint(names) != "[new middle old]" {
		t.Errorf("listed %v, want the newest first", names)
	}
	if want := (streamTotal{3, streamCounts{Subscribers: 13, Deliveries: 30, LagMS: 40}}); s.Total != want {
		t.Errorf("in all %+v, want %+v", s.Total, want)
	}
}

func TestReporterTakesItsProcessOffTheList(t *testing.T) {
	a := testApp(t, "", nil)
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- a.reporter.run(ctx) }()
	testkit.Until(t, "the process is listed", func() bool { return len(showStreams(t, a).Nodes) == 1 })
	n := showStreams(t, a).Nodes[0]
	if _, port, err := net.SplitHostPort(n.Name); err != nil || port == "" || n.Role != "all" || n.Version == "" || !n.Started.Equal(a.started) || n.At.IsZero() {
		t.Errorf("listed as %+v", n)
	}
	other, _ := json.Marshal(streamNode{ID: "other", streamCounts: streamCounts{Subscribers: 9}})
	if err := a.reporter.nodes.Announce(t.Context(), "other", other); err != nil {
		t.Fatal(err)
	}
	if err := a.reporter.hear(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := a.reporter.others.Load(); o.Nodes != 1 || o.Subscribers != 9 {
		t.Errorf("the others are %+v, want one node with 9 streams", o)
	}
	if err := a.reporter.nodes.Leave(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := testkit.Wait(t, over, "the reporter"); err != nil {
		t.Error(err)
	}
	if s := showStreams(t, a); len(s.Nodes) != 0 || s.Total != (streamTotal{}) {
		t.Errorf("listed after its end: %+v", s)
	}
}
