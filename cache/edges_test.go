package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// An origin of several edges, each of which shows an edit up to two seconds
// late, and asks a random one each time. Editors commit, announce the version,
// probe until an edge shows it, note that readers are about to be told, and
// tell them; readers complain when they see less than they were told.
// FRESHWIRE_RACE_SECONDS lengthens it.
func TestReaderNeverSeesOlderThanNoticeWhenEdgesLag(t *testing.T) {
	if testing.Short() {
		t.Skip("edges lag for seconds")
	}
	t.Parallel()
	length := 6 * time.Second
	if v, err := strconv.ParseFloat(os.Getenv("FRESHWIRE_RACE_SECONDS"), 64); err == nil {
		length = time.Duration(v * float64(time.Second))
	}
	t.Run("as built", func(t *testing.T) {
		t.Parallel()
		l := lagging{length: length, lag: 2 * time.Second}
		l.run(t)
		if l.stale.Load() > 0 {
			t.Errorf("%d of %d reads were older than their notice", l.stale.Load(), l.reads.Load())
		}
		if l.notices.Load() < 5 || l.hits.Load() < 10 || l.old.Load() == 0 {
			t.Errorf("the race did not take place")
		}
	})
	for name, l := range map[string]*lagging{
		"told unchecked":   {faults: faults{toldUnchecked: true}},
		"old views stored": {faults: faults{oldViewsStored: true}},
		"nothing told":     {untold: true},
		"no versions":      {unversioned: true},
	} {
		t.Run("broken/"+name, func(t *testing.T) {
			t.Parallel()
			l.length, l.lag, l.stopAtStale = 20*time.Second, time.Second, true
			l.run(t)
			if l.stale.Load() == 0 {
				t.Error("no stale read: the checker would not see this being broken")
			}
		})
	}
}

const (
	lagPosts = 4
	lagEdges = 4
)

type lagging struct {
	length, lag time.Duration
	faults      faults
	untold      bool // nobody notes who was told
	unversioned bool // the origin tells no versions
	stopAtStale bool

	reads, hits, stale, notices, old, calls atomic.Int64

	mu       sync.Mutex
	shows    [lagPosts][lagEdges][]time.Time // [v-1] is when an edge shows version v of a post
	notified [lagPosts]int
}

// see asks one edge for the versions of posts: some are missing as yet (0).
func (l *lagging) see(edge int, posts []int) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]int, len(posts))
	for i, post := range posts {
		for v, at := range l.shows[post][edge] {
			if !at.After(time.Now()) {
				out[i] = v + 1
			}
		}
	}
	return out
}

// request is a post itself, or with -1 the list of all.
func (l *lagging) request(post int) (req Request, posts []int, fill FillFunc) {
	tag := func(p int) string { return fmt.Sprint("post:", p) }
	req, posts = Request{Key: tag(post), Tags: []string{"posts", tag(post)}}, []int{post}
	if post < 0 {
		req, posts = Request{Key: "list", Tags: []string{"posts"}}, nil
		for p := range lagPosts {
			posts = append(posts, p)
		}
	}
	return req, posts, func(ctx context.Context, _ *Entry) (Fill, error) {
		l.calls.Add(1)
		idle(ctx, time.Duration(rand.IntN(10))*time.Millisecond)
		seen := l.see(rand.IntN(lagEdges), posts)
		idle(ctx, time.Duration(rand.IntN(10))*time.Millisecond)
		f := Fill{Status: 200, TTL: time.Minute, Versions: map[string]string{}}
		if len(posts) == 1 && seen[0] == 0 {
			return Fill{Status: 404, TTL: time.Minute, Body: []byte("0")}, nil
		}
		var body []string
		for i, v := range seen {
			body = append(body, strconv.Itoa(v))
			f.Tags = append(f.Tags, tag(posts[i]))
			if !l.unversioned {
				f.Versions[tag(posts[i])] = strconv.Itoa(v)
			}
		}
		f.Body = []byte(strings.Join(body, " "))
		return f, ctx.Err()
	}
}

func (l *lagging) run(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), l.length)
	defer cancel()
	server := testkit.StartServer(t)
	var nodes []*Store
	var wg sync.WaitGroup
	for range raceNodes {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr})
		t.Cleanup(func() { rdb.Close() })
		s := newStore(rdb, testkit.Discard(), Config{}, options{lease: 400 * time.Millisecond, now: now, scripts: shipped, faults: l.faults})
		nodes = append(nodes, s)
		wg.Go(func() { s.Run(ctx) })
	}
	for post := range lagPosts {
		wg.Go(func() { l.edit(ctx, t, nodes[post%raceNodes], post) })
	}
	for i := range 12 {
		wg.Go(func() { l.read(ctx, cancel, t, nodes[i%raceNodes]) })
	}
	wg.Wait()
	t.Logf("%d reads, %d hits, %d old views, %d calls of the origin, %d notices, %d stale",
		l.reads.Load(), l.hits.Load(), l.old.Load(), l.calls.Load(), l.notices.Load(), l.stale.Load())
}

func (l *lagging) edit(ctx context.Context, t *testing.T, worker *Store, post int) {
	req, _, fill := l.request(post)
	for version := 1; ctx.Err() == nil; version++ {
		l.mu.Lock()
		for edge := range lagEdges {
			at := time.Now().Add(time.Duration(rand.Int64N(int64(l.lag))))
			if shown := l.shows[post][edge]; len(shown) > 0 && at.Before(shown[len(shown)-1]) {
				at = shown[len(shown)-1]
			}
			l.shows[post][edge] = append(l.shows[post][edge], at)
		}
		l.mu.Unlock()
		tag := fmt.Sprint("post:", post)
		p := Purge{Tags: []string{"posts", tag}, Announced: []Announcement{{Tag: tag, Version: strconv.Itoa(version)}}}
		m, err := worker.Invalidate(ctx, p, Mark{})
		if err == nil {
			m, _, err = worker.Barrier(ctx, p, m)
		}
		for shown := l.unversioned; err == nil && !shown; {
			var r Result
			if r, err = worker.Fill(ctx, req, fill); err == nil {
				if shown = r.Detail != DetailOriginLag; !shown {
					idle(ctx, 10*time.Millisecond)
				}
			}
		}
		if err == nil && !l.untold {
			err = worker.Told(ctx, p, m)
		}
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("editing: %v", err)
			}
			return
		}
		l.mu.Lock()
		l.notified[post] = version
		l.mu.Unlock()
		l.notices.Add(1)
		idle(ctx, time.Duration(rand.IntN(1500))*time.Millisecond)
	}
}

func (l *lagging) read(ctx context.Context, cancel func(), t *testing.T, s *Store) {
	for ctx.Err() == nil {
		req, posts, fill := l.request(rand.IntN(lagPosts+1) - 1)
		l.mu.Lock()
		told := make([]int, len(posts))
		for i, post := range posts {
			told[i] = l.notified[post]
		}
		l.mu.Unlock()
		r, err := s.Fetch(ctx, req, fill)
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("reading: %v", err)
			}
			return
		}
		l.reads.Add(1)
		if r.Verdict == Hit {
			l.hits.Add(1)
		}
		if r.Detail == DetailOriginLag {
			l.old.Add(1)
		}
		for i, field := range strings.Fields(text(r.Entry)) {
			if saw, err := strconv.Atoi(field); err != nil || saw < told[i] {
				if l.stale.Add(1); l.stopAtStale {
					cancel()
				}
				break
			}
		}
		idle(ctx, time.Millisecond)
	}
}
