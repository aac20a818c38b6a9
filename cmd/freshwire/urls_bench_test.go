package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/internal/testkit"
)

// discard is what a connection is to a handler, without the connection.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header              { return d.header }
func (d *discard) Write(b []byte) (int, error)      { return len(b), nil }
func (d *discard) WriteHeader(int)                  {}
func (d *discard) SetWriteDeadline(time.Time) error { return nil }

// testApp builds a process of all roles on a Redis of the test's own, which
// nobody runs but its cache.
func testApp(t testing.TB, config string, change func(*environment)) *app {
	t.Helper()
	s, err := parseSite("test.yaml", []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	env := environment{RedisURL: testkit.StartServer(t).URL(), Namespace: "fw", AdminToken: "s3cret", RateLimit: "0"}
	if change != nil {
		change(&env)
	}
	c, err := loadConfigs(env)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{roles: roles{web: true, worker: true, sse: true}, env: env, configs: c, site: s, log: testkit.Discard(),
		reg: prometheus.NewRegistry(), guard: admin.NewGuard(env.AdminToken), started: time.Now()}
	if err := a.build(&net.TCPAddr{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	testkit.Go(t, a.cache.Run)
	testkit.Until(t, "ready", func() bool { return a.cache.Ready() == nil })
	return a
}

func testOrigin(t testing.TB) string {
	t.Helper()
	body := `{"data":"` + strings.Repeat("x", 4<<10) + `"}`
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(body))
	}))
	t.Cleanup(origin.Close)
	return origin.URL
}

// BenchmarkHandler is what this program adds to net/http: a request that
// reaches nothing, and a read of 4 KiB from memory, also of a limited client.
func BenchmarkHandler(b *testing.B) {
	routes := "routes: [{path: '/api/posts/{id}', origin: '" + testOrigin(b) + "/posts/{id}', tags: [posts], ttl: 1h}]"
	a := testApp(b, routes, nil)
	limited := testApp(b, routes, func(env *environment) { env.RateLimit = "9999999/24h" })
	for name, h := range map[string]http.Handler{
		"middleware": a.middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})),
		"hit":        a.urls(),
		"limited":    limited.urls(),
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "http://localhost/api/posts/1", nil)
			r.RequestURI = "/api/posts/1"
			w := &discard{http.Header{}}
			h.ServeHTTP(w, r)
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
			if name != "middleware" && w.header.Get("X-Cache") != "HIT" {
				b.Errorf("answered with %v", w.header)
			}
		})
	}
}
