package demo

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// newCMS returns a CMS without latency whose webhooks nobody delivers.
func newCMS(t *testing.T) *CMS {
	t.Helper()
	c, err := New(Config{
		WebhookURL: "http://cms.test/webhooks/demo",
		Sign:       func([]byte, time.Time) http.Header { return http.Header{"X-Signature": {"it's signed"}} },
		Latency:    -1,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func do(c *CMS, req *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, req)
	return w
}

func get(c *CMS, target string) *httptest.ResponseRecorder {
	return do(c, httptest.NewRequest("GET", target, nil))
}

func postForm(target string, v url.Values) *http.Request {
	req := httptest.NewRequest("POST", target, strings.NewReader(v.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

func postJSON(target, body string) *http.Request {
	req := httptest.NewRequest("POST", target, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	return req
}

func decode[T any](t *testing.T, w *httptest.ResponseRecorder) (v T) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("decoding %q: %v", w.Body, err)
	}
	return v
}

func TestConfigSaysEverythingThatIsMissing(t *testing.T) {
	_, err := New(Config{WebhookURL: "/webhooks/demo"}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "WebhookURL") || !strings.Contains(err.Error(), "Sign") {
		t.Errorf("New without a way to deliver = %v, want both complaints", err)
	}
}

func TestArticlesAreThereToRead(t *testing.T) {
	c := newCMS(t)
	list := decode[struct{ Articles []Summary }](t, get(c, "/_demo/cms/articles"))
	if len(list.Articles) < 3 {
		t.Fatalf("%d articles, want a handful", len(list.Articles))
	}
	for _, s := range list.Articles {
		w := get(c, "/_demo/cms/articles/"+s.ID)
		a := decode[Article](t, w)
		if w.Code != 200 || a.ID != s.ID || a.Title != s.Title || a.Version != 1 || len(a.Body) < 200 || a.UpdatedAt.IsZero() {
			t.Errorf("GET article %s = %d %+v, want an article with text", s.ID, w.Code, a)
		}
		// An answer that forbade caching would make the demo pointless.
		if cc := w.Header().Get("Cache-Control"); cc != "" {
			t.Errorf("Cache-Control of article %s = %q, want none", s.ID, cc)
		}
	}
	w := get(c, "/_demo/cms/articles/99")
	if w.Code != 404 || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("GET unknown article = %d %s, want a 404 problem", w.Code, w.Header().Get("Content-Type"))
	}
}

func TestEditShowsInTheAPIAtOnce(t *testing.T) {
	for name, req := range map[string]*http.Request{
		"form": postForm("/_demo/cms/edit/2", url.Values{"title": {" Rye is here "}, "body": {"One.\r\n\r\nTwo."}}),
		"json": postJSON("/_demo/cms/edit/2", `{"title":"Rye is here","body":"One.\n\nTwo."}`),
	} {
		c := newCMS(t)
		w := do(c, req)
		a := decode[Article](t, w)
		if w.Code != 200 || a.Title != "Rye is here" || a.Body != "One.\n\nTwo." || a.Version != 2 || a.Slug != "rye-is-late" {
			t.Errorf("%s: edit = %d %+v", name, w.Code, a)
		}
		if got := decode[Article](t, get(c, "/_demo/cms/articles/2")); got != a {
			t.Errorf("%s: article after edit = %+v, want %+v", name, got, a)
		}
	}
}

func TestCreatedArticleGetsTheNextIDAndASlug(t *testing.T) {
	c := newCMS(t)
	w := do(c, postForm("/_demo/cms/create", url.Values{"title": {"Crème & Crumbs, part 2!"}, "body": {"x"}}))
	a := decode[Article](t, w)
	if w.Code != 201 || a.ID != "6" || a.Slug != "cr-me-crumbs-part-2" || w.Header().Get("Location") != "/_demo/cms/articles/6" {
		t.Errorf("create = %d %+v, Location %q", w.Code, a, w.Header().Get("Location"))
	}
	if a, _ := c.Create("日本のパン", "x"); a.Slug != "article-7" {
		t.Errorf("slug without Latin letters = %q, want article-7", a.Slug)
	}
	for range MaxArticles {
		c.Create("more", "x")
	}
	if _, err := c.Create("one too many", "x"); !errors.Is(err, ErrFull) {
		t.Errorf("Create beyond the limit = %v, want ErrFull", err)
	}
}

func TestWhatAStrangerPostsIsBounded(t *testing.T) {
	long := strings.Repeat("ä", MaxTitle+1)
	for name, tc := range map[string]struct {
		req  *http.Request
		code int
	}{
		"empty title":    {postJSON("/_demo/cms/edit/1", `{"title":" ","body":"x"}`), 422},
		"empty body":     {postJSON("/_demo/cms/edit/1", `{"title":"x"}`), 422},
		"long title":     {postForm("/_demo/cms/edit/1", url.Values{"title": {long}, "body": {"x"}}), 422},
		"same and long":  {postForm("/_demo/cms/edit/1", url.Values{"title": {long}, "body": {long}}), 422},
		"line in title":  {postJSON("/_demo/cms/edit/1", `{"title":"a\nb","body":"x"}`), 422},
		"broken UTF-8":   {postForm("/_demo/cms/edit/1", url.Values{"title": {"\xff"}, "body": {"x"}}), 422},
		"long body":      {postJSON("/_demo/cms/edit/1", `{"title":"x","body":"`+strings.Repeat("y", MaxBody+1)+`"}`), 422},
		"huge JSON":      {postJSON("/_demo/cms/edit/1", `{"title":"x","body":"`+strings.Repeat("y", maxRequest)+`"}`), 413},
		"huge form":      {postForm("/_demo/cms/create", url.Values{"title": {"x"}, "body": {strings.Repeat("y", maxRequest)}}), 413},
		"no JSON":        {postJSON("/_demo/cms/edit/1", `{"title":`), 400},
		"no media type":  {httptest.NewRequest("POST", "/_demo/cms/edit/1", strings.NewReader("x")), 415},
		"unknown":        {postJSON("/_demo/cms/edit/0", `{"title":"x","body":"y"}`), 404},
		"GET of an edit": {httptest.NewRequest("GET", "/_demo/cms/edit/1", nil), 405},
		"elsewhere":      {httptest.NewRequest("GET", "/_demo/secrets", nil), 404},
	} {
		c := newCMS(t)
		before, _ := c.Article("1")
		w := do(c, tc.req)
		if w.Code != tc.code {
			t.Errorf("%s: answered %d, want %d", name, w.Code, tc.code)
		}
		if strings.Contains(w.Body.String(), "yyyy") {
			t.Errorf("%s: the answer echoes the body", name)
		}
		if after, _ := c.Article("1"); after != before || c.Stats().Sent != 0 {
			t.Errorf("%s: the article changed all the same", name)
		}
	}
}

func TestPagesOfOtherSitesCannotEdit(t *testing.T) {
	for name, tc := range map[string]struct {
		header, value string
		code          int
	}{
		"other site":        {"Sec-Fetch-Site", "cross-site", 403},
		"sister site":       {"Sec-Fetch-Site", "same-site", 403},
		"other origin":      {"Origin", "http://evil.test", 403},
		"opaque origin":     {"Origin", "null", 403},
		"our page":          {"Sec-Fetch-Site", "same-origin", 200},
		"our page, old way": {"Origin", "http://example.com", 200}, // the Host of httptest
		"a script":          {"User-Agent", "curl/8", 200},
	} {
		for _, target := range []string{"/_demo/cms/edit/1", "/_demo/cms/create"} {
			c := newCMS(t)
			req := postForm(target, url.Values{"title": {"x"}, "body": {"y"}})
			req.Header.Set(tc.header, tc.value)
			w := do(c, req)
			if w.Code/100 != tc.code/100 {
				t.Errorf("%s: POST %s = %d, want %d", name, target, w.Code, tc.code)
			}
			if sent := c.Stats().Sent; (sent == 1) != (tc.code == 200) {
				t.Errorf("%s: %d webhooks after POST %s = %d", name, sent, target, w.Code)
			}
		}
	}
}

func TestEditIsRefusedWhenItsWebhookHasNoRoom(t *testing.T) {
	c := newCMS(t)
	for range maxWaiting {
		if _, err := c.Edit("1", "x", "y"); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := c.Article("1")
	if w := do(c, postJSON("/_demo/cms/edit/1", `{"title":"a","body":"b"}`)); w.Code != 503 {
		t.Errorf("edit with a full outbox = %d, want 503", w.Code)
	}
	if after, _ := c.Article("1"); after != before {
		t.Errorf("article = %+v, changed without a webhook", after)
	}
}

func TestCurlIsOneCommandForAShell(t *testing.T) {
	c := newCMS(t)
	if _, err := c.Edit("1", `It's "done"; $(rm -rf /)`+" `now`", "x"); err != nil {
		t.Fatal(err)
	}
	w := get(c, "/_demo/curl?id=1")
	if w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("GET curl = %d, Cache-Control %q", w.Code, w.Header().Get("Cache-Control"))
	}
	// The shell tells what curl would get.
	out, err := exec.Command("sh", "-c", `curl() { for a; do printf '%s\000' "$a"; done; }; `+w.Body.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	args := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	want := []string{"-sS", "http://cms.test/webhooks/demo", "-H", "Content-Type: application/json", "-H", "X-Signature: it's signed", "--data-raw"}
	if len(args) != len(want)+1 || !slices.Equal(args[:len(want)], want) {
		t.Fatalf("curl gets %q, want %q and a body", args, want)
	}
	var body struct {
		Type string
		Data struct{ ID, Slug, Title string }
	}
	if err := json.Unmarshal([]byte(args[len(want)]), &body); err != nil {
		t.Fatal(err)
	}
	if body.Type != "article.updated" || body.Data.ID != "1" || body.Data.Slug != "the-first-loaves" || !strings.Contains(body.Data.Title, "$(rm -rf /)") {
		t.Errorf("body = %+v", body)
	}
	if again := get(c, "/_demo/curl?id=1").Body.String(); again == w.Body.String() {
		t.Error("two commands are the same delivery, the second would be a duplicate")
	}
	if w := get(c, "/_demo/curl?id=nope"); w.Code != 404 {
		t.Errorf("curl for an unknown article = %d, want 404", w.Code)
	}
}
