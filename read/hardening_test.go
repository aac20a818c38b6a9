package read

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
)

// What is not in the key must not reach the origin: a content that differs by
// it would be everybody's.
func TestUnkeyedInputNeverReachesTheOrigin(t *testing.T) {
	t.Parallel()
	cfg := RouteConfig{Path: "/api/posts", Origin: "ORIGIN/posts?per=10", Query: []string{"page"}, Headers: map[string]string{"X-Api-Key": "k"}}
	s := newSite(t, says("x"), cfg)
	s.get("/api/posts?page=2&debug=1&page%00=3&callback=evil&per=1000",
		"X-Forwarded-Host: evil.example", "X-Forwarded-For: 1.2.3.4", "X-Original-URL: /admin", "X-Http-Method-Override: DELETE", "Host: evil.example",
		"Cookie: session_id=1", "Accept: text/evil", "Accept-Language: de", "Accept-Encoding: br", "User-Agent: evil", "Origin: https://evil.example",
		"Range: bytes=0-1", "If-None-Match: \"x\"", "If-Modified-Since: Mon, 01 Jan 2035 00:00:00 GMT", "X-Request-Id: chosen", "X-Api-Key: mine", "Referer: x", "Cache-Control: no-cache", "Pragma: no-cache", "Forwarded: host=evil")
	r := s.lastCall()
	if got := r.URL.String(); got != "/posts?per=10&page=2" {
		t.Errorf("the origin was asked for %q", got)
	}
	if r.Host != strings.TrimPrefix(s.origin.URL, "http://") || r.Method != "GET" {
		t.Errorf("the origin was asked %s with the host %q", r.Method, r.Host)
	}
	want := map[string]string{"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "freshwire", "X-Api-Key": "k"}
	for name, values := range r.Header {
		switch {
		case name == "X-Request-Id" && values[0] != "chosen" && len(values) == 1:
		case len(values) != 1 || values[0] != want[name]:
			t.Errorf("the origin was sent %s: %q", name, values)
		}
	}
	s.expect("another debug", s.get("/api/posts?debug=2&page=2"), `200 HIT "x"`)
}

func TestAuthorizedReadsAreNeverStoredNorServedFromTheCache(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "for "+r.Header.Get("Authorization")) }, posts)
	s.expect("anonymous", s.get("/api/posts/1"), `200 MISS "for "`)
	a := s.get("/api/posts/1", "Authorization: Bearer a")
	s.expect("a", a, `200 MISS "for Bearer a"`)
	if got := a.header.Get("Cache-Control"); got != "private, no-store" {
		t.Errorf("Cache-Control = %q", got)
	}
	if got := a.header.Get("Cache-Status"); got != "freshwire; fwd=bypass; detail=authorization" {
		t.Errorf("Cache-Status = %q", got)
	}
	if a.header.Get("Freshwire-Position") != "7-0" || a.header.Get("Freshwire-Seq") != "" || a.header.Get("Age") != "" {
		t.Errorf("headers of a bypass: %v", a.header)
	}
	s.expect("b", s.get("/api/posts/1", "Authorization: Bearer b"), `200 MISS "for Bearer b"`)
	s.expect("empty", s.get("/api/posts/1", "Authorization: "), `200 MISS "for "`)
	s.expect("anonymous again", s.get("/api/posts/1"), `200 HIT "for "`)
	s.expect("another post, a", s.get("/api/posts/2", "Authorization: Bearer a"), `200 MISS "for Bearer a"`)
	s.expect("another post", s.get("/api/posts/2"), `200 MISS "for "`)
	s.becomes(answers(403, "no", "Cache-Control: max-age=5", "WWW-Authenticate: Bearer"))
	refused := s.get("/api/posts/1", "Authorization: Bearer c")
	s.expect("refused", refused, `403 MISS "no"`)
	if refused.header.Get("Cache-Control") != "max-age=5" || refused.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("headers of a refusal: %v", refused.header)
	}
}

func TestWhatIsForOneClientIsNeverStored(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, posts)
	for i, headers := range [][]string{{"Set-Cookie: a=b", "Cache-Control: public, max-age=60"}, {"Cache-Control: private, max-age=60"}, {"Cache-Control: no-store"}, {"Vary: *"}, {"Vary: Cookie"}, {"Vary: Accept-Language"}} {
		s.becomes(says("mine", headers...))
		for range 2 {
			a := s.get(fmt.Sprintf("/api/posts/%d", i))
			s.expect(headers[0], a, `200 MISS "mine"`)
			if got := a.header.Get("Cache-Control"); got != "private, no-store" {
				t.Errorf("%q: Cache-Control = %q", headers, got)
			}
		}
		if n := s.calls(); n != 2*(i+1) {
			t.Fatalf("%q: the origin was asked %d times in all, want %d", headers, n, 2*(i+1))
		}
	}
	for _, key := range s.rdb.Keys(t.Context(), "*:e:*").Val() {
		t.Errorf("stored: %s", key)
	}
}

// Fifty clients wait for one fetch, and its answer sets a cookie.
func TestCookieIsGivenToOneClientOnly(t *testing.T) {
	t.Parallel()
	const clients = 50
	var n, waiting atomic.Int64
	release := make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		id := n.Add(1)
		<-release
		http.SetCookie(w, &http.Cookie{Name: "session", Value: strconv.FormatInt(id, 10)})
		fmt.Fprintf(w, "you are %d", id)
	}, posts)
	s.before(func(fetch func() (cache.Result, error)) (cache.Result, error) {
		waiting.Add(1)
		return fetch()
	})
	var mu sync.Mutex
	cookies, bodies := map[string]int{}, map[string]int{}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			a := s.get("/api/posts/1")
			mu.Lock()
			defer mu.Unlock()
			cookies[a.header.Get("Set-Cookie")]++
			bodies[a.body]++
		})
	}
	testkit.Until(t, "all clients wait", func() bool { return waiting.Load() == clients && n.Load() > 0 })
	close(release)
	wg.Wait()
	if len(cookies) != clients || len(bodies) != clients {
		t.Errorf("%d clients got %d cookies and %d bodies: %v", clients, len(cookies), len(bodies), bodies)
	}
}

// post:{id} with the id "1:comments" and post:{id}:comments with the id 1 have
// one key.
func TestKeyOfAnotherRouteIsNotServed(t *testing.T) {
	t.Parallel()
	comments := RouteConfig{Path: "/api/posts/{id}/comments", Origin: "ORIGIN/posts/{id}/comments", Key: "post:{id}:comments"}
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, ":") {
			w.WriteHeader(404)
			return
		}
		io.WriteString(w, r.URL.Path)
	}, posts, comments)
	if a := s.get("/api/posts/1:comments"); a.status != 404 {
		t.Fatalf("the attack = %v", a)
	}
	s.expect("comments, their key taken", s.get("/api/posts/1/comments"), `200 MISS "/posts/1/comments"`)
	s.expect("other comments", s.get("/api/posts/2/comments"), `200 MISS "/posts/2/comments"`)
	if a := s.get("/api/posts/2:comments"); a.status != 404 || a.header.Get("X-Cache") != "MISS" {
		t.Errorf("the attack the other way = %v", a)
	}
	s.purge(cache.Purge{Keys: []string{"post:1:comments"}})
	s.expect("after a purge", s.get("/api/posts/1/comments"), `200 MISS "/posts/1/comments"`)
}

func TestAnswersOfBrokenOrigins(t *testing.T) {
	t.Parallel()
	cfg := posts
	cfg.MaxBody, cfg.Timeout = 1000, 100*time.Millisecond
	s := newSite(t, nil, cfg)
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	zip.Write(make([]byte, 50<<20))
	zip.Close()
	var small bytes.Buffer
	zip = gzip.NewWriter(&small)
	zip.Write([]byte("hello"))
	zip.Close()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect led to another host") }))
	t.Cleanup(elsewhere.Close)
	for i, tc := range []struct {
		name  string
		serve http.HandlerFunc
		want  int
		cache string
	}{
		{"body at the limit", says(strings.Repeat("x", 1000)), 200, "MISS"},
		{"body over the limit", says(strings.Repeat("x", 1001)), 502, ""},
		{"endless body", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 256)); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			}
		}, 502, ""},
		{"gzip that was not asked for", says(small.String(), "Content-Encoding: gzip", `ETag: "zipped"`), 200, "MISS"},
		{"gzip bomb", says(bomb.String(), "Content-Encoding: gzip"), 502, ""},
		{"broken gzip", says("hello", "Content-Encoding: gzip"), 502, ""},
		{"unknown coding", says("hello", "Content-Encoding: br"), 502, ""},
		{"slow to begin", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 504, ""},
		{"slow to end", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, 504, ""},
		{"short body", says("x", "Content-Length: 10"), 502, ""},
		{"connection lost", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, 502, ""},
		{"server error", answers(500, "trace: password=1"), 502, ""},
		{"unavailable", answers(503, "x"), 502, ""},
		{"too many requests", answers(429, "x"), 503, ""},
		{"part of it", answers(206, "x"), 502, ""},
		{"redirect elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, 502, ""},
		{"redirect in a circle", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, 502, ""},
		{"redirect to nowhere", answers(302, "x"), 502, ""},
		{"not allowed", answers(403, "x"), 403, "MISS"},
		{"nothing to say", answers(204, ""), 204, "MISS"},
		{"a large header", says("x", "Link: "+strings.Repeat("x", 80<<10)), 502, ""},
	} {
		s.becomes(tc.serve)
		a := s.get(fmt.Sprintf("/api/posts/%d", i))
		if a.status != tc.want || a.header.Get("X-Cache") != tc.cache {
			t.Errorf("%s: got %.200s, want %d %s", tc.name, a, tc.want, tc.cache)
		}
		if a.status >= 500 {
			if a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("Cache-Control") != "no-store" || strings.Contains(a.body, "password") {
				t.Errorf("%s: got %v with %v, want a problem that nobody keeps", tc.name, a, a.header)
			}
			s.becomes(says("well again"))
			s.expect(tc.name+", then well", s.get(fmt.Sprintf("/api/posts/%d", i)), `200 MISS "well again"`)
		}
	}
	s.becomes(says(small.String(), "Content-Encoding: gzip", `ETag: "zipped"`))
	if a := s.get("/api/posts/zip"); a.body != "hello" || a.header.Get("Content-Encoding") != "" || a.header.Get("ETag") == `"zipped"` {
		t.Errorf("unpacked: %v with %v", a, a.header)
	}
	s.origin.Close() // waits for the handlers, which end when their client leaves
	if a := s.get("/api/posts/closed"); a.status != 502 || a.header.Get("Retry-After") == "" {
		t.Errorf("origin closed = %v", a)
	}
}

// While the origin hangs, what may be shown stale is shown at once.
func TestHangingOriginDoesNotDelayStaleAnswers(t *testing.T) {
	t.Parallel()
	cfg := posts
	cfg.TTL, cfg.StaleIfError, cfg.Timeout = time.Millisecond, time.Hour, 30*time.Millisecond
	s := newSite(t, says("old"), cfg)
	s.get("/api/posts/1")
	s.becomes(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for i := range outageAfter {
		if a := s.get(fmt.Sprintf("/api/posts/other-%d", i)); a.status != 504 {
			t.Fatalf("read %d of a hanging origin = %v", i, a)
		}
	}
	before := s.calls()
	s.expect("stale", s.get("/api/posts/1"), `200 STALE "old"`)
	if a := s.get("/api/posts/2"); a.status != 504 || a.header.Get("Retry-After") == "" {
		t.Errorf("nothing to show = %v", a)
	}
	if n := s.calls() - before; n != 0 {
		t.Errorf("the hanging origin was asked %d times more", n)
	}
	s.becomes(says("new"))
	testkit.Until(t, "the origin is asked again", func() bool { return s.get("/api/posts/1").body == "new" })
}

// The final place has another name than the route's tags say.
func TestRedirectedContentIsNotStored(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/posts/old" {
			http.Redirect(w, r, "/posts/new", http.StatusMovedPermanently)
			return
		}
		io.WriteString(w, r.URL.Path)
	}, posts)
	for range 2 {
		a := s.get("/api/posts/old")
		s.expect("redirected", a, `200 MISS "/posts/new"`)
		if got := a.header.Get("Cache-Status"); got != "freshwire; fwd=bypass; detail=redirect" {
			t.Errorf("Cache-Status = %q", got)
		}
	}
}

func TestErrorsNeverEchoTheRequest(t *testing.T) {
	t.Parallel()
	s := newSite(t, answers(404, ""), posts)
	for _, target := range []string{"/api/posts/%3Cscript%3E", "/api/posts/%3Cscript%3E%00", "/api/posts/" + strings.Repeat("%3Cscript%3E", 300)} {
		a := s.get(target, "X-Request-Id: <script>", "Freshwire-After: 1")
		if a.status < 400 || strings.Contains(fmt.Sprint(a.body, a.header), "script") {
			t.Errorf("%.40s: got %v with %v", target, a, a.header)
		}
	}
}

// Secrets stand in the origin's address and in the headers sent to it.
func TestSecretsOfTheOriginAreNotLogged(t *testing.T) {
	t.Parallel()
	var buf syncBuffer
	s := newSite(t, answers(500, ""))
	s.reader.log = slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.mount(RouteConfig{Path: "/a", Origin: "ORIGIN/a?token=hunter2", Headers: map[string]string{"X-Key": "hunter2"}})
	s.get("/a", "Authorization: Bearer hunter2")
	s.get("/a")
	s.origin.Close()
	s.get("/a")
	if log := buf.String(); strings.Contains(log, "hunter2") || !strings.Contains(log, "origin failed") {
		t.Errorf("the log says:\n%s", log)
	}
	for _, key := range s.rdb.Keys(t.Context(), "*").Val() {
		if v, _ := s.rdb.Get(t.Context(), key).Result(); strings.Contains(key+v, "hunter2") {
			t.Errorf("Redis holds %s = %s", key, v)
		}
	}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// The fetch belongs to all who will read; a client that leaves must not end it.
func TestClientThatLeavesDoesNotEndTheFetchOfOthers(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}), make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-release
		io.WriteString(w, "x")
	}, posts)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		s.router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/api/posts/1", nil).WithContext(ctx))
		close(left)
	}()
	testkit.Wait(t, asked, "the origin to be asked")
	leave()
	testkit.Wait(t, left, "the client to leave")
	close(release)
	if a := s.get("/api/posts/1"); a.body != "x" || s.calls() != 1 {
		t.Errorf("got %v after %d calls, want the answer of the first", a, s.calls())
	}
}

func TestMetricsHaveOneSeriesARoute(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x"))
	reg := prometheus.NewPedanticRegistry()
	s.reader = New(s.store, func() string { return "" }, testkit.Logger(t), Config{Metrics: reg})
	s.mount(posts)
	for i := range 20 {
		s.get(fmt.Sprintf("/api/posts/%d", i%10))
	}
	s.get("/api/posts/%00")
	s.do("POST", "/api/posts/1")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() == "route" && l.GetValue() != posts.Path {
					t.Errorf("%s has the route %q", name, l.GetValue())
				}
				if l.GetName() != "route" {
					name += " " + l.GetValue()
				}
			}
			got[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"freshwire_read_requests_total fresh hit": 10, "freshwire_read_requests_total cold miss": 10, "freshwire_read_requests_total address error": 1, "freshwire_read_requests_total method error": 1,
		"freshwire_read_seconds": 22, "freshwire_read_origin_seconds 2xx": 10,
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
}

// noCache asks the origin each time.
type noCache struct{}

func (noCache) Peek(cache.Request) (cache.Result, bool) { return cache.Result{}, false }

func (noCache) Stands(cache.Request, *cache.Entry) bool { return false }

func (noCache) Fetch(ctx context.Context, _ cache.Request, fill cache.FillFunc) (cache.Result, error) {
	f, err := fill(ctx, nil)
	return cache.Result{Entry: f.Entry(), Verdict: cache.Miss}, err
}

func (c noCache) Fill(ctx context.Context, req cache.Request, fill cache.FillFunc) (cache.Result, error) {
	return c.Fetch(ctx, req, fill)
}

// Whatever is sent as path, query and headers, an answer comes, and it is one
// of those that a stranger may see.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][3]string{
		{"/api/posts/1", "", ""}, {"/api/posts/..%2f", "a=1&%", "1"}, {"/api/posts/a%00", ";;", "99999999999999999999"},
		{"//api/posts/1", "lang=de", "-1"}, {"/api/posts/%ff", "lang=%ff", "１"}, {"/api/posts/1", "lang=1&lang=2", "18446744073709551615"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	// The cache is not what is tried here: each read asks the origin.
	origin := httptest.NewServer(says("x"))
	f.Cleanup(origin.Close)
	reader := New(noCache{}, func() string { return "1-0" }, testkit.Discard(), Config{})
	route, err := reader.Route(RouteConfig{Path: "/api/posts/{id}", Origin: origin.URL + "/posts/{id}", Query: []string{"lang"}})
	if err != nil {
		f.Fatal(err)
	}
	router := mux.NewRouter()
	router.Handle("/api/posts/{id}", route)
	f.Fuzz(func(t *testing.T, path, query, after string) {
		r := httptest.NewRequest("GET", "/", nil)
		u, err := r.URL.Parse(path)
		if err != nil || u.Host != r.URL.Host {
			return
		}
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = u.Path, u.RawPath, query
		r.Header["Freshwire-After"] = []string{after}
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		if !slices.Contains([]int{200, 301, 308, 400, 404}, w.Code) {
			t.Fatalf("%q ? %q, after %q: status %d %s", path, query, after, w.Code, w.Body)
		}
	})
}
