package read

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/cache"
)

func TestVersionSpeaksForTheTagOfItsObject(t *testing.T) {
	single, list := "/api/posts/{id}", "/api/posts"
	for _, tc := range []struct {
		name string
		cfg  RouteConfig
		body string
		want map[string]string
	}{
		{"key that is a tag", RouteConfig{Path: single, Key: "post:{id}", Tags: []string{"posts", "post:{id}"}, Version: "data.v"}, `{"data":{"v":7}}`, map[string]string{"post:42": "7"}},
		{"key without tags", RouteConfig{Path: single, Key: "post:{id}", Version: "v"}, `{"v":"a"}`, map[string]string{"post:42": "a"}},
		{"tag with the last name", RouteConfig{Path: "/api/{site}/posts/{id}", Tags: []string{"site:{site}", "{site}:post:{id}"}, Version: "v"}, `{"v":"a"}`, map[string]string{"s:post:42": "a"}},
		{"version_of", RouteConfig{Path: single, Key: "page:{id}", Tags: []string{"page:{id}"}, Version: "v", VersionOf: "article:{id}"}, `{"v":"a"}`, map[string]string{"article:42": "a"}},
		{"version_of without names", RouteConfig{Path: "/settings", Version: "v", VersionOf: "settings"}, `{"v":1.50}`, map[string]string{"settings": "1.50"}},
		{"learnt id beside it", RouteConfig{Path: "/api/by-slug/{id}", Tags: []string{"slug:{id}"}, Version: "post.updated", LearnTags: &LearnTags{JSON: []string{"post.id → post:{}", "post.author_id → author:{}", "post.author.id → author:{}"}}},
			`{"post":{"id":7,"updated":"2026-01-01T00:00:00Z","author_id":3,"author":{"id":4}}}`, map[string]string{"post:7": "2026-01-01T00:00:00Z"}},
		{"one for each item", RouteConfig{Path: list, Tags: []string{"posts"}, Version: "items[*].v", LearnTags: &LearnTags{JSON: []string{"items[*].id → post:{}", "items[*].tags[*].id → tag:{}"}}},
			`{"items":[{"id":1,"v":"a","tags":[{"id":9}]},{"v":"b","id":2},{"id":3},{"v":"d"}]}`, map[string]string{"post:1": "a", "post:2": "b"}},
		{"version_of a learnt tag further up", RouteConfig{Path: list, Tags: []string{"posts"}, Version: "items[*].meta.v", VersionOf: "post:{}", LearnTags: &LearnTags{JSON: []string{"items[*].id → post:{}"}}},
			`{"items":[{"id":1,"meta":{"v":"a"}},{"id":2,"meta":{"v":"b"}}]}`, map[string]string{"post:1": "a", "post:2": "b"}},
		{"nested lists", RouteConfig{Path: list, Tags: []string{"posts"}, Version: "[*].posts[*].v", LearnTags: &LearnTags{JSON: []string{"[*].posts[*].id → post:{}"}}},
			`[{"posts":[{"id":1,"v":"a"}]},{"posts":[{"id":2,"v":"b"},{"id":3,"v":"c"}]}]`, map[string]string{"post:1": "a", "post:2": "b", "post:3": "c"}},
		{"none there", RouteConfig{Path: single, Key: "post:{id}", Version: "v"}, `{"w":1}`, map[string]string{}},
		{"null", RouteConfig{Path: single, Key: "post:{id}", Version: "v"}, `{"v":null}`, map[string]string{}},
		{"no JSON", RouteConfig{Path: single, Key: "post:{id}", Version: "v"}, `<p>`, map[string]string{}},
		{"too long", RouteConfig{Path: single, Key: "post:{id}", Version: "v"}, `{"v":"` + strings.Repeat("x", 200) + `"}`, map[string]string{}},
		{"no version", RouteConfig{Path: single, Key: "post:{id}"}, `{"v":1}`, nil},
	} {
		tc.cfg.Origin = "http://cms/" + strings.TrimPrefix(tc.cfg.Path, "/")
		c, err := compile(tc.cfg)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		got := c.learnFrom(&place{values: map[string]string{"id": "42", "site": "s"}}, nil, []byte(tc.body), nil).versions
		if !maps.Equal(got, tc.want) || (got == nil) != (tc.want == nil) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestVersionThatSpeaksForNothingIsAMistake(t *testing.T) {
	for want, cfg := range map[string]RouteConfig{
		"version: of what is it":         {Path: "/api/posts/{id}", Tags: []string{"posts"}, Version: "v"},
		"version: each item":             {Path: "/api/posts/{id}", Key: "post:{id}", Version: "items[*].v"},
		"version: a name is missing":     {Path: "/api/posts/{id}", Key: "post:{id}", Version: "a..b"},
		"version_of: no path":            {Path: "/api/posts", Version: "items[*].v", VersionOf: "post:{}", LearnTags: &LearnTags{JSON: []string{"other[*].id → post:{}"}}},
		"version_of: did you mean":       {Path: "/api/posts/{id}", Version: "v", VersionOf: "post:{idd}"},
		"version_of: of which version":   {Path: "/api/posts/{id}", VersionOf: "post:{id}"},
		"cache_bust: has a meaning":      {Path: "/api/posts/{id}", Query: []string{"page"}, CacheBust: "page"},
		"cache_bust: is not the name of": {Path: "/api/posts/{id}", CacheBust: "a\nb"},
	} {
		cfg.Origin = "http://cms/a"
		if strings.Contains(cfg.Path, "{id}") {
			cfg.Origin += "/{id}"
		}
		got := mistakes(cfg.Validate())
		path, text, _ := strings.Cut(want, ": ")
		if len(got) != 1 || got[0].YAMLPath() != path || !strings.Contains(got[0].Error(), text) {
			t.Errorf("%v, want %s", got, want)
		}
	}
}

func TestTemplatesAreInverted(t *testing.T) {
	for _, tc := range []struct {
		template, text string
		want           map[string]string // nil: no match
	}{
		{"post:{id}", "post:42", map[string]string{"id": "42"}}, {"post:{id}", "post:a:b", map[string]string{"id": "a:b"}}, {"post:{id}", "posts", nil}, {"post:{id}", "post:", nil},
		{"{a}:{b}", "x:y:z", map[string]string{"a": "x", "b": "y:z"}}, {"{a}:post", "x:post:post", map[string]string{"a": "x:post"}}, {"{a}:{a}", "x:x", map[string]string{"a": "x"}}, {"{a}:{a}", "x:y", nil},
		{"home", "home", map[string]string{}}, {"home", "home2", nil}, {"", "", nil}, {"{a}-x", "-x", nil},
	} {
		tmpl, err := parseTemplate(tc.template, []string{"id", "a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		got, ok := tmpl.invert(tc.text)
		if ok != (tc.want != nil) || ok && !maps.Equal(got, tc.want) {
			t.Errorf("%s of %q = %v %v, want %v", tc.template, tc.text, got, ok, tc.want)
		}
		if ok && tmpl.fill(got) != tc.text {
			t.Errorf("%s with %v = %q, want %q", tc.template, got, tmpl.fill(got), tc.text)
		}
	}
}

// versioned answers with the version v of post 42, and remembers how it was asked.
func versioned(v string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Etag", `"v`+v+`"`)
		if r.Header.Get("If-None-Match") == `"v`+v+`"` {
			w.WriteHeader(304)
			return
		}
		fmt.Fprintf(w, `{"id":42,"version":%s}`, v)
	}
}

var versionedPosts = RouteConfig{Path: "/api/posts/{id}", Origin: "ORIGIN/posts/{id}", Key: "post:{id}", Tags: []string{"posts", "post:{id}"},
	Version: "version", CacheBust: "_v", NegativeTTL: time.Minute}

func announce(version string) cache.Purge {
	return cache.Purge{Tags: []string{"post:42"}, Announced: []cache.Announcement{{Tag: "post:42", Version: version, Gone: version == ""}}}
}

func TestOldViewIsServedMarkedAndNotKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, versioned("1"), versionedPosts)
	s.get("/api/posts/42")
	s.purge(announce("2"))
	a := s.get("/api/posts/42")
	if a.status != 200 || !strings.Contains(a.body, `"version":1`) || !strings.HasSuffix(a.header.Get("Cache-Status"), "detail=origin-lag") || a.header.Get("X-Cache") != "MISS" {
		t.Errorf("the origin lags = %v with %q", a, a.header.Get("Cache-Status"))
	}
	s.becomes(versioned("2"))
	if a := s.get("/api/posts/42"); !strings.Contains(a.body, `"version":2`) {
		t.Errorf("the origin shows it = %v", a)
	}
}

// A lagging edge says 304, too.
func TestOldViewIsSeenBehindA304(t *testing.T) {
	t.Parallel()
	for name, unversioned := range map[string]bool{"as shipped": false, "a 304 tells no version": true} {
		s := newSite(t, versioned("1"), versionedPosts)
		s.reader.faults.unversioned = unversioned
		s.get("/api/posts/42")
		s.purge(announce("2"))
		a := s.get("/api/posts/42")
		lags := strings.HasSuffix(a.header.Get("Cache-Status"), "detail=origin-lag")
		if lags == unversioned || !strings.Contains(a.header.Get("Cache-Status"), "fwd-status=304") {
			t.Errorf("%s: Cache-Status = %q", name, a.header.Get("Cache-Status"))
		}
	}
}

func TestProbeTellsWhetherTheOriginShowsWhatWasAnnounced(t *testing.T) {
	t.Parallel()
	list := RouteConfig{Path: "/api/posts", Origin: "ORIGIN/posts", Tags: []string{"posts"}, Version: "[*].version", LearnTags: &LearnTags{JSON: []string{"[*].id → post:{}"}}}
	bySlug := RouteConfig{Path: "/api/slugs/{slug}", Origin: "ORIGIN/slugs/{slug}", Tags: []string{"slug:{slug}"}, Version: "version", LearnTags: &LearnTags{JSON: []string{"id → post:{}"}}}
	unversioned := RouteConfig{Path: "/api/plain/{id}", Origin: "ORIGIN/plain/{id}", Tags: []string{"post:{id}"}}
	single, lists, slugs := "1", "1", "1"
	serve := func() http.HandlerFunc {
		single, lists, slugs := single, lists, slugs
		return func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/posts":
				fmt.Fprintf(w, `[{"id":42,"version":%s}]`, lists)
			case strings.HasPrefix(r.URL.Path, "/slugs/"):
				fmt.Fprintf(w, `{"id":42,"version":%s}`, slugs)
			case single == "gone":
				w.WriteHeader(404)
			default:
				versioned(single)(w, r)
			}
		}
	}
	s := newSite(t, serve(), versionedPosts, list, bySlug, unversioned)
	probe := func(what string, want Shown, tag string, targets ...string) {
		t.Helper()
		s.becomes(serve())
		if got, err := s.reader.Probe(t.Context(), tag, targets...); got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	probe("nothing announced", ShownCurrent, "post:42")
	probe("a tag of no route", ShownUnknown, "author:1")
	s.purge(announce("2"))
	probe("announced", ShownOld, "post:42")
	if r := s.lastCall(); r.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("the probe let caches answer: %v", r.Header)
	}
	single = "2"
	probe("the list lags", ShownOld, "post:42")
	lists = "2"
	probe("both show it", ShownCurrent, "post:42")
	if a := s.get("/api/posts/42"); a.header.Get("X-Cache") != "HIT" || !strings.Contains(a.body, `"version":2`) {
		t.Errorf("after the probe = %v, want it in the cache", a)
	}
	probe("a page by slug lags", ShownOld, "post:42", "/api/slugs/hello", "/api/nowhere", "/api/plain/42")
	slugs = "2"
	probe("a page by slug shows it", ShownCurrent, "post:42", "/api/slugs/hello")
	s.purge(announce(""))
	probe("gone, still there", ShownOld, "post:42")
	single, lists = "gone", "3"
	probe("gone, but in the list", ShownOld, "post:42")
	s.becomes(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/posts" {
			fmt.Fprint(w, `[]`)
			return
		}
		w.WriteHeader(404)
	})
	if got, err := s.reader.Probe(t.Context(), "post:42"); got != ShownCurrent || err != nil {
		t.Errorf("gone = %v, %v", got, err)
	}
	s.becomes(answers(500, ""))
	if got, err := s.reader.Probe(t.Context(), "post:42"); err == nil {
		t.Errorf("the origin fails = %v, want an error", got)
	}
}

// The cache-busting parameter is sent with repeated asks only, and reaches no key.
func TestOnlyRepeatedAsksBustCaches(t *testing.T) {
	t.Parallel()
	s := newSite(t, versioned("1"), versionedPosts)
	s.get("/api/posts/42")
	if got := s.lastCall().URL.String(); got != "/posts/42" {
		t.Errorf("a read asked for %s", got)
	}
	seen := map[string]bool{}
	for range 3 {
		if _, err := s.reader.Probe(t.Context(), "post:42"); err != nil {
			t.Fatal(err)
		}
		got := s.lastCall().URL
		if got.Path != "/posts/42" || len(got.Query()["_v"]) != 1 || got.Query().Get("_v") == "" || seen[got.RawQuery] {
			t.Errorf("a probe asked for %s", got)
		}
		seen[got.RawQuery] = true
	}
	if keys := s.rdb.Keys(t.Context(), "fw:e:*").Val(); len(keys) != 1 {
		t.Errorf("entries: %q", keys)
	}
}

func TestRefillFetchesWhatATargetNames(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL, " ", r.Header.Get("Accept-Language"))
	}, spoken, posts)
	var targets []string
	for _, read := range []struct{ target, header string }{{"/api/home?page=2&x=1", "Accept-Language: de"}, {"/api/posts/a%2Fb%3Fc%23d%25", ""}, {"/api/posts/caf%C3%A9", ""}} {
		name, value, _ := strings.Cut(read.header, ": ")
		a := s.get(read.target, name+": "+value)
		if a.status == 404 {
			continue // %2F is a slash to the router, and leads nowhere
		}
		key := ""
		for _, k := range s.rdb.Keys(t.Context(), "fw:e:*").Val() {
			e, ok, err := s.store.Get(t.Context(), keyOf(k))
			if err != nil || !ok {
				t.Fatalf("%s: %v %v", k, ok, err)
			}
			if !slices.Contains(targets, e.Target) {
				key, targets = keyOf(k), append(targets, e.Target)
			}
		}
		target := targets[len(targets)-1]
		s.purge(cache.Purge{Keys: []string{key}})
		before := s.calls()
		if err := s.reader.Refill(t.Context(), target); err != nil {
			t.Errorf("%s: %v", target, err)
		}
		again := s.get(read.target, name+": "+value)
		if again.header.Get("X-Cache") != "HIT" || again.body != a.body || s.calls() != before+1 {
			t.Errorf("%s after a refill of %s = %v, want %v", read.target, target, again, a)
		}
	}
	if len(targets) < 2 || targets[0] != "/api/home?page=2#Accept-Language=de&X-Market=eu" {
		t.Errorf("targets: %q", targets)
	}
	for _, bad := range []string{"", "x", "/api/none", "//evil/api/home", "http://evil/api/home", "/api/home#X=1", "/api/posts/%00", "/api/posts/../home"} {
		if err := s.reader.Refill(t.Context(), bad); err == nil {
			t.Errorf("refill of %q went well", bad)
		}
	}
}

// keyOf returns the key of an entry's Redis name, in these tests.
func keyOf(name string) string {
	key := strings.TrimSuffix(strings.TrimPrefix(name, "fw:e:{"), "}")
	return strings.NewReplacer("%3F", "?", "%25", "%", "%20", " ").Replace(key)
}
