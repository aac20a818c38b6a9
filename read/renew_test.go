package read

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/internal/testkit"
)

// renewing answers 304 to those who have its tag.
func renewing(tag, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", tag)
		if r.Header.Get("If-None-Match") == tag {
			answers(304, "", headers...)(w, r)
			return
		}
		says(body, headers...)(w, r)
	}
}

func TestVoidEntryIsRenewedByTheOriginsStrongTag(t *testing.T) {
	t.Parallel()
	s := newSite(t, renewing(`"v1"`, longText, "Content-Type: application/json", "Link: <old>"), posts)
	first := s.get("/api/posts/1")
	s.becomes(renewing(`"v1"`, "never sent", "Link: <new>"))
	s.purge(cache.Purge{Tags: []string{"posts"}})
	a := s.get("/api/posts/1")
	if a.status != 200 || a.body != longText || a.header.Get("Etag") != `"v1"` || a.header.Get("Content-Type") != "application/json" || a.header.Get("Link") != "<new>" {
		t.Errorf("renewed = %.80v with %v", a, a.header)
	}
	if got := a.header.Get("Cache-Status"); got != "freshwire; fwd=uri-miss; fwd-status=304; stored; detail=void" {
		t.Errorf("Cache-Status = %q", got)
	}
	if got := s.lastCall().Header; got.Get("If-None-Match") != `"v1"` || got.Get("If-Modified-Since") != "" {
		t.Errorf("the origin was asked with %v", got)
	}
	if a := s.get("/api/posts/1"); a.header.Get("X-Cache") != "HIT" || a.body != longText || a.header.Get("Freshwire-Seq") <= first.header.Get("Freshwire-Seq") {
		t.Errorf("then = %.80v", a)
	}
	s.becomes(renewing(`"v2"`, "new"))
	s.purge(cache.Purge{Tags: []string{"posts"}})
	s.expect("changed", s.get("/api/posts/1"), `200 MISS "new"`)
}

// Within one second there may be two versions, and a weak tag is what somebody
// thinks alike.
func TestVoidEntryIsNeverRenewedByADateOrAWeakTag(t *testing.T) {
	t.Parallel()
	weak := newSite(t, renewing(`W/"v1"`, "old"), posts)
	weak.reader.faults.weaklyRenewed = true
	weak.get("/api/posts/1")
	weak.becomes(renewing(`W/"v1"`, "new, much alike"))
	weak.purge(cache.Purge{Tags: []string{"posts"}})
	if a := weak.get("/api/posts/1"); a.body != "old" {
		t.Errorf("renewed by a weak tag = %v, want the damage", a)
	}
	for _, header := range []string{`ETag: W/"v1"`, "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", "ETag: v1"} {
		s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-None-Match")+r.Header.Get("If-Modified-Since") != "" {
				w.WriteHeader(304)
				return
			}
			says("x", header)(w, r)
		}, posts)
		s.get("/api/posts/1")
		s.purge(cache.Purge{Tags: []string{"posts"}})
		if a := s.get("/api/posts/1"); a.status != 200 || s.lastCall().Header.Get("If-None-Match")+s.lastCall().Header.Get("If-Modified-Since") != "" {
			t.Errorf("%s: %v, asked with %v", header, a, s.lastCall().Header)
		}
	}
}

func TestExpiredEntryIsRenewedByAWeakTag(t *testing.T) {
	t.Parallel()
	cfg := posts
	cfg.TTL, cfg.StaleIfError = time.Millisecond, time.Minute // kept, though it expires at once
	s := newSite(t, renewing(`W/"v1"`, "x"), cfg)
	s.get("/api/posts/1")
	testkit.Until(t, "the origin is asked whether it is still good", func() bool {
		a := s.get("/api/posts/1")
		return a.body == "x" && s.lastCall().Header.Get("If-None-Match") == `W/"v1"`
	})
}

func TestRenewedEntryKeepsTheTagsOfBothAnswers(t *testing.T) {
	t.Parallel()
	for name, forgotten := range map[string]bool{"as shipped": false, "those of the 304 only": true} {
		for _, tag := range []string{"first", "second", "author:7", "post:1"} {
			cfg := posts
			cfg.LearnTags = &LearnTags{Headers: []string{"Cache-Tag"}, JSON: []string{"author → author:{}"}}
			s := newSite(t, renewing(`"v1"`, `{"author":7}`, "Cache-Tag: first"), cfg)
			s.reader.faults.tagsForgotten = forgotten
			s.get("/api/posts/1")
			s.becomes(renewing(`"v1"`, `{"author":7}`, "Cache-Tag: second"))
			s.purge(cache.Purge{Keys: []string{"post:1"}})
			s.get("/api/posts/1") // renewed
			s.purge(cache.Purge{Tags: []string{tag}})
			stale := s.get("/api/posts/1").header.Get("X-Cache") == "HIT"
			if stale != (forgotten && tag == "first") {
				t.Errorf("%s: served after a purge of %s: %v", name, tag, stale)
			}
		}
	}
}

func TestRenewedEntryIsFreshAsLongAsBefore(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		of304 string
		want  time.Duration
	}{"silent": {"X-A: b", 100 * time.Minute}, "of another mind": {"Cache-Control: max-age=60", time.Minute}} {
		s := newSite(t, renewing(`"v1"`, "x", "Cache-Control: max-age=6000"), RouteConfig{Path: "/a", Origin: "ORIGIN/a", Tags: []string{"a"}})
		s.get("/a")
		s.becomes(renewing(`"v1"`, "y", tc.of304))
		s.purge(cache.Purge{Tags: []string{"a"}})
		s.get("/a")
		e, ok, err := s.store.Get(t.Context(), "/a")
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		if got := e.FreshUntil.Sub(e.StoredAt); got > tc.want || got < tc.want*8/10 {
			t.Errorf("%s: fresh for %v, want about %v", name, got, tc.want)
		}
	}
}

func TestStrange304sAreNotBelieved(t *testing.T) {
	t.Parallel()
	s := newSite(t, answers(304, ""), posts)
	if a := s.get("/api/posts/1"); a.status != 502 {
		t.Errorf("a 304 to nothing = %v", a)
	}
	s.becomes(says("x", `ETag: "v1"`))
	s.get("/api/posts/1")
	s.becomes(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") != "" {
			answers(304, "", `ETag: "v9"`)(w, r)
			return
		}
		says("y", `ETag: "v9"`)(w, r)
	})
	s.purge(cache.Purge{Tags: []string{"posts"}})
	s.expect("a 304 of another tag", s.get("/api/posts/1"), `200 MISS "y"`)
	s.becomes(renewing(`"v9"`, "z", "Set-Cookie: a=b"))
	s.purge(cache.Purge{Tags: []string{"posts"}})
	for range 2 {
		a := s.get("/api/posts/1")
		s.expect("a 304 that sets a cookie", a, `200 MISS "y"`)
		if a.header.Get("Cache-Control") != "private, no-store" || a.header.Get("Set-Cookie") != "a=b" {
			t.Errorf("headers of a 304 for one client: %v", a.header)
		}
	}
	s.becomes(renewing(`"v9"`, "z", "Cache-Control: private"))
	s.expect("private since", s.get("/api/posts/1"), `200 MISS "y"`)
}

func TestExpiredEntryIsRenewed(t *testing.T) {
	t.Parallel()
	cfg := posts
	cfg.TTL, cfg.StaleIfError = time.Millisecond, time.Hour
	s := newSite(t, renewing(`"v1"`, "x"), cfg)
	s.get("/api/posts/1")
	testkit.Until(t, "the entry is expired, and renewed", func() bool {
		a := s.get("/api/posts/1")
		return a.body == "x" && a.header.Get("Cache-Status") == "freshwire; fwd=stale; fwd-status=304; stored"
	})
}

// What one route holds is not another's to renew.
func TestEntryOfAnotherAddressIsNotRenewed(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"same"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(304)
			return
		}
		io.WriteString(w, r.URL.Path)
	}, posts, RouteConfig{Path: "/api/posts/{id}/comments", Origin: "ORIGIN/posts/{id}/comments", Key: "post:{id}:comments"})
	s.get("/api/posts/1:comments")
	s.purge(cache.Purge{Keys: []string{"post:1:comments"}})
	s.expect("another address", s.get("/api/posts/1/comments"), `200 MISS "/posts/1/comments"`)
}
