package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// standing is what an answer tells of the limit.
type standing struct {
	limit, remaining string
	reset            time.Duration // from now
	state, policy    string
}

func standingOf(t *testing.T, what string, h http.Header) standing {
	t.Helper()
	s := standing{limit: h.Get("X-RateLimit-Limit"), remaining: h.Get("X-RateLimit-Remaining"), state: h.Get("RateLimit"), policy: h.Get("RateLimit-Policy")}
	reset, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64)
	if err != nil || s.limit == "" || s.remaining == "" || s.state == "" || s.policy == "" {
		t.Errorf("%s: the answer does not tell the limit: %v", what, h)
	}
	s.reset = time.Until(time.UnixMilli(reset))
	return s
}

func TestLimitHoldsForAllNodesTogether(t *testing.T) {
	const limit = 20
	env := []string{"FRESHWIRE_RATE_LIMIT=20/1h", "FRESHWIRE_CORS_ORIGINS=https://site.example"}
	p, server, api := oneNode(t, env...)
	stream := start(t, "sse", append(env, "REDIS_URL="+server.URL())...)

	// What is not limited, beyond the limit.
	const body = `{"type":"post.updated","data":{"id":"1"}}`
	for i := range 2 * limit {
		for _, path := range []string{"/webhooks/cms", "/api/webhooks/cms"} {
			one := strings.Replace(body, `"1"`, fmt.Sprintf(`"%d"`, i), 1)
			if code, h, answer := call(t, "POST", p.URL+path, one, "X-Webhook-Signature", sign(one)); code != 200 || h.Get("X-RateLimit-Limit") != "" {
				t.Fatalf("webhook %d to %s = %d %s", i, path, code, answer)
			}
		}
		if code, _, answer := call(t, "POST", p.URL+"/api/revalidate", `{"secret":"revalidate-me","tag":"unused"}`); code != 200 {
			t.Fatalf("revalidate %d = %d %s", i, code, answer)
		}
		if code, _, _ := call(t, "OPTIONS", p.URL+"/api/posts/1", "", "Origin", "https://site.example", "Access-Control-Request-Method", "GET"); code != 204 {
			t.Fatalf("preflight %d = %d", i, code)
		}
	}

	// Reads, streams and sessions use up one limit, wherever they are asked for.
	urls := []string{p.URL + "/api/posts/1", p.URL + "//api/posts/1", p.URL + "/api/posts/2", p.URL + "/api/auth/session", stream.URL + "/api/events", p.URL + "/api/events"}
	for i := range limit {
		url := urls[i%len(urls)]
		_, h, _ := call(t, "GET", url, "") // of streams no channel is named: they end at once
		s := standingOf(t, url, h)
		if s.limit != "20" || s.remaining != strconv.Itoa(limit-1-i) || s.reset < 58*time.Minute || s.reset > 61*time.Minute {
			t.Errorf("request %d, %s: %+v, want %d remaining for an hour", i+1, url, s, limit-1-i)
		}
		if want := `"default";q=20;w=3600`; s.policy != want || !strings.HasPrefix(s.state, fmt.Sprintf(`"default";r=%d;t=`, limit-1-i)) {
			t.Errorf("request %d, %s: RateLimit-Policy %s, RateLimit %s", i+1, url, s.policy, s.state)
		}
	}
	asked := api.asked.Load()
	for _, url := range append(urls, p.URL+"/api/posts/1", p.URL+"/api/posts/never") { // also what memory holds
		code, h, answer := call(t, "GET", url, "", "Origin", "https://site.example")
		if code != 429 || h.Get("Content-Type") != "application/problem+json" || !strings.Contains(answer, `"status":429`) {
			t.Errorf("%s over the limit = %d %v %s, want a problem with 429", url, code, h, answer)
		}
		if s := standingOf(t, url, h); s.remaining != "0" {
			t.Errorf("%s over the limit: %+v", url, s)
		}
		if n, err := strconv.Atoi(h.Get("Retry-After")); err != nil || n < 1 || n > 3600 {
			t.Errorf("%s over the limit: Retry-After %q", url, h.Get("Retry-After"))
		}
		if h.Get("Access-Control-Allow-Origin") != "https://site.example" || !strings.Contains(h.Get("Access-Control-Expose-Headers"), "X-RateLimit-Reset") {
			t.Errorf("%s over the limit: a page may not read why: %v", url, h)
		}
	}
	if n := api.asked.Load(); n != asked {
		t.Errorf("the origin was asked %d times for clients over the limit", n-asked)
	}
	if code, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); code != 200 {
		t.Errorf("webhook of an address over the limit = %d %s", code, answer)
	}
}

// Streams tell it, too, also those whose connections are taken over.
func TestOpenStreamTellsTheLimit(t *testing.T) {
	for _, mode := range []string{"auto", "plain"} {
		p, _, _ := oneNode(t, "FRESHWIRE_RATE_LIMIT=7/1h", "FRESHWIRE_SSE_MODE="+mode)
		resp, err := http.Get(p.URL + "/api/events?channel=posts")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if s := standingOf(t, "a stream, "+mode, resp.Header); resp.StatusCode != 200 || s.limit != "7" || s.remaining != "6" {
			t.Errorf("%s: %s %+v, want 200 and 6 of 7", mode, resp.Status, s)
		}
	}
}

// An EventSource gives up for good on 429, so it is told in a stream.
func TestEventSourceOverTheLimitIsToldWhenToComeAgain(t *testing.T) {
	p, _, _ := oneNode(t, "FRESHWIRE_RATE_LIMIT=1/1h")
	call(t, "GET", p.URL+"/api/posts/1", "")
	req, _ := http.NewRequestWithContext(t.Context(), "GET", p.URL+"/api/events?channel=posts", nil)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s %v, %v", resp.Status, resp.Header, err)
	}
	standingOf(t, "a refused stream", resp.Header)
	var ms int
	if _, err := fmt.Sscanf(string(text), "retry: %d\n\nevent: goaway\ndata: {\"reason\":\"rate_limit\",\"retryAfterMs\":", &ms); err != nil || ms < 1000 {
		t.Errorf("told %q: %v", text, err)
	}
}

func TestClientsBehindATrustedProxyAreToldApart(t *testing.T) {
	p, _, _ := oneNode(t, "FRESHWIRE_RATE_LIMIT=2/1h", "FRESHWIRE_TRUSTED_PROXIES=127.0.0.0/8")
	for _, tc := range []struct {
		from string
		want int
	}{
		{"198.51.100.1", 200}, {"198.51.100.1", 200}, {"198.51.100.1", 429}, {"203.0.113.9, 198.51.100.1", 429}, {"198.51.100.2", 200},
		{"2001:db8::1", 200}, {"2001:db8::2", 200}, {"2001:db8:0:0:ffff::3", 429}, {"2001:db8:0:1::1", 200},
	} {
		if code, _, _ := call(t, "GET", p.URL+"/api/posts/1", "", "X-Forwarded-For", tc.from); code != tc.want {
			t.Errorf("read of %s = %d, want %d", tc.from, code, tc.want)
		}
	}
}

func TestReadsGoOnWhileRedisHangs(t *testing.T) {
	p, server, _ := oneNode(t, "FRESHWIRE_RATE_LIMIT=300/1h")
	if code, _, _ := call(t, "GET", p.URL+"/api/posts/1", ""); code != 200 {
		t.Fatalf("read = %d", code)
	}
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer server.Signal(syscall.SIGCONT)
	refused := 0
	for range 400 {
		_, h, _ := call(t, "GET", p.URL+"/api/auth/session", "") // it needs no origin
		standingOf(t, "while Redis hangs", h)
		if h.Get("X-RateLimit-Remaining") == "0" && h.Get("Retry-After") != "" {
			refused++
		}
	}
	if refused < 100 {
		t.Errorf("%d of 400 refused by a node that counts alone, want at least 100", refused)
	}
	server.Signal(syscall.SIGCONT)
	testkit.Until(t, "limits are shared again", func() bool {
		call(t, "GET", p.URL+"/api/auth/session", "", "X-Forwarded-For", "198.51.100.7")
		_, _, metrics := call(t, "GET", p.URL+"/metrics", "", "Authorization", "Bearer "+adminToken)
		return strings.Contains(metrics, "freshwire_rate_limit_local 0")
	})
}

func TestWithoutALimitNothingIsTold(t *testing.T) {
	p, _, _ := oneNode(t, "FRESHWIRE_RATE_LIMIT=0")
	for i := range 150 {
		code, h, _ := call(t, "GET", p.URL+"/api/posts/1", "")
		if code != 200 || h.Get("X-RateLimit-Limit") != "" || h.Get("RateLimit") != "" {
			t.Fatalf("read %d = %d %v", i, code, h)
		}
	}
}

func TestLimitIsOnByDefault(t *testing.T) {
	p, _, _ := oneNode(t, "FRESHWIRE_RATE_LIMIT=")
	_, h, _ := call(t, "GET", p.URL+"/api/posts/1", "")
	if s := standingOf(t, "a read", h); s.limit != "100" || s.policy != `"default";q=100;w=60` {
		t.Errorf("the default limit is %+v, want 100 a minute", s)
	}
}
