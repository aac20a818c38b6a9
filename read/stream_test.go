package read

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/internal/testkit"
)

// live serves s over the network, where answers can break off.
func (s *site) live() string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.reader.Handler(s.router).ServeHTTP(w, r)
	}))
	s.t.Cleanup(server.Close)
	return server.URL
}

func TestLongBodyIsHandedOnWhileItComesIn(t *testing.T) {
	t.Parallel()
	const half = 100 << 10
	release := make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", fmt.Sprint(2*half))
		io.WriteString(w, strings.Repeat("a", half))
		w.(http.Flusher).Flush()
		<-release
		io.WriteString(w, strings.Repeat("b", half))
	}, posts)
	url := s.live() + "/api/posts/1"
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, half)
	if _, err := io.ReadFull(res.Body, first); err != nil || strings.Trim(string(first), "a") != "" {
		t.Fatalf("the first half, while the second is not there: %v", err)
	}
	if res.ContentLength != 2*half || res.Header.Get("X-Cache") != "MISS" || res.Header.Get("Content-Type") != "text/plain" || res.Header.Get("Freshwire-Length") != "" {
		t.Errorf("head of a stream: %d, %v", res.ContentLength, res.Header)
	}
	close(release)
	rest, err := io.ReadAll(res.Body)
	if err != nil || len(rest) != half || strings.Trim(string(rest), "b") != "" {
		t.Errorf("the second half: %d bytes, %v", len(rest), err)
	}
	testkit.Until(t, "it is in the cache", func() bool { return s.get("/api/posts/1").header.Get("X-Cache") == "HIT" })
	a := s.get("/api/posts/1")
	if len(a.body) != 2*half || a.header.Get("Etag") == "" || a.header.Get("Freshwire-Length") != "" || s.calls() != 1 {
		t.Errorf("from the cache: %d bytes, %v, %d calls", len(a.body), a.header, s.calls())
	}
}

func TestBrokenStreamIsNeverTakenForWhole(t *testing.T) {
	t.Parallel()
	for name, whole := range map[string]bool{"as shipped": false, "the end is the end": true} {
		s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, strings.Repeat("a", 200<<10))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, posts)
		s.reader.faults.brokenIsWhole = whole
		res, err := http.Get(s.live() + "/api/posts/1")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if (err == nil) != whole {
			t.Errorf("%s: the client got %d bytes and the error %v", name, len(b), err)
		}
		s.becomes(says("well"))
		testkit.Until(t, "it is fetched anew", func() bool { return s.get("/api/posts/1").body == "well" })
	}
}

func TestTagsOfAStreamAreLearntAtItsEnd(t *testing.T) {
	t.Parallel()
	cfg := learning
	body := `{"items":[{"author":{"id":7}}],"x":"` + strings.Repeat("y", 200<<10) + `"}`
	s := newSite(t, says(body, "Content-Type: application/json"), cfg)
	if a := s.get("/api/list"); a.body != body {
		t.Fatalf("got %d bytes", len(a.body))
	}
	testkit.Until(t, "it is in the cache", func() bool { return s.get("/api/list").header.Get("X-Cache") == "HIT" })
	s.purge(cache.Purge{Tags: []string{"author:7"}})
	if a := s.get("/api/list"); a.header.Get("X-Cache") != "MISS" {
		t.Errorf("after a purge of a learnt tag = %s", a.header.Get("X-Cache"))
	}
}

// Of a stream, nothing that is read out of the body could be said before it.
func TestWhatIsToldBeforeTheBodyIsKnownBefore(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*RouteConfig)
		want   bool
	}{
		"plain":                {func(c *RouteConfig) {}, true},
		"version":              {func(c *RouteConfig) { c.Version, c.VersionOf = "v", "a" }, false},
		"learnt tags":          {func(c *RouteConfig) { c.LearnTags = learning.LearnTags }, true},
		"learnt tags, told on": {func(c *RouteConfig) { c.LearnTags, c.EmitTags = learning.LearnTags, []string{"xkey"} }, false},
		"known tags, told on":  {func(c *RouteConfig) { c.EmitTags = []string{"xkey"} }, true},
	} {
		cfg := RouteConfig{Path: "/a", Origin: "http://cms/a", Tags: []string{"a"}}
		tc.change(&cfg)
		c, err := compile(cfg)
		if tc.want != (err == nil && (&Route{compiled: c}).streams()) {
			t.Errorf("%s: streams = %v (%v), want %v", name, !tc.want, err, tc.want)
		}
	}
}
