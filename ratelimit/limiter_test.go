package ratelimit

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// client opens a client as a node does.
func client(t testing.TB, addrs ...string) redis.UniversalClient {
	t.Helper()
	o := &redis.UniversalOptions{Addrs: addrs}
	Options(o)
	rdb := redis.NewUniversalClient(o)
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// admitted returns how many of n requests, eight at a time and to the nodes in turn, are admitted.
func admitted(t testing.TB, n int, who netip.Addr, nodes ...*Limiter) int {
	t.Helper()
	var ok atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				if nodes[i%len(nodes)].Allow(t.Context(), who).OK {
					ok.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(ok.Load())
}

func calls(t testing.TB, rdb *redis.Client) int64 {
	t.Helper()
	info, err := rdb.InfoMap(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, c := range info["Stats"]["total_commands_processed"] {
		n = n*10 + int64(c-'0')
	}
	return n
}

func TestNodesShareOneLimit(t *testing.T) {
	server := testkit.StartServer(t)
	cfg := Config{Rate: Rate{50, time.Hour}}
	a, b := New(client(t, server.Addr), testkit.Logger(t), cfg), New(client(t, server.Addr), testkit.Logger(t), cfg)
	if n := admitted(t, 300, someone, a, b); n != 50 {
		t.Errorf("two nodes admitted %d of 300, want 50", n)
	}
	other := netip.MustParseAddr("192.0.2.2")
	if n := admitted(t, 20, other, a, b); n != 20 {
		t.Errorf("another client: %d of 20 admitted", n)
	}
	// Each with a namespace of its own they share nothing: the test would see it.
	cfg.Namespace = "another"
	if n := admitted(t, 300, someone, New(client(t, server.Addr), testkit.Logger(t), cfg), a); n != 50 {
		t.Errorf("another site admitted %d of its 150, want 50", n)
	}
}

func TestClientsAreSpreadOverACluster(t *testing.T) {
	addrs := testkit.StartCluster(t)
	l := New(client(t, addrs...), testkit.Logger(t), Config{Rate: Rate{2, time.Hour}})
	for i := range 30 {
		who := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		if n := admitted(t, 4, who, l); n != 2 {
			t.Fatalf("client %d: %d of 4 admitted, want 2", i, n)
		}
	}
	if l.asleep.Load() != 0 {
		t.Error("the cluster was not asked")
	}
	for _, addr := range addrs {
		rdb := redis.NewClient(&redis.Options{Addr: addr})
		defer rdb.Close()
		if n := rdb.DBSize(t.Context()).Val(); n == 0 || n == 30 {
			t.Errorf("master %s has %d of 30 clients", addr, n)
		}
	}
}

func TestHammeringCostsRedisNothing(t *testing.T) {
	server := testkit.StartServer(t)
	rdb := server.Client(t)
	l := New(client(t, server.Addr), testkit.Logger(t), Config{Rate: Rate{5, time.Hour}})
	admitted(t, 100, someone, l)
	before := calls(t, rdb)
	first := l.Allow(t.Context(), someone)
	if n := admitted(t, 10_000, someone, l); n != 0 {
		t.Errorf("%d admitted of a client over its limit", n)
	}
	if n := calls(t, rdb) - before; n > 3 { // the questions of this test
		t.Errorf("10000 requests over the limit cost %d commands", n)
	}
	if d := l.Allow(t.Context(), someone); d.Wait > first.Wait || d.Wait == 0 || !d.Reset.Equal(first.Reset) {
		t.Errorf("told %+v after %+v", d, first)
	}
	// Without its memory it asks each time: the test would see it.
	before = calls(t, rdb)
	for range 100 {
		l.refused = refusals{}
		l.Allow(t.Context(), someone)
	}
	if n := calls(t, rdb) - before; n < 100 {
		t.Errorf("without the memory of refusals 100 requests cost %d commands", n)
	}
}

func TestWhoWaitedAsToldIsAdmittedByRedis(t *testing.T) {
	rdb := testkit.Redis(t)
	l := New(client(t, rdb.Options().Addr), testkit.Logger(t), Config{Rate: Rate{3, 400 * time.Millisecond}})
	var times []int64
	for range 12 {
		d := l.Allow(t.Context(), someone)
		for d.OK {
			times = append(times, d.Reset.UnixMilli()-400)
			d = l.Allow(t.Context(), someone)
		}
		if d.Wait > 400*time.Millisecond {
			t.Fatalf("told to wait %v of a window of 400ms", d.Wait)
		}
		start := time.Now()
		testkit.Until(t, "the wait is over", func() bool { return time.Since(start) >= d.Wait })
		if d = l.Allow(t.Context(), someone); !d.OK {
			t.Fatalf("refused after the wait: %+v", d)
		}
		times = append(times, d.Reset.UnixMilli()-400)
	}
	if err := judge(l.cfg.Rate, times); err != nil {
		t.Error(err)
	}
	testkit.Until(t, "nothing is left of a client that is gone", func() bool { return rdb.DBSize(t.Context()).Val() == 0 })
}

func TestRedisThatHangsDelaysNobody(t *testing.T) {
	server := testkit.StartServer(t)
	reg := prometheus.NewRegistry()
	var text syncBuffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	l := New(client(t, server.Addr), log, Config{Rate: Rate{100, time.Hour}, Pause: 50 * time.Millisecond, Metrics: reg})
	if n := admitted(t, 60, someone, l); n != 60 {
		t.Fatalf("%d of 60 admitted", n)
	}
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer server.Signal(syscall.SIGCONT)
	start := time.Now()
	n := admitted(t, 5000, someone, l)
	took := time.Since(start)
	if n != 40 {
		t.Errorf("%d admitted while Redis hangs, want the 40 that were left", n)
	}
	if took > 3*time.Second { // 5000 timeouts of 100ms by 8 callers are a minute
		t.Errorf("5000 requests took %v", took)
	}
	if v := testutil.ToFloat64(l.metrics.local); v != 1 {
		t.Errorf("freshwire_rate_limit_local = %v while Redis hangs", v)
	}
	other := netip.MustParseAddr("198.51.100.9")
	testkit.Until(t, "it was asked again in vain", func() bool {
		l.Allow(t.Context(), other)
		return testutil.ToFloat64(l.metrics.errors) >= 10
	})
	server.Signal(syscall.SIGCONT)
	testkit.Until(t, "limits are shared again", func() bool {
		l.Allow(t.Context(), other)
		return testutil.ToFloat64(l.metrics.local) == 0
	})
	if n := strings.Count(text.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, text.String())
	}
	if n := strings.Count(text.String(), "shared again"); n != 1 {
		t.Errorf("told %d times that limits are shared again:\n%s", n, text.String())
	}
	if d := l.Allow(t.Context(), someone); d.OK && l.rdb.Exists(t.Context(), l.key(someone)).Val() == 0 {
		t.Error("Redis forgot the client")
	}
}

// Without the breaker every request waits for the timeout.
func TestWithoutBreakerEachRequestWaits(t *testing.T) {
	server := testkit.StartServer(t)
	l := New(client(t, server.Addr), testkit.Discard(), Config{Rate: Rate{100, time.Hour}, Timeout: 20 * time.Millisecond})
	server.Signal(syscall.SIGSTOP)
	defer server.Signal(syscall.SIGCONT)
	start := time.Now()
	for range 10 {
		l.Allow(t.Context(), someone)
		l.asleep.Store(0)
	}
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("ten requests took %v, though nothing but the breaker keeps them from Redis", took)
	}
}

func TestCallerWhoLeavesIsNoFaultOfRedis(t *testing.T) {
	l := New(client(t, testkit.StartServer(t).Addr), testkit.Logger(t), Config{Rate: Rate{5, time.Hour}})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if d := l.Allow(gone, someone); !d.OK || d.Remaining != 4 {
		t.Errorf("a caller who left: %+v", d)
	}
	if l.asleep.Load() != 0 {
		t.Error("Redis is left alone since a caller left")
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
