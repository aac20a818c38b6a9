package read

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/gorilla/mux"
	"github.com/redis/go-redis/v9"
)

// site is an origin, a cache on a Redis of its own, and routes over both.
type site struct {
	t      testing.TB
	rdb    *redis.Client
	store  *cache.Store
	reader *Reader
	router *mux.Router
	origin *httptest.Server

	position atomic.Pointer[string] // in the log of changes

	mu    sync.Mutex
	serve http.HandlerFunc
	asked []*http.Request // what the origin was asked, in order
}

// newSite returns a site. In cfgs "ORIGIN" stands for the origin's URL.
func newSite(t testing.TB, serve http.HandlerFunc, cfgs ...RouteConfig) *site {
	t.Helper()
	s := &site{t: t, rdb: testkit.Redis(t), router: mux.NewRouter(), serve: serve}
	s.at("7-0")
	s.origin = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r)
		serve := s.serve
		s.mu.Unlock()
		serve(w, r)
	}))
	t.Cleanup(s.origin.Close)
	log := testkit.Logger(t)
	s.store = cache.New(s.rdb, log, cache.Config{Embedded: true}) // nobody else holds a lease
	testkit.Go(t, s.store.Run)
	s.reader = New(s.store, func() string { return *s.position.Load() }, log, Config{CORSOrigins: []string{"https://shop.example"}})
	for _, cfg := range cfgs {
		s.mount(cfg)
	}
	return s
}

// before calls f for each Fetch of the reader, with what continues it.
func (s *site) before(f fetchFunc) {
	s.reader.cache = intercepted{s.reader.cache, f}
}

type fetchFunc func(fetch func() (cache.Result, error)) (cache.Result, error)

// intercepted is a cache each Fetch of which goes through a function. Nothing
// is answered from memory.
type intercepted struct {
	Cache
	f fetchFunc
}

func (c intercepted) Peek(cache.Request) (cache.Result, bool) { return cache.Result{}, false }

func (c intercepted) Fetch(ctx context.Context, req cache.Request, fill cache.FillFunc) (cache.Result, error) {
	return c.f(func() (cache.Result, error) { return c.Cache.Fetch(ctx, req, fill) })
}

func (s *site) at(position string) { s.position.Store(&position) }

func (s *site) mount(cfg RouteConfig) {
	s.t.Helper()
	cfg.Origin = strings.Replace(cfg.Origin, "ORIGIN", s.origin.URL, 1)
	route, err := s.reader.Route(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.router.Handle(cfg.Path, route)
}

// becomes changes what the origin answers.
func (s *site) becomes(serve http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve = serve
}

// calls returns how often the origin was asked.
func (s *site) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *site) lastCall() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[len(s.asked)-1]
}

// seen is an answer as a client sees it.
type seen struct {
	status int
	header http.Header
	body   string
}

func (a seen) String() string {
	return fmt.Sprintf("%d %s %q", a.status, a.header.Get("X-Cache"), a.body)
}

// get asks for target; headers are "Name: value".
func (s *site) get(target string, headers ...string) seen {
	return s.do("GET", target, headers...)
}

func (s *site) do(method, target string, headers ...string) seen {
	r := httptest.NewRequest(method, target, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	s.reader.Handler(s.router).ServeHTTP(w, r)
	res := w.Result()
	body, _ := io.ReadAll(res.Body)
	return seen{res.StatusCode, res.Header, string(body)}
}

// expect fails the test when a is not what want says, as seen.String does.
func (s *site) expect(what string, a seen, want string) {
	s.t.Helper()
	if a.String() != want {
		s.t.Errorf("%s: got %v (Cache-Status %q), want %s", what, a, a.header.Get("Cache-Status"), want)
	}
}

// purge voids p on every node.
func (s *site) purge(p cache.Purge) cache.Mark {
	s.t.Helper()
	mark, err := s.store.Invalidate(s.t.Context(), p, cache.Mark{})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, _, err := s.store.Barrier(s.t.Context(), p, mark); err != nil {
		s.t.Fatal(err)
	}
	return mark
}

func says(body string, headers ...string) http.HandlerFunc {
	return answers(200, body, headers...)
}

func answers(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// counts answers with the number of the call.
func counts() http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "v%d", n.Add(1)) }
}

var posts = RouteConfig{Path: "/api/posts/{id}", Origin: "ORIGIN/posts/{id}", Key: "post:{id}", Tags: []string{"posts", "post:{id}"},
	NegativeTTL: time.Minute, CacheControl: "public, s-maxage=60"}

func TestSecondReadComesFromTheCache(t *testing.T) {
	t.Parallel()
	s := newSite(t, says(`{"id":1}`, "Content-Type: application/json", "X-Powered-By: cms"), posts)
	first := s.get("/api/posts/1")
	s.expect("cold", first, `200 MISS "{\"id\":1}"`)
	second := s.get("/api/posts/1?utm_source=mail")
	s.expect("warm", second, `200 HIT "{\"id\":1}"`)
	if n := s.calls(); n != 1 {
		t.Errorf("the origin was asked %d times, want once", n)
	}
	for name, want := range map[string]string{
		"Content-Type": "^application/json$", "Cache-Control": "^public, s-maxage=60$", "Etag": `^"[0-9a-f]{32}"$`, "Age": "^[0-9]$",
		"Freshwire-Seq": "^[0-9]{16}$", "Freshwire-Position": "^7-0$", "X-Content-Type-Options": "^nosniff$",
		"Content-Length": "^8$", "X-Request-Id": "^.{16,}$", "X-Powered-By": "^$", "Freshwire-Source": "^$", "Vary": "^Origin$",
	} {
		for _, a := range []seen{first, second} {
			if got := a.header.Get(name); !regexp.MustCompile(want).MatchString(got) {
				t.Errorf("%s of a %s = %q, want %s", name, a.header.Get("X-Cache"), got, want)
			}
		}
	}
	if got := first.header.Get("Cache-Status"); got != "freshwire; fwd=uri-miss; stored" {
		t.Errorf("Cache-Status of a miss = %q", got)
	}
	if got := second.header.Get("Cache-Status"); !regexp.MustCompile(`^freshwire; hit; ttl=(2[6-9]\d|300)$`).MatchString(got) {
		t.Errorf("Cache-Status of a hit = %q", got)
	}
}

func TestBrowsersAskEachTimeUnlessTheRouteSaysOtherwise(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x", "Cache-Control: public, max-age=31536000, immutable"), RouteConfig{Path: "/a", Origin: "ORIGIN/a"})
	for range 2 {
		if got := s.get("/a").header.Get("Cache-Control"); got != "public, max-age=0, must-revalidate" {
			t.Errorf("Cache-Control = %q", got)
		}
	}
}

func TestHeadHasTheHeadersOfGet(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("hello", "Content-Type: text/plain"), posts)
	cold, warm, get := s.do("HEAD", "/api/posts/1"), s.do("HEAD", "/api/posts/1"), s.get("/api/posts/1")
	s.expect("cold", cold, `200 MISS ""`)
	s.expect("warm", warm, `200 HIT ""`)
	s.expect("GET", get, `200 HIT "hello"`)
	for _, name := range []string{"Content-Length", "Content-Type", "Etag", "Cache-Control", "Freshwire-Seq"} {
		if a, b := warm.header.Get(name), get.header.Get(name); a != b || a == "" {
			t.Errorf("%s = %q of HEAD and %q of GET", name, a, b)
		}
	}
	if n := s.calls(); n != 1 {
		t.Errorf("the origin was asked %d times, want once", n)
	}
}

func TestClientThatHasTheContentGets304(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("hello", "Content-Type: text/plain", `ETag: "v1"`), posts)
	full := s.get("/api/posts/1")
	if full.header.Get("ETag") != `"v1"` {
		t.Fatalf("ETag = %q, want the origin's strong one", full.header.Get("ETag"))
	}
	for _, value := range []string{`"v1"`, `W/"v1"`, `"v0", "v1"`, `*`} {
		for _, method := range []string{"GET", "HEAD"} {
			a := s.do(method, "/api/posts/1", "If-None-Match: "+value)
			s.expect(method+" with "+value, a, `304 HIT ""`)
			for _, name := range []string{"Etag", "Cache-Control", "Freshwire-Seq", "Freshwire-Position", "Vary", "X-Cache"} {
				if a.header.Get(name) != full.header.Get(name) && name != "X-Cache" || a.header.Get(name) == "" {
					t.Errorf("%s of the 304 = %q, of the 200 %q", name, a.header.Get(name), full.header.Get(name))
				}
			}
			if a.header.Get("Content-Type") != "" || a.header.Get("Content-Length") != "" {
				t.Errorf("the 304 describes a body: %v", a.header)
			}
		}
	}
	s.expect("another tag", s.get("/api/posts/1", `If-None-Match: "v0"`), `200 HIT "hello"`)
	s.expect("a date", s.get("/api/posts/1", "If-Modified-Since: Mon, 01 Jan 2035 00:00:00 GMT"), `200 HIT "hello"`)
	s.becomes(says("hello!", `ETag: "v2"`))
	s.purge(cache.Purge{Keys: []string{"post:1"}})
	s.expect("after the edit", s.get("/api/posts/1", `If-None-Match: "v1"`), `200 MISS "hello!"`)
}

func TestReadAfterPurgeIsNew(t *testing.T) {
	t.Parallel()
	s := newSite(t, counts(), posts)
	for i, p := range []cache.Purge{{Keys: []string{"post:1"}}, {Tags: []string{"post:1"}}, {Tags: []string{"posts"}}, {Paths: []string{"/api/posts/1"}}, {Paths: []string{"/api/*"}}, {Patterns: []string{"post:*"}}, {All: true}} {
		v := strconv.Itoa(i + 1)
		s.expect("before "+v, s.get("/api/posts/1"), `200 MISS "v`+v+`"`)
		s.expect("again "+v, s.get("/api/posts/1"), `200 HIT "v`+v+`"`)
		s.purge(p)
	}
}

func TestPurgeOfAKeyVoidsItsQueries(t *testing.T) {
	t.Parallel()
	s := newSite(t, counts(), RouteConfig{Path: "/api/posts", Origin: "ORIGIN/posts", Key: "posts:all", Query: []string{"page"}},
		RouteConfig{Path: "/api/pages", Origin: "ORIGIN/pages", Query: []string{"page"}})
	s.expect("first page", s.get("/api/posts?page=1"), `200 MISS "v1"`)
	s.expect("second page", s.get("/api/posts?page=2"), `200 MISS "v2"`)
	s.expect("no page", s.get("/api/posts"), `200 MISS "v3"`)
	s.expect("no key", s.get("/api/pages?page=1"), `200 MISS "v4"`)
	s.expect("second page again", s.get("/api/posts?page=2"), `200 HIT "v2"`)
	s.purge(cache.Purge{Keys: []string{"posts:all"}})
	s.expect("first page after the purge", s.get("/api/posts?page=1"), `200 MISS "v5"`)
	s.expect("no page after the purge", s.get("/api/posts"), `200 MISS "v6"`)
	s.expect("another key after the purge", s.get("/api/pages?page=1"), `200 HIT "v4"`)
	s.purge(cache.Purge{Keys: []string{"/api/pages"}})
	s.expect("the path as key", s.get("/api/pages?page=1"), `200 MISS "v7"`)
}

func TestMissingIsRememberedUntilSomethingHappens(t *testing.T) {
	t.Parallel()
	s := newSite(t, answers(404, "<h1>secret stack trace</h1>"), posts)
	first, second := s.get("/api/posts/1"), s.get("/api/posts/1")
	for i, a := range []seen{first, second} {
		var body struct {
			Status    int
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(a.body), &body); a.status != 404 || err != nil || body.Status != 404 || body.RequestID == "" || strings.Contains(a.body, "secret") {
			t.Errorf("read %d = %v, want a problem", i, a)
		}
		if a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("X-Cache") != []string{"MISS", "HIT"}[i] || a.header.Get("Freshwire-Seq") == "" {
			t.Errorf("read %d has the headers %v", i, a.header)
		}
		if got := a.header.Get("Cache-Control"); got != defaultCacheControl {
			t.Errorf("Cache-Control of a 404 = %q: a cache that keeps it shows the absence of what was created", got)
		}
	}
	if head := s.do("HEAD", "/api/posts/1"); head.status != 404 || head.body != "" {
		t.Errorf("HEAD = %v", head)
	}
	s.becomes(says("created"))
	if a := s.get("/api/posts/1"); a.status != 404 || a.header.Get("X-Cache") != "HIT" {
		t.Errorf("created, without an event = %v, want the 404 that is remembered", a)
	}
	s.purge(cache.Purge{Tags: []string{"of-another-name"}}) // a route by slug: the event names the id
	s.expect("created", s.get("/api/posts/1"), `200 MISS "created"`)
	s.becomes(answers(410, "gone"))
	s.purge(cache.Purge{Keys: []string{"post:1"}})
	if a := s.get("/api/posts/1"); a.status != 404 {
		t.Errorf("what is gone = %v, want 404", a)
	}
}

func TestMissingIsAskedForEachTimeWhenNegativeTTLIsOff(t *testing.T) {
	t.Parallel()
	cfg := posts
	cfg.NegativeTTL = 0
	s := newSite(t, answers(404, ""), cfg)
	s.get("/api/posts/1")
	s.becomes(says("created"))
	s.expect("created without an event", s.get("/api/posts/1"), `200 MISS "created"`)
}

func TestOriginsFailureServesTheOldUntilItIsPurged(t *testing.T) {
	t.Parallel()
	cfg := posts
	cfg.TTL, cfg.StaleIfError = time.Millisecond, time.Hour
	s := newSite(t, says("old"), cfg)
	s.expect("cold", s.get("/api/posts/1"), `200 MISS "old"`)
	s.becomes(answers(503, "down"))
	s.at("8-0")
	testkit.Until(t, "the entry is no longer fresh", func() bool { return s.get("/api/posts/1").header.Get("X-Cache") != "HIT" })
	a := s.get("/api/posts/1")
	s.expect("origin down", a, `200 STALE "old"`)
	if got := a.header.Get("Cache-Status"); !regexp.MustCompile(`^freshwire; fwd=stale; ttl=-?\d+; detail=origin-error$`).MatchString(got) {
		t.Errorf("Cache-Status = %q", got)
	}
	if got := a.header.Get("Freshwire-Position"); got != "7-0" {
		t.Errorf("Freshwire-Position of a stale answer = %q, want that of its fetch: 7-0", got)
	}
	s.purge(cache.Purge{Tags: []string{"post:1"}})
	b := s.get("/api/posts/1")
	if b.status != 502 || b.header.Get("Retry-After") == "" || strings.Contains(b.body, "old") || strings.Contains(b.body, "down") {
		t.Errorf("purged and origin down = %v, want a 502 problem", b)
	}
	if got := b.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control of a problem = %q", got)
	}
}

func TestExpiredIsServedWhileItIsFetchedAgain(t *testing.T) {
	t.Parallel()
	cfg := posts
	cfg.TTL, cfg.StaleWhileRevalidate = time.Millisecond, time.Hour
	s := newSite(t, says("old"), cfg)
	s.expect("cold", s.get("/api/posts/1"), `200 MISS "old"`)
	release := make(chan struct{})
	s.becomes(func(w http.ResponseWriter, r *http.Request) { <-release; io.WriteString(w, "new") })
	testkit.Until(t, "the entry is no longer fresh", func() bool { return s.get("/api/posts/1").header.Get("X-Cache") != "HIT" })
	s.expect("while it is fetched", s.get("/api/posts/1"), `200 STALE "old"`)
	close(release)
	testkit.Until(t, "the new content is served", func() bool { return s.get("/api/posts/1").body == "new" })
	s.becomes(says("newest"))
	s.purge(cache.Purge{Keys: []string{"post:1"}})
	if a := s.get("/api/posts/1"); a.body != "newest" {
		t.Errorf("after the purge = %v, want the newest", a)
	}
}

func TestManyReadersOfAColdKeyAskTheOriginOnce(t *testing.T) {
	t.Parallel()
	const readers = 100
	release := make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) { <-release; io.WriteString(w, "x") }, posts)
	var waiting atomic.Int64
	s.before(func(fetch func() (cache.Result, error)) (cache.Result, error) {
		waiting.Add(1)
		return fetch()
	})
	var wg sync.WaitGroup
	var collapsed atomic.Int64
	for range readers {
		wg.Go(func() {
			a := s.get("/api/posts/1")
			if a.body != "x" {
				t.Errorf("got %v", a)
			}
			if strings.HasSuffix(a.header.Get("Cache-Status"), "; collapsed") {
				collapsed.Add(1)
			}
		})
	}
	testkit.Until(t, "all readers ask", func() bool { return waiting.Load() == readers && s.calls() > 0 })
	close(release)
	wg.Wait()
	if n := s.calls(); n != 1 {
		t.Errorf("the origin was asked %d times, want once", n)
	}
	if collapsed.Load() == 0 {
		t.Error("no answer says that it was collapsed")
	}
}

// Two nodes: this one did not hear of the purge yet.
func TestReadAfterASeqIsAtLeastThatNew(t *testing.T) {
	t.Parallel()
	s := newSite(t, counts(), posts)
	deaf := cache.New(s.rdb, testkit.Logger(t), cache.Config{}) // does not run: it syncs when a read makes it
	s.reader.cache = deaf
	s.expect("cold", s.get("/api/posts/1"), `200 MISS "v1"`)
	mark, err := s.store.Invalidate(t.Context(), cache.Purge{Tags: []string{"posts"}}, cache.Mark{})
	if err != nil {
		t.Fatal(err)
	}
	s.expect("before it heard", s.get("/api/posts/1"), `200 HIT "v1"`)
	a := s.get("/api/posts/1", "Freshwire-After: "+strconv.FormatUint(mark.Seq, 10))
	s.expect("after the seq", a, `200 MISS "v2"`)
	if seq, _ := strconv.ParseUint(a.header.Get("Freshwire-Seq"), 10, 64); seq < mark.Seq {
		t.Errorf("Freshwire-Seq = %d, want at least %d", seq, mark.Seq)
	}
	s.expect("a seq of the far future", s.get("/api/posts/1", "Freshwire-After: 8999999999999999"), `200 HIT "v2"`)
	for _, bad := range []string{"", "x", "-1", "1.5", "0x10", "+1", " 1", strings.Repeat("9", 20), "９"} {
		if a := s.get("/api/posts/1", "Freshwire-After: "+bad); a.status != 400 {
			t.Errorf("Freshwire-After: %q = %v, want 400", bad, a)
		}
	}
	if a := s.get("/api/posts/1", "Freshwire-After: 1", "Freshwire-After: 2"); a.status != 400 {
		t.Errorf("Freshwire-After twice = %v, want 400", a)
	}
}

// An event that comes between look-up and answer must be told to who
// subscribes from the position in the answer.
func TestPositionIsOfBeforeTheLookUp(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"as shipped": false, "taken after the look-up": true} {
		s := newSite(t, says("x"), posts)
		s.reader.faults.positionLate = late
		s.before(func(fetch func() (cache.Result, error)) (cache.Result, error) {
			res, err := fetch()
			s.at("8-0") // an event whose content this read does not have
			return res, err
		})
		for _, what := range []string{"MISS", "HIT"} {
			s.at("7-0")
			a := s.get("/api/posts/1")
			if told := a.header.Get("Freshwire-Position") == "7-0"; told == late {
				t.Errorf("%s, %s: Freshwire-Position = %q", name, what, a.header.Get("Freshwire-Position"))
			}
			if a.header.Get("X-Cache") != what {
				t.Errorf("%s: %v, want %s", name, a, what)
			}
		}
	}
}

func TestReadsGoOnWithoutRedis(t *testing.T) {
	t.Parallel()
	s := newSite(t, counts(), posts)
	server := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { rdb.Close() })
	store := cache.New(rdb, testkit.Logger(t), cache.Config{})
	s.reader.cache = store
	s.expect("with Redis", s.get("/api/posts/1"), `200 MISS "v1"`)
	server.Kill()
	testkit.Until(t, "the store is known to be away", func() bool { return strings.Contains(s.get("/api/posts/1").header.Get("Cache-Status"), "ledger-away") })
	before := s.calls()
	a := s.get("/api/posts/1")
	if a.status != 200 || !strings.Contains(a.header.Get("Cache-Status"), "ledger-away") || s.calls() != before+1 {
		t.Errorf("without Redis = %v and %d calls, want the origin's answer", a, s.calls()-before)
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x"), posts)
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "PURGE", "CONNECT"} {
		if a := s.do(method, "/api/posts/1"); a.status != 405 || a.header.Get("Allow") != allowed {
			t.Errorf("%s = %v, Allow %q", method, a, a.header.Get("Allow"))
		}
	}
	if n := s.calls(); n != 0 {
		t.Errorf("the origin was asked %d times, want never", n)
	}
}

func TestListedOriginsMayRead(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x", "Access-Control-Allow-Origin: *"), posts)
	for origin, want := range map[string]string{"https://shop.example": "https://shop.example", "https://evil.example": "", "null": "", "https://shop.example.evil": "", "": ""} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST"} {
			a := s.do(method, "/api/posts/1", "Origin: "+origin, "Access-Control-Request-Method: GET")
			if got := a.header.Get("Access-Control-Allow-Origin"); got != want || (a.header.Get("Access-Control-Allow-Credentials") == "true") != (want != "") {
				t.Errorf("%s from %q: allowed %q, want %q", method, origin, got, want)
			}
			if got := a.header.Values("Vary"); len(got) != 1 || got[0] != "Origin" {
				t.Errorf("%s from %q: Vary = %q", method, origin, got)
			}
			if methods := a.header.Get("Access-Control-Allow-Methods"); method == "OPTIONS" && (a.status != 204 || (methods != "") != (want != "")) {
				t.Errorf("preflight from %q: %d, methods %q", origin, a.status, methods)
			}
		}
	}
}

func ExampleRouteConfig_Validate() {
	err := RouteConfig{Path: "/api/posts/{id}", Origin: "https://{id}.example/", Key: "post:{ID}"}.Validate()
	fmt.Println(err)
	// Output:
	// origin: a name in the host would let a request choose whom to ask
	// key: {ID} is not a name of the path: did you mean {id}?
}
