package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freshwire/freshwire/internal/testkit"
)

// Readers that take nothing, or a little, and requests that never end: others
// are served as before, memory is bounded, and the blocked are closed.
func TestStreamOfHealthyReadersIsNotHeldUpBySlowOnes(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		if mode == "plain" && !tortured() {
			t.Skip("skipped: FRESHWIRE_TORTURE_STREAM=1 asks for it")
		}
		const stalled = 200
		halfSent := size(200, 1000)
		l := newLab(t, 1, nil, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_WRITE_TIMEOUT=2s", "FRESHWIRE_SSE_RING_LEN=60", "FRESHWIRE_LOG_HISTORY=60", "GOGC=50")
		p := l.nodes[0]
		c := newCrowd(t, l.book, 50, l.nodes, func(int) []int { return []int{0} })
		for _, k := range c.all {
			k.mu.Lock()
			k.measures = true
			k.mu.Unlock()
		}
		stop := l.publishing(t, 30*time.Millisecond, 1, strings.Repeat("x", 8<<10))

		// As many streams that nothing is told to, and the ring full: what
		// follows is measured against that.
		idle := slowReaders(t, p, stalled, "c9", nothing)
		flow(t, l, 70)
		c.latencies()
		before := p.watchMemory(t, func() { flow(t, l, size(60, 300)) })
		without := c.latencies()
		idle.close()
		testkit.Until(t, "idle streams are gone", func() bool { return p.subscribers(t) == 50 })

		base := p.metrics(t)["freshwire_sse_stalled_total"]
		began := time.Now()
		silent := slowReaders(t, p, stalled/2, "c0", nothing)
		dripping := slowReaders(t, p, stalled/2, "c0", aKilobyteASecond)
		during := p.watchMemory(t, func() { flow(t, l, 60) })
		loris := slowloris(t, p, halfSent)
		flow(t, l, size(60, 200))
		with := c.latencies()
		closed := func() int { return int(p.metrics(t)["freshwire_sse_stalled_total"] - base) }
		testkit.Until(t, "those who read nothing are closed", func() bool { return closed() >= stalled/2 })
		took := time.Since(began)
		testkit.Until(t, "half-sent requests are closed", func() bool { return loris.closed() == halfSent })
		silent.close()
		dripping.close()
		testkit.Until(t, "only the healthy are left", func() bool { return p.subscribers(t) == 50 })
		testkit.Until(t, "nobody is blocked", func() bool { return p.metrics(t)["freshwire_sse_blocked"] == 0 })

		stop()
		v := c.verdict(t)
		each := (during - before) / stalled
		t.Logf("molasses, %s: healthy p50 %v, p99 %v without, p50 %v, p99 %v beside %d slow readers and %d half-sent requests; "+
			"%d closed as stalled, the silent ones after %v; memory %.1f MiB with idle, %.1f MiB with slow streams: %d KB each; %v",
			mode, without.at(.5), without.at(.99), with.at(.5), with.at(.99), stalled, halfSent,
			closed(), took.Round(100*time.Millisecond), mib(before), mib(during), each>>10, v)
		if each > 64<<10 {
			t.Errorf("a slow reader costs %d KB more than an idle one, want less than 64", each>>10)
		}
		if v.resets > 0 {
			t.Errorf("%d resets of healthy readers", v.resets)
		}
		if with.at(.5) > 10*without.at(.5)+100*time.Millisecond { // a sign of waiting for others; the machine is shared
			t.Errorf("healthy readers waited %v at the median beside slow ones, %v without", with.at(.5), without.at(.5))
		}
	})
}

func mib(n int) float64 { return float64(n) / (1 << 20) }

// latencies takes what was measured so far.
func (c *crowd) latencies() (s spread) {
	for _, k := range c.all {
		k.mu.Lock()
		s = append(s, k.latency...)
		k.latency = nil
		k.mu.Unlock()
	}
	return s
}

// watchMemory returns the most memory that p had while work was under way:
// what is in RAM or, with the race detector, whose shadow hides that, what the
// heap and the stacks hold.
func (p *process) watchMemory(t testing.TB, work func()) (most int) {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			now := 0
			if len(buildFlags) > 0 {
				m := p.metrics(t)
				now = int(m["go_memstats_heap_inuse_bytes"] + m["go_memstats_stack_inuse_bytes"])
			} else {
				now = p.rss(t)
			}
			most = max(most, now)
			rest(ctx, 100*time.Millisecond)
		}
	})
	work()
	cancel()
	done.Wait()
	return most
}

// slowly are connections that do not take what they are sent.
type slowly struct {
	conns  []net.Conn
	ctx    context.Context // the time of their life
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	ended int
}

// begin lets each connection be used as how says.
func (s *slowly) begin(how behave) {
	for _, c := range s.conns {
		s.done.Go(func() {
			if how(s.ctx, c) != nil {
				s.mu.Lock()
				s.ended++
				s.mu.Unlock()
			}
		})
	}
}

func (s *slowly) close() {
	s.cancel()
	for _, c := range s.conns {
		c.Close()
	}
	s.done.Wait()
}

func (s *slowly) closed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// behave is how a client uses its connection, until ctx ends.
type behave func(ctx context.Context, c net.Conn) error

func nothing(ctx context.Context, _ net.Conn) error { <-ctx.Done(); return nil }

func aKilobyteASecond(ctx context.Context, c net.Conn) error {
	buf := make([]byte, 256)
	for ctx.Err() == nil {
		if _, err := c.Read(buf); err != nil {
			return err
		}
		rest(ctx, 250*time.Millisecond)
	}
	return nil
}

// slowReaders opens n streams; each begins to be slow when it is answered.
func slowReaders(t testing.TB, p *process, n int, channel string, how behave) *slowly {
	t.Helper()
	s := connectSlowly(t, p, n, fmt.Sprintf("GET /api/events?channel=%s HTTP/1.1\r\nHost: x\r\n\r\n", channel))
	status := make([]byte, len("HTTP/1.1 200"))
	for _, c := range s.conns {
		if _, err := io.ReadFull(c, status); err != nil || string(status) != "HTTP/1.1 200" {
			t.Fatalf("a slow reader is answered %q, %v", status, err)
		}
	}
	s.begin(how)
	return s
}

// slowloris opens n connections with the beginning of a request, and sends a
// byte more from time to time.
func slowloris(t testing.TB, p *process, n int) *slowly {
	s := connectSlowly(t, p, n, "GET /api/events?channel=c0 HTTP/1.1\r\nHost: x\r\nX-")
	s.begin(func(ctx context.Context, c net.Conn) error {
		for ctx.Err() == nil {
			if _, err := io.WriteString(c, "a"); err != nil {
				return err
			}
			rest(ctx, time.Second)
		}
		return nil
	})
	return s
}

// connectSlowly opens connections with small buffers, on both ends: a small
// segment size makes the server's send buffer small, too.
func connectSlowly(t testing.TB, p *process, n int, say string) *slowly {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &slowly{ctx: ctx, cancel: cancel}
	d := net.Dialer{Timeout: 10 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10)
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1000)
		})
	}}
	t.Cleanup(s.close)
	for range n {
		c, err := d.DialContext(t.Context(), "tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		s.conns = append(s.conns, c)
		if _, err := io.WriteString(c, say); err != nil {
			t.Fatal(err)
		}
	}
	return s
}
