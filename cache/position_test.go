package cache

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// A reader subscribes from the position of its answer. Wherever an event comes
// between two steps of the read, the answer shows it, or the subscription
// tells of it. An answer that is stale stands where its fill did.
func TestAnswerShowsAllUpToItsPositionWhereverAnEventComes(t *testing.T) {
	t.Parallel()
	steps := []string{"before the look-up", "after the look-up", "before the origin is asked", "after the origin answered"}
	for _, expired := range []bool{false, true} {
		for _, step := range steps {
			name := step
			if expired {
				name += ", and the old one may be served stale"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				missed, late := readAround(t, step, expired)
				if missed {
					t.Error("the answer lacks an event that came before its position: nobody tells of it again")
				}
				if step == "after the origin answered" && !expired && !late {
					t.Error("a position taken after the read is no worse, so this proves nothing")
				}
			})
		}
	}
}

// readAround reads once while an editor publishes version 2 at some step. missed:
// the answer is older than its position says; late: it would be, had the
// position been taken after the read.
func readAround(t *testing.T, step string, expired bool) (missed, late bool) {
	c := newClocks()
	at := func(string) {}
	s := node(t, testkit.Redis(t), c.set, func(o *options) { o.faults.afterLookup = func() { at("after the look-up") } })
	syncNow(t, s)
	c.move(2*shortLease, 2*shortLease) // the phantom of a new ledger
	syncNow(t, s)

	version, log, published := 1, 0, map[int]int{0: 1} // position → version
	fill := func(context.Context, *Entry) (Fill, error) {
		at("before the origin is asked")
		body := strconv.Itoa(version)
		at("after the origin answered")
		return Fill{Status: 200, Body: []byte(body), TTL: time.Minute, SWR: time.Hour}, nil
	}
	req := Request{Key: "post:1", Tags: []string{"posts"}, Position: "0"}
	if expired {
		fetch(t, s, req, fill)
		c.move(2*time.Minute, 2*time.Minute)
		syncNow(t, s)
	}
	var once sync.Once
	at = func(now string) {
		if now != step {
			return
		}
		once.Do(func() {
			version++
			if _, err := s.Invalidate(t.Context(), tag("posts"), Mark{}); err != nil {
				t.Error(err)
			}
			if err := s.turnAfter().wait(t.Context()); err != nil { // the barrier: this is the only node
				t.Error(err)
			}
			log++
			published[log] = version
		})
	}

	req.Position = strconv.Itoa(log)
	at("before the look-up")
	r := fetch(t, s, req, fill)
	testkit.Until(t, "no fetch is in flight", func() bool { // which a stale answer began
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.flights) == 0
	})
	saw, _ := strconv.Atoi(text(r.Entry))
	stood, err := strconv.Atoi(r.Position)
	if err != nil {
		t.Fatalf("position %q: %v", r.Position, err)
	}
	return saw < published[stood], saw < published[log]
}

// Epoch and token are captured together: the token of one ledger beside the
// epoch of another would let old content pass.
func TestPositionInTheLedgerIsOneValue(t *testing.T) {
	t.Parallel()
	m := newMirror(time.Hour, now)
	epochs := []string{strings.Repeat("a", epochLen), strings.Repeat("b", epochLen)}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				if at := m.position(); at.token != 0 && epochs[at.token%2] != at.epoch {
					t.Errorf("token %d beside epoch %q", at.token, at.epoch)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for token := uint64(1); token < 20_000; token++ { // each epoch has its own parity
		m.merge(m.question(), answer{epoch: epochs[token%2], token: token, whole: true}, now(), now())
	}
	close(stop)
	wg.Wait()
}
