package read

import (
	"net/http"
	"testing"
	"time"
)

func TestFreshnessIsTheRoutesElseTheOrigins(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	const fallback = 5 * time.Minute
	for _, tc := range []struct {
		header        []string
		ttl, swr, sie time.Duration
	}{
		{nil, fallback, 0, 0},
		{[]string{"Cache-Control", "max-age=60"}, time.Minute, 0, 0},
		{[]string{"Cache-Control", "max-age=60, s-maxage=120"}, 2 * time.Minute, 0, 0},
		{[]string{"Cache-Control", `max-age="60"`}, time.Minute, 0, 0},
		{[]string{"Cache-Control", "max-age=0, must-revalidate"}, fallback, 0, 0},
		{[]string{"Cache-Control", "max-age=0", "Expires", at(time.Hour)}, fallback, 0, 0},
		{[]string{"Cache-Control", "max-age=60, s-maxage=0"}, 0, 0, 0},
		{[]string{"Cache-Control", "s-maxage=0, stale-while-revalidate=60"}, 0, 0, 0},
		{[]string{"Cache-Control", "max-age=60", "Cdn-Cache-Control", "max-age=600"}, 10 * time.Minute, 0, 0},
		{[]string{"Cache-Control", "s-maxage=60", "Cdn-Cache-Control", "max-age=0"}, 0, 0, 0},
		{[]string{"Cache-Control", "max-age=60", "Cdn-Cache-Control", "stale-if-error=5"}, fallback, 0, 5 * time.Second},
		{[]string{"Cache-Control", "max-age=60, stale-while-revalidate=30, stale-if-error=90"}, time.Minute, 30 * time.Second, 90 * time.Second},
		{[]string{"Cache-Control", "max-age=-1"}, fallback, 0, 0},
		{[]string{"Cache-Control", "max-age=x"}, fallback, 0, 0},
		{[]string{"Cache-Control", "max-age=99999999999999999999"}, longestTTL, 0, 0},
		{[]string{"Expires", at(time.Hour)}, time.Hour, 0, 0},
		{[]string{"Expires", at(time.Hour), "Date", at(30 * time.Minute)}, 30 * time.Minute, 0, 0},
		{[]string{"Expires", at(-time.Hour)}, fallback, 0, 0},
		{[]string{"Expires", "0"}, fallback, 0, 0},
		{[]string{"Cache-Control", "max-age=60", "Age", "20"}, 40 * time.Second, 0, 0},
		{[]string{"Cache-Control", "max-age=60", "Age", "90"}, 0, 0, 0},
		{[]string{"Age", "90"}, fallback, 0, 0},
	} {
		h := http.Header{}
		for i := 0; i < len(tc.header); i += 2 {
			h.Add(tc.header[i], tc.header[i+1])
		}
		got := (&Route{}).lifetimeOf(h, now)
		if got.left() != tc.ttl || got.swr != tc.swr || got.sie != tc.sie {
			t.Errorf("%q: %v %v %v, want %v %v %v", tc.header, got.left(), got.swr, got.sie, tc.ttl, tc.swr, tc.sie)
		}
		strict := (&Route{cfg: RouteConfig{TTL: time.Second}}).lifetimeOf(h, now)
		if strict.left() != time.Second || strict.swr != 0 || strict.sie != 0 {
			t.Errorf("%q with a ttl of the route's: %+v", tc.header, strict)
		}
	}
}

func TestWhatTheOriginKeepsFromSharedCachesIsNotStored(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x", "Cache-Control: max-age=60, s-maxage=0"), RouteConfig{Path: "/a", Origin: "ORIGIN/a"}, RouteConfig{Path: "/b", Origin: "ORIGIN/b", TTL: time.Minute})
	for _, want := range []string{"MISS", "MISS"} {
		s.expect("s-maxage=0", s.get("/a"), `200 `+want+` "x"`)
	}
	for _, want := range []string{"MISS", "HIT"} {
		s.expect("with a ttl of the route's", s.get("/b"), `200 `+want+` "x"`)
	}
}

func TestAgeOfTheOriginCounts(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x", "Cache-Control: max-age=600", "Age: 100"), RouteConfig{Path: "/a", Origin: "ORIGIN/a"})
	s.get("/a")
	if a := s.get("/a"); a.header.Get("X-Cache") != "HIT" || a.header.Get("Age") < "100" || len(a.header.Get("Age")) != 3 {
		t.Errorf("Age = %q", a.header.Get("Age"))
	}
}
