package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/read"
	"github.com/freshwire/freshwire/tasks"
)

// laggingOrigin answers from one of its edges, each of which sees an edit up to
// lag after it was made.
type laggingOrigin struct {
	lag time.Duration

	mu    sync.Mutex
	edits map[string][]seen // :: post → its versions, oldest first
	asked int
}

type seen struct {
	version int
	at      [3]time.Time // by edge; zero: at once
}

func (o *laggingOrigin) edit(post string, version int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := seen{version: version}
	if version > 0 {
		for i := range s.at {
			s.at[i] = time.Now().Add(rand.N(o.lag + 1))
		}
	}
	o.edits[post] = append(o.edits[post], s)
}

func (o *laggingOrigin) shows(post string, edge int) (version int) {
	for _, s := range o.edits[post] {
		if time.Now().After(s.at[edge]) {
			version = s.version
		}
	}
	return version
}

func (o *laggingOrigin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	type post struct {
		ID      string `json:"id"`
		Version int    `json:"version"`
	}
	edge := rand.N(3)
	w.Header().Set("Content-Type", "application/json")
	if id, ok := strings.CutPrefix(r.URL.Path, "/posts/"); ok {
		json.NewEncoder(w).Encode(post{id, o.shows(id, edge)})
		return
	}
	var list []post
	for _, id := range []string{"1", "2", "3"} {
		list = append(list, post{id, o.shows(id, edge)})
	}
	json.NewEncoder(w).Encode(map[string]any{"items": list})
}

const lagFile = `
sources:
  blog: {cms: generic, scheme: token, secret: a secret of the blog, settle: %s}
rules:
  - {purge: {tags: ["{type}", "{type}:{id}"]}, refill: 10}
routes:
  - {path: "/api/posts/{id}", origin: "%[2]s/posts/{id}", tags: ["post:{id}"], %[3]s}
  - {path: "/api/posts", origin: "%[2]s/posts", tags: [post], %[4]s}
`

// lagging is a worker and a reader in one process, and an origin.
type lagging struct {
	*app
	origin *laggingOrigin
	pages  http.Handler
	queue  *tasks.Queue
	told   chan event.Change
}

// newLagging starts the parts; breaks take steps out.
func newLagging(t *testing.T, lag time.Duration, settle, detail, list string, breaks func(*tasks.Steps)) *lagging {
	t.Helper()
	l := &lagging{origin: &laggingOrigin{lag: lag, edits: map[string][]seen{}}, told: make(chan event.Change, 1)}
	server := httptest.NewServer(l.origin)
	t.Cleanup(server.Close)
	s, err := parseSite("lag.yaml", fmt.Appendf(nil, lagFile, settle, server.URL, detail, list))
	if err != nil {
		t.Fatal(err)
	}
	rdb, log := testkit.Redis(t), testkit.Discard()
	l.app = &app{site: s, log: log}
	l.configs.Tasks.SettleTimeout = 10 * time.Second
	l.app.cache = cache.New(rdb, log, cache.Config{})
	l.changes = feed.New(rdb, log, feed.Config{})
	testkit.Go(t, l.app.cache.Run)
	testkit.Until(t, "the cache is ready", func() bool { return l.app.cache.Ready() == nil })
	reader := read.New(l.app.cache, func() string { return "" }, log, read.Config{})
	router := mux.NewRouter()
	for _, cfg := range s.file.Routes {
		route, err := reader.Route(cfg)
		if err != nil {
			t.Fatal(err)
		}
		router.Handle(cfg.Path, route)
	}
	l.pages = router
	steps := l.steps()
	l.readsOrigins(&steps, reader)
	if breaks != nil {
		breaks(&steps)
	}
	add := steps.Append
	steps.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
		position, added, err := add(ctx, c)
		if err == nil {
			l.told <- c
		}
		return position, added, err
	}
	l.queue = tasks.NewQueue(rdb, log, tasks.Config{SettleTimeout: l.configs.Tasks.SettleTimeout})
	testkit.Go(t, tasks.NewWorker(rdb, steps, log, tasks.Config{SettleTimeout: l.configs.Tasks.SettleTimeout}).Run)
	return l
}

// edit saves a version of a post, and tells of it as the CMS does.
func (l *lagging) edit(t *testing.T, post string, version int, tells bool) {
	t.Helper()
	l.origin.edit(post, version)
	ev := event.Event{ID: event.NewID("blog", post, strconv.Itoa(version)), Source: "blog", Name: "post.updated", Type: "post", Action: event.Update, Entity: post, ReceivedAt: time.Now()}
	if tells {
		ev.Version = strconv.Itoa(version)
	}
	if _, err := l.queue.Enqueue(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
}

// get returns the version of a post at an address, and what the cache says of it.
func (l *lagging) get(t *testing.T, address, post string) (version int, status string) {
	t.Helper()
	w := httptest.NewRecorder()
	l.pages.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", address, nil))
	var body struct {
		Version int
		Items   []struct {
			ID      string
			Version int
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); w.Code != 200 || err != nil {
		t.Errorf("GET %s = %d %s, %v", address, w.Code, w.Body, err)
		return -1, ""
	}
	version = body.Version
	for _, it := range body.Items {
		if it.ID == post {
			version = it.Version
		}
	}
	return version, w.Header().Get("Cache-Status")
}

// stale edits posts, with readers beside, and counts the reads after a notice
// that show something older than it tells of. It ends with the first of them.
func (l *lagging) stale(t *testing.T, edits int, tells bool) (stale, reads int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() { // who fill in whatever an edge has
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				<-tick.C
				l.get(t, "/api/posts", "1")
				l.get(t, "/api/posts/1", "1")
			}
		})
	}
	defer readers.Wait()
	defer stop()
	for n := 1; n <= edits && stale == 0; n++ {
		l.edit(t, "1", n, tells)
		if c := testkit.Wait(t, l.told, "the notice"); c.Degraded {
			t.Errorf("edit %d went out degraded", n)
		}
		for range 20 {
			for _, address := range []string{"/api/posts/1", "/api/posts"} {
				reads++
				if v, _ := l.get(t, address, "1"); v < n {
					stale++
				}
			}
		}
	}
	return stale, reads
}

const (
	detailVersion = "version: version"
	listVersions  = `version: "items[*].version", learn_tags: {json: ["items[*].id -> post:{}"]}`
)

// The CMS sends its webhooks up to a third of a second before its edges have
// the new content. Who is told never reads what is older; without one of the
// parts, it does.
func TestNobodyReadsAnOlderVersionThanHeWasToldOf(t *testing.T) {
	for _, tc := range []struct {
		name                 string
		settle, detail, list string
		tells, broken        bool
		breaks               func(*tasks.Steps)
	}{
		{name: "versions", settle: "0s", detail: detailVersion, list: listVersions, tells: true},
		{name: "no versions, but a lag", settle: "400ms", detail: "ttl: 1h", list: "ttl: 1h"},
		{name: "neither", settle: "0s", detail: "ttl: 1h", list: "ttl: 1h", broken: true},
		{name: "a lag that is not waited for", settle: "400ms", detail: "ttl: 1h", list: "ttl: 1h", broken: true, breaks: func(st *tasks.Steps) { st.Settle = nil }},
		{name: "versions that nobody announces", settle: "0s", detail: detailVersion, list: listVersions, tells: true, broken: true, breaks: func(st *tasks.Steps) {
			st.Settle = nil
			invalidate, barrier := st.Invalidate, st.Barrier
			st.Invalidate = func(ctx context.Context, s tasks.Subject, m tasks.Mark) (tasks.Mark, error) {
				s.News = false
				return invalidate(ctx, s, m)
			}
			st.Barrier = func(ctx context.Context, s tasks.Subject, m tasks.Mark) (tasks.Mark, tasks.Report, error) {
				s.News = false
				return barrier(ctx, s, m)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lag := 300 * time.Millisecond
			if tc.broken {
				lag = 3 * time.Second // so that it is seen on a busy machine, too
			}
			l := newLagging(t, lag, tc.settle, tc.detail, tc.list, tc.breaks)
			stale, reads := l.stale(t, 8, tc.tells)
			t.Logf("%d of %d reads are stale", stale, reads)
			if (stale > 0) != tc.broken {
				t.Errorf("%d of %d reads after a notice show something older, want some: %v", stale, reads, tc.broken)
			}
		})
	}
}

// What was read most is there when browsers come, all at once.
func TestBrowsersFindMostReadEntriesFilledWhenTheyAreTold(t *testing.T) {
	for _, refills := range []bool{true, false} {
		t.Run(fmt.Sprint("refills=", refills), func(t *testing.T) {
			l := newLagging(t, 0, "0s", "ttl: 1h", "ttl: 1h", func(st *tasks.Steps) {
				if !refills {
					st.Refill = nil
				}
			})
			for range 64 {
				l.get(t, "/api/posts", "1")
				l.get(t, "/api/posts/1", "1")
			}
			l.edit(t, "1", 1, false)
			testkit.Wait(t, l.told, "the notice")
			for _, address := range []string{"/api/posts/1", "/api/posts"} {
				version, status := l.get(t, address, "1")
				if hit := strings.Contains(status, "hit"); version != 1 || hit != refills {
					t.Errorf("%s after the notice: version %d, %q, want version 1, a hit: %v", address, version, status, refills)
				}
			}
		})
	}
}
