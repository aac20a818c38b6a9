package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func lifeOfAnEntry(t *testing.T, rdb redis.UniversalClient) {
	s, other := node(t, rdb), node(t, rdb)
	testkit.Go(t, s.Run)
	testkit.Go(t, other.Run)
	testkit.Until(t, "both are ready", func() bool { return s.Ready() == nil && other.Ready() == nil })
	version := 0
	fill := func(context.Context, *Entry) (Fill, error) {
		version++
		return Fill{Status: 200, Body: []byte(strconv.Itoa(version)), ETag: `"v"`, Tags: []string{"author:9"}, TTL: time.Minute,
			Header: map[string][]string{"Content-Type": {"text/plain"}}}, nil
	}
	req := Request{Key: "post:1", Path: "/blog/2026/one", Tags: []string{"posts"}, Position: "5-0"}
	for _, p := range []Purge{
		{Tags: []string{"posts"}}, {Tags: []string{"author:9"}}, {Keys: []string{"post:1"}}, {Patterns: []string{"p?st:*"}},
		{Paths: []string{"/blog/2026/one"}}, {Paths: []string{"/blog/*"}}, {Paths: []string{"/*"}},
		{Paths: []string{"/blog/2026/one/*"}}, {All: true},
	} {
		r := fetch(t, s, req, fill)
		if got, want := saw(r), strconv.Itoa(version)+" miss"; got != want || !r.Stored {
			t.Fatalf("before %+v: read = %q, stored %v, want %q, true", p, got, r.Stored, want)
		}
		r = fetch(t, other, req, fill)
		if got, want := saw(r), strconv.Itoa(version)+" hit"; got != want {
			t.Fatalf("before %+v: read on the other node = %q, want %q", p, got, want)
		}
		if e := r.Entry; e.Status != 200 || e.ETag != `"v"` || e.Header["Content-Type"][0] != "text/plain" || len(e.Tags()) != 2 {
			t.Fatalf("entry came back as %+v", e)
		}
		barrier(t, other, p, invalidate(t, other, p))
		if _, ok, err := s.Get(t.Context(), "post:1"); ok || err != nil {
			t.Fatalf("after %+v: Get = %v, %v; want nothing", p, ok, err)
		}
	}
	untouched := []Purge{{Tags: []string{"post"}}, {Keys: []string{"post:10"}}, {Patterns: []string{"post"}},
		{Paths: []string{"/blog/2026"}}, {Paths: []string{"/blog/2026/on"}}, {Paths: []string{"/blo/*"}}, {Paths: []string{"/blog/2026/one/more"}}}
	fetch(t, s, req, fill)
	for _, p := range untouched {
		barrier(t, s, p, invalidate(t, s, p))
		if _, ok, err := s.Get(t.Context(), "post:1"); !ok || err != nil {
			t.Errorf("after %+v: Get = %v, %v; the entry is none of it", p, ok, err)
		}
	}
}

func TestEntryLivesUntilPurgedByAnyOfItsNames(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) { lifeOfAnEntry(t, rdb) })
}

func TestEntryLivesOnAClusterOfThreeMasters(t *testing.T) {
	t.Parallel()
	lifeOfAnEntry(t, testkit.Cluster(t))
}

// A process stops between looking an entry up and asking whether it may.
func TestPauseBetweenLookupAndCheckServesNothingOld(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := newClocks()
	var once sync.Once
	stop := func() {}
	s := node(t, rdb, c.set, func(o *options) { o.faults.afterLookup = func() { stop() } })
	worker := node(t, rdb)
	syncNow(t, s)
	fetch(t, s, Request{Key: "post:1", Tags: []string{"posts"}}, answers("old"))
	stop = func() {
		once.Do(func() {
			invalidate(t, worker, tag("posts"))
			c.move(time.Hour, time.Hour)
		})
	}
	if got, want := saw(fetch(t, s, Request{Key: "post:1", Tags: []string{"posts"}}, answers("new"))), "new miss"; got != want {
		t.Errorf("read = %q, want %q", got, want)
	}
}

func TestLateFillIsVoid(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		syncNow(t, s)
		req := Request{Key: "post:1"}
		r := fetch(t, s, req, func(context.Context, *Entry) (Fill, error) {
			invalidate(t, s, tag("learnt")) // while the origin answers with what it had
			syncNow(t, s)
			return Fill{Status: 200, Body: []byte("old"), Tags: []string{"learnt"}, TTL: time.Minute}, nil
		})
		if r.Stored {
			t.Error("an answer that is void already was stored")
		}
		if got, want := saw(fetch(t, s, req, answers("new"))), "new miss"; got != want {
			t.Errorf("read = %q, want %q", got, want)
		}
	})
}

func TestFillAcrossTwoLedgersIsVoid(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := node(t, rdb)
	syncNow(t, s)
	r := fetch(t, s, Request{Key: "post:1"}, func(context.Context, *Entry) (Fill, error) {
		rdb.FlushAll(t.Context())
		syncNow(t, s)
		return Fill{Status: 200, Body: []byte("old"), TTL: time.Minute}, nil
	})
	if r.Stored {
		t.Error("stored under an epoch that was over")
	}
}

func TestNodeThatNeverSyncedStoresNothing(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	e := s.newEntry(Request{Key: "k"}, nil, Fill{Status: 200, TTL: time.Minute}, s.mirror.position())
	if got := s.refusal("k", e, Fill{Status: 200, TTL: time.Minute}); got != "no-ledger" {
		t.Errorf("refusal = %q, want no-ledger", got)
	}
}

func TestNewerFillIsNeverOverwrittenByAnOlder(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		syncNow(t, s)
		put := func(body, epoch string, token uint64) bool {
			e := s.newEntry(Request{Key: "k"}, nil, Fill{Status: 200, Body: []byte(body), TTL: time.Minute}, position{epoch, token})
			return s.store(t.Context(), "k", e, "")
		}
		a, b := strings.Repeat("a", 16), strings.Repeat("b", 16)
		tests := []struct {
			body, epoch string
			token       uint64
			stored      bool
			left        string
		}{
			{"first", a, 9, true, "first"},
			{"late", a, 5, false, "first"},
			{"equal", a, 9, true, "equal"},
			{"next", a, 10, true, "next"},
			{"other ledger", b, 3, true, "other ledger"}, // tokens of two epochs have no order
		}
		for _, tc := range tests {
			if got := put(tc.body, tc.epoch, tc.token); got != tc.stored {
				t.Errorf("storing %q = %v, want %v", tc.body, got, tc.stored)
			}
			if e, err := s.lookup(t.Context(), Request{Key: "k"}); err != nil || text(e) != tc.left {
				t.Errorf("after %q: %+v, %v; want %q", tc.body, e, err, tc.left)
			}
		}
	})
}

// flightWith starts a read whose fill waits for the test.
func flightWith(t *testing.T, s *Store, req Request, body string) (begun chan struct{}, land func() Result) {
	t.Helper()
	begun, gate, done := make(chan struct{}), make(chan struct{}), make(chan Result, 1)
	go func() {
		r, err := s.Fetch(t.Context(), req, func(context.Context, *Entry) (Fill, error) {
			close(begun)
			<-gate
			return Fill{Status: 200, Body: []byte(body), TTL: time.Minute}, nil
		})
		if err != nil {
			t.Errorf("Fetch: %v", err)
		}
		done <- r
	}()
	return begun, func() Result { close(gate); return testkit.Wait(t, done, "the fetch") }
}

func TestJoinerOfAFetchFromBeforeTheNoticeAsksAgain(t *testing.T) {
	judge := func(t *testing.T, change ...func(*options)) (leader, joiner string) {
		rdb := testkit.Redis(t)
		s := node(t, rdb, change...)
		syncNow(t, s)
		req := Request{Key: "post:1", Tags: []string{"posts"}}
		begun, land := flightWith(t, s, req, "old")
		testkit.Wait(t, begun, "the fill")
		p := tag("posts")
		barrier(t, s, p, invalidate(t, s, p)) // and browsers are told
		joined := make(chan string, 1)
		joining := make(chan struct{})
		go func() {
			close(joining)
			r, err := s.Fetch(t.Context(), req, answers("new"))
			if err != nil {
				t.Errorf("Fetch: %v", err)
				joined <- ""
				return
			}
			joined <- text(r.Entry)
		}()
		<-joining
		testkit.Until(t, "the reader had time to join", func() bool { return waitingReaders("fetch") >= 2 })
		leader = text(land().Entry)
		return leader, testkit.Wait(t, joined, "the joiner")
	}
	if leader, joiner := judge(t); leader != "old" || joiner != "new" {
		t.Errorf("leader saw %q, joiner %q; want old (it began before), new", leader, joiner)
	}
	unchecked := func(o *options) { o.faults.joinersUnchecked = true }
	if _, joiner := judge(t, unchecked); joiner != "old" {
		t.Errorf("without the check the joiner saw %q: this test proves nothing", joiner)
	}
}

// waitingReaders counts goroutines that wait inside a method of Store. Tests that
// use it do not run in parallel with others.
func waitingReaders(method string) int {
	buf := make([]byte, 1<<20)
	n := 0
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "[select") && strings.Contains(strings.SplitN(g+"\n\n", "\n", 3)[1], "(*Store)."+method+"(") {
			n++
		}
	}
	return n
}

func TestManyReadersOfOneKeyAskTheOriginOnce(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	nodes := []*Store{node(t, rdb), node(t, rdb), node(t, rdb)}
	for _, s := range nodes {
		testkit.Go(t, s.Run)
		testkit.Until(t, "ready", func() bool { return s.Ready() == nil })
	}
	var asked, collapsed atomic.Int64
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			r, err := nodes[i%3].Fetch(t.Context(), Request{Key: "k"}, func(ctx context.Context, _ *Entry) (Fill, error) {
				asked.Add(1)
				idle(ctx, 50*time.Millisecond)
				return Fill{Status: 200, Body: []byte("x"), TTL: time.Minute}, nil
			})
			if err != nil {
				t.Errorf("Fetch: %v", err)
			} else if r.Collapsed {
				collapsed.Add(1)
			}
		})
	}
	wg.Wait()
	if asked.Load() != 1 {
		t.Errorf("the origin was asked %d times, want once by all processes", asked.Load())
	}
	if collapsed.Load() == 0 {
		t.Error("no read says that it shared a fetch")
	}
}

func TestLeaderMayLeaveAndTheFetchGoesOn(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	begun, gate := make(chan struct{}), make(chan struct{})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.Fetch(ctx, Request{Key: "k"}, func(ctx context.Context, _ *Entry) (Fill, error) {
			close(begun)
			<-gate
			return Fill{Status: 200, Body: []byte("x"), TTL: time.Minute}, ctx.Err()
		})
		left <- err
	}()
	testkit.Wait(t, begun, "the fill")
	leave()
	if err := testkit.Wait(t, left, "the leader"); !errors.Is(err, context.Canceled) {
		t.Errorf("leader got %v, want its own cancellation", err)
	}
	close(gate)
	testkit.Until(t, "the answer is stored", func() bool {
		_, ok, _ := s.Get(t.Context(), "k")
		return ok
	})
}

// Readers who leave cannot pile up fetches: above a limit a fetch ends with
// its reader.
func TestFetchesWithoutAReaderAreBounded(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t), func(o *options) { o.lease = time.Minute })
	syncNow(t, s)
	release := make(chan struct{})
	slow := func(ctx context.Context, _ *Entry) (Fill, error) {
		select {
		case <-release:
			return Fill{Status: 200, Body: []byte("new"), TTL: time.Minute}, nil
		case <-ctx.Done():
			return Fill{}, ctx.Err()
		}
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	for i := range maxFlights {
		if _, err := s.join(gone, errand{Request: Request{Key: fmt.Sprint("k", i)}, fill: slow}, false); err != nil {
			t.Fatalf("fetch %d was refused, want %d", i, maxFlights)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := s.Fetch(ctx, Request{Key: "one more"}, func(ctx context.Context, held *Entry) (Fill, error) {
			close(begun)
			return slow(ctx, held)
		})
		ended <- err
	}()
	testkit.Wait(t, begun, "the fetch of one more")
	cancel()
	if err := testkit.Wait(t, ended, "Fetch"); !errors.Is(err, context.Canceled) {
		t.Errorf("Fetch = %v, want the end of its reader", err)
	}
	if r := fetch(t, s, Request{Key: "another"}, answers("new")); saw(r) != "new bypass" || r.Detail != DetailCrowded || r.Stored {
		t.Errorf("read = %q, %q, stored %v; want a bypass", saw(r), r.Detail, r.Stored)
	}
	if n := testutil.ToFloat64(s.metrics.crowded); n != 2 {
		t.Errorf("%v crowded reads counted, want 2", n)
	}
	close(release)
	testkit.Until(t, "all have landed", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.flights) == 0
	})
	if r := fetch(t, s, Request{Key: "another"}, answers("new")); saw(r) != "new miss" {
		t.Errorf("read = %q, want a shared fetch again", saw(r))
	}
}

func TestFailingFillWedgesNothing(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	broken := errors.New("origin is on fire")
	fills := map[string]FillFunc{
		"error":  func(context.Context, *Entry) (Fill, error) { return Fill{}, broken },
		"panic":  func(context.Context, *Entry) (Fill, error) { panic("oh") },
		"goexit": func(context.Context, *Entry) (Fill, error) { runtime.Goexit(); return Fill{}, nil },
	}
	for name, fill := range fills {
		if _, err := s.Fetch(t.Context(), Request{Key: "k"}, fill); err == nil || name == "error" && !errors.Is(err, broken) {
			t.Errorf("%s: Fetch = %v", name, err)
		}
		began := time.Now()
		if got := saw(fetch(t, s, Request{Key: "k"}, answers("x"))); got != "x miss" {
			t.Errorf("after %s: read = %q", name, got)
		}
		if took := time.Since(began); took > fillLease {
			t.Errorf("after %s: %v, the fill lease was not released", name, took)
		}
		invalidate(t, s, Purge{Keys: []string{"k"}})
	}
}

func TestErrorOfAFetchReachesAllWhoJoinedIt(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	broken, gate, begun := errors.New("origin is on fire"), make(chan struct{}), make(chan struct{})
	errs := make(chan error, 4)
	var once sync.Once
	for range 4 {
		go func() {
			_, err := s.Fetch(t.Context(), Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
				once.Do(func() { close(begun) })
				<-gate
				return Fill{}, broken
			})
			errs <- err
		}()
	}
	testkit.Wait(t, begun, "the fill")
	close(gate)
	for range 4 {
		if err := testkit.Wait(t, errs, "a reader"); !errors.Is(err, broken) {
			t.Errorf("reader got %v, want the origin's error", err)
		}
	}
}

// expiredEntry stores an entry that is past its freshness.
func expiredEntry(t *testing.T, s *Store, c *clocks, req Request, f Fill) {
	t.Helper()
	f.Status, f.TTL = 200, time.Minute
	fetch(t, s, req, func(context.Context, *Entry) (Fill, error) { return f, nil })
	c.move(2*time.Minute, 2*time.Minute)
	syncNow(t, s)
}

func TestExpiredIsServedWhileItIsFetchedAgain(t *testing.T) {
	t.Parallel()
	c := newClocks()
	s := node(t, testkit.Redis(t), c.set)
	syncNow(t, s)
	expiredEntry(t, s, c, Request{Key: "k", Position: "1-0"}, Fill{Body: []byte("old"), SWR: time.Hour})
	r := fetch(t, s, Request{Key: "k", Position: "9-0"}, answers("new"))
	if saw(r) != "old stale" || r.TTL >= 0 || r.Age < time.Minute {
		t.Errorf("read = %q ttl %v age %v, want old stale", saw(r), r.TTL, r.Age)
	}
	if r.Position != "1-0" {
		t.Errorf("position %q, want that of its fill: the answer may lack what came since", r.Position)
	}
	testkit.Until(t, "it is refreshed", func() bool {
		r := fetch(t, s, Request{Key: "k", Position: "9-0"}, answers("newer"))
		return saw(r) == "new hit" && r.Position == "9-0"
	})
}

func TestPurgedIsNeverServedStale(t *testing.T) {
	t.Parallel()
	c := newClocks()
	s := node(t, testkit.Redis(t), c.set)
	syncNow(t, s)
	req := Request{Key: "k", Tags: []string{"posts"}}
	expiredEntry(t, s, c, req, Fill{Body: []byte("old"), SWR: time.Hour, SIE: time.Hour})
	invalidate(t, s, tag("posts"))
	if got, want := saw(fetch(t, s, req, answers("new"))), "new miss"; got != want {
		t.Errorf("read = %q, want %q", got, want)
	}
	invalidate(t, s, tag("posts"))
	broken := errors.New("origin is on fire")
	if _, err := s.Fetch(t.Context(), req, func(context.Context, *Entry) (Fill, error) { return Fill{}, broken }); !errors.Is(err, broken) {
		t.Errorf("Fetch = %v, want the origin's error, not what was purged", err)
	}
}

func TestExpiredIsServedWhenTheOriginFails(t *testing.T) {
	t.Parallel()
	c := newClocks()
	rdb := testkit.Redis(t)
	var part partition
	rdb.AddHook(&part)
	s := node(t, rdb, c.set)
	syncNow(t, s)
	req := Request{Key: "k", Position: "1-0"}
	expiredEntry(t, s, c, req, Fill{Body: []byte("old"), SIE: time.Hour})
	broken := errors.New("origin is on fire")
	failing := func(context.Context, *Entry) (Fill, error) { return Fill{}, broken }
	r := fetch(t, s, Request{Key: "k", Position: "9-0"}, failing)
	if saw(r) != "old stale" || r.Detail != DetailOriginError || r.Position != "1-0" {
		t.Errorf("read = %q %q at %q, want old stale, origin-error at 1-0", saw(r), r.Detail, r.Position)
	}
	part.cut.Store(true)
	c.move(time.Minute, time.Minute)
	if _, err := s.Fetch(t.Context(), req, failing); !errors.Is(err, broken) {
		t.Errorf("Fetch = %v: nobody can tell whether the old one is void", err)
	}
}

func TestRedisAwayMeansOriginAndNotError(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second})
	t.Cleanup(func() { rdb.Close() })
	s := node(t, rdb)
	testkit.Go(t, s.Run)
	testkit.Until(t, "ready", func() bool { return s.Ready() == nil })
	if got := saw(fetch(t, s, Request{Key: "k"}, answers("1"))); got != "1 miss" {
		t.Fatalf("read = %q", got)
	}
	server.Kill()
	testkit.Until(t, "the lease is over", func() bool { return s.Ready() != nil })
	r := fetch(t, s, Request{Key: "k"}, answers("2"))
	if saw(r) != "2 bypass" || r.Detail != DetailAway || r.Stored {
		t.Errorf("read = %q %q, want 2 bypass, ledger-away", saw(r), r.Detail)
	}
	server.Start(t)
	testkit.Until(t, "reads are cached again", func() bool {
		return fetch(t, s, Request{Key: "k"}, answers("3")).Verdict == Hit
	})
}

func TestDegradedJoinerTakesTheNextFetch(t *testing.T) {
	rdb := testkit.Redis(t)
	var part partition
	part.cut.Store(true)
	rdb.AddHook(&part)
	s := node(t, rdb)
	s.turnAfter().wait(t.Context())
	begun, land := flightWith(t, s, Request{Key: "k"}, "old")
	testkit.Wait(t, begun, "the fill")
	// An event was notified here; this node cannot know.
	joined := make(chan string, 1)
	go func() {
		r, err := s.Fetch(t.Context(), Request{Key: "k"}, answers("new"))
		if err != nil {
			t.Errorf("Fetch: %v", err)
			joined <- ""
			return
		}
		joined <- saw(r)
	}()
	testkit.Until(t, "the reader joined", func() bool { return waitingReaders("fetch") >= 2 })
	land()
	if got, want := testkit.Wait(t, joined, "the joiner"), "new bypass"; got != want {
		t.Errorf("joiner = %q, want %q", got, want)
	}
}

func TestPrivateAnswerIsNeverSharedWithAJoiner(t *testing.T) {
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	begun, gate := make(chan struct{}), make(chan struct{})
	private := func(body string, wait chan struct{}, tell func()) FillFunc {
		return func(context.Context, *Entry) (Fill, error) {
			tell()
			<-wait
			return Fill{Status: 200, Body: []byte(body), TTL: time.Minute, NoStore: true}, nil
		}
	}
	results := make(chan string, 2)
	read := func(fill FillFunc) {
		r, err := s.Fetch(t.Context(), Request{Key: "k"}, fill)
		if err != nil {
			t.Errorf("Fetch: %v", err)
		}
		results <- saw(r)
	}
	go read(private("of ann", gate, func() { close(begun) }))
	testkit.Wait(t, begun, "the fill")
	open := make(chan struct{})
	close(open)
	go read(private("of bob", open, func() {}))
	testkit.Until(t, "the reader joined", func() bool { return waitingReaders("fetch") >= 2 })
	close(gate)
	got := map[string]bool{testkit.Wait(t, results, "a read"): true, testkit.Wait(t, results, "a read"): true}
	if !got["of ann bypass"] || !got["of bob bypass"] {
		t.Errorf("reads = %v, want one each", got)
	}
	if _, ok, _ := s.Get(t.Context(), "k"); ok {
		t.Error("a private answer was stored")
	}
}

func TestWhatMayNotBeStoredIsServedOnce(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	s.cfg.MaxBody = 10
	tests := []struct {
		name string
		fill Fill
		tags []string
	}{
		{"server error", Fill{Status: 500, TTL: time.Minute}, nil},
		{"no life", Fill{Status: 200}, nil},
		{"large body", Fill{Status: 200, TTL: time.Minute, Body: make([]byte, 11)}, nil},
		{"overlong tag", Fill{Status: 200, TTL: time.Minute, Tags: []string{strings.Repeat("t", MaxTag+1)}}, nil},
		{"overlong tag of the request", Fill{Status: 200, TTL: time.Minute}, []string{strings.Repeat("t", MaxTag+1)}},
		{"huge header", Fill{Status: 200, TTL: time.Minute, Header: map[string][]string{"X": {strings.Repeat("x", maxHeader)}}}, nil},
	}
	for _, tc := range tests {
		r := fetch(t, s, Request{Key: tc.name, Tags: tc.tags}, func(context.Context, *Entry) (Fill, error) { return tc.fill, nil })
		if r.Stored {
			t.Errorf("%s: stored", tc.name)
		}
		if _, ok, _ := s.Get(t.Context(), tc.name); ok {
			t.Errorf("%s: served again", tc.name)
		}
	}
}

func TestManyLongTagsAreAllHeeded(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	var tags []string
	for i := range 64 {
		tags = append(tags, fmt.Sprintf("%03d:%s", i, strings.Repeat("t", 250)))
	}
	fill := func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 200, Body: []byte("x"), Tags: tags, TTL: time.Minute}, nil
	}
	fetch(t, s, Request{Key: "k"}, fill)
	if _, ok, _ := s.Get(t.Context(), "k"); !ok {
		t.Fatal("not stored")
	}
	invalidate(t, s, tag(tags[len(tags)-1]))
	if _, ok, _ := s.Get(t.Context(), "k"); ok {
		t.Error("the last tag does not void the entry")
	}
}

// A 404 by slug carries no tag of the post that is yet to be.
func TestNotFoundEndsWithTheNextEvent(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		syncNow(t, s)
		for _, f := range []Fill{{Status: 404}, {Status: 410}, {Status: 200, Negative: true}} {
			f.TTL, f.Body = time.Minute, []byte("nothing")
			req := Request{Key: "slug:hello"}
			fetch(t, s, req, func(context.Context, *Entry) (Fill, error) { return f, nil })
			if got, want := saw(fetch(t, s, req, answers("new"))), "nothing hit"; got != want {
				t.Errorf("read = %q, want %q", got, want)
			}
			invalidate(t, s, tag("post:7"))
			if got, want := saw(fetch(t, s, req, answers("new"))), "new miss"; got != want {
				t.Errorf("read after the creation = %q, want %q", got, want)
			}
			invalidate(t, s, Purge{Keys: []string{"slug:hello"}})
			syncNow(t, s)
		}
	})
}

func TestTagOfTheRouteVoidsEntriesFromBeforeItWasConfigured(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	fetch(t, s, Request{Key: "k"}, answers("old"))
	invalidate(t, s, tag("posts"))
	if got, want := saw(fetch(t, s, Request{Key: "k", Tags: []string{"posts"}}, answers("new"))), "new miss"; got != want {
		t.Errorf("read = %q, want %q", got, want)
	}
}

func TestPatternsMatchAsRedisDoesAndAreBounded(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	fetch(t, s, Request{Key: "a/b/c"}, answers("1"))
	fetch(t, s, Request{Key: "z"}, answers("1"))
	invalidate(t, s, Purge{Patterns: []string{"a*c"}}) // path.Match would stop at the slash
	if _, ok, _ := s.Get(t.Context(), "a/b/c"); ok {
		t.Error("a*c does not void a/b/c")
	}
	if _, ok, _ := s.Get(t.Context(), "z"); !ok {
		t.Error("a*c voids z")
	}
	for i := range 3 * maxGlobs {
		invalidate(t, s, Purge{Patterns: []string{fmt.Sprintf("none%d*", i)}})
	}
	if n := len(s.mirror.hard.globs); n > maxGlobs {
		t.Errorf("%d patterns, each read is matched against all", n)
	}
	if _, ok, _ := s.Get(t.Context(), "z"); ok {
		t.Error("an entry older than a forgotten pattern is served")
	}
	syncNow(t, s)
	fetch(t, s, Request{Key: "z"}, answers("2"))
	if _, ok, _ := s.Get(t.Context(), "z"); !ok {
		t.Error("what was filled after the patterns is void")
	}
}

func TestPatternVoidsTheVariantsOfTheKeysItMatches(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	settled(t, s)
	tests := []struct {
		req     Request
		pattern string
		void    bool
	}{
		{Request{Key: "posts:7:list"}, "posts:*:list", true},
		{Request{Key: "posts:7:list?page=2", Base: "posts:7:list"}, "posts:*:list", true},
		{Request{Key: "posts:7:list?page=3", Base: "posts:7:list"}, `posts:*\?page=3`, true},
		{Request{Key: "posts:7:list?page=4", Base: "posts:7:list"}, "posts:?", false},
		{Request{Key: "users:7", Tags: []string{"posts:7:list"}}, "posts:*:list", false},
	}
	for _, tt := range tests {
		syncNow(t, s)
		e := fetch(t, s, tt.req, answers("old")).Entry
		invalidate(t, s, Purge{Patterns: []string{tt.pattern}})
		if got := s.state(tt.req.Key, e, requestScopes(tt.req)) == voided; got != tt.void {
			t.Errorf("pattern %q on %q: void = %v, want %v", tt.pattern, tt.req.Key, got, tt.void)
		}
	}
}

func TestEmptyKeyAndOtherSitesAreApart(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	a := newStore(rdb, testkit.Logger(t), Config{Namespace: "a"}, options{lease: shortLease, now: now, scripts: shipped})
	b := newStore(rdb, testkit.Logger(t), Config{Namespace: "b"}, options{lease: shortLease, now: now, scripts: shipped})
	if _, err := a.Fetch(t.Context(), Request{}, answers("x")); !errors.Is(err, ErrKey) {
		t.Errorf("Fetch of an empty key = %v, want ErrKey", err)
	}
	syncNow(t, a, b)
	fetch(t, a, Request{Key: "k"}, answers("of a"))
	if got, want := saw(fetch(t, b, Request{Key: "k"}, answers("of b"))), "of b miss"; got != want {
		t.Errorf("read of b = %q, want %q", got, want)
	}
	invalidate(t, b, Purge{All: true})
	if _, ok, _ := a.Get(t.Context(), "k"); !ok {
		t.Error("a purge of b voids a's entry")
	}
}

func TestReaderWithAnEventSeesItOnANodeThatHasNotHeard(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		long := func(o *options) { o.lease = time.Hour }
		worker, deaf := node(t, rdb, long), node(t, rdb, long)
		syncNow(t, worker, deaf)
		req := Request{Key: "k", Tags: []string{"posts"}}
		fetch(t, deaf, req, answers("old"))
		m := invalidate(t, worker, tag("posts"))
		if got := saw(fetch(t, deaf, req, answers("new"))); got != "old hit" {
			t.Fatalf("read = %q: the node heard of the event, so this test proves nothing", got)
		}
		req.After = m.Seq
		if got, want := saw(fetch(t, deaf, req, answers("new"))), "new miss"; got != want {
			t.Errorf("read after the event = %q, want %q", got, want)
		}
	})
}

func TestReaderFromTheFutureCostsNothing(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	syncs := atomic.Int64{}
	long := func(o *options) { o.lease = time.Hour }
	s := node(t, rdb, long)
	syncNow(t, s)
	fetch(t, s, Request{Key: "k"}, answers("x"))
	rdb.AddHook(hook{func(_ context.Context, cmd redis.Cmder, send func() error) error {
		if sends(cmd, s.names.ledger()) {
			syncs.Add(1)
		}
		return send()
	}})
	for _, after := range []uint64{1 << 53, 1<<64 - 1, uint64(time.Now().Add(2 * time.Minute).UnixMicro())} {
		if got := saw(fetch(t, s, Request{Key: "k", After: after}, answers("y"))); got != "x hit" {
			t.Errorf("After %d: read = %q, want x hit", after, got)
		}
	}
	if syncs.Load() != 0 {
		t.Errorf("%d syncs: each such request would cost one", syncs.Load())
	}
}

func TestReaderWithAnEventGoesToTheOriginWhenNobodyCanTell(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	var part partition
	rdb.AddHook(&part)
	s := node(t, rdb, func(o *options) { o.lease = time.Hour })
	syncNow(t, s)
	fetch(t, s, Request{Key: "k"}, answers("old"))
	part.cut.Store(true)
	after := s.mirror.position().token + 1
	if got, want := saw(fetch(t, s, Request{Key: "k", After: after}, answers("new"))), "new bypass"; got != want {
		t.Errorf("read = %q, want %q", got, want)
	}
}

func TestFillIsShownWhatIsHeld(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	fetch(t, s, Request{Key: "k"}, answers("old"))
	invalidate(t, s, Purge{Keys: []string{"k"}})
	fetch(t, s, Request{Key: "k"}, func(_ context.Context, held *Entry) (Fill, error) {
		if held == nil || text(held) != "old" {
			t.Errorf("held = %+v, want the old entry", held)
		}
		return Fill{Status: 200, TTL: time.Minute}, nil
	})
}

func TestUnreadableEntryIsAMiss(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := node(t, rdb)
	syncNow(t, s)
	for i, junk := range []string{"", "junk", "F1", "F1" + strings.Repeat("0", 38), "F1000000000000000900000000000000000000041{"} {
		key := fmt.Sprint("k", i)
		rdb.Set(t.Context(), s.names.entry(key), junk, 0)
		if got := saw(fetch(t, s, Request{Key: key}, answers("x"))); got != "x miss" {
			t.Errorf("with %q stored: read = %q", junk, got)
		}
	}
}

func TestMetricsCountWhatHappened(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	s := newStore(testkit.Redis(t), testkit.Logger(t), Config{Metrics: reg}, options{lease: shortLease, now: now, scripts: shipped})
	syncNow(t, s)
	fetch(t, s, Request{Key: "k", Tags: []string{"posts"}}, answers("x"))
	fetch(t, s, Request{Key: "k", Tags: []string{"posts"}}, answers("x"))
	invalidate(t, s, tag("posts"))
	fetch(t, s, Request{Key: "k", Tags: []string{"posts"}}, answers("x"))
	for got, want := range map[prometheus.Collector]float64{
		s.metrics.reads[Hit]: 1, s.metrics.reads[Miss]: 2,
	} {
		if v := testutil.ToFloat64(got); v != want {
			t.Errorf("%v = %v, want %v", got, v, want)
		}
	}
	if v := testutil.ToFloat64(s.metrics.void.WithLabelValues("tag")); v < 1 {
		t.Errorf("void by tag = %v, want at least 1", v)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}
