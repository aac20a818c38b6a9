package webhook

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"github.com/freshwire/freshwire/internal/testkit"
)

// FuzzHandler sends arbitrary requests to the whole handler: no panic, no
// answer but those that the contract knows, and each of them in JSON.
func FuzzHandler(f *testing.F) {
	configs := settings()
	configs["limited"] = SourceConfig{CMS: "generic", Scheme: "none", Rate: Rate{1, time.Hour}, Burst: 3, MaxBody: 100}
	configs["allowed"] = SourceConfig{CMS: "ghost", Secret: testSecret, Allow: []string{"192.0.2.0/24"}}
	var sources []*Source
	for name, cfg := range configs {
		src, err := NewSource(strings.NewReplacer(" ", "-", ",", "").Replace(name), cfg)
		if err != nil {
			f.Fatal(err)
		}
		sources = append(sources, src)
	}
	slices.SortFunc(sources, func(a, b *Source) int { return strings.Compare(a.name, b.name) })
	h := NewHandler(sources, (&queue{}).enqueue, testkit.Discard(), Config{Refusals: Unlimited})
	h.now = func() time.Time { return noon }
	router := mux.NewRouter()
	router.Handle("/webhooks/{source}", h)
	router.Handle("/api/webhooks/cms", h.Source("cms"))

	for _, src := range sources {
		d, err := src.Sign(src.Sample(), "", noon)
		if err != nil {
			f.Fatal(err)
		}
		r, err := d.NewRequest(f.Context(), "http://example.com")
		if err != nil {
			f.Fatal(err)
		}
		var text bytes.Buffer
		if err := r.Write(&text); err != nil {
			f.Fatal(err)
		}
		f.Add(text.Bytes())
	}
	for _, request := range []string{
		"GET /webhooks/hmac HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /api/webhooks/cms HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\"b\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
		"POST /webhooks/limited HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"POST /webhooks/limited HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n{}",
	} {
		f.Add([]byte(request))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
		if err != nil || !strings.HasPrefix(r.URL.Path, "/webhooks/") && !strings.HasPrefix(r.URL.Path, "/api/webhooks/") {
			return
		}
		r.RemoteAddr = "198.51.100.1:1"
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		if h.memory.used.Load() != 0 {
			t.Fatalf("%d bytes of memory still held", h.memory.used.Load())
		}
		if w.Header().Get("X-Request-Id") == "" { // the router's own 404 or redirect
			return
		}
		body, _ := io.ReadAll(w.Body)
		var fields map[string]any
		if err := json.Unmarshal(body, &fields); err != nil {
			t.Fatalf("%d with %q: %v", w.Code, body, err)
		}
		word, _ := fields["status"].(string) // a number in problems
		kind := w.Header().Get("Content-Type")
		switch {
		case w.Code == 200 && kind == "application/json" && slices.Contains([]string{"queued", "duplicate", "ignored"}, word):
		case slices.Contains([]int{400, 401, 403, 404, 405, 413, 415, 429, 503}, w.Code) && kind == "application/problem+json" && fields["status"] == float64(w.Code):
		default:
			t.Fatalf("answer %d %s %s, which the contract does not know", w.Code, kind, body)
		}
		if (w.Code == 429 || w.Code == 503) && w.Header().Get("Retry-After") == "" {
			t.Fatalf("answer %d without Retry-After", w.Code)
		}
	})
}
