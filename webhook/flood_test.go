package webhook

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/internal/testkit"
)

// deliver hands d to the source "test" of h as a request from the given peer.
func deliver(h *Handler, d Delivery, peer string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(d.Method, d.Target, bytes.NewReader(d.Body))
	r.Header, r.RemoteAddr = d.Header.Clone(), peer
	w := httptest.NewRecorder()
	h.Source("test").ServeHTTP(w, r)
	return w
}

// untouched is a body that nobody may read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body was read, want the request refused before")
	return 0, io.EOF
}

// gate is a handler with a clock to turn.
type gate struct {
	*Handler
	clock time.Time
}

func newGate(sources []*Source, cfg Config) *gate {
	g := &gate{clock: noon}
	g.Handler = NewHandler(sources, (&queue{}).enqueue, testkit.Discard(), cfg)
	g.now = func() time.Time { return g.clock }
	return g
}

func TestSourceBeyondItsRateIsAnswered429WithRetryAfter(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret, Rate: Rate{2, time.Second}, Burst: 3})
	g := newGate([]*Source{src}, Config{})
	d := sign(t, src, src.cms.sample, "")
	var codes []int
	for range 4 {
		codes = append(codes, deliver(g.Handler, d, "192.0.2.1:1").Code)
	}
	if want := []int{200, 200, 200, 429}; !slices.Equal(codes, want) {
		t.Fatalf("answers %v, want %v", codes, want)
	}
	if w := deliver(g.Handler, d, "192.0.2.2:1"); w.Code != 429 || w.Header().Get("Retry-After") != "1" || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("from another address: %d %v, want 429 with Retry-After", w.Code, w.Header())
	}
	g.clock = g.clock.Add(500 * time.Millisecond)
	if w := deliver(g.Handler, d, "192.0.2.1:1"); w.Code != 200 {
		t.Errorf("half a second later: %d, want 200", w.Code)
	}
}

func TestUsedUpRateSurvivesReplaceUnlessItChanges(t *testing.T) {
	cfg := SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret, Rate: Rate{1, time.Hour}, Burst: 1}
	src := source(t, cfg)
	g := newGate([]*Source{src}, Config{})
	d := sign(t, src, src.cms.sample, "")
	deliver(g.Handler, d, "192.0.2.1:1")
	g.Replace([]*Source{source(t, cfg)})
	if w := deliver(g.Handler, d, "192.0.2.1:1"); w.Code != 429 {
		t.Errorf("after a reload that changed nothing: %d, want 429", w.Code)
	}
	cfg.Burst = 2
	g.Replace([]*Source{source(t, cfg)})
	if w := deliver(g.Handler, d, "192.0.2.1:1"); w.Code != 200 {
		t.Errorf("after the burst was raised: %d, want 200", w.Code)
	}
	g.Replace(nil)
	if w := deliver(g.Handler, d, "192.0.2.1:1"); w.Code != 404 {
		t.Errorf("after the source was removed: %d, want 404", w.Code)
	}
}

func TestFloodOfRefusalsDoesNotStarveTheCMS(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, Rate: Rate{1, time.Second}, Burst: 1})
	g := newGate([]*Source{src}, Config{})
	good := sign(t, src, src.cms.sample, "")
	bad := good
	bad.Body = []byte(`{"type":"post.deleted"}`)
	for i := range 5000 {
		if w := deliver(g.Handler, bad, fmt.Sprintf("198.51.%d.%d:1", i/250, i%250)); w.Code != 401 {
			t.Fatalf("stranger %d: %d, want 401", i, w.Code)
		}
	}
	if w := deliver(g.Handler, good, "192.0.2.1:1"); w.Code != 200 {
		t.Errorf("the CMS after the flood: %d, want 200", w.Code)
	}
}

func TestStrangerIsTurnedAwayUnreadAfterManyRefusals(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret})
	other, err := NewSource("other", SourceConfig{CMS: "ghost", Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	g := newGate([]*Source{src, other}, Config{Refusals: Rate{1, time.Second}, RefusalsBurst: 10})
	bad := sign(t, src, src.cms.sample, "")
	bad.Header.Set("X-Webhook-Signature", strings.Repeat("00", 32))
	for i := range 10 {
		if w := deliver(g.Handler, bad, "[2001:db8::1]:1"); w.Code != 401 {
			t.Fatalf("guess %d: %d, want 401", i, w.Code)
		}
	}
	r := httptest.NewRequest("POST", "/webhooks/test", untouched{t})
	r.RemoteAddr, r.ContentLength = "[2001:db8::2]:1", 1<<20 // the same network
	w := httptest.NewRecorder()
	g.Source("test").ServeHTTP(w, r)
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || w.Header().Get("Connection") != "close" {
		t.Errorf("guess 11: %d %v, want 429 with Retry-After and the connection closed", w.Code, w.Header())
	}
	if w := deliver(g.Handler, sign(t, src, src.cms.sample, ""), "192.0.2.1:1"); w.Code != 200 {
		t.Errorf("the CMS from elsewhere: %d, want 200", w.Code)
	}
	w = httptest.NewRecorder()
	r = httptest.NewRequest("POST", "/webhooks/other", strings.NewReader("{}"))
	r.RemoteAddr = "[2001:db8::1]:1"
	g.Source("other").ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("the same stranger at another source: %d, want 401: it is counted apart", w.Code)
	}
	g.clock = g.clock.Add(time.Second)
	if w := deliver(g.Handler, bad, "[2001:db8::1]:1"); w.Code != 401 {
		t.Errorf("a second later: %d, want 401", w.Code)
	}
}

func TestFloodIsCountedAndDoesNotFillTheLog(t *testing.T) {
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	h := NewHandler([]*Source{source(t, SourceConfig{CMS: "ghost", Secret: testSecret})}, (&queue{}).enqueue, slog.New(slog.NewJSONHandler(&log, nil)), Config{Metrics: reg})
	h.now = func() time.Time { return noon }
	for range 1000 {
		deliver(h, Delivery{Method: "POST", Target: "/webhooks/test", Body: []byte(`{}`)}, "198.51.100.1:1")
	}
	if n := bytes.Count(log.Bytes(), []byte("\n")); n != 100 {
		t.Errorf("%d log lines for 1000 refusals, want those of the burst of 100", n)
	}
	if n := (&door{reg: reg}).counted(t, "freshwire_webhook_deliveries_total", map[string]string{"source": "test", "outcome": "too_many_refusals"}); n != 900 {
		t.Errorf("%v counted as turned away, want 900", n)
	}
}

// Behind a proxy that we were not told of, and at a CMS where anybody may have
// an account, the flood has the sender's address.
func TestFloodFromTheSendersAddressDoesNotLockItOut(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret})
	g := newGate([]*Source{src}, Config{Refusals: Rate{1, time.Second}, RefusalsBurst: 10})
	good := sign(t, src, src.cms.sample, "")
	bad := Delivery{Method: "POST", Target: "/webhooks/test", Body: []byte(`{}`)}
	const shared = "203.0.113.7:1"
	flood := func() {
		for range 1000 {
			deliver(g.Handler, bad, shared)
		}
	}
	if w := deliver(g.Handler, good, shared); w.Code != 200 {
		t.Fatalf("before the flood: %d, want 200", w.Code)
	}
	for range 5 {
		flood()
		g.clock = g.clock.Add(50 * time.Minute)
		flood()
		if w := deliver(g.Handler, good, shared); w.Code != 200 {
			t.Errorf("in the flood: %d, want 200", w.Code)
		}
	}
	// After an hour without a delivery the address is a stranger's again, and
	// the first delivery that gets through ends that.
	g.clock = g.clock.Add(2 * time.Hour)
	flood()
	if w := deliver(g.Handler, good, shared); w.Code != 429 {
		t.Errorf("after two quiet hours: %d, want 429", w.Code)
	}
	g.clock = g.clock.Add(time.Second)
	if w := deliver(g.Handler, good, shared); w.Code != 200 {
		t.Errorf("its repeat: %d, want 200", w.Code)
	}
	flood()
	if w := deliver(g.Handler, good, shared); w.Code != 200 {
		t.Errorf("from then on: %d, want 200", w.Code)
	}
}

// What was captured on the wire and is sent again, too late, makes no friend.
func TestReplayedDeliveriesOpenNoDoor(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret, Rate: Rate{1, time.Second}, Burst: 1})
	g := newGate([]*Source{src}, Config{Refusals: Rate{1, time.Second}, RefusalsBurst: 10})
	captured, err := src.Sign(src.Sample(), "", noon.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var codes []int
	for range 11 {
		codes = append(codes, deliver(g.Handler, captured, "198.51.100.1:1").Code)
	}
	if codes[9] != 401 || codes[10] != 429 {
		t.Errorf("answers %v, want ten 401 and then 429", codes)
	}
	if w := deliver(g.Handler, sign(t, src, src.cms.sample, ""), "192.0.2.1:1"); w.Code != 200 {
		t.Errorf("the CMS: %d, want 200: replays use up nothing of its rate", w.Code)
	}
}

func TestOnlyAllowedAddressesMaySendWhateverTheyClaim(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret,
		Allow: []string{"192.0.2.0/24", "2001:db8::/32", "::ffff:10.0.0.0/104", "203.0.113.9"}})
	g := newGate([]*Source{src}, Config{Refusals: Unlimited})
	d := sign(t, src, src.cms.sample, "")
	for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip", "Cf-Connecting-Ip"} {
		d.Header.Set(name, "192.0.2.1")
	}
	for peer, want := range map[string]int{
		"192.0.2.1:1": 200, "[::ffff:192.0.2.1]:1": 200, "[2001:db8:9::1]:1": 200, "10.1.2.3:1": 200, "203.0.113.9:1": 200, "[2001:db8::1%eth0]:1": 200,
		"192.0.3.1:1": 403, "[2001:db9::1]:1": 403, "11.0.0.1:1": 403, "203.0.113.8:1": 403, "127.0.0.1:1": 403, "@": 403, "": 403, "192.0.2.1": 403,
	} {
		if w := deliver(g.Handler, d, peer); w.Code != want {
			t.Errorf("from %q: %d, want %d", peer, w.Code, want)
		}
	}
	r := httptest.NewRequest("POST", "/webhooks/test", untouched{t})
	r.RemoteAddr = "198.51.100.1:1"
	w := httptest.NewRecorder()
	g.Source("test").ServeHTTP(w, r)
	if strings.Contains(w.Body.String(), "198.51") || w.Code != 403 {
		t.Errorf("answer %d %s, want a plain 403", w.Code, w.Body)
	}
	g.cfg.ClientAddress = func(*http.Request) string { return "192.0.2.77" } // a proxy that is trusted said so
	if w := deliver(g.Handler, d, "198.51.100.1:1"); w.Code != 200 {
		t.Errorf("through a trusted proxy: %d, want 200", w.Code)
	}
}

func TestCompressedBodyIsRefusedUnread(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 4<<20))
	z.Close()
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret})
	g := newGate([]*Source{src}, Config{Refusals: Unlimited})
	for _, coding := range []string{"gzip", "br", "deflate", "identity, gzip", "GZIP", "x"} {
		r := httptest.NewRequest("POST", "/webhooks/test", untouched{t})
		r.Header.Set("Content-Encoding", coding)
		w := httptest.NewRecorder()
		g.Source("test").ServeHTTP(w, r)
		if w.Code != 415 || w.Header().Get("Accept-Encoding") != "identity" {
			t.Errorf("%s: %d %v, want 415", coding, w.Code, w.Header())
		}
	}
	signed := sign(t, src, bomb.String(), "") // by the sender itself, without saying what it is
	if w := deliver(g.Handler, signed, "192.0.2.1:1"); w.Code != 400 {
		t.Errorf("a signed bomb: %d, want 400: nothing is inflated", w.Code)
	}
	plain := sign(t, src, src.cms.sample, "")
	plain.Header.Set("Content-Encoding", "identity")
	if w := deliver(g.Handler, plain, "192.0.2.1:1"); w.Code != 200 {
		t.Errorf("identity: %d, want 200", w.Code)
	}
}

func TestBodyOfAnotherLengthThanAnnouncedIsRefused(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret})
	d := sign(t, src, src.cms.sample, "")
	for _, lie := range []int64{1, int64(len(d.Body)) - 1, int64(len(d.Body)) + 1, 100_000} {
		g := newGate([]*Source{src}, Config{})
		r := httptest.NewRequest("POST", "/webhooks/test", bytes.NewReader(d.Body))
		r.Header, r.ContentLength = d.Header, lie
		w := httptest.NewRecorder()
		g.Source("test").ServeHTTP(w, r)
		if w.Code != 400 || g.memory.used.Load() != 0 {
			t.Errorf("%d bytes announced as %d: %d with %d bytes held, want 400 and none", len(d.Body), lie, w.Code, g.memory.used.Load())
		}
	}
	o := open(t, src)
	conn, err := net.Dial("tcp", strings.TrimPrefix(o.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /webhooks/test HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
	conn.(*net.TCPConn).CloseWrite()
	if answer, _ := io.ReadAll(conn); !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
		t.Errorf("a body cut off: %.60q, want 400", answer)
	}
}

func TestHeadersOfTenMegabytesAreRefused(t *testing.T) {
	o := open(t, unread(t, SourceConfig{CMS: "ghost", Secret: testSecret}))
	conn, err := net.Dial("tcp", strings.TrimPrefix(o.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { // fails when the server stops reading
		fmt.Fprintf(conn, "POST /webhooks/test HTTP/1.1\r\nHost: x\r\nX-Ghost-Signature: %s\r\n\r\n", strings.Repeat("x", 10<<20))
	}()
	status := make([]byte, 12)
	if _, err := io.ReadFull(conn, status); err != nil || string(status) != "HTTP/1.1 431" {
		t.Errorf("answer %q, %v, want 431", status, err)
	}
}

func TestBodiesBeyondTheMemoryAreAnswered503AndItIsFreed(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, MaxBody: 4 << 20})
	h := NewHandler([]*Source{src}, (&queue{}).enqueue, testkit.Discard(), Config{Memory: 8 << 20})
	h.now = func() time.Time { return noon }
	srv := httptest.NewServer(h.Source("test"))
	defer srv.Close()

	var slow []net.Conn
	for range 2 { // they promise 4 MiB, send three and a half of it, and go quiet
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		slow = append(slow, conn)
		fmt.Fprintf(conn, "POST /webhooks/test HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 4<<20)
		if len(slow) == 1 {
			conn.Write(make([]byte, 3<<20+1<<19))
		} else {
			conn.Write(make([]byte, 300<<10))
		}
		want := []int64{4 << 20, 4<<20 + 1<<20}[len(slow)-1]
		testkit.Until(t, "the body in memory", func() bool { return h.memory.used.Load() >= want })
	}
	post := func(body string) *http.Response {
		t.Helper()
		r, err := sign(t, src, body, "").NewRequest(t.Context(), srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	large := `{"type":"post.updated","x":"` + strings.Repeat("x", 3<<20) + `"}`
	if resp := post(large); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" {
		t.Errorf("another large body: %d %v, want 503 with Retry-After", resp.StatusCode, resp.Header)
	}
	if resp := post(src.cms.sample); resp.StatusCode != 200 {
		t.Errorf("a small body: %d, want 200: room is kept for it", resp.StatusCode)
	}
	for _, conn := range slow {
		conn.Close()
	}
	testkit.Until(t, "all memory free", func() bool { return h.memory.used.Load() == 0 })
	if resp := post(large); resp.StatusCode != 200 {
		t.Errorf("the large body once they are gone: %d, want 200", resp.StatusCode)
	}
}

// Each holds its request half sent for as long as the test runs.
func TestThousandDrippingConnectionsDoNotDisturbASender(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret})
	o := open(t, src)
	d := sign(t, src, src.cms.sample, "")
	worst := func() (slowest time.Duration) {
		for range 50 {
			start := time.Now()
			if resp, _ := o.post(t, d); resp.StatusCode != 200 {
				t.Fatalf("the sender: %d, want 200", resp.StatusCode)
			}
			slowest = max(slowest, time.Since(start))
		}
		return slowest
	}
	alone := worst()
	for i := range 1000 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(o.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			io.WriteString(conn, "POST /webhooks/test HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		} else {
			io.WriteString(conn, "POST /webhooks/test HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
		}
	}
	if beside := worst(); beside > 20*alone+500*time.Millisecond {
		t.Errorf("slowest of 50 deliveries %v beside them, %v alone", beside, alone)
	}
}

func TestDeepAndWideBodiesTakeNoLongerThanTheirBytes(t *testing.T) {
	fill := func(size int, begin, item, end string) []byte {
		return []byte(begin + strings.Repeat(item, (size-len(begin)-len(end))/len(item)) + end)
	}
	const some, most = 1 << 20, maxMaxBody
	plain := fill(some, `{"x":"`, "a text of letters and nothing else", `"}`)
	took := func(body []byte) (time.Duration, error) {
		start := time.Now()
		v, err := parseObject(body)
		for _, path := range []string{"type", "data.id", "data.slug", "data.locale", "x.0.y", "zzz"} {
			v.text(path)
		}
		return time.Since(start), err
	}
	reference, err := took(plain)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	json.Valid(plain)
	reference = max(reference, time.Since(start))
	for name, body := range map[string][]byte{
		"brackets":             fill(most, ``, `[`, ``),
		"brackets in a member": fill(some, `{"x":`, `[`, `}`),
		"objects in objects":   fill(some, ``, `{"":`, ``),
		"5 million elements":   fill(most, `{"x":[`, `12345,`, `0]}`),
		"many members":         fill(some, `{`, `"k":0,`, `"z":0}`),
		"many objects":         fill(some, `{"x":[`, `{"a":0},`, `0]}`),
		"empty arrays":         fill(some, `{"x":[`, `[],`, `0]}`),
		"backslashes":          fill(some, `{"x":"`, `\\`, `"}`),
		"escapes":              fill(some, `{"x":"`, `\ud83d\ude00`, `"}`),
		"blanks":               fill(some, `{"x":`, ` `, `0}`),
		"long arrays":          fill(some, `{"x":[`, "["+strings.Repeat(`"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",`, 100)+`0],`, `0]}`),
		"a long number":        fill(some, `{"x":`, `1`, `}`),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		took, err := took(body)
		runtime.ReadMemStats(&after)
		if limit := 20*reference*time.Duration(len(body)/len(plain)+1) + time.Second; took > limit {
			t.Errorf("%s: %v for %d bytes, and %v for %d bytes of plain text", name, took, len(body), reference, len(plain))
		}
		if made := after.TotalAlloc - before.TotalAlloc; made > 3*uint64(len(body))+1<<20 {
			t.Errorf("%s: %d MiB allocated for a body of %d MiB", name, made>>20, len(body)>>20)
		}
		if strings.HasPrefix(name, "5 million") && (err == nil || !strings.Contains(err.Error(), "more than 1048576 values")) {
			t.Errorf("%s: %v, want it refused for its values", name, err)
		}
	}
}

func TestLastOfEqualKeysCountsAsInEncodingJSON(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret})
	res := src.Verify(sign(t, src, `{"type":"post.created","data":{"id":"1","id":"2"},"\u0074ype":"post.updated","data":{"id":"3","i\u0064":"4"}}`, ""), noon)
	if !res.Valid() || res.Whole.Event != "post.updated" || res.Whole.ID != "4" {
		t.Errorf("Verify = %q %+v, want post.updated of 4", res.Reason, res.Whole)
	}
}

func TestSignatureInOtherLettersIsRefused(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, Prefix: "sha256="})
	d := sign(t, src, src.cms.sample, "")
	good := d.Header.Get("X-Webhook-Signature")
	fullwidth := strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return r - '0' + '０'
		}
		return r
	}, good)
	for name, value := range map[string]string{
		"fullwidth digits": fullwidth, "no-break space": "\u00a0" + good, "zero width": good[:9] + "\u200b" + good[9:], "byte order mark": "\ufeff" + good,
		"right to left": "\u202e" + good, "NUL": good + "\x00", "two": good + "," + good, "0x": "sha256=0x" + good[7:], "prefix in capitals": "SHA256=" + good[7:],
		"combining": good + "\u0301", "broken UTF-8": good + "\xff", "quoted": `"` + good + `"`,
	} {
		d.Header.Set("X-Webhook-Signature", value)
		if res := src.Verify(d, noon); res.SignatureOK {
			t.Errorf("%s: %q is accepted", name, value)
		}
	}
	d.Header.Set("X-Webhook-Signature", "sha256="+strings.ToUpper(good[7:]))
	if res := src.Verify(d, noon); !res.Valid() {
		t.Errorf("hex in capitals: %q, want it valid: it is the same number", res.Reason)
	}
}

// A body that fails in the middle is one that a proxy or a deadline cut off.
func TestBodyThatBreaksOffHoldsNoMemory(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	g := newGate([]*Source{src}, Config{})
	r := httptest.NewRequest("POST", "/webhooks/test", io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000)), broken{}))
	r.ContentLength = -1
	w := httptest.NewRecorder()
	g.Source("test").ServeHTTP(w, r)
	if w.Code != 400 || g.memory.used.Load() != 0 {
		t.Errorf("%d with %d bytes held, want 400 and none", w.Code, g.memory.used.Load())
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the line is dead") }
