package cache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// processes makes running nodes, each with a client of its own.
func processes(t *testing.T, addr string, n int, change ...func(*options)) []*Store {
	t.Helper()
	var nodes []*Store
	for range n {
		rdb := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { rdb.Close() })
		s := node(t, rdb, append(change, func(o *options) { o.lease = leaseTime })...)
		testkit.Go(t, s.Run)
		nodes = append(nodes, s)
	}
	for _, s := range nodes {
		testkit.Until(t, "ready", func() bool { return s.Ready() == nil })
	}
	return nodes
}

// herd makes so many callers ask each node for one cold key, and counts the
// calls of an origin that takes its time.
func herd(t *testing.T, nodes []*Store, callers int, takes time.Duration) (calls int64) {
	t.Helper()
	var asked atomic.Int64
	var wg sync.WaitGroup
	for _, s := range nodes {
		for range callers {
			wg.Go(func() {
				r, err := s.Fetch(t.Context(), Request{Key: "k"}, func(ctx context.Context, _ *Entry) (Fill, error) {
					asked.Add(1)
					idle(ctx, takes)
					return Fill{Status: 200, Body: []byte("x"), TTL: time.Minute}, nil
				})
				if err != nil || text(r.Entry) != "x" {
					t.Errorf("Fetch = %+v, %v", r, err)
				}
			})
		}
	}
	wg.Wait()
	return asked.Load()
}

// Beside other tests nodes could be so slow that their leases end: then each of
// them asks for itself.
func TestColdKeyIsAskedForOnceByAllProcesses(t *testing.T) {
	onRedis := func(t *testing.T) string { return testkit.StartServer(t).Addr }
	embedded := func(t *testing.T) string { return miniredis.RunT(t).Addr() }
	unrenewed := func(o *options) { o.faults.leaseNotRenewed = true }
	for _, tc := range []struct {
		name  string
		start func(*testing.T) string
		nodes int
		takes time.Duration
		calls int64
		with  []func(*options)
	}{
		{"redis", onRedis, 8, 300 * time.Millisecond, 1, nil},
		{"embedded", embedded, 8, 300 * time.Millisecond, 1, nil},
		{"longer than the lease of a dead process", onRedis, 8, 5 * time.Second, 1, nil},
		{"broken, leases are not renewed", onRedis, 2, 5 * time.Second, 2, []func(*options){unrenewed}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if testing.Short() && tc.takes > time.Second {
				t.Skip("takes five seconds")
			}
			t.Parallel()
			nodes := processes(t, tc.start(t), tc.nodes, tc.with...)
			began := time.Now()
			if calls := herd(t, nodes, 50, tc.takes); calls != tc.calls {
				t.Errorf("%d processes with 50 callers each called the origin %d times, want %d", tc.nodes, calls, tc.calls)
			}
			t.Logf("all were served in %v", time.Since(began))
		})
	}
}

func TestLeaseIsRenewedWhileItsFetchGoesOn(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		lease := s.names.lease("k")
		rdb.Set(t.Context(), lease, "nonce+", 100*time.Millisecond) // which others wait for
		renew := func(nonce string) {
			if err := s.scripts.renew.Run(t.Context(), rdb, []string{lease}, nonce, fillLease.Milliseconds()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		renew("another's")
		if left := rdb.PTTL(t.Context(), lease).Val(); left > time.Second {
			t.Errorf("another's lease was renewed: %v left", left)
		}
		renew("nonce")
		if left := rdb.PTTL(t.Context(), lease).Val(); left < 2*time.Second {
			t.Errorf("%v left of a lease that was renewed", left)
		}
	})
}

func TestFillOfADeadProcessDelaysOthersByItsLease(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	nodes := processes(t, server.Addr, 2)
	dead := redis.NewClient(&redis.Options{Addr: server.Addr})
	holder := node(t, dead, func(o *options) { o.lease = leaseTime })
	syncNow(t, holder)
	begun, gate := make(chan struct{}), make(chan struct{})
	over := make(chan struct{})
	go func() {
		defer close(over)
		holder.Fetch(t.Context(), Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
			close(begun)
			<-gate
			return Fill{Status: 200, Body: []byte("late"), TTL: time.Minute}, nil
		})
	}()
	t.Cleanup(func() { close(gate); <-over })
	testkit.Wait(t, begun, "the fill")
	dead.Close()
	began := time.Now()
	if calls := herd(t, nodes, 5, 0); calls != 1 {
		t.Errorf("the origin was asked %d times, want once", calls)
	}
	if took := time.Since(began); took > fillLease+2*time.Second {
		t.Errorf("others went on after %v, want about %v", took, fillLease)
	}
}

func TestNobodyWaitsLongerThanAFetchMayTake(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := node(t, rdb)
	s.cfg.FillTimeout = 100 * time.Millisecond
	syncNow(t, s)
	rdb.Set(t.Context(), s.names.lease("k"), "renewed for ever", time.Hour)
	if got := saw(fetch(t, s, Request{Key: "k"}, answers("x"))); got != "x miss" {
		t.Errorf("read = %q, want what the origin says", got)
	}
	if got := rdb.Get(t.Context(), s.names.lease("k")).Val(); got != "renewed for ever+" {
		t.Errorf("lease is now %q: it was another's", got)
	}
}

// Who waits is woken: here it would look by itself after an hour.
func TestEndOfAFillWakesOtherProcesses(t *testing.T) {
	judge := func(t *testing.T, addr string, fails bool, change ...func(*options)) (woken bool) {
		nodes := processes(t, addr, 2, change...)
		for _, s := range nodes {
			s.poll.min, s.poll.max = time.Hour, time.Hour
			s.cfg.FillTimeout = 3 * time.Second
		}
		begun, gate, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			nodes[0].Fetch(t.Context(), Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
				close(begun)
				<-gate
				if fails {
					return Fill{}, fmt.Errorf("origin is on fire")
				}
				return Fill{Status: 200, Body: []byte("first"), TTL: time.Minute}, nil
			})
		}()
		testkit.Wait(t, begun, "the fill")
		got := make(chan Result, 1)
		go func() {
			r, err := nodes[1].Fetch(t.Context(), Request{Key: "k"}, answers("second"))
			if err != nil {
				t.Errorf("Fetch: %v", err)
			}
			got <- r
		}()
		rdb := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { rdb.Close() })
		wake := nodes[0].names.wake("k")
		testkit.Until(t, "the other waits", func() bool { return rdb.PubSubNumSub(t.Context(), wake).Val()[wake] == 1 })
		began := time.Now()
		close(gate)
		r := testkit.Wait(t, got, "the other process's read")
		<-done
		if n := testutil.ToFloat64(nodes[1].metrics.waits); n != 1 {
			t.Errorf("%v waits counted, want 1", n)
		}
		if want := map[bool]string{false: "first", true: "second"}[fails]; time.Since(began) < 2*time.Second && text(r.Entry) != want {
			t.Errorf("read %q, want %q", text(r.Entry), want)
		}
		testkit.Until(t, "nobody listens any more", func() bool { return rdb.PubSubNumSub(t.Context(), wake).Val()[wake] == 0 })
		return time.Since(began) < 2*time.Second
	}
	servers := map[string]func(*testing.T) string{
		"redis":    func(t *testing.T) string { return testkit.StartServer(t).Addr },
		"embedded": func(t *testing.T) string { return miniredis.RunT(t).Addr() },
	}
	t.Parallel()
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, fails := range []bool{false, true} {
				if !judge(t, start(t), fails) {
					t.Errorf("fails %v: nobody was woken", fails)
				}
			}
			mute := without(t, "store", "redis.call('PUBLISH', ARGV[6], '')", "")
			if judge(t, start(t), false, mute) {
				t.Error("woken without a message: this test proves nothing")
			}
		})
	}
}

func TestWokenOnAClusterToo(t *testing.T) {
	t.Parallel()
	addrs := testkit.StartCluster(t)
	var nodes []*Store
	for range 2 {
		rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
		t.Cleanup(func() { rdb.Close() })
		s := node(t, rdb, func(o *options) { o.lease = leaseTime })
		testkit.Go(t, s.Run)
		testkit.Until(t, "ready", func() bool { return s.Ready() == nil })
		nodes = append(nodes, s)
	}
	nodes[1].poll.min, nodes[1].poll.max = time.Hour, time.Hour
	for i := range 6 { // keys of several masters
		req := Request{Key: fmt.Sprint("k", i)}
		begun, land := flightWith(t, nodes[0], req, "first")
		testkit.Wait(t, begun, "the fill")
		got := make(chan string, 1)
		go func() {
			r, err := nodes[1].Fetch(t.Context(), req, answers("second"))
			if err != nil {
				t.Errorf("Fetch: %v", err)
				got <- ""
				return
			}
			got <- text(r.Entry)
		}()
		wake := nodes[0].names.wake(req.Key)
		testkit.Until(t, "the other waits", func() bool {
			n := int64(0)
			nodes[0].rdb.(*redis.ClusterClient).ForEachMaster(t.Context(), func(ctx context.Context, rdb *redis.Client) error {
				atomic.AddInt64(&n, rdb.PubSubNumSub(ctx, wake).Val()[wake])
				return nil
			})
			return n == 1
		})
		land()
		if text := testkit.Wait(t, got, "the other process's read"); text != "first" {
			t.Errorf("%s: read %q, want first", req.Key, text)
		}
	}
}

func TestAcquireTakesTheLeaseOnceAndHandsOverWhatIsNew(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		entry, lease := s.names.entry("k"), s.names.lease("k")
		head := func(n int) string { return fmt.Sprintf("F1%016d%016x", n, 7) }
		tests := []struct {
			name, entry, held, known string
			won                      bool
			got, after               string
		}{
			{"free", "", "", "", true, "", "me"},
			{"mine, sent twice", "", "me", "", true, "", "me"},
			{"mine, and waited for", "", "me+", "", true, "", "me+"},
			{"another's", "", "you", "", false, "", "you+"},
			{"another's, and waited for", "", "you+", "", false, "", "you+"},
			{"another's, whose name begins as mine", "", "me2", "", false, "", "me2+"},
			{"an entry that is known", head(1) + "rest", "", head(1), true, "", "me"},
			{"an entry that is new", head(2) + "rest", "", head(1), false, head(2) + "rest", ""},
			{"an entry that is new, and another's", head(2) + "rest", "you", head(1), false, head(2) + "rest", "you"},
			{"the known entry is gone", "", "", head(1), true, "", "me"},
			{"junk", "junk", "", "", false, "junk", ""},
			{"known junk", "junk", "", "junk", true, "", "me"},
		}
		for _, tc := range tests {
			rdb.Del(t.Context(), entry)
			rdb.Del(t.Context(), lease)
			if tc.entry != "" {
				rdb.Set(t.Context(), entry, tc.entry, 0)
			}
			if tc.held != "" {
				rdb.Set(t.Context(), lease, tc.held, time.Minute)
			}
			won, got, err := s.tryLease(t.Context(), "k", "me", tc.known)
			if err != nil || won != tc.won || got != tc.got {
				t.Errorf("%s: tryLease = %v, %q, %v; want %v, %q", tc.name, won, got, err, tc.won, tc.got)
			}
			if after := rdb.Get(t.Context(), lease).Val(); after != tc.after {
				t.Errorf("%s: lease is %q, want %q", tc.name, after, tc.after)
			}
			if ttl := rdb.PTTL(t.Context(), lease).Val(); tc.after != "" && (ttl <= 0 || ttl > time.Minute) {
				t.Errorf("%s: lease lives for %v", tc.name, ttl)
			}
		}
	})
}
