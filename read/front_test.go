package read

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/internal/testkit"
)

func TestKnownAddressNeedsNoRouter(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x", "Content-Type: text/plain"), posts)
	routed := 0
	front := s.reader.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		routed++
		s.router.ServeHTTP(w, r)
	}))
	ask := func(method, target string, headers ...string) (seen, bool) {
		r := httptest.NewRequest(method, target, nil)
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Add(name, value)
		}
		w := httptest.NewRecorder()
		before := routed
		front.ServeHTTP(w, r)
		return seen{w.Code, w.Header(), w.Body.String()}, routed > before
	}
	for _, tc := range []struct {
		method, target, header string
		routed                 bool
		want                   string
	}{
		{"GET", "/api/posts/1?a=1", "", true, `200 MISS "x"`},
		{"GET", "/api/posts/1?a=1", "", false, `200 HIT "x"`},
		{"HEAD", "/api/posts/1?a=1", "", false, `200 HIT ""`},
		{"GET", "/api/posts/1?a=1", `If-None-Match: *`, false, `304 HIT ""`},
		{"GET", "/api/posts/1?a=1", "Freshwire-After: 1", false, `200 HIT "x"`},
		{"GET", "/api/posts/1?a=2", "", true, `200 HIT "x"`},
		{"GET", "/api/posts/1?a=1", "Authorization: me", true, `200 MISS "x"`},
		{"GET", "/api/posts/1?a=" + strings.Repeat("x", maxKnownURI), "", true, `200 HIT "x"`},
		{"GET", "/api/posts/1?a=" + strings.Repeat("x", maxKnownURI), "", true, `200 HIT "x"`},
	} {
		a, through := ask(tc.method, tc.target, tc.header)
		if a.String() != tc.want || through != tc.routed {
			t.Errorf("%s %.40s %s: %v, by the router %v; want %s, %v", tc.method, tc.target, tc.header, a, through, tc.want, tc.routed)
		}
	}
	for _, method := range []string{"POST", "OPTIONS", "DELETE"} {
		if _, through := ask(method, "/api/posts/1?a=1"); !through {
			t.Errorf("%s was not left to the router", method)
		}
	}
	if _, through := ask("GET", "/api/posts/%00"); !through {
		t.Error("an address that is none is known")
	}
	if _, through := ask("GET", "/api/posts/%00"); !through {
		t.Error("an address that is none is remembered")
	}
}

// Whoever answers, the answer is the same.
func TestFrontAndRouterGiveTheSameAnswers(t *testing.T) {
	t.Parallel()
	s := newSite(t, says(longText, "Content-Type: application/json"), posts)
	s.get("/api/posts/1")
	for _, headers := range [][]string{nil, {"Accept-Encoding: gzip"}, {"Origin: https://shop.example"}, {"Range: bytes=0-3"}, {"If-None-Match: *"}, {"Freshwire-After: x"}} {
		ask := func(h http.Handler) seen {
			r := httptest.NewRequest("GET", "/api/posts/1", nil)
			for _, line := range headers {
				name, value, _ := strings.Cut(line, ": ")
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			w.Header().Set("X-Request-Id", "1")
			h.ServeHTTP(w, r)
			for _, name := range []string{"Age", "Cache-Status"} {
				w.Header().Del(name)
			}
			return seen{w.Code, w.Header(), w.Body.String()}
		}
		a, b := ask(s.router), ask(s.reader.Handler(s.router))
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%q: by the router %.200v with %v, else %.200v with %v", headers, a, a.header, b, b.header)
		}
	}
}

func TestPurgedEntryIsNotServedByTheFront(t *testing.T) {
	t.Parallel()
	s := newSite(t, counts(), posts)
	s.expect("cold", s.get("/api/posts/1"), `200 MISS "v1"`)
	s.expect("warm", s.get("/api/posts/1"), `200 HIT "v1"`)
	s.purge(cache.Purge{Tags: []string{"posts"}})
	s.expect("purged", s.get("/api/posts/1"), `200 MISS "v2"`)
}

func TestStatsTellOfEachRoute(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x"), posts, RouteConfig{Path: "/quiet", Origin: "ORIGIN/quiet"})
	for range 4 {
		s.get("/api/posts/1")
	}
	s.get("/api/posts/1", "Authorization: me")
	s.purge(cache.Purge{Tags: []string{"posts"}})
	s.get("/api/posts/1")
	s.becomes(answers(500, ""))
	s.get("/api/posts/2")
	stats := s.reader.Stats()
	if len(stats) != 2 || stats[1].Route != "/quiet" || stats[1].Reads != 0 || stats[1].P99 != 0 {
		t.Fatalf("stats = %+v", stats)
	}
	got := stats[0]
	want := map[string]map[string]float64{"hit": {"fresh": 3}, "miss": {"cold": 1, "void": 1}, "bypass": {"authorization": 1}, "error": {"origin-failed": 1}}
	if got.Route != posts.Path || got.Reads != 7 || got.Hits != 3 || got.HitRate != 3.0/7 || got.OriginCalls != 4 || !reflect.DeepEqual(got.ByReason, want) {
		t.Errorf("stats = %+v, want the reasons %v", got, want)
	}
	if got.P50 <= 0 || got.P99 < got.P50 {
		t.Errorf("p50 %v, p99 %v", got.P50, got.P99)
	}
}

func TestConfigSaysAllItsMistakesAtOnce(t *testing.T) {
	err := Config{CORSOrigins: []string{"*"}, OriginConcurrency: -1, TrustedProxies: []string{"10.0.0.1"}}.Validate()
	for _, want := range []string{"CORS origin", "origin concurrency -1", `trusted proxy "10.0.0.1"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate() = %v, want %s", err, want)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
	}
	New(noCache{}, func() string { return "" }, testkit.Discard(), Config{})
}
