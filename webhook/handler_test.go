package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
)

// queue keeps what a handler enqueues and knows ids, as the real one does.
type queue struct {
	mu     sync.Mutex
	events []event.Event
	fail   func(n int) error // asked before the nth event is taken
}

func (q *queue) enqueue(ctx context.Context, evs []event.Event) (added []bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ev := range evs {
		ok, err := q.take(ctx, ev)
		if err != nil {
			return nil, err
		}
		added = append(added, ok)
	}
	return added, nil
}

func (q *queue) take(ctx context.Context, ev event.Event) (bool, error) {
	if q.fail != nil {
		if err := q.fail(len(q.events)); err != nil {
			return false, err
		}
	}
	for _, old := range q.events {
		if old.ID == ev.ID {
			return false, nil
		}
	}
	q.events = append(q.events, ev)
	return true, ctx.Err()
}

// door is a running server with the sources of a test.
type door struct {
	url   string
	queue *queue
	log   *bytes.Buffer
	reg   *prometheus.Registry
}

func open(t *testing.T, sources ...*Source) *door {
	t.Helper()
	d := &door{queue: &queue{}, log: &bytes.Buffer{}, reg: prometheus.NewRegistry()}
	h := NewHandler(sources, d.queue.enqueue, slog.New(slog.NewJSONHandler(d.log, nil)), Config{Metrics: d.reg})
	h.now = func() time.Time { return noon }
	r := mux.NewRouter()
	r.Handle("/webhooks/{source}", h)
	r.Handle("/api/webhooks/cms", h.Source("cms"))
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	d.url = srv.URL
	return d
}

// post sends d and returns the answer with its parsed body.
func (o *door) post(t *testing.T, d Delivery) (*http.Response, map[string]any) {
	t.Helper()
	r, err := d.NewRequest(t.Context(), o.url)
	if err != nil {
		t.Fatal(err)
	}
	return o.do(t, r)
}

func (o *door) do(t *testing.T, r *http.Request) (*http.Response, map[string]any) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatalf("%d with %q, want a JSON object", resp.StatusCode, text)
	}
	if resp.Header.Get("X-Request-Id") == "" || resp.Header.Get("Location") != "" {
		t.Errorf("headers %v, want a request id and no redirect", resp.Header)
	}
	return resp, body
}

// counted returns the count of deliveries of a source with an outcome.
func (o *door) counted(t *testing.T, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := o.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if labels[l.GetName()] != l.GetValue() {
					continue next
				}
			}
			return m.GetCounter().GetValue()
		}
	}
	return 0
}

func sign(t *testing.T, src *Source, body, name string) Delivery {
	t.Helper()
	d, err := src.Sign([]byte(body), name, noon)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDeliveryIsQueuedOnceAndAnsweredWithItsID(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	o := open(t, src)
	d := sign(t, src, src.cms.sample, "post.published")

	resp, body := o.post(t, d)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" || body["status"] != "queued" {
		t.Fatalf("answer %d %v %v, want 200 queued in JSON", resp.StatusCode, resp.Header, body)
	}
	if len(o.queue.events) != 1 || o.queue.events[0].ID != body["id"] {
		t.Fatalf("queue holds %+v, want the event %v", o.queue.events, body["id"])
	}
	ev := o.queue.events[0]
	if ev.Name != "post.published" || ev.Kind() != "post.publish" || ev.Source != "test" || ev.Slug != "hello" || !ev.ReceivedAt.Equal(noon) {
		t.Errorf("event %+v, want post.publish of hello at noon", ev)
	}

	resp, again := o.post(t, d)
	if resp.StatusCode != 200 || again["status"] != "duplicate" || again["id"] != body["id"] || len(o.queue.events) != 1 {
		t.Errorf("the same again: %d %v, want 200 duplicate with the same id", resp.StatusCode, again)
	}
	for _, outcome := range []string{"queued", "duplicate"} {
		if n := o.counted(t, "freshwire_webhook_deliveries_total", map[string]string{"source": "test", "outcome": outcome}); n != 1 {
			t.Errorf("%s counted %v times, want 1", outcome, n)
		}
	}
	if n := o.counted(t, "freshwire_webhook_secret_used_total", map[string]string{"source": "test", "label": "secret"}); n != 2 {
		t.Errorf("secret 0 counted %v times, want 2", n)
	}
}

func TestPingIsAnswered200AndIgnored(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret})
	o := open(t, src)
	resp, body := o.post(t, sign(t, src, `{"type":"ping"}`, ""))
	if resp.StatusCode != 200 || body["status"] != "ignored" || len(o.queue.events) != 0 {
		t.Errorf("ping: %d %v with %d events, want 200 ignored", resp.StatusCode, body, len(o.queue.events))
	}
}

func TestURLOfTheSeedLeadsToTheSourceCMS(t *testing.T) {
	src, err := NewSource("cms", SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	o := open(t, src)
	d := sign(t, src, src.cms.sample, "")
	d.Target = "/api/webhooks/cms"
	if resp, body := o.post(t, d); resp.StatusCode != 200 || body["status"] != "queued" {
		t.Errorf("answer %d %v, want 200 queued", resp.StatusCode, body)
	}
	d.Target = "/webhooks/cms"
	if resp, body := o.post(t, d); resp.StatusCode != 200 || body["status"] != "duplicate" {
		t.Errorf("answer %d %v, want 200 duplicate: it is one source", resp.StatusCode, body)
	}
}

func TestDeliveryThatCannotBeQueuedIsAskedForAgain(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	o := open(t, src)
	o.queue.fail = func(int) error { return errors.New("redis is away at 10.1.2.3") }
	d := sign(t, src, src.cms.sample, "")
	resp, body := o.post(t, d)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("answer %d %v, want 503 with Retry-After", resp.StatusCode, resp.Header)
	}
	if text, _ := json.Marshal(body); strings.Contains(string(text), "10.1.2.3") {
		t.Errorf("answer %s tells of our insides", text)
	}
	if !strings.Contains(o.log.String(), "redis is away") {
		t.Errorf("log %s, want the cause", o.log)
	}
	o.queue.fail = nil
	if resp, body := o.post(t, d); resp.StatusCode != 200 || body["status"] != "queued" {
		t.Errorf("sent again: %d %v, want 200 queued", resp.StatusCode, body)
	}
}

// A batch of which a part was queued is queued to the end by its repeat.
func TestBatchThatStopsHalfwayIsCompletedByItsRepeat(t *testing.T) {
	batch := &cms{name: "batch", decode: func(*Source, Delivery, value) (message, error) {
		return message{batch: []Item{{Event: "a.updated", ContentType: "a", ID: "1"}, {Event: "a.updated", ContentType: "a", ID: "2"}, {Event: "ping", Action: event.Ping}}}, nil
	}}
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret, DeliveryIDHeader: "X-Id"})
	src.cms = batch
	o := open(t, src)
	broken := true
	o.queue.fail = func(n int) error {
		if n == 1 && broken {
			return errors.New("full")
		}
		return nil
	}
	d := sign(t, src, `{}`, "")
	if resp, _ := o.post(t, d); resp.StatusCode != 503 || len(o.queue.events) != 1 {
		t.Fatalf("answer %d with %d events, want 503 with 1", resp.StatusCode, len(o.queue.events))
	}
	broken = false
	if resp, body := o.post(t, d); resp.StatusCode != 200 || body["status"] != "queued" || len(o.queue.events) != 2 {
		t.Errorf("the repeat: %d %v with %d events, want 200 queued with 2", resp.StatusCode, body, len(o.queue.events))
	}
}

func TestAnswerComesWithinASecondWhenTheQueueHangs(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, _ []event.Event) ([]bool, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		h := NewHandler([]*Source{src}, hang, testkit.Discard(), Config{})
		h.now = func() time.Time { return noon }
		r := httptest.NewRequest("POST", "/webhooks/test", strings.NewReader(src.cms.sample))
		r.Header = sign(t, src, src.cms.sample, "").Header
		w := httptest.NewRecorder()
		start := time.Now()
		h.Source("test").ServeHTTP(w, r)
		if took := time.Since(start); w.Code != 503 || took != 900*time.Millisecond {
			t.Errorf("%d after %v, want 503 after 900ms", w.Code, took)
		}
	})
}

func TestSenderThatHangsUpIsStillServed(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	q := &queue{}
	h := NewHandler([]*Source{src}, q.enqueue, testkit.Discard(), Config{})
	h.now = func() time.Time { return noon }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequest("POST", "/webhooks/test", strings.NewReader(src.cms.sample)).WithContext(ctx)
	r.Header = sign(t, src, src.cms.sample, "").Header
	w := httptest.NewRecorder()
	h.Source("test").ServeHTTP(w, r)
	if w.Code != 200 || len(q.events) != 1 {
		t.Errorf("answer %d with %d events queued, want 200 with 1", w.Code, len(q.events))
	}
}

func TestEachDeliveryIsOneLogLineWithoutBodyOrSecret(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "query-token", Secret: testSecret})
	o := open(t, src)
	good := sign(t, src, `{"type":"post.updated","data":{"id":"1"},"private":"ada@example.com"}`, "")
	bad := good
	bad.Target = "/webhooks/test?token=guess"
	o.post(t, good)
	o.post(t, bad)
	lines := strings.Split(strings.TrimSpace(o.log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2:\n%s", len(lines), o.log)
	}
	for i, want := range []map[string]any{
		{"msg": "webhook", "level": "INFO", "source": "test", "status": 200.0, "reason": "queued", "event": "post.update", "secret": "secret", "bytes": 69.0},
		{"msg": "webhook", "level": "WARN", "source": "test", "status": 401.0, "reason": "bad_token", "event": "", "event_id": "", "secret": ""},
	} {
		var line map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &line); err != nil {
			t.Fatal(err)
		}
		for key, v := range want {
			if line[key] != v {
				t.Errorf("line %d: %s = %v, want %v", i, key, line[key], v)
			}
		}
		for _, key := range []string{"took", "request_id", "event_id"} {
			if _, ok := line[key]; !ok {
				t.Errorf("line %d has no %s", i, key)
			}
		}
	}
	for _, private := range []string{"ada@example.com", testSecret, "guess"} {
		if strings.Contains(o.log.String(), private) {
			t.Errorf("log holds %q:\n%s", private, o.log)
		}
	}
}

func TestRequestIDOfAProxyIsKeptWhenItIsSane(t *testing.T) {
	made := regexp.MustCompile(`^[a-z0-9]{26}$`)
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	o := open(t, src)
	for _, tc := range []struct {
		given string
		kept  bool
	}{
		{"req-1_2.3", true}, {strings.Repeat("a", 64), true}, {strings.Repeat("a", 65), false}, {"", false}, {"a b", false}, {"<script>", false}, {"é", false},
	} {
		d := Delivery{Method: "POST", Target: "/webhooks/test", Header: http.Header{"X-Request-Id": {tc.given}}}
		resp, body := o.post(t, d)
		got := resp.Header.Get("X-Request-Id")
		if tc.kept != (got == tc.given) || !tc.kept && !made.MatchString(got) || body["request_id"] != got {
			t.Errorf("request id %q gives %q in the header and %v in the body", tc.given, got, body["request_id"])
		}
	}
}

func TestWeakSettingsAreLoggedAtStart(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: "short"})
	o := open(t, src)
	if !strings.Contains(o.log.String(), "sources.test.secret: has 5 bytes") {
		t.Errorf("log %q, want the warning", o.log)
	}
}
