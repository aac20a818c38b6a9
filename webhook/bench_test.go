package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/event"
)

func BenchmarkVerify(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			src := source(b, SourceConfig{CMS: "ghost", Secret: testSecret})
			item := `{"id":"12345678","name":"a name of some length"},`
			body := `{"post":{"current":{"id":"1","slug":"a","tags":[` + strings.Repeat(item, size/len(item)) + `{}]},"previous":{}}}`
			d, err := src.Sign([]byte(body), "", noon)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if res := src.Verify(d, noon); !res.Valid() {
					b.Fatal(res.Err)
				}
			}
		})
	}
}

// BenchmarkHandler sends 1 KiB signed bodies to the handler and, in the same
// run, to the least that anybody would write: read the body, compare its HMAC,
// answer. "direct" calls it, "loopback" has 64 callers on real connections.
func BenchmarkHandler(b *testing.B) {
	src := source(b, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, Rate: Unlimited})
	item := `{"id":"12345678","name":"a name of some length"},`
	body := []byte(`{"type":"post.updated","data":{"id":"1","slug":"hello","locale":"en","tags":[` + strings.Repeat(item, 19) + `{}]}}`)
	d, err := src.Sign(body, "", noon)
	if err != nil {
		b.Fatal(err)
	}
	accept := func(_ context.Context, evs []event.Event) ([]bool, error) { return make([]bool, len(evs)), nil }
	h := NewHandler([]*Source{src}, accept, slog.New(slog.DiscardHandler), Config{Metrics: prometheus.NewRegistry()})
	bare := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mac := hmac.New(sha256.New, []byte(testSecret))
		mac.Write(body)
		given, _ := hex.DecodeString(r.Header.Get("X-Webhook-Signature"))
		if !hmac.Equal(given, mac.Sum(nil)) {
			http.Error(w, "bad signature", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"status": "queued"})
	}
	router := mux.NewRouter()
	router.Handle("/webhooks/{source}", h)
	for _, bc := range []struct {
		name    string
		handler http.Handler
	}{{"bare", http.HandlerFunc(bare)}, {"freshwire", h.Source("test")}, {"freshwire+mux", router}} {
		b.Run("direct/"+bc.name, func(b *testing.B) {
			b.ReportAllocs()
			reader := bytes.NewReader(body)
			r := httptest.NewRequest("POST", d.Target, io.NopCloser(reader))
			r.Header, r.ContentLength = d.Header, int64(len(body))
			w := &discard{header: http.Header{}}
			for b.Loop() {
				reader.Reset(body)
				bc.handler.ServeHTTP(w, r)
				if w.status != 200 {
					b.Fatal(w.status)
				}
			}
		})
		b.Run("loopback/"+bc.name, func(b *testing.B) {
			srv := httptest.NewServer(bc.handler)
			defer srv.Close()
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			for range 64 {
				wg.Go(func() { send(b, srv.Listener.Addr().String(), d, &left) })
			}
			wg.Wait()
		})
	}
}

// send posts d over one connection until none is left, as cheaply as can be:
// the sender's work is not what is measured.
func send(b *testing.B, addr string, d Delivery, left *atomic.Int64) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return
	}
	defer conn.Close()
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Webhook-Signature: %s\r\nContent-Length: %d\r\n\r\n%s",
		d.Target, d.Header.Get("X-Webhook-Signature"), len(d.Body), d.Body)
	answer := make([]byte, 4096)
	for left.Add(-1) >= 0 {
		if _, err := conn.Write(request); err != nil {
			b.Error(err)
			return
		}
		n, err := conn.Read(answer) // an answer is one small packet
		if err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 200 ")) {
			b.Errorf("answer %.60q, %v", answer[:n], err)
			return
		}
	}
}

// discard is a ResponseWriter that keeps the status alone.
type discard struct {
	header http.Header
	status int
}

func (w *discard) Header() http.Header    { return w.header }
func (w *discard) WriteHeader(status int) { w.status = status }
func (w *discard) Write(p []byte) (int, error) {
	w.status = cmp.Or(w.status, 200)
	return len(p), nil
}
