package cache

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestAnswerLacksWhatWasAnnounced(t *testing.T) {
	t.Parallel()
	found := func(versions map[string]string) Fill { return Fill{Status: 200, Versions: versions} }
	shows := func(v string) Fill { return found(map[string]string{"post:1": v}) }
	missing := Fill{Status: 404}
	newer := Announcement{Tag: "post:1", Version: "7"}
	gone := Announcement{Tag: "post:1", Gone: true}
	of, list := []string{"t:post:1"}, []string{"t:posts"}
	for _, tc := range []struct {
		name  string
		fill  Fill
		told  Announcement
		want  []string
		lacks bool
	}{
		{"older", shows("6"), newer, of, true},
		{"the same", shows("7"), newer, of, false},
		{"newer", shows("8"), newer, of, false},
		{"another hash", shows("a81bc"), Announcement{Tag: "post:1", Version: "f00ba"}, of, true},
		{"older, in a list", shows("6"), newer, list, true},
		{"no word on the thing", found(map[string]string{"post:2": "1"}), newer, list, false},
		{"no word on the thing that it is of", found(map[string]string{}), newer, of, false},
		{"not found", missing, newer, of, true},
		{"not found, of something else", missing, newer, list, false},
		{"gone, and not found", missing, gone, of, false},
		{"gone, and still shown", shows("6"), gone, of, true},
		{"gone, and still in a list", shows("6"), gone, list, true},
		{"gone, and not in the list", found(map[string]string{"post:2": "1"}), gone, list, false},
		{"gone, and shown without a version", found(map[string]string{}), gone, of, true},
		{"gone, on a route that reads none", found(nil), gone, of, false},
		{"says that there is nothing", Fill{Status: 200, Negative: true}, newer, of, true},
	} {
		if got := (response{Fill: tc.fill}).lacks(tc.told, tc.want); got != tc.lacks {
			t.Errorf("%s: lacks = %v, want %v", tc.name, got, tc.lacks)
		}
	}
}

// announce is an event that told the version of a thing, heeded by all nodes.
func announce(t *testing.T, version string, nodes ...*Store) (Purge, Mark) {
	t.Helper()
	p := tag("post:1")
	p.Announced = []Announcement{{Tag: "post:1", Version: version}}
	m := invalidate(t, nodes[0], p)
	syncNow(t, nodes...)
	return p, m
}

func tell(t *testing.T, s *Store, p Purge, m Mark) {
	t.Helper()
	if err := s.Told(t.Context(), p, m); err != nil {
		t.Fatal(err)
	}
}

// edge is an origin that shows one version after the other: the next with each
// call, the last for ever.
func edge(calls *atomic.Int64, versions ...string) FillFunc {
	return func(context.Context, *Entry) (Fill, error) {
		v := versions[min(int(calls.Add(1)), len(versions))-1]
		return Fill{Status: 200, Body: []byte(v), TTL: time.Minute, Versions: map[string]string{"post:1": v}}, nil
	}
}

var post = Request{Key: "post:1", Tags: []string{"post:1"}}

func TestOldViewIsServedOnceAndNotKept(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb, func(o *options) { o.lease = time.Hour })
		syncNow(t, s)
		announce(t, "7", s)
		var calls atomic.Int64
		fill := edge(&calls, "6", "6", "7")
		r := fetch(t, s, post, fill)
		if saw(r) != "6 miss" || r.Detail != DetailOriginLag || r.Stored {
			t.Errorf("read = %q, %q, stored %v; want 6 miss, origin-lag, not stored", saw(r), r.Detail, r.Stored)
		}
		// Nobody reads, and still it is warm once the origin shows it.
		testkit.Until(t, "the new version is stored", func() bool {
			e, ok, _ := s.Get(t.Context(), "post:1")
			return ok && text(e) == "7"
		})
		if r := fetch(t, s, post, fill); saw(r) != "7 hit" || calls.Load() != 3 {
			t.Errorf("read = %q after %d calls, want 7 hit after 3", saw(r), calls.Load())
		}
		if n := testutil.ToFloat64(s.metrics.oldViews.WithLabelValues("served")); n != 2 {
			t.Errorf("%v old views served were counted, want 2", n)
		}
		testkit.Until(t, "nobody asks for it any more", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.follows) == 0
		})
	})
}

func TestReaderMayHaveBeenToldSoTheOriginIsAskedAgain(t *testing.T) {
	judge := func(t *testing.T, rdb redis.UniversalClient, versions []string, change ...func(*options)) (seen string, s *Store) {
		s = node(t, rdb, append(change, func(o *options) { o.lease = time.Hour })...)
		syncNow(t, s)
		p, m := announce(t, "7", s)
		tell(t, s, p, m)
		var calls atomic.Int64
		r := fetch(t, s, post, edge(&calls, versions...))
		return saw(r) + " " + r.Detail, s
	}
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		seen, s := judge(t, rdb, []string{"6", "6", "6", "7"})
		if seen != "7 miss " {
			t.Errorf("read = %q, want 7 miss", seen)
		}
		if n := testutil.ToFloat64(s.metrics.oldViews.WithLabelValues("asked again")); n != 3 {
			t.Errorf("%v old views that were asked again were counted, want 3", n)
		}
		if e, ok, _ := s.Get(t.Context(), "post:1"); !ok || text(e) != "7" {
			t.Errorf("stored %+v, want 7", e)
		}
		invalidate(t, s, Purge{All: true})
		if seen, _ := judge(t, rdb, []string{"6", "6", "6", "7"}, func(o *options) { o.faults.toldUnchecked = true }); !strings.HasPrefix(seen, "6") {
			t.Errorf("without the check a read saw %q: this test proves nothing", seen)
		}
	})
}

// A later edit is announced, and nobody knows of it yet. Readers know the one before.
func TestReaderWhoWasToldOfAnEarlierEditSeesIt(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb, func(o *options) { o.lease = time.Hour })
		syncNow(t, s)
		p, m := announce(t, "7", s)
		tell(t, s, p, m)
		announce(t, "8", s)
		var calls atomic.Int64
		if r := fetch(t, s, post, edge(&calls, "6", "7", "8")); saw(r) != "7 miss" || r.Detail != DetailOriginLag {
			t.Errorf("read = %q %q, want 7 miss, origin-lag", saw(r), r.Detail)
		}
	})
}

func TestOriginThatNeverShowsWhatWasToldIsAnError(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t), func(o *options) { o.lease = time.Hour })
	s.cfg.FillTimeout = 200 * time.Millisecond
	syncNow(t, s)
	p, m := announce(t, "7", s)
	tell(t, s, p, m)
	var calls atomic.Int64
	began := time.Now()
	if _, err := s.Fetch(t.Context(), post, edge(&calls, "6")); !errors.Is(err, ErrOldView) {
		t.Errorf("Fetch = %v, want ErrOldView", err)
	}
	if took := time.Since(began); took > 5*time.Second || calls.Load() < 3 {
		t.Errorf("gave up after %v and %d calls", took, calls.Load())
	}
}

// Redis cannot say who was told, so somebody was.
func TestWhoWasToldIsNotKnownWithoutRedis(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := node(t, rdb, func(o *options) { o.lease = time.Hour })
	syncNow(t, s)
	announce(t, "7", s)
	rdb.AddHook(hook{func(_ context.Context, cmd redis.Cmder, send func() error) error {
		if sends(cmd, s.names.told("post:1")) {
			cmd.SetErr(errCut)
			return errCut
		}
		return send()
	}})
	var calls atomic.Int64
	if r := fetch(t, s, post, edge(&calls, "6", "7")); saw(r) != "7 miss" {
		t.Errorf("read = %q, want 7 miss", saw(r))
	}
}

// The browser is told while a fetch is under way that shows the old view. Who
// comes then must not get what that fetch brings.
func TestOldViewIsNotSharedWithWhoComesLater(t *testing.T) {
	judge := func(t *testing.T, change ...func(*options)) (leader, joiner Result) {
		s := node(t, testkit.Redis(t), append(change, func(o *options) { o.lease = time.Hour })...)
		syncNow(t, s)
		p, m := announce(t, "7", s)
		asking, goOn := make(chan struct{}), make(chan struct{})
		s.rdb.(*redis.Client).AddHook(hook{func(_ context.Context, cmd redis.Cmder, send func() error) error {
			err := send()
			if err == nil && sends(cmd, s.names.told("post:1")) {
				select {
				case <-asking:
				default:
					close(asking)
					<-goOn // the answer, that nobody was told, is on its way
				}
			}
			return err
		}})
		var calls atomic.Int64
		fill := edge(&calls, "6", "7")
		results := [2]chan Result{make(chan Result, 1), make(chan Result, 1)}
		read := func(to chan Result) {
			r, err := s.Fetch(t.Context(), post, fill)
			if err != nil {
				t.Errorf("Fetch: %v", err)
			}
			to <- r
		}
		go read(results[0])
		testkit.Wait(t, asking, "the old view")
		worker := node(t, redis.NewClient(s.rdb.(*redis.Client).Options()))
		t.Cleanup(func() { worker.rdb.Close() })
		tell(t, worker, p, m)
		go read(results[1])
		testkit.Until(t, "the second reader waits", func() bool { return waitingReaders("fetch") >= 2 })
		close(goOn)
		return testkit.Wait(t, results[0], "the first reader"), testkit.Wait(t, results[1], "the second reader")
	}
	if leader, joiner := judge(t); saw(leader) != "6 miss" || leader.Detail != DetailOriginLag || text(joiner.Entry) != "7" {
		t.Errorf("the first saw %q %q, the second %q; want 6, marked, and 7", saw(leader), leader.Detail, text(joiner.Entry))
	}
	if _, joiner := judge(t, func(o *options) { o.faults.oldViewsShared = true }); text(joiner.Entry) != "6" {
		t.Errorf("shared with all, the second saw %q: this test proves nothing", text(joiner.Entry))
	}
}

func TestOldViewsOfEveryKindOfAnswer(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	gone := tag("post:1")
	gone.Announced = []Announcement{{Tag: "post:1", Gone: true}}
	newer := tag("post:1")
	newer.Announced = []Announcement{{Tag: "post:1", Version: "7"}}
	version := func(v string) map[string]string { return map[string]string{"post:1": v} }
	streamed := func(v string) Fill { // the version is in the body
		return Fill{Status: 200, TTL: time.Minute, Versions: version(""), Stream: atOnce(v),
			Finish: func(b []byte) Fill { return Fill{Status: 200, TTL: time.Minute, Versions: version(string(b))} }}
	}
	tests := []struct {
		name     string
		told     Purge
		old, new func() Fill
	}{
		{"unpublished", gone,
			func() Fill { return Fill{Status: 200, TTL: time.Minute, Body: []byte("6"), Versions: version("6")} },
			func() Fill { return Fill{Status: 404, TTL: time.Minute, Body: []byte("7")} }},
		{"published", newer,
			func() Fill { return Fill{Status: 404, TTL: time.Minute, Body: []byte("6")} },
			func() Fill { return Fill{Status: 200, TTL: time.Minute, Body: []byte("7"), Versions: version("7")} }},
		{"not to be stored", newer,
			func() Fill { return Fill{Status: 200, NoStore: true, Body: []byte("6"), Versions: version("6")} },
			func() Fill { return Fill{Status: 200, NoStore: true, Body: []byte("7"), Versions: version("7")} }},
		{"streamed", newer, func() Fill { return streamed("6") }, func() Fill { return streamed("7") }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := node(t, rdb, func(o *options) { o.lease = time.Hour })
			syncNow(t, s)
			m := invalidate(t, s, tc.told)
			syncNow(t, s)
			calls := 0
			fill := func(context.Context, *Entry) (Fill, error) {
				if calls++; calls < 3 {
					return tc.old(), nil
				}
				return tc.new(), nil
			}
			tell(t, s, tc.told, m)
			if r := fetch(t, s, post, fill); r.Stream != nil || text(r.Entry) != "7" || r.Detail == DetailOriginLag {
				t.Errorf("read = %q, %q; want 7", saw(r), r.Detail)
			}
			// A read that cannot share asks again, too.
			calls = 0
			s.mu.Lock()
			for i := range maxFlights {
				s.flights[string(rune('a'+i))] = nil
			}
			s.mu.Unlock()
			invalidate(t, s, tag("post:1"))
			syncNow(t, s)
			if r := fetch(t, s, post, fill); text(r.Entry) != "7" || r.Detail != DetailCrowded {
				t.Errorf("read alone = %q, %q; want 7, crowded", saw(r), r.Detail)
			}
		})
	}
}

func TestNodeThatLeftAsksNoMore(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t), func(o *options) { o.lease = leaseTime })
	ctx, leave := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- s.Run(ctx) }()
	testkit.Until(t, "ready", func() bool { return s.Ready() == nil })
	announce(t, "7", s)
	var calls atomic.Int64
	fetch(t, s, post, edge(&calls, "6"))
	leave()
	testkit.Wait(t, over, "the end of the node")
	testkit.Until(t, "nobody asks any more", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.follows) == 0
	})
}
