package main

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// wire is a small stream with what a proxy may do to it.
type wire struct {
	buffer   bool // nothing leaves before the end
	part     bool // headers leave, and nothing of the body
	compress bool
	strip    bool // Last-Event-ID does not arrive
	forget   bool // nothing is replayed
	deaf     bool // changes do not arrive
	plain    bool // Cache-Control is taken off
	stored   bool // it comes out of a cache
	cut      bool // the stream ends when it is quiet
	status   int

	mu      sync.Mutex
	changes []string
	more    chan struct{} // closed and made anew at each change
}

func (s *wire) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/admin/publish" {
		s.publish(w, r)
		return
	}
	head := w.Header()
	head.Set("Content-Type", "text/event-stream")
	head.Set("X-Accel-Buffering", "no")
	if !s.plain {
		head.Set("Cache-Control", "no-cache, no-transform")
	}
	if s.stored {
		head.Set("Age", "12")
	}
	if s.status != 0 {
		w.WriteHeader(s.status)
		return
	}
	if r.Method == http.MethodHead {
		return
	}
	var out io.Writer = w
	flush := http.NewResponseController(w).Flush
	if s.compress {
		head.Set("Content-Encoding", "gzip")
		zip := gzip.NewWriter(w)
		out, flush = zip, func() error { zip.Flush(); return http.NewResponseController(w).Flush() }
	}
	switch {
	case s.buffer:
		flush = func() error { return nil }
	case s.part:
		flush()
		flush, out = func() error { return nil }, io.Discard
	}
	last := r.Header.Get("Last-Event-ID")
	if s.strip {
		last = ""
	}
	s.mu.Lock()
	at := len(s.changes)
	s.mu.Unlock()
	if last == "doctor" {
		fmt.Fprint(out, "id: 1-0\nevent: reset\ndata: {}\n\n")
	} else if last != "" && !s.forget {
		fmt.Sscanf(last, "%d-0", &at)
		at--
	}
	fmt.Fprintf(out, "id: %d-0\nevent: ready\ndata: {}\n\n", at+1)
	flush()
	for !s.cut {
		s.mu.Lock()
		news, more := s.changes[at:], s.more
		s.mu.Unlock()
		for _, data := range news {
			if at++; !s.deaf {
				fmt.Fprintf(out, "id: %d-0\ndata: %s\n\n", at+1, data)
			}
		}
		flush()
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *wire) publish(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Channels []string
		Data     json.RawMessage
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.Channels) != 1 || !strings.HasPrefix(body.Channels[0], "doctor:") || r.Header.Get("Authorization") != "Bearer the-token" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, string(body.Data))
	close(s.more)
	s.more = make(chan struct{})
	fmt.Fprint(w, `{"id":"1-0"}`)
}

func TestDoctorSaysWhatAProxyDoesToAStream(t *testing.T) {
	nothingElse(t)
	t.Setenv("FRESHWIRE_ADMIN_TOKEN", "the-token")
	for _, tc := range []struct {
		name  string
		wire  *wire
		code  int
		check string
		want  level
		words []string
	}{
		{"all is well", &wire{}, exitDone, "delivery", levelFine, []string{"p50", "of 9"}},
		{"history is whole", &wire{}, exitDone, "resume", levelFine, []string{"9 changes were replayed"}},
		{"buffers all", &wire{buffer: true}, exitFailed, "first event", levelFail, []string{"something buffers", "HEAD is answered", "proxy_buffering off"}},
		{"buffers the body", &wire{part: true}, exitFailed, "first event", levelFail, []string{"something buffers", "proxy_buffering off"}},
		{"compresses", &wire{compress: true}, exitDone, "compression", levelWarn, []string{"gzip", "no-transform"}},
		{"compresses, and is read", &wire{compress: true}, exitDone, "delivery", levelFine, []string{"p50"}},
		{"takes Last-Event-ID off", &wire{strip: true}, exitFailed, "resume", levelFail, []string{"does not reach"}},
		{"replays nothing", &wire{forget: true}, exitFailed, "resume", levelFail, []string{"was not replayed"}},
		{"holds changes back", &wire{deaf: true}, exitFailed, "delivery", levelFail, []string{"did not arrive"}},
		{"takes Cache-Control off", &wire{plain: true}, exitDone, "caching", levelWarn, []string{"took no-cache off"}},
		{"answers from a cache", &wire{stored: true}, exitFailed, "caching", levelFail, []string{"Age: 12"}},
		{"refuses", &wire{status: 403}, exitFailed, "stream", levelFail, []string{"403", "private"}},
		{"is broken", &wire{status: 502}, exitFailed, "stream", levelFail, []string{"502", "EventSource gives up"}},
		{"limits", &wire{status: 429}, exitFailed, "stream", levelFail, []string{"FRESHWIRE_TRUSTED_PROXIES"}},
		{"leads elsewhere", &wire{status: 302}, exitFailed, "stream", levelFail, []string{"final address"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.wire.more = make(chan struct{})
			server := httptest.NewServer(tc.wire)
			defer server.CloseClientConnections()
			out, code := command(t, "", "doctor", "--json", "--url", server.URL, "--stream", server.URL+"/api/events?channel=posts")
			expect(t, rowsOf(t, out), tc.check, tc.want, tc.words...)
			if code != tc.code {
				t.Errorf("exit %d, want %d:\n%s", code, tc.code, out)
			}
		})
	}
}

func TestDoctorSeesAStreamThatIsCut(t *testing.T) {
	server := httptest.NewServer(&wire{cut: true})
	defer server.Close()
	p, err := newStreamProbe(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.open(t.Context(), "", "identity")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if h, row := l.begin(); h.Name != "ready" || row.Level != levelFine {
		t.Fatalf("begin = %+v", row)
	}
	if row := l.awaitPing(); row.Level != levelFail || !strings.Contains(row.Text, "cut after") {
		t.Errorf("the end of a quiet stream: %+v", row)
	}
}

// The token is for the freshwire that publishes, not for whatever answers as a stream.
func TestDoctorSendsItsTokenToNoStream(t *testing.T) {
	nothingElse(t)
	t.Setenv("FRESHWIRE_ADMIN_TOKEN", "the-token")
	seen := make(chan http.Header, 10)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Clone()
		(&wire{more: make(chan struct{})}).ServeHTTP(w, r)
	}))
	defer stranger.CloseClientConnections()
	home := httptest.NewServer(&wire{more: make(chan struct{})})
	defer home.Close()
	out, code := command(t, "", "doctor", "--json", "--url", home.URL, "--stream", stranger.URL)
	expect(t, rowsOf(t, out), "delivery", levelFail, "did not arrive", "another freshwire")
	if code != exitFailed {
		t.Errorf("exit %d", code)
	}
	for range 3 { // the stream, and twice again
		if h := testkit.Wait(t, seen, "a request"); strings.Contains(fmt.Sprint(h), "the-token") {
			t.Errorf("the stream was sent the token: %v", h)
		}
	}
}
