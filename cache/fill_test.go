package cache

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/freshwire/freshwire/internal/testkit"
)

// gated is an origin that counts its calls, and answers each when the test says.
type gated struct {
	calls atomic.Int64
	begun chan int64
	gate  chan struct{}
}

func newGated() *gated { return &gated{begun: make(chan int64, 100), gate: make(chan struct{}, 100)} }

func (g *gated) fill(ctx context.Context, _ *Entry) (Fill, error) {
	n := g.calls.Add(1)
	g.begun <- n
	select {
	case <-g.gate:
	case <-ctx.Done():
		return Fill{}, ctx.Err()
	}
	return Fill{Status: 200, Body: []byte(strconv.FormatInt(n, 10)), TTL: time.Minute}, nil
}

func TestFillAsksTheOriginWhateverIsCached(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	syncNow(t, s)
	req := Request{Key: "k", Tags: []string{"posts"}}
	fetch(t, s, req, answers("old"))
	reads := testutil.ToFloat64(s.metrics.reads[Miss])
	r, err := s.Fill(t.Context(), req, func(_ context.Context, held *Entry) (Fill, error) {
		if held == nil || text(held) != "old" {
			t.Errorf("held = %+v, want the old entry", held)
		}
		return Fill{Status: 200, Body: []byte("new"), TTL: time.Minute}, nil
	})
	if err != nil || saw(r) != "new miss" || !r.Stored {
		t.Errorf("Fill = %q, stored %v, %v; want new, stored", saw(r), r.Stored, err)
	}
	if n := testutil.ToFloat64(s.metrics.reads[Miss]); n != reads {
		t.Errorf("%v reads counted, want %v: nobody read", n, reads)
	}
	if got := saw(fetch(t, s, req, answers("newer"))); got != "new hit" {
		t.Errorf("read = %q, want new hit", got)
	}
	broken := errors.New("origin is on fire")
	if _, err := s.Fill(t.Context(), req, func(context.Context, *Entry) (Fill, error) { return Fill{}, broken }); !errors.Is(err, broken) {
		t.Errorf("Fill = %v, want the origin's error", err)
	}
	if got := saw(fetch(t, s, req, answers("newer"))); got != "new hit" {
		t.Errorf("after a Fill that failed: read = %q, want new hit", got)
	}
	if _, err := s.Fill(t.Context(), Request{}, answers("x")); !errors.Is(err, ErrKey) {
		t.Errorf("Fill of an empty key = %v, want ErrKey", err)
	}
}

// The origin changes while a call is under way. Whoever asks for the new state
// must not get what that call brings.
func TestFillNeverTakesWhatAnEarlierCallBrings(t *testing.T) {
	judge := func(t *testing.T, fillers int, change ...func(*options)) (got map[string]int, calls int64) {
		s := node(t, testkit.Redis(t), append(change, func(o *options) { o.lease = time.Hour })...)
		syncNow(t, s)
		g, req := newGated(), Request{Key: "k"}
		reader := make(chan Result, 1)
		go func() {
			r, err := s.Fetch(t.Context(), req, g.fill)
			if err != nil {
				t.Errorf("Fetch: %v", err)
			}
			reader <- r
		}()
		testkit.Wait(t, g.begun, "the first call")
		results := make(chan Result, fillers)
		for range fillers {
			go func() {
				r, err := s.Fill(t.Context(), req, g.fill)
				if err != nil {
					t.Errorf("Fill: %v", err)
				}
				results <- r
			}()
		}
		testkit.Until(t, "all wait", func() bool { return waitingReaders("fetch") >= fillers+1 })
		for range fillers + 1 {
			g.gate <- struct{}{}
		}
		if r := testkit.Wait(t, reader, "the reader"); text(r.Entry) != "1" {
			t.Errorf("the reader saw %q, want 1", text(r.Entry))
		}
		got = map[string]int{}
		for range fillers {
			got[text(testkit.Wait(t, results, "a Fill").Entry)]++
		}
		return got, g.calls.Load()
	}
	if got, calls := judge(t, 5); got["2"] != 5 || calls != 2 {
		t.Errorf("five saw %v in %d calls, want all the second", got, calls)
	}
	if got, _ := judge(t, 5, func(o *options) { o.faults.fillsJoin = true }); got["1"] == 0 {
		t.Errorf("without the check they saw %v: this test proves nothing", got)
	}
}

// A flight that has not asked the origin yet will do for those who want it
// asked: also where it would have ended with what another process stored.
func TestFillJoinsAFetchThatHasNotAskedYet(t *testing.T) {
	rdb := testkit.Redis(t)
	s, other := node(t, rdb, func(o *options) { o.lease = time.Hour }), node(t, rdb, func(o *options) { o.lease = time.Hour })
	syncNow(t, s, other)
	req := Request{Key: "k"}
	begun, land := flightWith(t, other, req, "of another process")
	testkit.Wait(t, begun, "the other's fill")
	results := make(chan Result, 2)
	ask := func(call func(context.Context, Request, FillFunc) (Result, error)) {
		r, err := call(t.Context(), req, answers("new"))
		if err != nil {
			t.Errorf("asking: %v", err)
		}
		results <- r
	}
	go ask(s.Fetch)
	testkit.Until(t, "the reader waits", func() bool { return waitingReaders("fetch") == 2 })
	go ask(s.Fill)
	testkit.Until(t, "the filler waits", func() bool { return waitingReaders("fetch") == 3 })
	land()
	for range 2 {
		if r := testkit.Wait(t, results, "a result"); text(r.Entry) != "new" {
			t.Errorf("saw %q, want new", text(r.Entry))
		}
	}
}

func TestCrowdIsTurnedAwayAndGetsWhatIsStale(t *testing.T) {
	t.Parallel()
	c := newClocks()
	s := node(t, testkit.Redis(t), c.set, func(o *options) { o.lease = time.Hour })
	s.maxReaders = 5
	syncNow(t, s)
	expiredEntry(t, s, c, Request{Key: "stale"}, Fill{Body: []byte("old"), SIE: time.Hour})
	for key, want := range map[string]string{"cold": "", "stale": "old stale"} {
		g := newGated()
		var wg sync.WaitGroup
		var crowded, served atomic.Int64
		began := make(chan struct{}, 20)
		for range 20 {
			wg.Go(func() {
				r, err := s.Fetch(t.Context(), Request{Key: key}, g.fill)
				switch {
				case errors.Is(err, ErrCrowded) && want == "":
					crowded.Add(1)
				case err != nil:
					t.Errorf("%s: Fetch = %v", key, err)
				case want != "" && saw(r) == want && r.Detail == DetailCrowded:
					crowded.Add(1)
				case text(r.Entry) == "1":
					served.Add(1)
				default:
					t.Errorf("%s: read = %q, %s", key, saw(r), r.Detail)
				}
				began <- struct{}{}
			})
		}
		for range 15 {
			testkit.Wait(t, began, "those who are too many")
		}
		g.gate <- struct{}{}
		wg.Wait()
		if crowded.Load() != 15 || served.Load() != 5 || g.calls.Load() != 1 {
			t.Errorf("%s: %d turned away, %d served, %d calls; want 15, 5, 1", key, crowded.Load(), served.Load(), g.calls.Load())
		}
	}
}

// Who leaves makes room for another.
func TestReadersWhoLeaveDoNotCount(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t), func(o *options) { o.lease = time.Hour })
	s.maxReaders = 2
	syncNow(t, s)
	g := newGated()
	first := make(chan Result, 1)
	go func() {
		r, err := s.Fetch(t.Context(), Request{Key: "k"}, g.fill)
		if err != nil {
			t.Errorf("Fetch: %v", err)
		}
		first <- r
	}()
	testkit.Wait(t, g.begun, "the call")
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Fetch(ctx, Request{Key: "k"}, g.fill); !errors.Is(err, context.Canceled) {
			t.Errorf("Fetch = %v, want its reader's end", err)
		}
	}
	g.gate <- struct{}{}
	testkit.Wait(t, first, "the first reader")
}

// What is held is whole, also where the read needed its head only.
func TestHeldEntryComesWithItsBody(t *testing.T) {
	t.Parallel()
	for _, memory := range []int64{0, -1} {
		rdb := testkit.Redis(t)
		s := newStore(rdb, testkit.Logger(t), Config{Memory: memory}, options{lease: shortLease, now: now, scripts: shipped})
		syncNow(t, s)
		for _, reclaimed := range []bool{false, true} {
			fetch(t, s, Request{Key: "k"}, answers("old"))
			m := invalidate(t, s, Purge{Keys: []string{"k"}})
			syncNow(t, s)
			req := Request{Key: "k", NoBody: func(*Entry) bool { return !reclaimed }}
			asked := false
			if reclaimed { // between the look-up and the lease
				s.faults.afterLookup = func() { rdb.Del(context.Background(), s.names.entry("k")) }
			}
			r := fetch(t, s, req, func(_ context.Context, held *Entry) (Fill, error) {
				asked = true
				if held == nil || text(held) != "old" || held.Token >= m.Seq {
					t.Errorf("memory %d, reclaimed %v: held = %+v, want what is void, whole", memory, reclaimed, held)
				}
				return Fill{Status: 200, Body: []byte("new"), TTL: time.Minute}, nil
			})
			s.faults.afterLookup = nil
			if !asked || r.Entry.Token < m.Seq {
				t.Errorf("the new entry stands at %d, want %d or later", r.Entry.Token, m.Seq)
			}
			invalidate(t, s, Purge{Keys: []string{"k"}})
			syncNow(t, s)
		}
	}
}

func TestLateAnswerIsCalledLate(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	s.cfg.FillTimeout = 20 * time.Millisecond
	syncNow(t, s)
	hangs := func(ctx context.Context, _ *Entry) (Fill, error) {
		<-ctx.Done()
		return Fill{}, ctx.Err()
	}
	if _, err := s.Fetch(t.Context(), Request{Key: "k"}, hangs); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("Fetch = %v, want that it was too late", err)
	}
}
