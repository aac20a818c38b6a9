package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// visitor builds a request as it would reach the server.
func visitor(peer, host string, headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "http://"+host+"/admin/events", nil)
	r.RemoteAddr = peer
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestOnlyOperatorsEnter(t *testing.T) {
	const here, away = "127.0.0.1:4711", "192.0.2.7:4711"
	for _, tc := range []struct {
		name  string
		token string
		r     *http.Request
		want  bool
	}{
		{"no token, from this machine", "", visitor(here, "127.0.0.1:8080"), true},
		{"no token, from this machine by name", "", visitor(here, "localhost:8080"), true},
		{"no token, IPv6", "", visitor("[::1]:4711", "[::1]:8080"), true},
		{"no token, IPv4 in IPv6", "", visitor("[::ffff:127.0.0.1]:4711", "127.0.0.1"), true},
		{"no token, from elsewhere", "", visitor(away, "127.0.0.1:8080"), false},
		{"no token, through a proxy on this machine", "", visitor(here, "127.0.0.1", "X-Forwarded-For", "192.0.2.7"), false},
		{"no token, a name that was rebound to this machine", "", visitor(here, "evil.example"), false},
		{"no token, an empty bearer", "", visitor(away, "example.com", "Authorization", "Bearer "), false},
		{"token, as bearer", "s3cret", visitor(away, "example.com", "Authorization", "Bearer s3cret"), true},
		{"token, as password", "s3cret", visitor(away, "example.com", "Authorization", "Basic YWRtaW46czNjcmV0"), true},
		{"token, wrong", "s3cret", visitor(away, "example.com", "Authorization", "Bearer s3cre"), false},
		{"token, missing from this machine", "s3cret", visitor(here, "127.0.0.1"), false},
	} {
		if got := NewGuard(tc.token).Allows(tc.r); got != tc.want {
			t.Errorf("%s: Allows = %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestAnotherTokenOpensOneDoorAlone(t *testing.T) {
	const here, away = "127.0.0.1:4711", "192.0.2.7:4711"
	bearer := func(token string) *http.Request {
		return visitor(away, "example.com", "Authorization", "Bearer "+token)
	}
	for _, tc := range []struct {
		name, token, also string
		r                 *http.Request
		want, wantMain    bool
	}{
		{"the other token", "s3cret", "edge", bearer("edge"), true, false},
		{"the admin token", "s3cret", "edge", bearer("s3cret"), true, true},
		{"a wrong one", "s3cret", "edge", bearer("edg"), false, false},
		{"no other is set", "s3cret", "", bearer(""), false, false},
		{"no admin token, the other", "", "edge", bearer("edge"), true, false},
		{"no admin token, from this machine", "", "edge", visitor(here, "127.0.0.1"), true, true},
		{"no admin token, from elsewhere", "", "edge", bearer(""), false, false},
	} {
		main := NewGuard(tc.token)
		if got, gotMain := main.Also(tc.also).Allows(tc.r), main.Allows(tc.r); got != tc.want || gotMain != tc.wantMain {
			t.Errorf("%s: this door %v, the others %v; want %v, %v", tc.name, got, gotMain, tc.want, tc.wantMain)
		}
	}
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	entered := 0
	h := NewGuard("").Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { entered++ }))
	for _, tc := range []struct {
		name, method string
		headers      []string
		want         int
	}{
		{"curl", "POST", nil, 200},
		{"our own page", "POST", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"a form elsewhere", "POST", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a script elsewhere, old browser", "POST", []string{"Origin", "https://evil.example"}, 403},
		{"a picture elsewhere", "GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, 403},
		{"a link elsewhere", "GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		{"a frame elsewhere", "GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
	} {
		r := visitor("127.0.0.1:4711", "127.0.0.1:8080", tc.headers...)
		r.Method = tc.method
		w := httptest.NewRecorder()
		before := entered
		h.ServeHTTP(w, r)
		if w.Code != tc.want || (entered > before) != (tc.want == 200) {
			t.Errorf("%s: %d, want %d", tc.name, w.Code, tc.want)
		}
	}
}

func TestPurgeRefusesWhatItCannotRead(t *testing.T) {
	var purged, previewed []Purge
	h := NewPurgeHandler(func(_ context.Context, p Purge) (Receipt, error) {
		purged = append(purged, p)
		return Receipt{Seq: 7, Nodes: 2, Settled: true}, nil
	}, func(_ context.Context, p Purge) (Preview, error) {
		previewed = append(previewed, p)
		return Preview{Entries: 3}, nil
	}, testkit.Logger(t))
	long := strings.Repeat("x", maxPurgeItem+1)
	for _, tc := range []struct {
		body string
		want int
	}{
		{`{"tags":["a"],"paths":["/b"]}`, 200},
		{`{"all":true}`, 200},
		{`{"tags":["a"],"soft":false,"dry_run":false}`, 200},
		{`{}`, 400},
		{``, 400},
		{`{"tags":[""]}`, 400},
		{`{"paths":["blog"]}`, 400},
		{`{"tags":"a"}`, 400},
		{`{"tag":["a"]}`, 400},
		{`{"tags":["a"],"soft":true}`, 200},
		{`{"tags":["a"],"dry_run":true}`, 200},
		{`{"all":true,"soft":true,"dry_run":true}`, 200},
		{`{"dry_run":true}`, 400},
		{`{"tags":["a"],"soft":"xxx"}`, 400},
		{`{"tags":["a"]}{"all":true}`, 400},
		{`{"tags":["` + long + `"]}`, 400},
		{`{"tags":["` + strings.Repeat(`a","`, maxPurgeItems) + `a"]}`, 400},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/admin/purge", strings.NewReader(tc.body)))
		if w.Code != tc.want {
			t.Errorf("purge of %.60s = %d %s, want %d", tc.body, w.Code, w.Body, tc.want)
		}
		if strings.Contains(w.Body.String(), "xxx") {
			t.Errorf("the answer to %.60s repeats the body: %s", tc.body, w.Body)
		}
	}
	if len(purged) != 4 || !purged[3].Soft || purged[2].Soft || len(previewed) != 2 || !previewed[1].Soft {
		t.Errorf("purged %+v, previewed %+v, want 4 and 2", purged, previewed)
	}
}

func TestDryRunSaysThatItIsOne(t *testing.T) {
	preview := Preview{Entries: 3, Exact: true, Samples: []string{"a", "b", "c"}, By: []Count{{Kind: "tag", Name: "x", Entries: 3, Exact: true}}}
	for _, tc := range []struct {
		err  error
		want int
		says string
	}{
		{nil, 200, `{"dry_run":true,"entries":3,"exact":true,"samples":["a","b","c"],"by":[{"kind":"tag","name":"x","entries":3,"exact":true}]}`},
		{fmt.Errorf("%w: no pattern", ErrPurge), 400, "no pattern"},
		{errors.New("secret detail"), 503, "Redis"},
	} {
		h := NewPurgeHandler(func(context.Context, Purge) (Receipt, error) {
			t.Error("a dry run purged")
			return Receipt{}, nil
		}, func(context.Context, Purge) (Preview, error) { return preview, tc.err }, testkit.Logger(t))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/admin/purge", strings.NewReader(`{"tags":["x"],"dry_run":true}`)))
		if w.Code != tc.want || !strings.Contains(w.Body.String(), tc.says) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("dry run with %v = %d %s, want %d %s", tc.err, w.Code, w.Body, tc.want, tc.says)
		}
	}
}

func TestLookRefusesOddQuestions(t *testing.T) {
	h := NewLookHandler("key", func(_ context.Context, key string) (any, error) {
		if key == "away" {
			return nil, errors.New("secret detail")
		}
		return map[string]string{"key": key}, nil
	}, testkit.Logger(t))
	for query, want := range map[string]int{"key=a%2Fb%3F": 200, "": 400, "key=": 400, "key=" + strings.Repeat("k", maxPurgeItem+1): 400, "key=away": 503, "key=a&key=b": 400} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/debug/why?"+query, nil))
		if w.Code != want || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("GET ?%.40s = %d %s, want %d", query, w.Code, w.Body, want)
		}
		if want == 200 && !strings.Contains(w.Body.String(), `"a/b?"`) {
			t.Errorf("GET ?%s asked for %s", query, w.Body)
		}
	}
}

func TestListRefusesOddQueries(t *testing.T) {
	var asked Query
	h := NewListHandler(Events{List: func(_ context.Context, q Query) (Page, error) { asked = q; return Page{Events: []int{}}, nil }}, testkit.Logger(t))
	for query, want := range map[string]int{"": 200, "limit=200&status=failed": 200, "limit=0": 400, "limit=201": 400, "limit=x": 400,
		"status=odd": 400, "cursor=" + strings.Repeat("c", 129): 400} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/admin/events?"+query, nil))
		if w.Code != want {
			t.Errorf("GET ?%s = %d, want %d", query, w.Code, want)
		}
	}
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/admin/events?limit=7&status=done&cursor=abc", nil))
	if asked != (Query{Status: "done", Limit: 7, Cursor: "abc"}) {
		t.Errorf("asked for %+v", asked)
	}
}

func TestReadyNamesWhatIsNot(t *testing.T) {
	ok := Check{"redis", func(context.Context) error { return nil }}
	bad := Check{"stream", func(context.Context) error { return errors.New("secret detail") }}
	w := httptest.NewRecorder()
	NewReadyHandler(ok).ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
	if w.Code != 200 {
		t.Errorf("all well = %d, want 200", w.Code)
	}
	w = httptest.NewRecorder()
	NewReadyHandler(ok, bad).ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
	var answer struct{ Checks map[string]string }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	if w.Code != 503 || answer.Checks["stream"] != "not ready" || answer.Checks["redis"] != "ok" || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("stream away = %d %s", w.Code, w.Body)
	}
}

func TestDashboardLooksNowhereElse(t *testing.T) {
	rdb := testkit.Redis(t)
	h := NewDashboard(conn{rdb}, NewGuard("s3cret"), func(string, []byte) string { return "" })
	get := func(method, path, auth string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://example.com"+path, nil)
		if auth != "" {
			r.Header.Set("Authorization", "Bearer "+auth)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	page := get("GET", "/monitoring/", "s3cret")
	if page.Code != 200 || !strings.Contains(page.Body.String(), `id="root"`) {
		t.Fatalf("the dashboard's page = %d", page.Code)
	}
	if strings.Contains(page.Body.String(), "googleapis") || strings.Contains(page.Body.String(), `<link rel="stylesheet" href="http`) {
		t.Error("the dashboard's page loads style sheets from another site")
	}
	if w := get("GET", "/monitoring/api/queues", "s3cret"); w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		t.Errorf("its API = %d %s, want 200 application/json", w.Code, w.Header().Get("Content-Type"))
	}
	for _, path := range []string{"/monitoring/", "/monitoring/api/queues"} {
		if w := get("GET", path, "wrong"); w.Code != 401 {
			t.Errorf("GET %s with a wrong token = %d, want 401", path, w.Code)
		}
	}
}

func TestDashboardIsForLookingWithoutToken(t *testing.T) {
	rdb := testkit.Redis(t)
	h := NewDashboard(conn{rdb}, NewGuard(""), func(string, []byte) string { return "" })
	r := visitor("127.0.0.1:4711", "127.0.0.1:8080")
	r.Method, r.URL.Path = "POST", "/monitoring/api/queues/fw:pause"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("pausing the queue without a token = %d, want 405", w.Code)
	}
}
