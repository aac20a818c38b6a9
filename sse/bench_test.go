package sse

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
)

// counter is a connection that counts the bytes written to it.
type counter struct {
	memory
	wrote func(int)
}

func (c *counter) Write(b []byte) (int, error) { c.wrote(len(b)); return len(b), nil }

// BenchmarkBroadcast is one change to all subscribers of its channel, until the
// last of them has written it. No sockets: what it shows is the hub's own cost.
func BenchmarkBroadcast(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			hub := NewHub(testkit.Discard(), Config{MaxSubscribers: n})
			hub.Reset("history_lost", at(0))
			h := NewHandler(hub, nil, testkit.Discard(), Config{})
			ctx, cancel := context.WithCancel(b.Context())
			var streams, writes sync.WaitGroup
			writes.Add(n) // ready
			for range n {
				conn := &counter{memory: memory{header: http.Header{}}, wrote: func(int) { writes.Done() }}
				st := &stream{h: h, w: conn, rc: http.NewResponseController(conn), sub: hub.join([]string{"posts"}, false, "", nil)}
				streams.Go(func() { st.run(ctx) })
			}
			writes.Wait()
			b.ReportAllocs()
			var publish time.Duration
			for i := 0; b.Loop(); i++ {
				writes.Add(n)
				start := time.Now()
				hub.Broadcast([]event.Record{change(uint64(i+1), "posts")})
				publish += time.Since(start)
				writes.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/delivery")
			b.ReportMetric(float64(publish.Microseconds())/float64(b.N), "µs/Broadcast")
			cancel()
			streams.Wait()
		})
	}
}

// BenchmarkIdleConnection opens real HTTP/1.1 streams and reports what the
// server's side and a bare client socket hold of the Go heap and stacks.
func BenchmarkIdleConnection(b *testing.B) {
	const n = 2000
	for b.Loop() {
		hub := NewHub(testkit.Discard(), Config{})
		hub.Reset("history_lost", at(0))
		s := serve(b, NewHandler(hub, nil, testkit.Discard(), Config{}))
		before := held()
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
		b.ReportMetric(float64(held()-before)/n, "B/conn")
		for _, c := range conns {
			c.Close()
		}
	}
}

func held() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// BenchmarkReplay is 1000 missed changes to one subscriber, from the ring.
func BenchmarkReplay(b *testing.B) {
	hub := NewHub(testkit.Discard(), Config{})
	hub.Reset("history_lost", at(0))
	h := NewHandler(hub, nil, testkit.Discard(), Config{})
	for ms := uint64(1); ms <= 1000; ms++ {
		hub.Broadcast([]event.Record{change(ms, "posts")})
	}
	conn := &counter{memory: memory{header: http.Header{}}, wrote: func(int) {}}
	b.ReportAllocs()
	for b.Loop() {
		from := at(0)
		st := &stream{h: h, w: conn, rc: http.NewResponseController(conn), sub: hub.join([]string{"posts"}, false, "", &from)}
		for more := true; more; {
			_, more, _ = st.step(b.Context())
		}
		hub.leave(st.sub)
	}
}
