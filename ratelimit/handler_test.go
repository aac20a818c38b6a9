package ratelimit

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

var fine = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("fine")) })

// get asks a handler; header is a name, its value, and so on.
func ask(h http.Handler, method, from string, header ...string) *http.Response {
	r := httptest.NewRequest(method, "/api/posts", nil)
	r.RemoteAddr = from
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func header(r *http.Response, name string) string { return strings.Join(r.Header[name], "|") }

func TestEveryAnswerTellsWhereTheClientStands(t *testing.T) {
	server := testkit.StartServer(t)
	l := New(client(t, server.Addr), testkit.Logger(t), Config{Rate: Rate{2, time.Hour}, CORSOrigins: []string{"https://site.example"}})
	h := l.Handler(fine)
	for i, want := range []struct {
		code      int
		remaining string
	}{{200, "1"}, {200, "0"}, {429, "0"}, {429, "0"}} {
		before := time.Now()
		resp := ask(h, "GET", "192.0.2.1:9", "Origin", "https://site.example")
		if resp.StatusCode != want.code {
			t.Fatalf("request %d: %d, want %d", i+1, resp.StatusCode, want.code)
		}
		if got := header(resp, "X-RateLimit-Limit"); got != "2" {
			t.Errorf("request %d: X-RateLimit-Limit %q", i+1, got)
		}
		if got := header(resp, "X-RateLimit-Remaining"); got != want.remaining {
			t.Errorf("request %d: X-RateLimit-Remaining %q, want %s", i+1, got, want.remaining)
		}
		reset, err := strconv.ParseInt(header(resp, "X-RateLimit-Reset"), 10, 64)
		if in := time.UnixMilli(reset).Sub(before); err != nil || in < 59*time.Minute || in > time.Hour+time.Second {
			t.Errorf("request %d: X-RateLimit-Reset %q is in %v, want in the window", i+1, header(resp, "X-RateLimit-Reset"), in)
		}
		if got := header(resp, "RateLimit-Policy"); got != `"default";q=2;w=3600` {
			t.Errorf("request %d: RateLimit-Policy %q", i+1, got)
		}
		state, seconds, _ := strings.Cut(header(resp, "RateLimit"), ";t=")
		if n, err := strconv.Atoi(seconds); state != `"default";r=`+want.remaining || err != nil || n < 1 || n > 3601 {
			t.Errorf("request %d: RateLimit %q", i+1, header(resp, "RateLimit"))
		}
		if !strings.Contains(resp.Header.Get("Access-Control-Expose-Headers"), "X-RateLimit-Remaining") {
			t.Errorf("request %d: a page may not read the headers: %q", i+1, resp.Header.Get("Access-Control-Expose-Headers"))
		}
		if want.code == 429 {
			checkRefusal(t, resp)
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "https://site.example" {
				t.Errorf("a page may not read its refusal: %q", got)
			}
		}
	}
	stranger := ask(h, "GET", "192.0.2.1:9", "Origin", "https://stranger.example")
	if stranger.Header["Access-Control-Allow-Origin"] != nil || stranger.Header["Access-Control-Expose-Headers"] != nil {
		t.Errorf("a stranger's page may read: %v", stranger.Header)
	}
	if resp := ask(h, "GET", "192.0.2.3:9"); resp.StatusCode != 200 {
		t.Errorf("another client is refused: %d", resp.StatusCode)
	}
}

func checkRefusal(t *testing.T, resp *http.Response) {
	t.Helper()
	var problem struct {
		Status int
		Detail string
	}
	if err := json.NewDecoder(resp.Body).Decode(&problem); err != nil || problem.Status != 429 || problem.Detail == "" {
		t.Errorf("refused with %+v, %v", problem, err)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || n < 1 || n > 3601 {
		t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
	}
}

func TestPreflightsAndOtherAddressesAreNotCounted(t *testing.T) {
	server := testkit.StartServer(t)
	l := New(client(t, server.Addr), testkit.Logger(t), Config{Rate: Rate{1, time.Hour},
		Counts: func(r *http.Request) bool { return r.Header.Get("Uncounted") == "" }})
	h := l.Handler(fine)
	for range 5 {
		for _, resp := range []*http.Response{
			ask(h, "OPTIONS", "192.0.2.1:9", "Access-Control-Request-Method", "GET"),
			ask(h, "GET", "192.0.2.1:9", "Uncounted", "yes"),
		} {
			if resp.StatusCode != 200 || header(resp, headerLimit) != "" {
				t.Fatalf("%d %v, want it let through as it is", resp.StatusCode, resp.Header)
			}
		}
	}
	if resp := ask(h, "GET", "192.0.2.1:9"); resp.StatusCode != 200 {
		t.Errorf("the first that counts: %d", resp.StatusCode)
	}
	if resp := ask(h, "OPTIONS", "192.0.2.1:9"); resp.StatusCode != 429 {
		t.Errorf("OPTIONS that is no preflight: %d, want 429", resp.StatusCode)
	}
}

func TestProxyThatIsNotNamedIsToldOfOnce(t *testing.T) {
	var text syncBuffer
	l := New(client(t, testkit.StartServer(t).Addr), slog.New(slog.NewTextHandler(&text, nil)), Config{Rate: Rate{1, time.Hour}})
	h := l.Handler(fine)
	for range 5 {
		ask(h, "GET", "192.0.2.1:9", "X-Forwarded-For", "198.51.100.7")
	}
	if n := strings.Count(text.String(), "FRESHWIRE_TRUSTED_PROXIES"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, text.String())
	}
}

func TestClientIsAnAddressOrANetwork(t *testing.T) {
	for _, tc := range []struct{ address, want string }{
		{"192.0.2.1", "192.0.2.1"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
		{"2001:db8:1:2::", "2001:db8:1:2::"},
		{"fe80::1%eth0", "fe80::"},
		{"::1", "::"},
		{"@", "invalid IP"},
		{"192.0.2.1:80", "invalid IP"},
		{"", "invalid IP"},
	} {
		if got := Client(tc.address).String(); got != tc.want {
			t.Errorf("Client(%q) = %s, want %s", tc.address, got, tc.want)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"100/1m": {100, time.Minute}, "0": {}, "1/1s": {1, time.Second}, "9999999/24h": {maxCount, maxPer},
	} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "100", "100/", "/1m", "0/1m", "-1/1m", "100/1", "100/0s", "100/1ms", "100/25h", "10000000/1m", "100/-1m", "1e3/1m", "100/1m/1m", "100 / 1m", "5/1.0000001s"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("ParseRate(%q) = %v, want an error", text, got)
		}
	}
}

func FuzzClient(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "fe80::1%{eth0}", "}{", "", "1.2.3.4.5", "::%"} {
		f.Add(s)
	}
	l := &Limiter{keys: "fw:rate:60000:{"}
	f.Fuzz(func(t *testing.T, address string) {
		client := Client(address)
		key := l.key(client)
		if strings.Count(key, "{") != 1 || strings.Count(key, "}") != 1 || !strings.HasSuffix(key, "}") || strings.HasSuffix(key, "{}") || len(key) > 100 {
			t.Errorf("the key of %q is %q: want one hash tag at its end", address, key)
		}
		if client.IsValid() && Client(client.String()) != client {
			t.Errorf("Client(%q) = %v, which counts as %v", address, client, Client(client.String()))
		}
		if ip, err := netip.ParseAddr(address); err == nil && Client(ip.Unmap().String()) != client {
			t.Errorf("%q and %v count apart", address, ip.Unmap())
		}
	})
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"100/1m", "0", "1/24h", "5/1h2m3s", "99999999999999999999/1s", "1/9e9h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRate(text)
		if err == nil && r != (Rate{}) && (Config{Rate: r}).Validate() != nil {
			t.Errorf("ParseRate(%q) = %v, which is not valid: %v", text, r, Config{Rate: r}.Validate())
		}
		if err == nil && r == (Rate{}) && text != "0" {
			t.Errorf("%q turns the limit off", text)
		}
	})
}
