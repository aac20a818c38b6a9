package sse

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"runtime"
	"slices"
	"testing"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
)

// nowhere is a socket that takes everything, and keeps nothing.
type nowhere struct{ bytes int }

func (s *nowhere) watch(*shard, *subscriber) error { return nil }
func (s *nowhere) ready()                          {}
func (s *nowhere) unsent() int                     { return 0 }
func (s *nowhere) end([]byte)                      {}
func (s *nowhere) write(b []byte) (int, error)     { s.bytes += len(b); return len(b), nil }

// crowd returns a shard with n subscribers, whose passes are the caller's.
func crowd(n int, channels func(i int) []string) (*Hub, *shard) {
	hub := NewHub(testkit.Discard(), Config{MaxSubscribers: n})
	hub.Reset("history_lost", at(0))
	hub.shards = hub.shards[:1]
	sh := hub.shards[0]
	sh.running = true
	for i := range n {
		s := &subscriber{sock: new(nowhere), key: viewOf(slices.Clone(channels(i)), false), behind: &backlog{fresh: true}}
		if !hub.admit(s) {
			panic("too many subscribers")
		}
		sh.accept(s)
	}
	sh.pass()
	return hub, sh
}

// BenchmarkBroadcast is changes to all subscribers of their channel, until the
// last of them was written to. No sockets: it shows the hub's own cost.
func BenchmarkBroadcast(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		for _, at1 := range []int{1, 20} {
			b.Run(fmt.Sprintf("subscribers=%d/changes=%d", n, at1), func(b *testing.B) {
				hub, sh := crowd(n, func(int) []string { return []string{"posts"} })
				recs := make([]event.Record, at1)
				ms := uint64(0)
				b.ReportAllocs()
				for b.Loop() {
					for i := range recs {
						ms++
						recs[i] = record(ms, `{"id":"x","event":"post.update"}`, "posts")
					}
					hub.Broadcast(recs)
					sh.pass()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n*at1), "ns/delivery")
			})
		}
	}
}

// BenchmarkMatch is one change on three channels, among subscribers with five
// channels each of 100,000.
func BenchmarkMatch(b *testing.B) {
	hub, sh := crowd(20_000, func(i int) []string {
		names := make([]string, 5)
		for j := range names {
			names[j] = fmt.Sprint("post:", (i*5+j)%100_000)
		}
		return names
	})
	ms := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		ms++
		hub.Broadcast([]event.Record{record(ms, `{"id":"x"}`, fmt.Sprint("post:", ms%100_000), fmt.Sprint("post:", ms*7%100_000), "pages")})
		sh.pass()
	}
}

// BenchmarkIdleConnection opens real HTTP/1.1 streams and reports what the
// server's side and a bare client socket hold of the Go heap and stacks.
func BenchmarkIdleConnection(b *testing.B) {
	for name, way := range ways {
		if way.h2 {
			continue
		}
		b.Run(name, func(b *testing.B) {
			most := 0.0 // what one run leaves behind is used by the next
			for b.Loop() {
				most = max(most, idle(b, way.handler(b, nil, Config{})))
			}
			b.ReportMetric(most, "B/conn")
		})
	}
}

func idle(b *testing.B, h *Handler) (bytesEach float64) {
	const n = 2000
	s := serve(b, h)
	before := heapHeld()
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		conns[i] = c
		fmt.Fprintf(c, "GET /api/events?channel=posts HTTP/1.1\r\nHost: x\r\n\r\n")
		for r := bufio.NewReaderSize(c, 64); ; {
			line, err := r.ReadSlice('\n')
			if err != nil && err != bufio.ErrBufferFull {
				b.Fatal(err)
			}
			if bytes.Contains(line, []byte("position")) {
				break
			}
		}
	}
	after := heapHeld()
	for _, c := range conns {
		c.Close()
	}
	return float64(after-before) / n
}

func heapHeld() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// BenchmarkReplay is 1000 missed changes to one subscriber, from the ring.
func BenchmarkReplay(b *testing.B) {
	hub, sh := crowd(1, func(int) []string { return []string{"pages"} })
	for ms := uint64(1); ms <= 1000; ms++ {
		hub.Broadcast([]event.Record{change(ms, "posts")})
	}
	sh.pass()
	b.ReportAllocs()
	for b.Loop() {
		s := &subscriber{sock: new(nowhere), key: "posts", behind: &backlog{}}
		hub.admit(s)
		sh.accept(s)
		for sh.pass(); s.behind != nil; sh.pass() {
		}
		sh.close(s)
	}
}
