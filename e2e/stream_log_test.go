package e2e

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// A client that takes what it missed at a moderate pace gets each change from
// the log, which is not read over and over for it.
func TestStreamClientsOnASlowLineGetAllThatTheyMissed(t *testing.T) {
	const missed, clients = 900, 5
	inBothModes(t, func(t *testing.T, mode string) {
		l := newLab(t, 1, nil, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_RING_LEN=50", "FRESHWIRE_SSE_MAX_REPLAY=2000")
		l.publish(t, 0)
		begin := l.book.last(bits(0))
		l.publishMany(t, missed, 100_000, strings.Repeat("x", 4<<10))
		testkit.Until(t, "the node has all", func() bool { return l.nodes[0].holds(t, missed+1) })
		before := sentBytes(t, l.redis)
		began := time.Now()
		c := newCrowdOf(t, l.book, clients, l.nodes, func(int) []int { return []int{0} }, func(_ int, k *checker) {
			k.dial = dialSlowly
			k.from(begin)
		})
		v := c.verdict(t)
		read := float64(sentBytes(t, l.redis)-before) / (missed * (4 << 10))
		t.Logf("slow line, %s: told in %v; Redis was read %.1f times over for %d clients; %v", mode, time.Since(began).Round(time.Millisecond), read, clients, v)
		if v.resets > 0 {
			t.Errorf("%d resets of clients that missed %d changes, of 2000 that are replayed", v.resets, missed)
		}
		if read > 3*clients {
			t.Errorf("Redis was read %.1f times over for %d clients", read, clients)
		}
	})
}

// sentBytes returns how much Redis has sent.
func sentBytes(t testing.TB, s *testkit.Server) int {
	info, err := s.Client(t).Info(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(info, "total_net_output_bytes:")
	n, err := strconv.Atoi(strings.TrimSpace(after[:strings.IndexByte(after, '\n')]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dialSlowly connects over a line of about 2 MB/s.
func dialSlowly(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	return &slowLine{Conn: conn, ctx: ctx}, nil
}

type slowLine struct {
	net.Conn
	ctx  context.Context // the client's life
	read int
}

func (s *slowLine) Read(b []byte) (int, error) {
	if s.read > 20<<10 {
		s.read = 0
		rest(s.ctx, 10*time.Millisecond)
	}
	n, err := s.Conn.Read(b)
	s.read += n
	return n, err
}

// While the log cannot be read, who needs it is told so: nobody waits in
// silence for those before.
func TestStreamClientsAreToldWhenTheLogHangs(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		const clients, patience = 60, 20 * time.Second // as long as a stream may say nothing
		l, lines := linked(t, 1, nil, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_RING_LEN=5")
		var positions []string
		for range clients + 10 {
			positions = append(positions, l.last(t, 0))
		}
		testkit.Until(t, "the node has all", func() bool { return l.nodes[0].holds(t, clients+10) })
		lines[0].Hold()
		defer lines[0].Release()
		began := time.Now()
		var wait sync.WaitGroup
		waited := make(spread, clients)
		errs := make([]error, clients)
		for i := range clients {
			wait.Go(func() {
				w, err := openWire(t.Context(), dialTCP, l.nodes[0].addr(), "channel=c0", "Last-Event-ID: "+positions[i]+"\r\n")
				if err == nil {
					defer w.Close()
					_, _, err = w.until(func(told) bool { return true })
				}
				waited[i], errs[i] = time.Since(began), err
			})
		}
		wait.Wait()
		t.Logf("hanging log, %s: %d clients, each at its own position, were told something after %v", mode, clients, slices.Clone(waited))
		if errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil }); len(errs) > 0 {
			t.Errorf("%d clients were told nothing, the first: %v", len(errs), errs[0])
		}
		if waited.at(1) > patience {
			t.Errorf("a client waited %v in silence, want %v at most", waited.at(1), patience)
		}
	})
}
