package e2e

import (
	"testing"
	"time"
)

// All clients of a node lose it at once and come to another, which they ask
// for what they missed.
func TestStreamClientsThatLoseTheirNodeMissNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		l := newLab(t, 2, nil, "FRESHWIRE_SSE_MODE="+mode)
		lost, other := l.nodes[0], l.nodes[1]
		c := newCrowd(t, l.book, size(1000, 5000), []*process{lost}, spreadOver(10))
		stop := l.publishing(t, 100*time.Millisecond, 10, "")
		flow(t, l, 10)
		c.meet(lost, other) // the balancer knows both; the first will refuse
		before := other.cpu(t)
		lost.kill()
		killed := time.Now()
		c.await(t, "all are back", func(k *checker) bool { return k.opened.After(killed) })
		var back spread
		for _, k := range c.all {
			k.mu.Lock()
			back = append(back, k.opened.Sub(killed))
			k.mu.Unlock()
		}
		goroutines := int(other.metrics(t)["go_goroutines"])
		published := stop()
		v := c.verdict(t)
		t.Logf("storm, %s: back after %v; the other node took %v of CPU and has %d goroutines; %d changes; %v",
			mode, back, other.cpu(t)-before, goroutines, published, v)
		if taken := goroutines < 100; taken != (mode == "auto") {
			t.Errorf("%d goroutines for %d streams: mode %s is not in force", goroutines, len(c.all), mode)
		}
		if v.resets > 0 {
			t.Errorf("%d resets, want none: the other node has all history", v.resets)
		}
		if back.at(1) > 15*time.Second {
			t.Errorf("the last client was back after %v, want 15 s at most", back.at(1))
		}
	})
}

// Two nodes are replaced one after the other, as a deploy does.
func TestStreamClientsMissNothingInARollingRestart(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		l := newLab(t, 2, nil, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_DRAIN_SPREAD=2s")
		c := newCrowd(t, l.book, size(100, 200), l.nodes, spreadOver(10))
		stop := l.publishing(t, 20*time.Millisecond, 10, "")
		var exits spread
		for range size(1, 5) {
			for _, p := range l.nodes {
				began := time.Now()
				if code := p.terminate(t); code != 0 {
					t.Errorf("exit code %d of a node that was asked to stop", code)
				}
				exits = append(exits, time.Since(began))
				p.run(t)
				p.awaitReady(t)
			}
		}
		published := stop()
		v := c.verdict(t)
		t.Logf("rolling, %s: %d restarts, exit after %v; %d changes; %v", mode, len(exits), exits, published, v)
		if v.resets > 0 {
			t.Errorf("%d resets, want none: a node that starts loads the history", v.resets)
		}
		if v.goaways == 0 {
			t.Error("nobody was asked to go away")
		}
		if exits.at(1) > 15*time.Second {
			t.Errorf("a node ended %v after SIGTERM, want 15 s at most", exits.at(1))
		}
	})
}
