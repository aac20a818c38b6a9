package e2e

import (
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// Nodes are killed, links cut and Redis killed under load: in the end every
// client was told of every change, or was reset.
func TestStreamIsWholeThroughKillsAndCutLinks(t *testing.T) {
	forgets, remembers := []string(nil), []string{"--appendonly", "yes", "--appendfsync", "everysec"}
	inBothModes(t, func(t *testing.T, mode string) {
		if mode == "auto" || tortured() {
			t.Run("redis forgets", func(t *testing.T) { endureFaults(t, mode, forgets) })
		}
		if mode == "plain" || tortured() {
			t.Run("redis remembers", func(t *testing.T) { endureFaults(t, mode, remembers) })
		}
	})
}

// linked is a lab whose nodes reach Redis over lines that can be cut.
func linked(t *testing.T, nodes int, redisArgs []string, env ...string) (*lab, []*testkit.Proxy) {
	l := newLab(t, 0, redisArgs)
	var lines []*testkit.Proxy
	for range nodes {
		line := testkit.StartProxy(t, l.redis.Addr)
		lines = append(lines, line)
		l.nodes = append(l.nodes, startStream(t, "redis://"+line.Addr+"/0", env...))
	}
	return l, lines
}

func endureFaults(t *testing.T, mode string, persistence []string) {
	// A small ring sends clients to the log, and few changes are enough to merge.
	l, lines := linked(t, 2, persistence, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_RING_LEN=200", "FRESHWIRE_SSE_MERGE_OVER=50",
		"FRESHWIRE_SSE_RETRY=200ms", "FRESHWIRE_SSE_RESET_SPREAD=500ms")
	http2 := newHTTP2Client()
	c := newCrowdOf(t, l.book, size(200, 1000), l.nodes, spreadOver(10), func(i int, k *checker) {
		if i%5 == 0 { // as behind a proxy, on a connection with others
			k.http2 = http2
		}
	})
	stop := l.publishing(t, 20*time.Millisecond, 10, "")
	allReady := func() {
		for _, p := range l.nodes {
			p.awaitReady(t)
		}
	}
	count := map[string]int{}
	for _, f := range []struct {
		name  string
		times int
		fault func(n int)
	}{
		{"node killed", size(2, 6), func(n int) {
			p := l.nodes[n%2]
			p.kill()
			flow(t, l, 20)
			p.run(t)
		}},
		{"link cut", size(3, 20), func(n int) { lines[n%2].Cut(); flow(t, l, 10) }},
		{"link held", size(1, 4), func(n int) { // longer than a read waits
			lines[n%2].Hold()
			defer lines[n%2].Release()
			flow(t, l, 10)
			testkit.Until(t, "the node has noticed", func() bool { return !l.nodes[n%2].ready() })
			lines[n%2].Cut()
			flow(t, l, 10)
		}},
		{"both links cut", size(2, 10), func(int) { lines[0].Cut(); lines[1].Cut(); flow(t, l, 10) }},
		{"redis killed", size(1, 4), func(int) {
			l.redis.Kill()
			testkit.Until(t, "the nodes have noticed", func() bool { return !l.nodes[0].ready() && !l.nodes[1].ready() })
			l.redis.Start(t)
			flow(t, l, 20)
		}},
		{"node killed while redis is away", size(1, 3), func(n int) {
			l.redis.Kill()
			l.nodes[n%2].kill()
			l.redis.Start(t)
			l.nodes[n%2].run(t)
			flow(t, l, 20)
		}},
	} {
		for n := range f.times {
			f.fault(n)
			count[f.name]++
			allReady()
		}
	}
	published := stop()
	v := c.verdict(t)
	t.Logf("faults, %s: %v; %d changes; %v", t.Name(), count, published, v)
	if v.told == 0 || v.resets == 0 {
		t.Errorf("%d changes told and %d resets: nothing was tested", v.told, v.resets)
	}
}
