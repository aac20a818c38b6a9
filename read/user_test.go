package read

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

var account = RouteConfig{Path: "/api/account/{part}", Origin: "ORIGIN/account/{part}", User: true}

// personal is an origin that greets whom it is told of.
func personal(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=600") // it does not know better
	w.Header().Set("Etag", `"same-for-all"`)
	fmt.Fprintf(w, "for %q", r.Header["X-User-Id"])
}

// knowing is a site whose users are told by the cookie who=….
func knowing(t testing.TB, cfgs ...RouteConfig) *site {
	s := newSite(t, personal, cfgs...)
	s.reader.user = func(r *http.Request, answer http.Header) (string, error) {
		c, err := r.Cookie("who")
		if err != nil {
			return "", nil
		}
		if c.Value == "away" {
			return "", errors.New("away: hunter2")
		}
		answer.Add("Set-Cookie", "who="+c.Value)
		return c.Value, nil
	}
	return s
}

// mixUps asks as several users by turns, and returns the answers that were not for who asked.
func (s *site) mixUps() (wrong []string) {
	for range 2 {
		for _, ask := range []struct {
			want    string
			headers []string
		}{
			{`for ["a"]`, []string{"Cookie: who=a"}},
			{`for ["b"]`, []string{"Cookie: who=b"}},
			{`for []`, nil},
			{`for []`, []string{"X-User-Id: a"}},
			{`for ["b"]`, []string{"Cookie: who=b", "X-User-Id: a", "x-user-id: a"}},
			{`for ["a"]`, []string{"Cookie: who=a", "Authorization: Bearer t"}},
		} {
			a := s.get("/api/account/orders", ask.headers...)
			if string(a.body) != ask.want || a.header.Get("Cache-Control") != "private, no-store" {
				wrong = append(wrong, fmt.Sprintf("%q got %d %s, %q", ask.headers, a.status, a.body, a.header.Get("Cache-Control")))
			}
		}
	}
	return wrong
}

func TestUserRouteAnswersEachUserAlone(t *testing.T) {
	t.Parallel()
	s := knowing(t, account)
	for _, wrong := range s.mixUps() {
		t.Error(wrong)
	}
	if n := s.calls(); n != 12 {
		t.Errorf("the origin was asked %d times, want each time", n)
	}
	if keys := s.rdb.Keys(t.Context(), "*:e:*").Val(); len(keys) != 0 {
		t.Errorf("stored: %q", keys)
	}
	a := s.get("/api/account/orders", "Cookie: who=a")
	if got := a.header.Get("Cache-Status"); got != "freshwire; fwd=bypass; detail=user" {
		t.Errorf("Cache-Status = %q", got)
	}
	if got := a.header["Set-Cookie"]; len(got) != 1 || got[0] != "who=a" {
		t.Errorf("Set-Cookie = %q, want the session's cookie renewed", got)
	}
	s.becomes(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "cart=1")
		io.WriteString(w, "x")
	})
	if got := s.get("/api/account/orders", "Cookie: who=a").header["Set-Cookie"]; len(got) != 2 {
		t.Errorf("Set-Cookie = %q, want the session's and the origin's", got)
	}
}

// What could go wrong is seen: a cache that is shared, a user who is remembered
// by the address, and a header that the client may choose.
func TestMixUpsAreSeen(t *testing.T) {
	t.Parallel()
	shared := account
	shared.User = false
	if wrong := knowing(t, shared).mixUps(); len(wrong) == 0 {
		t.Error("a route that is cached for all looks right")
	}
	s := knowing(t, account)
	ask, known := s.reader.user, map[string]string{}
	s.reader.user = func(r *http.Request, answer http.Header) (string, error) {
		if _, ok := known[r.URL.Path]; !ok {
			known[r.URL.Path], _ = ask(r, answer)
		}
		return known[r.URL.Path], nil
	}
	if wrong := s.mixUps(); len(wrong) == 0 {
		t.Error("users that are remembered by address look right")
	}
	s = knowing(t, account)
	ask = s.reader.user
	s.reader.user = func(r *http.Request, answer http.Header) (string, error) {
		if said := r.Header.Get("X-User-Id"); said != "" {
			return said, nil
		}
		return ask(r, answer)
	}
	if wrong := s.mixUps(); len(wrong) == 0 {
		t.Error("users that name themselves look right")
	}
}

func TestUserWhoCannotBeKnownIsNotNobody(t *testing.T) {
	t.Parallel()
	s := knowing(t, account)
	for range 2 {
		a := s.get("/api/account/orders", "Cookie: who=away")
		if a.status != 503 || a.header.Get("Retry-After") != "2" || strings.Contains(string(a.body), "hunter2") || s.calls() != 0 {
			t.Errorf("%d %v %s after %d calls, want 503 without asking the origin", a.status, a.header, a.body, s.calls())
		}
	}
	if n := testutil.ToFloat64(s.reader.routes[0].metrics.requests.WithLabelValues(verdictError, reasonUser)); n != 2 {
		t.Errorf("%v errors counted, want 2", n)
	}
}

func TestOtherRoutesAskNobodyWhoAsks(t *testing.T) {
	t.Parallel()
	s := newSite(t, personal, posts)
	s.reader.user = func(*http.Request, http.Header) (string, error) {
		t.Error("a shared route asks who asks")
		return "a", nil
	}
	s.expect("with the header", s.get("/api/posts/1", "X-User-Id: a", "Cookie: who=a"), `200 MISS "for []"`)
	s.expect("again", s.get("/api/posts/1", "Cookie: who=b"), `200 HIT "for []"`)
}

func TestUserRouteThatWouldKeepSomethingIsAMistake(t *testing.T) {
	err := RouteConfig{Path: "/a", Origin: "http://cms.local/a", User: true, Key: "a", Tags: []string{"a"}, TTL: 1, Version: "v", CacheControl: "public"}.Validate()
	for _, key := range []string{"key: ", "tags: ", "ttl: ", "version: ", "cache_control: "} {
		if err == nil || !strings.Contains(err.Error(), key+"nothing is kept of a route with user: true") {
			t.Errorf("Validate = %v, want a mistake at %s", err, key)
		}
	}
	for name, cfg := range map[string]RouteConfig{
		"chosen by clients": {Path: "/a", Origin: "http://cms.local/a", Vary: map[string][]string{"x-user-id": {"a", "b"}}},
		"set by the config": {Path: "/a", Origin: "http://cms.local/a", Headers: map[string]string{"x-user-id": "a"}},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "X-User-Id") {
			t.Errorf("X-User-Id %s: Validate = %v", name, err)
		}
	}
}
