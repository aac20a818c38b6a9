package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// Clients come back after more changes than are kept: each is told so, once,
// before anything else where that is known at once, and goes on. Where enough
// is kept they get every change instead, one by one or merged.
func TestStreamClientsThatStayedAwayAreResetOnce(t *testing.T) {
	type want struct{ reset, first bool }
	inBothModes(t, func(t *testing.T, mode string) {
		for _, tc := range []struct {
			name                  string
			clients, missed, ring int
			logLen                int64
			env                   string
			want                  want
		}{
			{"log trimmed", 100, 3000, 2000, 1000, "SSE_MAX_REPLAY=10000", want{reset: true, first: true}},
			{"replay bounded", size(20, 100), size(900, 3000), size(500, 2000), 100_000, "SSE_MAX_REPLAY=300", want{reset: true}},
			{"one by one", size(20, 100), size(900, 3000), size(500, 2000), 100_000, "SSE_MERGE_OVER=5000", want{}},
			{"merged", size(50, 100), 900, 2000, 100_000, "SSE_MERGE_OVER=500", want{}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				l := newLab(t, 1, nil, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_RETRY=50ms",
					fmt.Sprint("FRESHWIRE_SSE_RING_LEN=", tc.ring), "FRESHWIRE_"+tc.env)
				line := testkit.StartProxy(t, l.nodes[0].addr())
				way := &process{URL: "http://" + line.Addr}
				c := newCrowd(t, l.book, tc.clients, []*process{way}, func(int) []int { return []int{0} })
				l.publish(t, 0)
				c.await(t, "all have heard the first", func(k *checker) bool { return len(k.account.notes) > 1 })

				c.meet()
				line.Cut()
				for range tc.missed / 300 { // what the node itself cannot miss
					l.publishMany(t, 300, tc.logLen, "")
					testkit.Until(t, "the node has all", func() bool { return l.nodes[0].holds(t, l.book.len()) })
				}
				reached := l.book.last(bits(0)).String()
				c.meet(way)
				began := time.Now()
				c.await(t, "all are told where they stand", func(k *checker) bool { return k.last == reached })
				took := time.Since(began)
				for range 20 {
					l.publish(t, 0)
				}
				v := c.verdict(t)
				t.Logf("trimmed, %s, %s: %d missed changes, settled in %v; %v", mode, tc.name, tc.missed, took.Round(time.Millisecond), v)
				wrong := 0
				for i, k := range c.all {
					resets, before := afterAbsence(k.account.notes[2:]) // after the first ready and change
					if (resets == 1) != tc.want.reset || resets > 1 || tc.want.first && before > 0 {
						if wrong++; wrong <= 5 {
							t.Errorf("client %d got %d resets, the first after %d other events", i, resets, before)
						}
					}
				}
			})
		}
	})
}

// afterAbsence counts resets, and what came before the first.
func afterAbsence(notes []note) (resets, before int) {
	for _, n := range notes {
		if n.kind == noteReset {
			resets++
		} else if resets == 0 {
			before++
		}
	}
	return resets, before
}
