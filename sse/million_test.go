//go:build unix

package sse

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
)

// Hub, cursors, topic index and clocks as they are, for a million connections
// (FRESHWIRE_MODEL_CONNECTIONS=1000000; else fewer), which take bytes and do
// nothing: no machine of ours has as many sockets. The figures are the test's.
func TestEventReachesConnectionsByTheMillion(t *testing.T) {
	n, heartbeat := 20_000, time.Second
	if text := os.Getenv("FRESHWIRE_MODEL_CONNECTIONS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 100 {
			t.Fatalf("FRESHWIRE_MODEL_CONNECTIONS=%q, want a number of connections, at least 100", text)
		}
		heartbeat = 15 * time.Second // as it is
	}
	for _, test := range []struct {
		name    string
		channel func(i int) string
		each    bool    // has its own
		most    float64 // bytes a subscriber
	}{
		{"one channel for all", func(int) string { return strings.Clone("posts") }, false, 400},
		{"a channel each", func(i int) string { return fmt.Sprint("post:", i) }, true, 1200},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newMultitude(n, heartbeat)
			before := heapAndStacks()
			joining := c.join(t, test.channel)
			each := float64(heapAndStacks()-before) / float64(n)
			if each > test.most {
				t.Errorf("a subscriber takes %.0f bytes, want at most %.0f", each, test.most)
			}
			channels, everybody := 1, "posts"
			if test.each {
				channels, everybody = n, event.Everybody
			}
			if got := c.hub.Channels(); got != channels {
				t.Errorf("%d channels, want %d", got, channels)
			}

			var toAll, toOne []time.Duration
			var work time.Duration
			const rounds = 7
			for i := range rounds {
				used := processorTime(t)
				toAll = append(toAll, c.publish(t, uint64(2*i+1), everybody, n))
				work += processorTime(t) - used
				if test.each {
					toOne = append(toOne, c.publish(t, uint64(2*i+2), test.channel(i), 1))
				}
			}
			for i := range c.takers {
				want := int32(rounds)
				if test.each && i < rounds {
					want++
				}
				if got := c.takers[i].events; got != want {
					t.Fatalf("subscriber %d got %d events, want %d", i, got, want)
				}
			}
			ping := c.pings(t)
			c.drain(t)

			one := ""
			if test.each {
				one = fmt.Sprintf("; to one of them in %v", middle(toOne))
			}
			t.Logf("%d connections, %s, %d cores: %.0f bytes each; joined in %v; one event to all in %v (%v of processor time)%s; pings to all: %v of processor time",
				n, test.name, runtime.GOMAXPROCS(0), each, joining.Round(time.Millisecond), middle(toAll), (work / rounds).Round(10*time.Microsecond), one, ping.Round(time.Millisecond))
		})
	}
}

// modelPatience is for a million on a machine that has other work.
const modelPatience = 5 * time.Minute

// multitude is a hub and its connections without sockets.
type multitude struct {
	hub    *Hub
	takers []taker // one a connection
	counts []*count
	done   chan struct{} // holds one: all that was awaited was written
}

// count is what a shard has written, and awaits.
type count struct {
	multitude *multitude
	waiting   *atomic.Int64 // of all shards; the last one tells
	left      atomic.Int64  // writes that are awaited of this shard
	pings     atomic.Int64  // pings that are
	_         [64]byte      // shards do not share a line of the cache
}

// taker is a socket that takes everything.
type taker struct {
	count  *count
	events int32
	ended  bool
}

func (s *taker) watch(*shard, *subscriber) error { return nil }
func (s *taker) ready()                          {}
func (s *taker) unsent() int                     { return 0 }
func (s *taker) end([]byte)                      { s.ended = true; s.count.wrote(&s.count.left) }

func (s *taker) write(b []byte) (int, error) {
	switch {
	case bytes.HasPrefix(b, pingEvent):
		s.count.wrote(&s.count.pings)
		return len(b), nil
	case !bytes.HasPrefix(b, []byte("retry:")): // not the beginning of the stream
		s.events++
	}
	s.count.wrote(&s.count.left)
	return len(b), nil
}

func (n *count) wrote(awaited *atomic.Int64) {
	if awaited.Add(-1) == 0 && n.waiting.Add(-1) == 0 {
		n.multitude.done <- struct{}{}
	}
}

func newMultitude(n int, heartbeat time.Duration) *multitude {
	c := &multitude{takers: make([]taker, n), done: make(chan struct{}, 1)}
	c.hub = NewHub(testkit.Discard(), Config{MaxSubscribers: n, Heartbeat: heartbeat})
	c.hub.Reset(HistoryLost, at(0))
	waiting := new(atomic.Int64)
	for range c.hub.shards {
		c.counts = append(c.counts, &count{multitude: c, waiting: waiting})
	}
	return c
}

// expect begins to await as many writes as each shard has connections.
func (c *multitude) expect(begin func(n *count, takers int64)) {
	c.counts[0].waiting.Store(int64(min(len(c.counts), len(c.takers))))
	for i, n := range c.counts {
		begin(n, int64((len(c.takers)+len(c.counts)-1-i)/len(c.counts)))
	}
}

// await is called before something that makes each connection be written to, or ended.
func (c *multitude) await() { c.expect(func(n *count, takers int64) { n.left.Store(takers) }) }

// wait returns how long it took since begun.
func (c *multitude) wait(t *testing.T, begun time.Time, what string) time.Duration {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(modelPatience):
		t.Fatalf("waited %v for %s", modelPatience, what)
	}
	return time.Since(begun)
}

// join lets every connection listen to a channel, as the handler does once a
// connection is taken over.
func (c *multitude) join(t *testing.T, channel func(i int) string) time.Duration {
	c.await()
	begun := time.Now()
	for i := range c.takers {
		s := &subscriber{key: viewOf([]string{channel(i)}, false), behind: &backlog{rest: appendRetry(nil, 2*time.Second), fresh: true}}
		if !c.hub.admit(s) {
			t.Fatalf("connection %d is not admitted", i)
		}
		shard := i % len(c.counts)
		c.takers[i].count = c.counts[shard]
		s.sock = &c.takers[i]
		c.hub.shards[shard].accept(s)
	}
	return c.wait(t, begun, "everybody to be told where the stream begins")
}

// publish returns how long it takes until an event is written to all who listen, n of them.
func (c *multitude) publish(t *testing.T, ms uint64, channel string, n int) time.Duration {
	c.await()
	if n == 1 {
		c.counts[0].waiting.Store(1)
		for _, n := range c.counts {
			n.left.Store(1)
		}
	}
	rec := change(ms, channel)
	begun := time.Now()
	c.hub.Broadcast([]event.Record{rec})
	return c.wait(t, begun, "an event to be written to all")
}

// pings returns the processor time of one ping to each.
func (c *multitude) pings(t *testing.T) time.Duration {
	c.expect(func(n *count, takers int64) { n.pings.Store(takers) })
	begun, used := time.Now(), processorTime(t)
	c.wait(t, begun, "everybody to get a ping")
	return processorTime(t) - used
}

func (c *multitude) drain(t *testing.T) {
	c.await()
	c.hub.drain()
	c.wait(t, time.Now(), "everybody to be sent away")
	testkit.Wait(t, c.hub.empty, "the hub to be empty")
	if i := slices.IndexFunc(c.takers, func(s taker) bool { return !s.ended }); i >= 0 || c.hub.Subscribers() != 0 || c.hub.Channels() != 0 {
		t.Errorf("after the drain connection %d is open, %d subscribers and %d channels are left", i, c.hub.Subscribers(), c.hub.Channels())
	}
}

// middle returns the median, zero of none.
func middle(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.SortFunc(all, cmp.Compare[time.Duration])
	return all[len(all)/2].Round(10 * time.Microsecond)
}

func processorTime(t *testing.T) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// heapAndStacks is what they hold, garbage apart.
func heapAndStacks() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
