package entries

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/internal/testkit"
)

// site is a Handler on a real cache.
type site struct {
	t     *testing.T
	store *cache.Store
	h     *Handler
}

func setup(t *testing.T) *site {
	t.Helper()
	return setupOn(t, testkit.Redis(t))
}

func setupOn(t *testing.T, rdb redis.UniversalClient) *site {
	t.Helper()
	store := cache.New(rdb, testkit.Logger(t), cache.Config{})
	testkit.Go(t, store.Run)
	testkit.Until(t, "ready", func() bool { return store.Ready() == nil })
	purge := func(ctx context.Context, key string) (any, error) {
		return store.Purge(ctx, cache.Purge{Keys: []string{key}})
	}
	return &site{t, store, NewHandler(store, purge, testkit.Logger(t), Config{MaxBody: 1 << 20})}
}

func (s *site) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.h.ServeHTTP(w, r)
	return w
}

// token asks for a key, as a program does before it fetches.
func (s *site) token(key string) string {
	s.t.Helper()
	token := s.do("GET", Prefix+key, "").Header().Get(TokenHeader)
	if token == "" {
		s.t.Fatalf("GET %s gives no token", key)
	}
	return token
}

func (s *site) purgeTag(tag string) {
	s.t.Helper()
	if _, err := s.store.PurgeTags(s.t.Context(), tag); err != nil {
		s.t.Fatal(err)
	}
}

func TestEntryLivesUntilItIsPurged(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const path = Prefix + "product:1"
	if w := s.do("GET", path, ""); w.Code != 404 || w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get(TokenHeader) == "" {
		t.Errorf("GET of nothing = %d %v", w.Code, w.Header())
	}
	put := func(body string, headers ...string) *httptest.ResponseRecorder {
		t.Helper()
		return s.do("PUT", path+"?ttl=10m&tag=products&tag=product:1", body,
			append([]string{TokenHeader, s.token("product:1"), "Content-Type", "application/json"}, headers...)...)
	}
	if w := put(`{"id":1}`); w.Code != 201 || w.Header().Get("ETag") == "" || w.Body.Len() != 0 {
		t.Errorf("PUT = %d %v %s", w.Code, w.Header(), w.Body)
	}
	w := s.do("GET", path, "")
	h := w.Header()
	if w.Code != 200 || w.Body.String() != `{"id":1}` || h.Get("Content-Type") != "application/json" || h.Get("ETag") == "" || h.Get("Age") != "0" ||
		h.Get("Freshwire-Seq") == "" || h.Get(TokenHeader) == "" || h.Get("X-Cache") != "HIT" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("GET = %d %s %v", w.Code, w.Body, h)
	}
	if w := s.do("HEAD", path, ""); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "8" {
		t.Errorf("HEAD = %d %q %v", w.Code, w.Body, w.Header())
	}
	if w := s.do("GET", path, "", "If-None-Match", `"x", W/`+h.Get("ETag")); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("GET If-None-Match = %d", w.Code)
	}
	if w := put(`{"id":2}`); w.Code != 204 {
		t.Errorf("PUT over it = %d, want 204", w.Code)
	}
	s.purgeTag("product:1")
	if w := s.do("GET", path, ""); w.Code != 404 {
		t.Errorf("GET after a purge of its tag = %d %s", w.Code, w.Body)
	}
	if w := put(`{"id":3}`); w.Code != 201 {
		t.Errorf("PUT after the purge = %d, want 201", w.Code)
	}
	w = s.do("DELETE", path, "")
	var receipt cache.Receipt
	if err := json.Unmarshal(w.Body.Bytes(), &receipt); w.Code != 200 || err != nil || !receipt.Settled || receipt.Seq == 0 {
		t.Errorf("DELETE = %d %s, %v", w.Code, w.Body, err)
	}
	if w := s.do("GET", path, ""); w.Code != 404 {
		t.Errorf("GET after DELETE = %d", w.Code)
	}
}

func TestContentFromBeforeAnEventIsNotKept(t *testing.T) {
	t.Parallel()
	s := setup(t)
	token := s.token("k")
	s.purgeTag("posts") // while the program fetches
	w := s.do("PUT", Prefix+"k?tag=posts", "old", TokenHeader, token)
	if w.Code != 409 {
		t.Fatalf("PUT under the token of before = %d %s, want 409", w.Code, w.Body)
	}
	next := w.Header().Get(TokenHeader)
	if next == "" || next == token {
		t.Fatalf("409 with the token %q, want a new one", next)
	}
	if w := s.do("GET", Prefix+"k", ""); w.Code != 404 {
		t.Errorf("then GET = %d %s: old content was kept", w.Code, w.Body)
	}
	if w := s.do("PUT", Prefix+"k?tag=posts", "new", TokenHeader, next); w.Code != 201 {
		t.Errorf("PUT under the new token = %d %s", w.Code, w.Body)
	}
}

func TestKeysAreDecodedOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for _, key := range []string{"/api/posts/42", "a b", "a%2Fb", "ä?x=1#y", "batch", "a//b/../c", "posts:{1}", strings.Repeat("k", cache.MaxKey)} {
		path := Prefix + url.PathEscape(key)
		token := s.do("GET", path, "").Header().Get(TokenHeader)
		if w := s.do("PUT", path, "x", TokenHeader, token); w.Code != 201 {
			t.Errorf("PUT %.50q = %d %s", key, w.Code, w.Body)
		}
		if _, ok, err := s.store.Get(t.Context(), key); !ok || err != nil {
			t.Errorf("%.50q is not kept under its name: %v", key, err)
		}
		if w := s.do("GET", path, ""); w.Code != 200 {
			t.Errorf("GET %.50q = %d", key, w.Code)
		}
	}
	for _, path := range []string{Prefix, Prefix + strings.Repeat("k", cache.MaxKey+1)} {
		if w := s.do("GET", path, ""); w.Code != 400 {
			t.Errorf("GET %.50q = %d, want 400", path, w.Code)
		}
	}
}

func TestWhatCannotBeKeptIsSaid(t *testing.T) {
	t.Parallel()
	s := setup(t)
	token := s.token("k")
	for _, tc := range []struct {
		name, query, body string
		headers           []string
		want              int
	}{
		{"no token", "", "x", []string{TokenHeader, ""}, 428},
		{"a token of somebody else's", "", "x", []string{TokenHeader, "xxx"}, 400},
		{"a token of another ledger", "", "x", []string{TokenHeader, "0123456789abcdef.1"}, 409},
		{"a token of tomorrow", "", "x", []string{TokenHeader, token[:17] + "zzzzzzzzzz"}, 400},
		{"too large", "", strings.Repeat("x", 1<<20+1), nil, 413},
		{"a bad ttl", "?ttl=xxx", "x", nil, 400},
		{"a negative ttl", "?ttl=-5m", "x", nil, 400},
		{"a ttl of a century", "?ttl=876000h", "x", nil, 400},
		{"no time at all", "?ttl=0", "x", nil, 400},
		{"an unknown parameter", "?tags=a", "x", nil, 400},
		{"a path that is none", "?path=blog", "x", nil, 400},
		{"a long tag", "?tag=" + strings.Repeat("t", cache.MaxTag+1), "x", nil, 400},
		{"many tags", "?tag=a", "x", []string{"Surrogate-Key", manyTags(maxTags)}, 400},
		{"private", "", "x", []string{"Cache-Control", "private, max-age=60"}, 400},
		{"a long content type", "", "x", []string{"Content-Type", strings.Repeat("x", maxType+1)}, 400},
	} {
		headers := append([]string{TokenHeader, token}, tc.headers...)
		w := s.do("PUT", Prefix+"k"+tc.query, tc.body, headers...)
		if w.Code != tc.want {
			t.Errorf("%s: %d %s, want %d", tc.name, w.Code, w.Body, tc.want)
		}
		if strings.Contains(w.Body.String(), "xxx") {
			t.Errorf("%s: the answer repeats what was sent: %s", tc.name, w.Body)
		}
		if w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: answered with %q", tc.name, w.Header().Get("Content-Type"))
		}
	}
	for _, method := range []string{"POST", "PATCH", "BREW"} {
		if w := s.do(method, Prefix+"k", ""); w.Code != 405 || w.Header().Get("Allow") == "" {
			t.Errorf("%s = %d %v, want 405 with Allow", method, w.Code, w.Header())
		}
	}
}

func manyTags(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprint(&b, " t", i)
	}
	return b.String()
}

func TestLifetimesAndTagsAreReadAsOriginsTellThem(t *testing.T) {
	const m = time.Minute
	for _, tc := range []struct {
		query    string
		headers  []string
		ttl, swr time.Duration
		tags     string
	}{
		{"", nil, 5 * m, 0, ""},
		{"ttl=90&swr=1h", nil, 90 * time.Second, 60 * m, ""},
		{"ttl=2m&tag=a&tag=b&tag=a", nil, 2 * m, 0, "a b"},
		{"", []string{"Cache-Control", "public, max-age=60, stale-while-revalidate=120"}, m, 2 * m, ""},
		{"", []string{"Cache-Control", `s-maxage="300", max-age=60`}, 5 * m, 0, ""},
		{"ttl=7m", []string{"Cache-Control", "max-age=60, stale-while-revalidate=60"}, 7 * m, m, ""},
		{"", []string{"Cache-Control", "max-age=lots"}, 5 * m, 0, ""},
		{"tag=a", []string{"Surrogate-Key", "b  c", "Cache-Tag", "c, d ,e"}, 5 * m, 0, "a b c d e"},
	} {
		query, _ := url.ParseQuery(tc.query)
		header := http.Header{}
		for i := 0; i < len(tc.headers); i += 2 {
			header.Set(tc.headers[i], tc.headers[i+1])
		}
		req, fill, err := parsePut("k", query, header)
		if err != nil || fill.TTL != tc.ttl || fill.SWR != tc.swr || strings.Join(req.Tags, " ") != tc.tags {
			t.Errorf("parsePut(%q, %v) = %v, %v, %v, %v, want %v, %v, %s", tc.query, tc.headers, fill.TTL, fill.SWR, req.Tags, err, tc.ttl, tc.swr, tc.tags)
		}
	}
}

func TestStaleIsServedWithinItsWindowAndSaidSo(t *testing.T) {
	t.Parallel()
	s := setup(t)
	if w := s.do("PUT", Prefix+"k?ttl=1ms&swr=1h", "x", TokenHeader, s.token("k")); w.Code != 201 {
		t.Fatalf("PUT = %d %s", w.Code, w.Body)
	}
	testkit.Until(t, "it is stale", func() bool { return s.do("GET", Prefix+"k", "").Header().Get("X-Cache") == "STALE" })
	if w := s.do("DELETE", Prefix+"k", ""); w.Code != 200 {
		t.Fatalf("DELETE = %d", w.Code)
	}
	if w := s.do("GET", Prefix+"k", ""); w.Code != 404 {
		t.Errorf("GET of a stale entry after its purge = %d, want 404", w.Code)
	}
}

func TestBatchAnswersInOrder(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for key, body := range map[string]string{"a": `{"a":1}`, "b": "b", "bytes": "\xff\x00"} {
		if w := s.do("PUT", Prefix+key+"?tag="+key, body, TokenHeader, s.token(key), "Content-Type", "text/plain"); w.Code != 201 {
			t.Fatalf("PUT %s = %d", key, w.Code)
		}
	}
	s.purgeTag("b")
	w := s.do("POST", Prefix+"batch", `{"keys":["none","bytes","b","a"]}`)
	var got struct{ Entries []item }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || w.Header().Get(TokenHeader) == "" {
		t.Fatalf("batch = %d %s, %v", w.Code, w.Body, err)
	}
	var words []string
	for _, e := range got.Entries {
		words = append(words, e.Key+" "+e.Status+" "+e.Body+e.Base64)
	}
	if want := `none miss |bytes hit /wA=|b miss |a hit {"a":1}`; strings.Join(words, "|") != want {
		t.Errorf("batch = %s, want %s", strings.Join(words, "|"), want)
	}
	if e := got.Entries[3]; e.Type != "text/plain" || e.ETag == "" || e.Seq == 0 || e.TTL == 0 {
		t.Errorf("an entry = %+v", e)
	}
	for _, body := range []string{``, `{}`, `{"keys":[]}`, `{"keys":"a"}`, `{"keys":[""]}`, `{"key":["a"]}`, `{"keys":["a"]}{}`,
		`{"keys":["` + strings.Repeat(`a","`, maxBatch) + `a"]}`, `{"keys":["` + strings.Repeat("a", maxBatchBody) + `"]}`} {
		if w := s.do("POST", Prefix+"batch", body); w.Code != 400 {
			t.Errorf("batch of %.40s = %d, want 400", body, w.Code)
		}
	}
}

func TestBatchHasABound(t *testing.T) {
	room := 10
	e := func(n int) cache.Result {
		return cache.Result{Verdict: cache.Hit, Entry: cache.Fill{Status: 200, Body: bytes.Repeat([]byte("x"), n)}.Entry()}
	}
	var got []string
	for _, n := range []int{8, 3, 2} {
		it, err := itemOf("k", e(n), &room)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, it.Status)
	}
	if strings.Join(got, " ") != "hit large hit" {
		t.Errorf("bodies of 8, 3 and 2 bytes in 10: %v", got)
	}
}

func TestRedisAwayIsSaidSo(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { rdb.Close() })
	s := setupOn(t, rdb)
	token := s.token("k")
	server.Kill()
	for _, tc := range [][2]string{{"GET", "k"}, {"PUT", "k"}, {"DELETE", "k"}, {"POST", "batch"}} {
		w := s.do(tc[0], Prefix+tc[1], `{"keys":["k"]}`, TokenHeader, token)
		if w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s = %d %s, want 503 with Retry-After", tc[0], w.Code, w.Body)
		}
	}
}

// FuzzPut: what anybody sends is taken or refused, never more than bounds allow.
func FuzzPut(f *testing.F) {
	f.Add("ttl=5m&tag=a&tag=b", "public, max-age=60", "a b", "c,d")
	f.Add("swr=1", "s-maxage=\"1\", no-store", "", ",,")
	f.Add("ttl=9999999999999&path=//", "max-age=99999999999999999999", strings.Repeat("x ", 600), "")
	f.Fuzz(func(t *testing.T, rawQuery, control, surrogate, cacheTag string) {
		query, _ := url.ParseQuery(rawQuery)
		header := http.Header{"Cache-Control": {control}, "Surrogate-Key": {surrogate}, "Cache-Tag": {cacheTag}}
		req, fill, err := parsePut("k", query, header)
		if err != nil {
			if !errors.As(err, new(refusal)) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if fill.TTL < 0 || fill.TTL > maxSpan || fill.SWR < 0 || fill.SWR > maxSpan || fill.TTL+fill.SWR == 0 || len(req.Tags) > maxTags {
			t.Errorf("taken: %v %v, %d tags", fill.TTL, fill.SWR, len(req.Tags))
		}
		for _, tag := range req.Tags {
			if tag == "" || len(tag) > cache.MaxTag {
				t.Errorf("tag %q", tag)
			}
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add([]byte(`{"keys":["a","b"]}`))
	f.Add([]byte(`{"keys":[""]}`))
	f.Add([]byte(`{"keys":null}x`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := decodeBatch(bytes.NewReader(body))
		if (err == nil) != (len(keys) > 0) || len(keys) > maxBatch {
			t.Errorf("%q = %d keys, %v", body, len(keys), err)
		}
	})
}
