package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/internal/yamlfile"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const secret = "s3cr3t-value"

// site is a Next.js site whose route is the one of the guides: it compares the
// secret, takes one path and one tag, and answers {"revalidated":true,"now":…}.
type site struct {
	*httptest.Server

	mu      sync.Mutex
	bodies  []string
	headers []http.Header
	conns   map[string]bool
	fail    func(body string) (status int, header http.Header) // nil, or 0: goes well
}

func newSite(t *testing.T) *site {
	s := &site{conns: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.route))
	t.Cleanup(s.Close)
	return s
}

func (s *site) route(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	var body struct{ Secret, Path, Tag string }
	if r.Method != http.MethodPost || json.Unmarshal(data, &body) != nil {
		http.Error(w, "bad", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.bodies = append(s.bodies, string(data))
	s.headers = append(s.headers, r.Header)
	s.conns[r.RemoteAddr] = true
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if s.fail != nil {
		if status, header := s.fail(string(data)); status != 0 {
			for k, v := range header {
				w.Header()[k] = v
			}
			w.WriteHeader(status)
			return
		}
	}
	if body.Secret != secret {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"error":"Invalid secret"}`)
		return
	}
	fmt.Fprintf(w, `{"revalidated":true,"now":%d}`, time.Now().UnixMilli())
}

func (s *site) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := slices.Clone(s.bodies)
	slices.Sort(got)
	return got
}

func newTarget(t *testing.T, url string, changes ...func(*Config)) *Target {
	t.Helper()
	cfg := Config{Kind: "nextjs", URL: url, Secret: secret}
	for _, c := range changes {
		c(&cfg)
	}
	tg, err := New("site", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tg.Close)
	return tg
}

func TestSiteIsToldOnePathAndOneTagACall(t *testing.T) {
	call := func(fields string) string { return `{"secret":"` + secret + `",` + fields + `}` }
	for _, tc := range []struct {
		name   string
		notice Notice
		want   []string
	}{
		{"as many of both", Notice{Paths: []string{"/a", "/b"}, Tags: []string{"x", "y"}}, []string{call(`"path":"/a","tag":"x"`), call(`"path":"/b","tag":"y"`)}},
		{"more tags", Notice{Paths: []string{"/a"}, Tags: []string{"x", "y"}}, []string{call(`"path":"/a","tag":"x"`), call(`"tag":"y"`)}},
		{"more paths", Notice{Paths: []string{"/a", "/b"}, Tags: []string{"x"}}, []string{call(`"path":"/a","tag":"x"`), call(`"path":"/b"`)}},
		{"each once", Notice{Paths: []string{"/a", "/a", ""}, Tags: []string{"x", "x", "y", "x"}}, []string{call(`"path":"/a","tag":"x"`), call(`"tag":"y"`)}},
		{"all", Notice{All: true, Tags: []string{"x"}}, []string{call(`"path":"/","all":true`), call(`"tag":"x"`)}},
		{"nothing", Notice{}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			tc.notice.EventID = "ev1"
			if err := newTarget(t, s.URL).Tell(t.Context(), tc.notice); err != nil {
				t.Fatal(err)
			}
			slices.Sort(tc.want)
			if got := s.seen(); !slices.Equal(got, tc.want) {
				t.Errorf("the site saw %q, want %q", got, tc.want)
			}
			for _, h := range s.headers {
				if h.Get("Content-Type") != "application/json" || !strings.HasPrefix(h.Get("User-Agent"), "freshwire/") || h.Get("Freshwire-Event") != "ev1" {
					t.Errorf("headers %v", h)
				}
			}
		})
	}
}

func TestManyCallsShareFewConnections(t *testing.T) {
	s := newSite(t)
	var n Notice
	for i := range 100 {
		n.Tags = append(n.Tags, fmt.Sprint("tag", i))
	}
	if err := newTarget(t, s.URL).Tell(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	// One more for each worker: a dial may have begun when another's connection fell idle.
	if len(s.seen()) != 100 || len(s.conns) > 2*parallel {
		t.Errorf("%d calls over %d connections, want 100 over at most %d", len(s.seen()), len(s.conns), 2*parallel)
	}
}

func TestRefusalIsClearAndNotTriedAgain(t *testing.T) {
	for _, tc := range []struct {
		status int
		header http.Header
		want   string
	}{
		{401, nil, "telling site: 401 Unauthorized: the site refused the secret"},
		{403, nil, "telling site: 403 Forbidden: the site refused the secret"},
		{404, nil, "telling site: 404 Not Found: the site has no such route"},
		{405, nil, "telling site: 405 Method Not Allowed: the route does not take POST"},
		{400, nil, "telling site: 400 Bad Request"},
		{307, http.Header{"Location": {"https://other.example/api/?token=hidden"}}, `telling site: 307 Temporary Redirect: the site redirects to "https://other.example/api/", and redirects are not followed; the URL must be the final one`},
		{301, nil, "telling site: 301 Moved Permanently: redirects are not followed; the URL must be the final one"},
	} {
		s := newSite(t)
		s.fail = func(string) (int, http.Header) { return tc.status, tc.header }
		err := newTarget(t, s.URL).Tell(t.Context(), Notice{Tags: []string{"x"}})
		if err == nil || err.Error() != tc.want || !errors.Is(err, ErrRefused) {
			t.Errorf("Tell(%d) = %v (refused: %v), want %s", tc.status, err, errors.Is(err, ErrRefused), tc.want)
		}
		if about := errors.Is(err, ErrContent); about != (tc.status == 400) {
			t.Errorf("Tell(%d) is about the content: %v", tc.status, about)
		}
		if n := len(s.seen()); n != 1 {
			t.Errorf("Tell(%d) called %d times, want once", tc.status, n)
		}
	}
}

func TestRedirectIsNeverFollowed(t *testing.T) {
	other := newSite(t)
	s := newSite(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		s.fail = func(string) (int, http.Header) { return status, http.Header{"Location": {other.URL}} }
		if err := newTarget(t, s.URL).Tell(t.Context(), Notice{Tags: []string{"x"}}); err == nil {
			t.Errorf("Tell(%d) = nil, want an error", status)
		}
	}
	if got := other.seen(); len(got) != 0 {
		t.Errorf("the secret went to where the redirect led: %q", got)
	}
}

func TestOneCallThatGoesWrongDoesNotKeepOthersBack(t *testing.T) {
	s := newSite(t)
	s.fail = func(body string) (int, http.Header) {
		if strings.Contains(body, `"/b"`) {
			return 500, nil
		}
		return 0, nil
	}
	err := newTarget(t, s.URL, func(c *Config) { c.Retries = new(int) }).Tell(t.Context(), Notice{Paths: []string{"/a", "/b", "/c", "/d", "/e", "/f"}})
	if want := "telling site: 1 of 6 calls not done: 500 Internal Server Error"; err == nil || err.Error() != want || errors.Is(err, ErrRefused) {
		t.Errorf("Tell = %v, want %s", err, want)
	}
	if n := len(s.seen()); n != 6 {
		t.Errorf("%d calls, want all 6", n)
	}
}

// fakeSite answers without a network, so that time is the test's own.
type fakeSite func(try int) (*http.Response, error)

type fakeTransport struct {
	answer fakeSite
	mu     sync.Mutex
	at     []time.Duration // of each call, since start
	start  time.Time
}

func (f *fakeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.at = append(f.at, time.Since(f.start))
	try := len(f.at)
	f.mu.Unlock()
	res, err := f.answer(try)
	if res == nil && err == nil { // hangs
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return res, err
}

func status(code int, retryAfter string) *http.Response {
	h := http.Header{}
	if retryAfter != "" {
		h.Set("Retry-After", retryAfter)
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader("x"))}
}

func TestCallIsTriedAgainWhereThatCanHelp(t *testing.T) {
	reset := errors.New("connection reset by peer")
	about := func(want ...time.Duration) func([]time.Duration) bool {
		return func(got []time.Duration) bool {
			return slices.EqualFunc(got, want, func(g, w time.Duration) bool { return g >= w-w/5 && g <= w+w/5 })
		}
	}
	for _, tc := range []struct {
		name   string
		answer fakeSite
		want   string // the error; empty: none
		at     func([]time.Duration) bool
	}{
		{"at once well", func(int) (*http.Response, error) { return status(204, ""), nil }, "", about(0)},
		{"reset, then 502, then well", func(try int) (*http.Response, error) {
			return map[int]*http.Response{2: status(502, ""), 3: status(200, "")}[try], map[int]error{1: reset}[try]
		}, "", about(0, 200*time.Millisecond, 1200*time.Millisecond)},
		{"never well", func(int) (*http.Response, error) { return nil, reset }, "telling site: connection reset by peer", about(0, 200*time.Millisecond, 1200*time.Millisecond)},
		{"asks to wait", func(try int) (*http.Response, error) {
			if try == 1 {
				return status(429, "3"), nil
			}
			return status(200, ""), nil
		}, "", about(0, 3*time.Second)},
		{"asks to wait until a time", func(try int) (*http.Response, error) {
			if try == 1 {
				return status(503, time.Now().Add(5*time.Second).UTC().Format(http.TimeFormat)), nil
			}
			return status(200, ""), nil
		}, "", about(0, 5*time.Second)},
		{"asks to wait too long", func(int) (*http.Response, error) { return status(429, "3600"), nil }, "telling site: 429 Too Many Requests", about(0)},
		{"hangs", func(int) (*http.Response, error) { return nil, nil }, "telling site: no answer within 5s: context deadline exceeded", about(0, 5200*time.Millisecond, 11200*time.Millisecond)},
		{"refuses after a failure", func(try int) (*http.Response, error) { return status(map[int]int{1: 500, 2: 401}[try], ""), nil }, "telling site: 401 Unauthorized: the site refused the secret", about(0, 200*time.Millisecond)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tg := newTarget(t, "http://site.test/api/revalidate")
				f := &fakeTransport{answer: tc.answer, start: time.Now()}
				tg.client.Transport = f
				err := tg.Tell(t.Context(), Notice{Tags: []string{"x"}})
				if (err == nil) != (tc.want == "") || err != nil && err.Error() != tc.want {
					t.Errorf("Tell = %v, want %q", err, tc.want)
				}
				if !tc.at(f.at) {
					t.Errorf("calls at %v", f.at)
				}
			})
		})
	}
}

func TestTellEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tg := newTarget(t, "http://site.test/")
		f := &fakeTransport{answer: func(int) (*http.Response, error) { return nil, nil }, start: time.Now()}
		tg.client.Transport = f
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		err := tg.Tell(ctx, Notice{Tags: []string{"a", "b", "c", "d", "e", "f"}})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 2*time.Second || len(f.at) != parallel {
			t.Errorf("Tell = %v after %v and %d calls, want its context's error after 2s and %d calls", err, time.Since(start), len(f.at), parallel)
		}

		f.answer = func(int) (*http.Response, error) { return status(503, "5"), nil }
		ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start = time.Now()
		if err := tg.Tell(ctx, Notice{Tags: []string{"a"}}); err == nil || err.Error() != "telling site: 503 Service Unavailable" || time.Since(start) != 0 {
			t.Errorf("Tell = %v after %v, want the reason at once: the time that the site asks for is not there", err, time.Since(start))
		}
		cancel()
		if err := tg.Tell(ctx, Notice{Tags: []string{"a", "b"}}); !errors.Is(err, context.Canceled) {
			t.Errorf("Tell of an ended context = %v", err)
		}
	})
}

func TestDeadLineStopsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tg := newTarget(t, "http://site.test/")
		f := &fakeTransport{answer: func(int) (*http.Response, error) { return nil, errors.New("connection refused") }, start: time.Now()}
		tg.client.Transport = f
		n := Notice{}
		for i := range 1000 {
			n.Tags = append(n.Tags, fmt.Sprint(i))
		}
		err := tg.Tell(t.Context(), n)
		if err == nil || !strings.Contains(err.Error(), "of 1000 calls not done") || len(f.at) > 3*parallel {
			t.Errorf("Tell = %v after %d calls, want an end after %d", err, len(f.at), 3*parallel)
		}
	})
}

func TestSecretIsInNoError(t *testing.T) {
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Location", "/?"+string(body[:20])+secret)
		w.WriteHeader(map[string]int{"/401": 401, "/500": 500, "/307": 307}[r.URL.Path])
		w.Write(body)
	}))
	defer echo.Close()
	for _, url := range []string{echo.URL + "/401?key=" + secret, echo.URL + "/500?key=" + secret, echo.URL + "/307?key=" + secret, "http://127.0.0.1:1/?key=" + secret, "http://no-such-host.invalid/?key=" + secret,
		"https" + strings.TrimPrefix(echo.URL, "http") + "/?key=" + secret} {
		err := newTarget(t, url, func(c *Config) { c.Retries = new(int) }).Tell(t.Context(), Notice{Tags: []string{"x"}})
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("Tell(%s) = %v", url, err)
		}
	}
	for _, url := range []string{"http://u:" + secret + "@h/", "http://h/%zz" + secret, secret, "http://h/#" + secret} {
		if _, err := New("site", Config{Kind: "nextjs", URL: url, Secret: secret}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("New(%s) = %v", url, err)
		}
	}
}

func TestEveryMistakeOfAConfigIsTold(t *testing.T) {
	eleven := 11
	_, err := New("site", Config{Kind: "next", URL: "ftp://x", Timeout: time.Hour, Retries: &eleven})
	want := strings.Join([]string{
		`targets.site.kind: "next" is not a kind that this version knows; it can be nextjs`,
		"targets.site.url: must begin with https:// or http://",
		"targets.site.secret: is missing; the site's route compares it",
		"targets.site.timeout: 1h0m0s is not between 0 and 1m",
		"targets.site.retries: 11 is not between 0 and 10",
	}, "\n")
	if fmt.Sprint(err) != want {
		t.Errorf("New =\n%v, want\n%s", err, want)
	}
	for url, want := range map[string]string{
		"": "is missing", "/api": "must begin with https:// or http://", "https:///api": "names no host", "https://u@h/": "holds a user name or password; sites are told the secret in the body",
		"http://h/#a": "has a #fragment, which is never sent", "http://169.254.169.254/x": "the address 169.254.169.254 is link-local, multicast or reserved, and no site's",
		"http://[fe80::1]/": "the address fe80::1 is link-local, multicast or reserved, and no site's", "http://h/" + strings.Repeat("x", 2048): "is longer than 2048 bytes",
	} {
		_, err := New("site", Config{Kind: "nextjs", URL: url, Secret: "x"})
		if fmt.Sprint(err) != "targets.site.url: "+want {
			t.Errorf("New(%.60q) = %v, want %s", url, err, want)
		}
	}
}

func TestExampleOfTheDocumentation(t *testing.T) {
	var file struct {
		Targets map[string]Config `yaml:"targets"`
	}
	doc := []byte(`targets: { site: { kind: nextjs, url: "https://example.com/api/revalidate", secret: "${REVALIDATION_SECRET}", timeout: 3s } }`)
	err := yamlfile.Decode("f", doc, &file, func(string) (string, bool) { return secret, true })
	if err != nil {
		t.Fatal(err)
	}
	if got := file.Targets["site"]; got.Secret != secret || got.Timeout != 3*time.Second || *got.Retries != 2 {
		t.Errorf("Decode = %+v", got)
	}
	if _, err := New("site", file.Targets["site"]); err != nil {
		t.Error(err)
	}
}

func TestCallsAreCounted(t *testing.T) {
	s := newSite(t)
	reg := prometheus.NewRegistry()
	count := func(c *Config) { c.Metrics = reg }
	_ = newTarget(t, s.URL, count).Tell(t.Context(), Notice{Tags: []string{"a", "b"}})
	_ = newTarget(t, s.URL, count, func(c *Config) { c.Secret = "wrong" }).Tell(t.Context(), Notice{Tags: []string{"a"}})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetType() == dto.MetricType_COUNTER {
				got[m.Label[0].GetValue()] += m.Counter.GetValue()
			} else {
				got["seconds"] += float64(m.Histogram.GetSampleCount())
			}
		}
	}
	if got["ok"] != 2 || got["refused"] != 1 || got["seconds"] != 3 {
		t.Errorf("counted %v", got)
	}
}
