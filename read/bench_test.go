package read

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// blackHole is a ResponseWriter that keeps no body. Like that of net/http it
// has a header map, which the middleware gave an id.
type blackHole struct {
	header http.Header
	status int
	bytes  int
}

var anID = []string{"0123456789abcdef"}

func (w *blackHole) reset() {
	clear(w.header)
	w.header["X-Request-Id"] = anID
	w.status, w.bytes = 0, 0
}

func (w *blackHole) Header() http.Header { return w.header }
func (w *blackHole) Write(b []byte) (int, error) {
	w.bytes += len(b)
	return len(b), nil
}
func (w *blackHole) WriteHeader(status int) { w.status = status }

// warm returns the front of a site that holds an answer in memory, and a
// request for it, as a browser sends it.
func warm(t testing.TB, size int) (http.Handler, *http.Request) {
	t.Helper()
	s := newSite(t, says(`{"x":"`+strings.Repeat("0123456789abcdef", size/16)[8:]+`"}`, "Content-Type: application/json"))
	s.reader.log = testkit.Discard()
	s.mount(RouteConfig{Path: "/quiet/{id}", Origin: "ORIGIN/{id}", Key: "quiet:{id}", Tags: []string{"a", "b:{id}"}, Query: []string{"page"}})
	front := s.reader.Handler(s.router)
	r := httptest.NewRequest("GET", "/quiet/1?page=2", nil)
	r.Header.Set("Accept-Encoding", "identity")
	testkit.Until(t, "the answer is in memory", func() bool {
		w := httptest.NewRecorder()
		front.ServeHTTP(w, r)
		return w.Header().Get("X-Cache") == "HIT"
	})
	return front, r
}

func TestHitMakesFewAllocations(t *testing.T) {
	front, r := warm(t, 4<<10)
	for _, coding := range []string{"identity", "gzip", "gzip, deflate, br, zstd"} {
		r.Header.Set("Accept-Encoding", coding)
		w := &blackHole{header: http.Header{}}
		got := testing.AllocsPerRun(1000, func() {
			w.reset()
			front.ServeHTTP(w, r)
		})
		if w.header.Get("X-Cache") != "HIT" || w.bytes == 0 {
			t.Fatalf("%s: no hit: %v", coding, w.header)
		}
		if got > 5 {
			t.Errorf("%s: %v allocations a hit, want at most 5", coding, got)
		}
	}
}

// BenchmarkHit is a hit through the whole handler, beside a bare one that writes
// the same bytes and headers.
func BenchmarkHit(b *testing.B) {
	const size = 4 << 10
	front, r := warm(b, size)
	seen := &blackHole{header: http.Header{}}
	seen.reset()
	front.ServeHTTP(seen, r)
	body := make([]byte, seen.bytes)
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for name, values := range seen.header {
			h[name] = values
		}
		w.WriteHeader(http.StatusOK)
		w.Write(body)
	})
	for _, bench := range []struct {
		name string
		h    http.Handler
	}{{"bare", bare}, {"hit", front}} {
		b.Run(bench.name+"/body=4096", func(b *testing.B) {
			w := &blackHole{header: http.Header{}}
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				w.reset()
				bench.h.ServeHTTP(w, r)
			}
			if w.header.Get("X-Cache") != "HIT" || w.bytes != len(body) {
				b.Fatal(w.status, w.bytes, w.header)
			}
		})
	}
	for _, bench := range []struct {
		name string
		h    http.Handler
	}{{"bare", bare}, {"hit", front}} {
		b.Run("net/"+bench.name+"/body=4096", func(b *testing.B) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header()["X-Request-Id"] = anID
				bench.h.ServeHTTP(w, r)
			}))
			defer server.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					res, err := client.Get(server.URL + r.RequestURI)
					if err != nil {
						b.Error(err)
						return
					}
					discardAll(res)
				}
			})
		})
	}
}

func discardAll(res *http.Response) {
	buf := make([]byte, 8<<10)
	for {
		if _, err := res.Body.Read(buf); err != nil {
			res.Body.Close()
			return
		}
	}
}
