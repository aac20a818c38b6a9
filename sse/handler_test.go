package sse

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// serve answers h over HTTP/1.1 and unencrypted HTTP/2.
func serve(t testing.TB, h http.Handler) *httptest.Server {
	return serveFor(t, h, 300*time.Millisecond) // must not end streams
}

func serveFor(t testing.TB, h http.Handler, timeout time.Duration) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnContext = ConnContext
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.WriteTimeout, s.Config.ReadTimeout = timeout, timeout
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// way is how a stream is served, and asked for.
type way struct {
	mode     string
	portable bool
	h2       bool
}

// ways are all of them: what a stream does is the same on each.
var ways = map[string]way{
	"taken over":           {mode: "auto"},
	"taken over, portable": {mode: "auto", portable: true},
	"plain":                {mode: "plain"},
	"h2c":                  {h2: true},
}

func (w way) client() *http.Client {
	if !w.h2 {
		return &http.Client{Transport: &http.Transport{}}
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p}}
}

// handler is testHandler for this way.
func (w way) handler(t testing.TB, l *list, cfg Config) *Handler {
	cfg.Mode = w.mode
	h := testHandler(t, l, cfg)
	h.portable = w.portable
	return h
}

// listen opens a stream and returns its events.
func listen(t testing.TB, c *http.Client, base, query, lastID string) (*Reader, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, "GET", base+"/api/events?"+query, nil)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); res.Body.Close() })
	return NewReader(res.Body), res
}

func next(t testing.TB, r *Reader) Message {
	t.Helper()
	ch := make(chan Message, 1)
	go func() {
		m, err := r.Next()
		if err != nil {
			m = Message{Name: "error", Data: err.Error()}
		}
		ch <- m
	}()
	return testkit.Wait(t, ch, "an event")
}

func TestStreamBeginsAsTheContractSays(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			h := way.handler(t, nil, Config{})
			h.hub.Reset("history_lost", at(7))
			s := serve(t, h)
			_, res := listen(t, way.client(), s.URL, "channel=posts", "")
			if res.StatusCode != 200 {
				t.Fatalf("status %d", res.StatusCode)
			}
			for key, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", "Vary": "Origin"} {
				if got := res.Header.Get(key); got != want {
					t.Errorf("%s: %q, want %q", key, got, want)
				}
			}
			testkit.Until(t, "one subscriber", func() bool { return h.hub.Subscribers() == 1 })
			h.hub.Broadcast([]event.Record{record(9, `{"id":"x"}`, "posts"), record(10, `{"id":"y"}`, "others")})
			want := "retry: 2000\n\nid: 7-0\nevent: ready\ndata: {\"position\":\"7-0\"}\n\nid: 9-0\ndata: {\"id\":\"x\"}\n\n"
			got := make([]byte, len(want))
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
				t.Errorf("stream = %q, %v, want %q", got, err, want)
			}
		})
	}
}

func TestResumePoint(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) { testResumePoint(t, way) })
	}
}

func testResumePoint(t *testing.T, way way) {
	l := &list{trimmed: at(3)}
	for ms := uint64(1); ms <= 20; ms++ {
		l.add(change(ms, "posts"))
	}
	h := way.handler(t, l, Config{RingLen: 5})
	h.hub.Broadcast(l.recs)
	s := serve(t, h)
	client := way.client()
	for _, tc := range []struct{ name, header, query, want string }{
		{"no position", "", "", "ready 20-0"},
		{"newest", "20-0", "", "ready 20-0"},
		{"in the ring", "18-0", "", "ready 18-0, 19-0, 20-0"},
		{"between entries", "18-5", "", "ready 18-5, 19-0, 20-0"},
		{"end of the ring", "15-0", "", "ready 15-0, 16-0, 17-0, 18-0, 19-0, 20-0"},
		{"in the log", "13-0", "", "ready 13-0, 14-0, 15-0, 16-0, 17-0, 18-0, 19-0, 20-0"},
		{"in the query", "", "18-0", "ready 18-0, 19-0, 20-0"},
		{"header wins", "19-0", "18-0", "ready 19-0, 20-0"},
		{"trimmed", "2-0", "", "reset history_lost 20-0, ready 20-0"},
		{"zero", "0-0", "", "reset history_lost 20-0, ready 20-0"},
		{"ahead", "21-0", "", "reset bad_position 20-0, ready 20-0"},
		{"far ahead", "18446744073709551615-18446744073709551615", "", "reset bad_position 20-0, ready 20-0"},
		{"too large", "18446744073709551616-0", "", "reset bad_position 20-0, ready 20-0"},
		{"dollar", "$", "", "reset bad_position 20-0, ready 20-0"},
		{"dash", "-", "", "reset bad_position 20-0, ready 20-0"},
		{"plus", "", "%2B", "reset bad_position 20-0, ready 20-0"},
		{"bracket", "(5-0", "", "reset bad_position 20-0, ready 20-0"},
		{"negative", "-1-0", "", "reset bad_position 20-0, ready 20-0"},
		{"words", "the beginning", "", "reset bad_position 20-0, ready 20-0"},
		{"line end", "", "5-0%0Aevent:%20x", "reset bad_position 20-0, ready 20-0"},
		{"other digits", "", "%D9%A1-0", "reset bad_position 20-0, ready 20-0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _ := listen(t, client, s.URL, "channel=posts&lastEventId="+tc.query, tc.header)
			var got []string
			for range strings.Count(tc.want, ",") + 1 {
				m := next(t, r)
				switch m.Name {
				case "":
					got = append(got, m.ID)
				case "reset":
					var data struct{ Reason string }
					json.Unmarshal([]byte(m.Data), &data)
					got = append(got, "reset "+data.Reason+" "+m.ID)
				case "ready":
					if m.Data != `{"position":"`+m.ID+`"}` {
						t.Errorf("ready %q says %q", m.ID, m.Data)
					}
					got = append(got, "ready "+m.ID)
				}
			}
			if strings.Join(got, ", ") != tc.want {
				t.Errorf("got %s, want %s", strings.Join(got, ", "), tc.want)
			}
		})
	}
}

func TestBadRequestsAreAnswered(t *testing.T) {
	cfg := Config{
		CORSOrigins: []string{"https://a.example"},
		Enter: func(_ *http.Request, channels []string) (Listener, error) {
			if slices.ContainsFunc(channels, func(ch string) bool { return strings.HasPrefix(ch, "user:") }) {
				return Listener{}, ErrForbidden
			}
			return Listener{}, nil
		},
		AllowAll: func(r *http.Request) bool { return r.Header.Get("X-Admin") == "1" },
	}
	s := serve(t, testHandler(t, nil, cfg))
	public := serve(t, testHandler(t, nil, Config{}))
	many := "channel=a" + strings.Repeat("&channel=b", 64)
	for _, tc := range []struct {
		name, method, url string
		want              int
	}{
		{"no channel", "GET", s.URL, 400},
		{"empty channel", "GET", s.URL + "?channel=", 400},
		{"one empty of two", "GET", s.URL + "?channel=a&channel=", 400},
		{"65 channels", "GET", s.URL + "?" + many, 400},
		{"257 bytes", "GET", s.URL + "?channel=" + strings.Repeat("a", 257), 400},
		{"4097 bytes together", "GET", s.URL + "?channel=a" + strings.Repeat("&channel="+strings.Repeat("a", 256), 16), 400},
		{"control character", "GET", s.URL + "?channel=a%0Ab", 400},
		{"NUL", "GET", s.URL + "?channel=a%00", 400},
		{"broken UTF-8", "GET", s.URL + "?channel=%FF", 400},
		{"broken query", "GET", s.URL + "?channel=%zz", 400},
		{"pattern", "GET", s.URL + "?channel=post:*", 400},
		{"all, where nobody may", "GET", public.URL + "?channel=*", 400},
		{"all, where this one may not", "GET", s.URL + "?channel=*", 403},
		{"private channel", "GET", s.URL + "?channel=user:7", 403},
		{"private channel that is nowhere", "GET", s.URL + "?channel=user:nobody", 403},
		{"private among public", "GET", s.URL + "?channel=posts&channel=user:7", 403},
		{"POST", "POST", s.URL + "?channel=a", 405},
		{"DELETE", "DELETE", s.URL + "?channel=a", 405},
		{"OPTIONS of a stranger", "OPTIONS", s.URL + "?channel=a", 405},
		{"HEAD", "HEAD", s.URL + "?channel=a", 200},
		{"HEAD without channel", "HEAD", s.URL, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, _ := http.NewRequest(tc.method, tc.url, nil)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != tc.want {
				t.Fatalf("%s, want %d", res.Status, tc.want) // the body may be a stream
			}
			body, _ := io.ReadAll(res.Body)
			if tc.want >= 400 && res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("Content-Type %q", res.Header.Get("Content-Type"))
			}
			if tc.want >= 400 && tc.method != "HEAD" && !json.Valid(body) || bytes.Contains(body, []byte("user:")) {
				t.Errorf("body %s", body)
			}
			if tc.want == 405 && res.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow: %q", res.Header.Get("Allow"))
			}
		})
	}
}

func TestSixtyFourChannelsOf4096BytesTogetherAreServed(t *testing.T) {
	h := testHandler(t, nil, Config{})
	s := serve(t, h)
	query := url.Values{}
	for i := range 64 {
		query.Add("channel", fmt.Sprintf("%064d", i))
	}
	r, _ := listen(t, new(http.Client), s.URL, query.Encode(), "")
	if m := next(t, r); m.Name != "ready" {
		t.Fatalf("got %q, want ready", m)
	}
	if n := h.hub.Channels(); n != 64 {
		t.Errorf("%d channels, want 64", n)
	}
}

func TestOnlyListedOriginsMayRead(t *testing.T) {
	s := serve(t, testHandler(t, nil, Config{CORSOrigins: []string{"https://a.example"}}))
	for origin, want := range map[string]string{"https://a.example": "https://a.example", "https://b.example": "", "https://a.example.evil": "", "null": "", "": ""} {
		for _, method := range []string{"HEAD", "OPTIONS", "POST"} {
			req, _ := http.NewRequest(method, s.URL+"?channel=a", nil)
			req.Header.Set("Origin", origin)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if got := res.Header.Get("Access-Control-Allow-Origin"); got != want || (res.Header.Get("Access-Control-Allow-Credentials") == "true") != (want != "") || res.Header.Get("Vary") != "Origin" {
				t.Errorf("%s from %q: allowed origin %q, Vary %q, want %q, Origin", method, origin, got, res.Header.Get("Vary"), want)
			}
		}
	}
}

func TestAllChannelsForWhoMay(t *testing.T) {
	h := testHandler(t, nil, Config{AllowAll: func(*http.Request) bool { return true }})
	s := serve(t, h)
	r, _ := listen(t, new(http.Client), s.URL, "channel=*", "")
	next(t, r)
	h.hub.Broadcast([]event.Record{change(1, "a"), change(2, "b"), change(3)})
	for _, want := range []string{"1-0", "2-0", "3-0"} {
		if m := next(t, r); m.ID != want {
			t.Errorf("got %q, want %s", m, want)
		}
	}
}

func TestOverloadIsToldWith200AndALongRetry(t *testing.T) {
	for name, cfg := range map[string]Config{"in all": {MaxSubscribers: 1}, "of an address": {MaxPerAddress: 1}} {
		t.Run(name, func(t *testing.T) {
			h := testHandler(t, nil, cfg)
			s := serve(t, h)
			client := new(http.Client)
			first, res := listen(t, client, s.URL, "channel=a", "")
			next(t, first)
			refused, other := listen(t, client, s.URL, "channel=a", "")
			m := next(t, refused)
			if other.StatusCode != 200 || m.Name != "goaway" || !strings.Contains(m.Data, `"reason":"overload"`) || refused.Retry() < 15*time.Second || m.ID != "" {
				t.Errorf("%d %q, retry %v, want 200, goaway of overload without id, retry of 15s or more", other.StatusCode, m, refused.Retry())
			}
			if m := next(t, refused); m.Data != io.EOF.Error() {
				t.Errorf("got %q, want the end", m)
			}
			res.Body.Close()
			client.CloseIdleConnections()
			testkit.Until(t, "the first has left", func() bool { return h.hub.Subscribers() == 0 })
			again, _ := listen(t, client, s.URL, "channel=a", "")
			if m := next(t, again); m.Name != "ready" {
				t.Errorf("got %q, want ready: there is room again", m)
			}
		})
	}
}

func TestDrainTellsEveryoneToComeBackAtAnotherTime(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			h := way.handler(t, nil, Config{DrainSpread: 10 * time.Second})
			s := serve(t, h)
			var readers []*Reader
			for range 20 {
				r, _ := listen(t, way.client(), s.URL, "channel=a", "")
				next(t, r)
				readers = append(readers, r)
			}
			if err := h.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := h.hub.Subscribers(); n != 0 {
				t.Errorf("%d subscribers after Drain", n)
			}
			retries := map[time.Duration]bool{}
			for _, r := range readers {
				m := next(t, r)
				var data struct {
					Reason       string
					RetryAfterMs int64
				}
				if err := json.Unmarshal([]byte(m.Data), &data); err != nil || m.Name != "goaway" || data.Reason != "drain" || time.Duration(data.RetryAfterMs)*time.Millisecond != r.Retry() {
					t.Errorf("got %q, retry %v", m, r.Retry())
				}
				retries[r.Retry()] = true
			}
			if len(retries) < 15 {
				t.Errorf("%d different retry times for 20 clients", len(retries))
			}
			late, res := listen(t, way.client(), s.URL, "channel=a", "")
			if m := next(t, late); res.StatusCode != 200 || m.Name != "goaway" || late.Retry() == 0 {
				t.Errorf("a late client got %d %q", res.StatusCode, m)
			}
		})
	}
}

// run runs a stream on a memory connection within a bubble of virtual time.
func run(t *testing.T, h *Handler, conn *memory, lastID string) (done chan struct{}, cancel func()) {
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, "GET", "/api/events?channel=a", nil)
	r.Header.Set("Last-Event-ID", lastID)
	done = make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(conn, r)
	}()
	return done, cancel
}

func TestQuietStreamIsPingedAndBusyOneIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, nil, Config{})
		conn := &memory{header: http.Header{}}
		done, cancel := run(t, h, conn, "")
		for ms := uint64(1); ms <= 6; ms++ { // a minute with a change every 10 s
			time.Sleep(10 * time.Second)
			h.hub.Broadcast([]event.Record{change(ms, "a")})
		}
		synctest.Wait()
		if got := conn.messages(t); len(got) != 7 {
			t.Errorf("a busy stream got %d messages, want ready and 6 changes", len(got))
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		pings := 0
		for _, m := range conn.messages(t)[7:] {
			if m.Name != "ping" || m.Data != "{}" || m.ID != "6-0" {
				t.Errorf("got %q, want a ping that leaves the position at 6-0", m)
			}
			pings++
		}
		if pings != 4 {
			t.Errorf("%d pings in a quiet minute, want 4", pings)
		}
		cancel()
		<-done
	})
}

func TestSecondOfTwoLargeChangesFollowsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, nil, Config{})
		conn := &memory{header: http.Header{}}
		done, cancel := run(t, h, conn, "")
		synctest.Wait() // the stream is at rest; from here on no time passes
		large := `{"x":"` + strings.Repeat("x", maxBatch*2/3) + `"}`
		h.hub.Broadcast([]event.Record{record(1, large, "a"), record(2, large, "a")})
		synctest.Wait()
		if got := conn.messages(t); len(got) != 3 || got[1].ID != "1-0" || got[2].ID != "2-0" {
			t.Errorf("%d messages without a heartbeat, want ready and both changes", len(got))
		}
		h.hub.Broadcast([]event.Record{change(3, "a")})
		synctest.Wait()
		if got := conn.messages(t); len(got) != 4 || got[len(got)-1].ID != "3-0" {
			t.Errorf("%d messages without a heartbeat, want the next change too", len(got))
		}
		cancel()
		<-done
	})
}

func TestStreamSleepsUntilItsResetIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, nil, Config{ResetSpread: 10 * time.Second, MaxStreamAge: 24 * time.Hour})
		conn := &memory{header: http.Header{}}
		done, cancel := run(t, h, conn, "")
		time.Sleep(h.cfg.Heartbeat - time.Millisecond)
		h.hub.Reset("store_changed", at(200))
		synctest.Wait()
		before := h.hub.metrics.passes.Load()
		time.Sleep(h.cfg.ResetSpread + time.Second)
		synctest.Wait()
		got := slices.DeleteFunc(conn.messages(t), func(m Message) bool { return m.Name == "ping" })
		if len(got) != 2 || got[0].Name != "ready" || got[1].Name != "reset" || got[1].ID != "200-0" {
			t.Errorf("got %q, want ready and reset", got)
		}
		if n := h.hub.metrics.passes.Load() - before; n > 10 { // a ping, the reset's moment, what was written of them, a look at the clock
			t.Errorf("the shard looked %d times before the reset was due", n)
		}
		cancel()
		<-done
	})
}

func TestOldStreamIsAskedToReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, nil, Config{})
		for range 20 {
			conn := &memory{header: http.Header{}}
			start := time.Now()
			done, _ := run(t, h, conn, "")
			<-done
			if age := time.Since(start); age < 48*time.Minute || age > 72*time.Minute+time.Second {
				t.Errorf("closed after %v, want 1h, 20 %% more or less", age)
			}
			got := conn.messages(t)
			if m := got[len(got)-1]; m.Name != "goaway" || !strings.Contains(m.Data, `"reason":"age"`) {
				t.Errorf("the last message was %q", m)
			}
		}
	})
}

func TestChangedStoreIsToldSpreadAndBeforeAnythingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, nil, Config{ResetSpread: 5 * time.Second})
		var conns []*memory
		for range 50 {
			conn := &memory{header: http.Header{}}
			conns = append(conns, conn)
			done, cancel := run(t, h, conn, "")
			defer func() { cancel(); <-done }()
		}
		synctest.Wait()
		h.hub.Reset("store_changed", at(100))
		h.hub.Broadcast([]event.Record{change(101, "a")})
		told := func() (n int) {
			synctest.Wait()
			for _, c := range conns {
				if len(c.messages(t)) > 1 {
					n++
				}
			}
			return n
		}
		time.Sleep(time.Second)
		if n := told(); n == 0 || n > 30 {
			t.Errorf("%d of 50 told within 1 s of 5", n)
		}
		time.Sleep(4 * time.Second)
		if n := told(); n != 50 {
			t.Errorf("%d of 50 told within 5 s", n)
		}
		for _, c := range conns {
			got := c.messages(t)
			if got[1].Name != "reset" || got[1].Data != `{"reason":"store_changed"}` || got[1].ID != "101-0" || len(got) != 2 {
				t.Fatalf("got %q, want one reset at the newest position", got[1:])
			}
		}
	})
}

func TestStreamThatCannotReadHistoryIsAskedToComeBack(t *testing.T) {
	h := testHandler(t, nil, Config{})
	h.hub.history = func(context.Context, event.Position, int) ([]event.Record, bool, error) {
		return nil, false, errors.New("redis is away")
	}
	h.hub.Reset("history_lost", at(5))
	s := serve(t, h)
	r, _ := listen(t, new(http.Client), s.URL, "channel=a", "3-0")
	if m := next(t, r); m.Name != "goaway" || !strings.Contains(m.Data, "unavailable") || m.ID != "" {
		t.Errorf("got %q, want goaway without an id: the client stays where it was", m)
	}
}

func TestBlockedSocketIsClosedAndDelaysNobody(t *testing.T) {
	for name, way := range ways {
		if !way.h2 {
			t.Run(name, func(t *testing.T) { testBlockedSocket(t, way) })
		}
	}
}

func testBlockedSocket(t *testing.T, way way) {
	reg := prometheus.NewRegistry()
	h := way.handler(t, nil, Config{WriteTimeout: 300 * time.Millisecond, Metrics: reg})
	s := serve(t, h)
	quick, _ := listen(t, way.client(), s.URL, "channel=posts", "")
	next(t, quick)

	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(conn, "GET /api/events?channel=posts HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("got %q, %v", line, err)
	}
	testkit.Until(t, "two subscribers", func() bool { return h.hub.Subscribers() == 2 })
	big := strings.Repeat("x", 256<<10)
	var worst time.Duration
	for ms := uint64(1); h.hub.Subscribers() == 2; ms++ {
		start := time.Now()
		h.hub.Broadcast([]event.Record{record(ms, big, "posts")})
		if m := next(t, quick); m.ID != at(ms).String() {
			t.Fatalf("the quick one got %.40q, want %d", m, ms)
		}
		worst = max(worst, time.Since(start))
		if ms > 5000 {
			t.Fatal("5000 × 256 KiB later the blocked socket is still there")
		}
	}
	if worst > 10*time.Second {
		t.Errorf("the quick one waited %v", worst)
	}
	if n := value(t, reg, "freshwire_sse_stalled_total"); n != 1 {
		t.Errorf("stalled_total = %v, want 1", n)
	}
}

func TestClientThatIsGoneBeforeItsStreamBegins(t *testing.T) {
	h := testHandler(t, nil, Config{})
	c := newClient(h, "a")
	ours, theirs := net.Pipe()
	theirs.Close()
	s := &subscriber{key: "a", behind: &backlog{fresh: true}}
	h.hub.admit(s)
	pumpConn(ours, c.sh, s, time.Second)
	testkit.Until(t, "the shard is told", func() bool {
		c.sh.mu.Lock()
		defer c.sh.mu.Unlock()
		return len(c.sh.in.signals) > 0
	})
	c.sh.pass()
	if n := h.hub.Subscribers(); n != 0 || !s.closed {
		t.Errorf("%d subscribers", n)
	}
}

func TestBlockedHTTP2StreamIsClosed(t *testing.T) {
	h := testHandler(t, nil, Config{WriteTimeout: 300 * time.Millisecond})
	s := serve(t, h)
	listen(t, ways["h2c"].client(), s.URL, "channel=posts", "") // never read
	testkit.Until(t, "a subscriber", func() bool { return h.hub.Subscribers() == 1 })
	big := strings.Repeat("x", 1<<20)
	ms := uint64(0)
	testkit.Until(t, "the blocked stream is closed", func() bool {
		if ms++; ms < 40 {
			h.hub.Broadcast([]event.Record{record(ms, big, "posts")})
		}
		return h.hub.Subscribers() == 0
	})
}

func TestStreamOutlivesItsWriteDeadline(t *testing.T) {
	for name, way := range ways {
		h := way.handler(t, nil, Config{WriteTimeout: 50 * time.Millisecond, Heartbeat: 120 * time.Millisecond})
		s := serve(t, h)
		r, _ := listen(t, way.client(), s.URL, "channel=a", "")
		for i, want := range []string{"ready", "ping", "ping", "ping", "ping"} {
			if m := next(t, r); m.Name != want {
				t.Errorf("%s: event %d = %q, want %s", name, i, m, want)
			}
		}
	}
}

func TestEverythingIsBackToZeroAfterClientsCameAndWent(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) { testBackToZero(t, way) })
	}
}

func testBackToZero(t *testing.T, way way) {
	l := &list{}
	h := way.handler(t, l, Config{MaxPerAddress: 1000})
	s := serveFor(t, h, 10*time.Second) // a hundred requests at once take a while on a busy machine
	before := runtime.NumGoroutine()
	{
		c := way.client()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/api/events?channel=a&channel=c%d", s.URL, i%7), nil)
				res, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				if m, err := NewReader(res.Body).Next(); err != nil || m.Name != "ready" {
					t.Errorf("got %q, %v", m, err)
				}
				cancel()
				res.Body.Close()
			})
		}
		wg.Wait()
		c.CloseIdleConnections()
	}
	testkit.Until(t, "no subscriber is left", func() bool { return h.hub.Subscribers() == 0 })
	if h.hub.Channels() != 0 || len(h.hub.addrs) != 0 {
		t.Errorf("%d channels, %d addresses left", h.hub.Channels(), len(h.hub.addrs))
	}
	testkit.Until(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func TestServerThatCannotStreamSaysSo(t *testing.T) {
	h := testHandler(t, nil, Config{})
	w := httptest.NewRecorder() // has no deadlines
	h.ServeHTTP(w, httptest.NewRequest("GET", "/api/events?channel=a", nil))
	if w.Code != 500 || h.hub.Subscribers() != 0 {
		t.Errorf("%d with %d subscribers, want 500", w.Code, h.hub.Subscribers())
	}
}

func TestStreamWaitsForTheFirstPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub(testkit.Discard(), Config{})
		h := NewHandler(hub, nil, testkit.Discard(), Config{})
		conn := &memory{header: http.Header{}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.ServeHTTP(conn, httptest.NewRequest("GET", "/api/events?channel=a", nil))
		}()
		<-done
		if got := conn.messages(t); len(got) != 1 || got[0].Name != "goaway" || !strings.Contains(got[0].Data, "unavailable") {
			t.Errorf("got %q, want goaway", got)
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add("channel=posts&lastEventId=1-0", "")
	f.Add("channel=*&channel=a%0d%0adata:x", "$")
	f.Add("channel=a;b&lastEventId=%00", "1-0\r\nX: y")
	l := &list{}
	l.add(change(1, "posts"), change(2, "posts"))
	f.Fuzz(func(t *testing.T, query, lastID string) {
		h := testHandler(t, l, Config{})
		h.hub.Broadcast(l.recs)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := (&http.Request{Method: "GET", URL: &url.URL{Path: "/api/events", RawQuery: query}, Header: http.Header{"Last-Event-Id": {lastID}}, ProtoMajor: 1, RemoteAddr: "127.0.0.1:1"}).WithContext(ctx)
		conn := &memory{header: http.Header{}}
		conn.onWrite = func() {
			if bytes.Contains(conn.buf.Bytes(), []byte("ready")) {
				cancel() // one write after ready is enough
			}
		}
		timeout := time.AfterFunc(50*time.Millisecond, cancel)
		defer timeout.Stop()
		h.ServeHTTP(conn, r)
		if conn.header.Get("Content-Type") == "application/problem+json" {
			if !json.Valid(conn.buf.Bytes()) {
				t.Errorf("problem %q", conn.buf.String())
			}
			return
		}
		for i, m := range conn.messages(t) {
			if m.Name != "ready" && m.Name != "reset" && m.Name != "" || i == 0 && m.Name == "" {
				t.Errorf("message %d of query %q, id %q: %q", i, query, lastID, m)
			}
			if _, err := event.ParsePosition(m.ID); err != nil {
				t.Errorf("message %d has id %q", i, m.ID)
			}
		}
		testkit.Until(t, "no subscriber is left", func() bool { return h.hub.Subscribers() == 0 })
	})
}

func value(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			var m *dto.Metric = f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestConfigTellsAllThatIsWrong(t *testing.T) {
	err := Config{Heartbeat: time.Minute, Retry: -1, MaxPerAddress: -1, ResetSpread: time.Hour, CORSOrigins: []string{"*", "https://a/b", "https://ok.example:8443"}}.Validate()
	for _, word := range []string{"ping", "reconnect after", "address", "resets", `"*"`, `"https://a/b"`} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("Validate() = %v, want it to complain of %s", err, word)
		}
	}
	if err != nil && strings.Contains(err.Error(), "ok.example") {
		t.Errorf("Validate() = %v", err)
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("zero Config: %v", err)
	}
}
