package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// Clients come and go, in every way in which one can go, and leave nothing
// behind: no stream, channel, descriptor, goroutine or memory.
func TestStreamClientsThatComeAndGoLeaveNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		l := newLab(t, 1, nil, "FRESHWIRE_SSE_MODE="+mode)
		l.publishing(t, 20*time.Millisecond, 10, "")
		p := l.nodes[0]
		visitors := newVisitors(t, p)
		wave := size(500, 1000)
		visitors.wave(wave) // pools are filled, connections to Redis are open
		start := settled(t, p, resources{}, true)
		for range size(4, 20) {
			visitors.wave(wave)
		}
		end := settled(t, p, start, false)
		t.Logf("coming and going, %s: %s; before %v; after %v", mode, visitors, start, end)
		end.compare(t, start)
	})
}

// TestStreamSoak is the long run of the above, with a table of minutes.
func TestStreamSoak(t *testing.T) {
	long := os.Getenv("FRESHWIRE_TORTURE_SOAK")
	if long == "" {
		t.Skip("skipped: FRESHWIRE_TORTURE_SOAK, such as 10m, is how long")
	}
	length, err := time.ParseDuration(long)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t, 1, nil, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_MAX_AGE=30s")
			stop := l.publishing(t, 20*time.Millisecond, 10, "")
			p := l.nodes[0]
			stay := newCrowd(t, l.book, 200, l.nodes, spreadOver(10))
			visitors := newVisitors(t, p)
			visitors.wave(500)
			began := time.Now()
			var first, last resources
			for minute := 0; time.Since(began) < length; minute++ {
				for next := time.Now().Add(time.Minute); time.Now().Before(next) && time.Since(began) < length; {
					visitors.wave(300)
				}
				last = take(t, p)
				if minute == 0 {
					first = last
				}
				t.Logf("soak, %s, minute %d: %s; %v; %v of CPU", mode, minute+1, visitors, last, p.cpu(t).Round(time.Second))
			}
			published := stop()
			v := stay.verdict(t)
			end := settled(t, p, resources{}, true)
			t.Logf("soak, %s: %v, %d changes; %v; at the end %v", mode, length, published, v, end)
			if last.memory > first.memory*3/2+(8<<20) {
				t.Errorf("memory grew from %.1f to %.1f MiB", mib(first.memory), mib(last.memory))
			}
		})
	}
}

// resources are what a node has in use.
type resources struct{ subscribers, channels, fds, goroutines, threads, memory int }

func (r resources) String() string {
	return fmt.Sprintf("%d streams, %d channels, %d descriptors, %d goroutines, %d threads, %.1f MiB", r.subscribers, r.channels, r.fds, r.goroutines, r.threads, mib(r.memory))
}

func take(t testing.TB, p *process) resources {
	t.Helper()
	m := p.metrics(t)
	r := resources{subscribers: int(m["freshwire_sse_subscribers"]), channels: int(m["freshwire_sse_channels"]), fds: int(m["process_open_fds"]),
		goroutines: int(m["go_goroutines"]), threads: int(m["go_threads"]), memory: p.rss(t)}
	if len(buildFlags) > 0 { // the race detector's shadow hides the rest
		r.memory = int(m["go_memstats_heap_inuse_bytes"] + m["go_memstats_stack_inuse_bytes"])
	}
	return r
}

// few is how many goroutines and descriptors may come and go by themselves: a
// connection to Redis, say.
const few = 8

// settled waits until everybody has gone: until p uses no more than it did, or
// twice the same when that is not known.
func settled(t testing.TB, p *process, before resources, unknown bool) (r resources) {
	t.Helper()
	last := resources{}
	testkit.Until(t, "everybody has gone", func() bool {
		last, r = r, take(t, p)
		rest(t.Context(), 100*time.Millisecond)
		if unknown {
			return r.subscribers == 0 && r.channels == 0 && r.goroutines == last.goroutines && r.fds == last.fds
		}
		return r.subscribers == 0 && r.channels == 0 && r.goroutines <= before.goroutines+few && r.fds <= before.fds+few
	})
	return r
}

// compare fails the test when r is more than was used before.
func (r resources) compare(t testing.TB, before resources) {
	t.Helper()
	if r.memory > before.memory*3/2+(8<<20) {
		t.Errorf("%.1f MiB in use, %.1f before", mib(r.memory), mib(before.memory))
	}
	if r.threads > before.threads+few {
		t.Errorf("%d threads, %d before", r.threads, before.threads)
	}
}

// visitors come and go.
type visitors struct {
	t       testing.TB
	p       *process
	conns   int
	ways    map[string]int
	overH2C *http.Client
}

func newVisitors(t testing.TB, p *process) *visitors {
	return &visitors{t: t, p: p, ways: map[string]int{}, overH2C: newHTTP2Client()}
}

func (v *visitors) String() string { return fmt.Sprintf("%d visits %v", v.conns, v.ways) }

// wave lets n visitors come at once, each leaves in its own way, and returns
// when all have left.
func (v *visitors) wave(n int) {
	v.t.Helper()
	ways := []struct {
		name  string
		visit func(query string) error
	}{
		{"after a change", v.hearsAndCloses}, {"at once", v.closesAtOnce}, {"with a reset", v.resets}, {"with half a request", v.asksHalf},
		{"deaf", v.neverReads}, {"over h2c", v.overHTTP2}, {"half closed", v.halfCloses},
	}
	var done sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		w := ways[rand.IntN(len(ways))]
		v.ways[w.name]++
		v.conns++
		done.Go(func() {
			query := "channel=" + channelName(rand.IntN(10))
			if rand.IntN(3) == 0 { // from the log, or reset
				query += "&lastEventId=" + []string{"1-0", "abc", fmt.Sprint(time.Now().UnixMilli(), "-0")}[rand.IntN(3)]
			}
			if err := w.visit(query); err != nil {
				errs <- fmt.Errorf("leaving %s: %w", w.name, err)
			}
		})
	}
	done.Wait()
	v.overH2C.CloseIdleConnections()
	close(errs)
	for err := range errs {
		v.t.Error(err)
	}
}

func (v *visitors) opened(query string) (*wire, error) {
	w, err := openWire(v.t.Context(), dialTCP, v.p.addr(), query, "")
	if err != nil {
		return nil, err
	}
	if _, _, err := w.until(func(e told) bool { return e.name == "ready" }); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (v *visitors) hearsAndCloses(query string) error {
	w, err := v.opened(query)
	if err != nil {
		return err
	}
	defer w.Close()
	_, _, err = w.until(func(e told) bool { return e.name == "" })
	return err
}

func (v *visitors) closesAtOnce(query string) error {
	c, err := v.asked(query)
	if err != nil {
		return err
	}
	return c.Close()
}

func (v *visitors) resets(query string) error {
	w, err := v.opened(query)
	if err != nil {
		return err
	}
	w.conn.(*net.TCPConn).SetLinger(0)
	return w.Close()
}

func (v *visitors) asksHalf(query string) error {
	c, err := dialTCP(v.t.Context(), v.p.addr())
	if err != nil {
		return err
	}
	io.WriteString(c, "GET /api/events?"+query+" HTTP/1.1\r\nHost: x\r\nX")
	return c.Close()
}

func (v *visitors) neverReads(query string) error {
	c, err := v.asked(query)
	if err != nil {
		return err
	}
	rest(v.t.Context(), rand.N(300*time.Millisecond))
	return c.Close()
}

// halfCloses says that it will ask no more. It may be served on, or be closed.
func (v *visitors) halfCloses(query string) error {
	w, err := v.opened(query)
	if err != nil {
		return err
	}
	defer w.Close()
	w.conn.(*net.TCPConn).CloseWrite()
	w.until(func(e told) bool { return e.name == "" })
	return nil
}

func (v *visitors) overHTTP2(query string) error {
	ctx, cancel := context.WithCancel(v.t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", v.p.URL+"/api/events?"+query, nil)
	resp, err := v.overH2C.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	begin := make([]byte, len("retry: "))
	if _, err := io.ReadFull(resp.Body, begin); err != nil || resp.ProtoMajor != 2 || !strings.HasPrefix(string(begin), "retry:") {
		return fmt.Errorf("%s began with %q, %v", resp.Proto, begin, err)
	}
	return nil
}

// asked is a connection with a request on it.
func (v *visitors) asked(query string) (net.Conn, error) {
	c, err := dialTCP(v.t.Context(), v.p.addr())
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(c, "GET /api/events?"+query+" HTTP/1.1\r\nHost: x\r\n\r\n")
	return c, err
}
