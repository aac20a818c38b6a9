package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/freshwire/freshwire/ratelimit"
)

func TestOnlyReadsStreamsAndSessionsAreLimited(t *testing.T) {
	for path, want := range map[string]bool{
		"/api/posts/1": true, "/api/events": true, "/api/auth/session": true,
		"/api/webhooks/cms": false, "/webhooks/blog": false, "/api/revalidate": false,
		"/": false, "/api": false, "/apis/1": false, "/content/1": false, "/admin/events": false, "/healthz": false,
		// As the router cleans them, so they are counted.
		"//api/posts/1": true, "/x/../api/posts/1": true, "/./api/posts/1": true, "/api/webhooks/../posts/1": true, "/api//revalidate": false,
		"/api/revalidate/../events": true, "api/posts/1": true,
	} {
		if got := isLimited(&http.Request{URL: &url.URL{Path: path}}); got != want {
			t.Errorf("isLimited(%q) = %v, want %v", path, got, want)
		}
	}
}

func FuzzIsLimited(f *testing.F) {
	for _, p := range []string{"/api/posts", "//api/./x", "/api/webhooks/cms", "/api/revalidate/", "/.%2e/api", "api", ""} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := &http.Request{URL: &url.URL{Path: path}}
		before := isLimited(r)
		cleanPath(r)
		if after := isLimited(r); after != before {
			t.Errorf("isLimited(%q) = %v, and %v once the router has made %q of it", path, before, after, r.URL.Path)
		}
	})
}

func TestRateLimitOfEachRole(t *testing.T) {
	hundred := ratelimit.Rate{Count: 100, Per: time.Minute}
	for _, tc := range []struct {
		text string
		dev  bool
		want ratelimit.Rate
	}{
		{"", false, hundred}, {"", true, ratelimit.Rate{}}, {"0", false, ratelimit.Rate{}}, {"100/1m", true, hundred},
	} {
		if got := (environment{RateLimit: tc.text}).rate(tc.dev); got != tc.want {
			t.Errorf("rate %q, dev %v: %v, want %v", tc.text, tc.dev, got, tc.want)
		}
	}
}

func TestOnlyEventSourcesAreRefusedInAStream(t *testing.T) {
	for _, tc := range []struct {
		path, accept string
		code         int
	}{
		{"/api/events?channel=a", "text/event-stream", 200},
		{"/api/events?channel=a", "application/json, text/event-stream;q=0.9", 200},
		{"//api/events?channel=a", "text/event-stream", 200},
		{"/api/events?channel=a", "*/*", 429},
		{"/api/events?channel=a", "", 429},
		{"/api/posts/1", "text/event-stream", 429},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "http://localhost"+tc.path, nil)
		r.Header.Set("Accept", tc.accept)
		refuse(w, r, 3*time.Second)
		if w.Code != tc.code {
			t.Errorf("%s with Accept %q refused with %d, want %d", tc.path, tc.accept, w.Code, tc.code)
		}
	}
}
