package e2e

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

type streamsShown struct {
	Nodes []struct {
		Name, ID, Role, Version, Position string
		Started, At                       time.Time
		Ready, Draining                   bool
		Subscribers, Channels             int
		Deliveries                        uint64
		LagMS                             float64 `json:"lag_ms"`
	}
	Total struct {
		Nodes, Subscribers, Blocked int
		Deliveries, Goaways         uint64
	}
}

func showStreams(t *testing.T, p *process) (s streamsShown) {
	t.Helper()
	if resp := getJSON(t, p.URL+"/admin/streams", &s, "Authorization", "Bearer "+adminToken); resp.StatusCode != 200 {
		t.Fatalf("GET /admin/streams = %s", resp.Status)
	}
	return s
}

// subscribe opens streams that are read until the returned function is called.
func subscribe(t *testing.T, p *process, n int, channel string) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	for range n {
		frames := make(chan frame)
		go stream(ctx, p.URL+"/api/events?channel="+channel, "", frames)
		if f := testkit.Wait(t, frames, "ready"); f.event != "ready" {
			t.Fatalf("first frame = %+v, want ready", f)
		}
		go func() {
			for {
				select {
				case <-frames:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return cancel
}

func TestOperatorsSeeTheStreamsOfAllNodes(t *testing.T) {
	p, server, _ := oneNode(t)
	env := []string{"REDIS_URL=" + server.URL()}
	second, third := start(t, "sse", env...), start(t, "sse", env...)

	leaveFirst := subscribe(t, p, 3, "post:1")
	subscribe(t, second, 4, "post:1")
	subscribe(t, third, 2, "post:1")
	subscribe(t, third, 5, "post:2")
	testkit.Until(t, "all streams are shown", func() bool { return showStreams(t, p).Total.Subscribers == 14 })
	s := showStreams(t, p)
	if s.Total.Nodes != 3 || len(s.Nodes) != 3 {
		t.Fatalf("%d nodes in %+v, want 3", len(s.Nodes), s)
	}
	for i, want := range []struct {
		role                  string
		subscribers, channels int
	}{{"sse", 7, 2}, {"sse", 4, 1}, {"all", 3, 1}} { // newest first
		n := s.Nodes[i]
		if n.Role != want.role || n.Subscribers != want.subscribers || n.Channels != want.channels {
			t.Errorf("node %d is %+v, want %+v", i, n, want)
		}
		if n.Name == "" || n.Version == "" || n.Position == "" || n.Started.IsZero() || !n.Ready || n.Draining || time.Since(n.At) > testkit.Patience {
			t.Errorf("node %d says too little: %+v", i, n)
		}
	}

	// So does the live page.
	testkit.Until(t, "the page counts all nodes", func() bool {
		var stats struct {
			Subscribers int
			Nodes       int `json:"stream_nodes"`
		}
		getJSON(t, p.URL+"/_freshwire/stats", &stats, "Authorization", "Bearer "+adminToken)
		return stats.Subscribers == 14 && stats.Nodes == 3
	})

	// The record of an event tells how many of them were told, at all nodes together.
	const body = `{"type":"post.updated","data":{"id":"1"}}`
	_, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body))
	var receipt struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &receipt); err != nil {
		t.Fatalf("webhook: %s: %v", answer, err)
	}
	type record struct{ Delivered *int }
	var last record
	testkit.Until(t, "the record counts the streams of all nodes", func() bool {
		getJSON(t, p.URL+"/admin/events/"+receipt.ID, &last, "Authorization", "Bearer "+adminToken)
		return last.Delivered != nil && *last.Delivered >= 9
	})
	if *last.Delivered != 9 {
		t.Errorf("delivered to %d streams, want the 9 that listen to it", *last.Delivered)
	}

	// Counts go back when streams and nodes do, however they end.
	leaveFirst()
	testkit.Until(t, "streams that were closed are not shown", func() bool { return showStreams(t, p).Total.Subscribers == 11 })
	if code := second.terminate(t); code != 0 {
		t.Errorf("the node that drained ended with %d", code)
	}
	if s := showStreams(t, p); s.Total.Nodes != 2 || s.Total.Subscribers != 7 {
		t.Errorf("shown after one node has drained: %+v", s.Total)
	}
	third.kill()
	testkit.Until(t, "a killed node is forgotten", func() bool {
		s := showStreams(t, p)
		return s.Total.Nodes == 1 && s.Total.Subscribers == 0
	})
	if code, _, _ := call(t, "GET", p.URL+"/admin/streams", ""); code != 401 {
		t.Errorf("a stranger sees the streams: %d", code)
	}
}
