package read

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/internal/testkit"
)

func TestEachHeaderSeparatesTagsItsOwnWay(t *testing.T) {
	for _, tc := range []struct {
		header, value string
		want          []string
	}{
		{"Surrogate-Key", "a b  post:1\tc", []string{"a", "b", "post:1", "c"}},
		{"surrogate-key", "a,b", []string{"a,b"}},
		{"xkey", "a, b c", []string{"a", "b", "c"}},
		{"Cache-Tag", "a, b c ,, d", []string{"a", "b c", "d"}},
		{"Cache-Tags", "a,b", []string{"a", "b"}},
		{"Edge-Cache-Tag", "a,b", []string{"a", "b"}},
		{"x-next-cache-tags", "_N_T_/layout,_N_T_/blog/page,posts", []string{"_N_T_/layout", "_N_T_/blog/page", "posts"}},
		{"X-Cache-Tags", "a,b c", []string{"a", "b", "c"}},
		{"X-Drupal-Cache-Tags", "node:1 node_list", []string{"node:1", "node_list"}},
		{"Cache-Groups", `"post:1", "a, b";p=1 ,  "q\"\\"`, []string{"post:1", "a, b", `q"\`}},
		{"Cache-Groups", `"a", b`, nil}, {"Cache-Groups", `"a" "b"`, nil}, {"Cache-Groups", `"a`, nil}, {"Cache-Groups", `"a",`, nil}, {"Cache-Groups", `"é"`, nil}, {"Cache-Groups", ``, nil},
		{"X-Our-Tags", "a, b c", []string{"a", "b", "c"}},
	} {
		c, err := compile(RouteConfig{Path: "/a", Origin: "http://cms/a", LearnTags: &LearnTags{Headers: []string{tc.header}}})
		if err != nil {
			t.Fatal(err)
		}
		l := c.learnFrom(&place{}, http.Header{http.CanonicalHeaderKey(tc.header): {tc.value}}, nil, nil)
		if !slices.Equal(l.tags, tc.want) || l.incomplete {
			t.Errorf("%s: %s = %q, want %q", tc.header, tc.value, l.tags, tc.want)
		}
	}
}

func TestTagsAreLearntFromTheBody(t *testing.T) {
	body := `{"data":{"id":42,"slug":"hello","author":{"id":"a\u00e9","name":"x"},"big":12345678901234567890,"none":null,"ok":true,"empty":""},
	 "items":[{"id":1,"tags":["x","y"]},{"id":2.50,"tags":[]},{"x":1},7,[{"id":"deep"}]], "a.b":1, "matrix":[[1,2],[3,4]]}`
	for path, want := range map[string][]string{
		"data.id":          {"42"},
		"$.data.slug":      {"hello"},
		"$data":            nil,
		"data.author.id":   {"aé"},
		"data.big":         {"12345678901234567890"},
		"data.none":        nil,
		"data.ok":          {"true"},
		"data.empty":       nil,
		"data.author":      nil,
		"data.missing.id":  nil,
		"items[*].id":      {"1", "2.50"},
		"items[0].id":      {"1"},
		"items[1].id":      {"2.50"},
		"items[9].id":      nil,
		"items[*].tags[*]": {"x", "y"},
		"items[*][*].id":   {"deep"},
		"matrix[*][1]":     {"2", "4"},
		"data[*].id":       nil,
		"items.id":         nil,
	} {
		c, err := compile(RouteConfig{Path: "/a", Origin: "http://cms/a", LearnTags: &LearnTags{JSON: []string{path + " → {}"}}})
		if err != nil {
			if path != "$data" {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		l := c.learnFrom(&place{}, nil, []byte(body), nil)
		if !slices.Equal(l.tags, want) {
			t.Errorf("%s = %q, want %q", path, l.tags, want)
		}
	}
	c, err := compile(RouteConfig{Path: "/a", Origin: "http://cms/a", LearnTags: &LearnTags{JSON: []string{"[*].id->post:{}", " $[*].author → by:{}!"}}})
	if err != nil {
		t.Fatal(err)
	}
	if l := c.learnFrom(&place{tags: []string{"post:1"}}, nil, []byte("\ufeff [ {\"id\" : 1, \"author\":\"me\"} , {\"id\":2} ]\n"), nil); !slices.Equal(l.tags, []string{"by:me!", "post:2"}) {
		t.Errorf("of a list = %q", l.tags)
	}
	for _, body := range []string{"", "<html>", `{"data":`, `[1,]`, "\x00"} {
		if l := c.learnFrom(&place{}, nil, []byte(body), nil); !l.notJSON || l.tags != nil || l.incomplete {
			t.Errorf("of %q = %+v", body, l)
		}
	}
}

func TestMistakesInLearntTags(t *testing.T) {
	for given, want := range map[string]string{
		"items[*].id": "an arrow", "a → b": "{} once", "a → b{}{}": "{} once", "a → {id}": "{} once", " → a:{}": "empty path", "a..b → {}": "a name is missing",
		"a[x] → {}": "want [*]", "a[-1] → {}": "want [*]", "a[0 → {}": "want [*]", "a]b → {}": "want a dot", ".a → {}": "a name is missing", "a.* → {}": "a name is missing",
		strings.Repeat("a.", 40) + "b → {}": "at most 32",
	} {
		err := RouteConfig{Path: "/a", Origin: "http://cms/a", LearnTags: &LearnTags{JSON: []string{"ok → {}", given}}}.Validate()
		if got := mistakes(err); len(got) != 1 || got[0].YAMLPath() != "learn_tags.json[1]" || !strings.Contains(got[0].Error(), want) {
			t.Errorf("%q: %v, want %q", given, err, want)
		}
	}
	for given, want := range map[string]string{"Surrogate-Keys": "did you mean Surrogate-Key", "a b": "not the name"} {
		err := RouteConfig{Path: "/a", Origin: "http://cms/a", LearnTags: &LearnTags{Headers: []string{given}}}.Validate()
		if got := mistakes(err); len(got) != 1 || got[0].YAMLPath() != "learn_tags.headers[0]" || !strings.Contains(got[0].Error(), want) {
			t.Errorf("%q: %v, want %q", given, err, want)
		}
	}
	err := RouteConfig{Path: "/a", Origin: "http://cms/a", EmitTags: []string{"Surrogate-Key", "X-Tags"}}.Validate()
	if got := mistakes(err); len(got) != 1 || got[0].YAMLPath() != "emit_tags[1]" {
		t.Errorf("emit_tags: %v", err)
	}
	learnt := RouteConfig{Path: "/a", Origin: "http://cms/a", LearnTags: &LearnTags{Headers: []string{"xkey"}}}
	if w := learnt.Warnings(); len(w) != 1 || !strings.Contains(w[0], "route /a") {
		t.Errorf("warnings of a route whose tags are only learnt: %q", w)
	}
	learnt.Tags = []string{"posts"}
	if w := learnt.Warnings(); w != nil {
		t.Errorf("warnings = %q", w)
	}
}

var learning = RouteConfig{Path: "/api/list", Origin: "ORIGIN/list", Tags: []string{"posts"},
	LearnTags: &LearnTags{Headers: []string{"Surrogate-Key"}, JSON: []string{"items[*].author.id → author:{}"}}}

func TestPurgeOfALearntTagVoidsTheEntry(t *testing.T) {
	t.Parallel()
	s := newSite(t, says(`{"items":[{"author":{"id":7}},{"author":{"id":"x"}}]}`, "Surrogate-Key: front page:1"), learning)
	for _, tag := range []string{"author:7", "author:x", "front", "page:1", "posts"} {
		if a := s.get("/api/list"); a.header.Get("X-Cache") != "MISS" {
			t.Errorf("before a purge of %s: %v", tag, a)
		}
		if a := s.get("/api/list"); a.header.Get("X-Cache") != "HIT" {
			t.Errorf("again: %v", a)
		}
		s.purge(cache.Purge{Tags: []string{tag}})
	}
	s.get("/api/list")
	s.purge(cache.Purge{Tags: []string{"author:8"}})
	if a := s.get("/api/list"); a.header.Get("X-Cache") != "HIT" {
		t.Errorf("after a purge of another author: %v", a)
	}
}

func TestEveryEventVoidsWhatHasMoreTagsThanAreKept(t *testing.T) {
	t.Parallel()
	many := make([]string, maxLearntTags+1)
	for i := range many {
		many[i] = fmt.Sprintf("t%d", i)
	}
	much := ""
	for i := range 100 {
		much += fmt.Sprintf("%0200d ", i)
	}
	for name, tags := range map[string]string{"too many": strings.Join(many, " "), "too much": much, "too long": strings.Repeat("x", cache.MaxTag+1)} {
		for fault, untold := range map[string]bool{"as shipped": false, "nobody hears of it": true} {
			s := newSite(t, says(`{}`, "Surrogate-Key: "+tags), learning)
			s.reader.faults.cutUntold = untold
			s.get("/api/list")
			if a := s.get("/api/list"); a.header.Get("X-Cache") != "HIT" {
				t.Errorf("%s: not stored: %v", name, a.header)
			}
			s.purge(cache.Purge{Tags: []string{"of-something-else"}})
			if a := s.get("/api/list"); (a.header.Get("X-Cache") == "HIT") != untold {
				t.Errorf("%s, %s: %s after an event that may be its own", name, fault, a.header.Get("X-Cache"))
			}
		}
	}
}

func TestTagsAreToldToTrustedPeersOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t, says(`{"items":[{"author":{"id":"has blank"}},{"author":{"id":7}}]}`, "Surrogate-Key: front"))
	s.reader = New(s.store, func() string { return "" }, testkit.Logger(t), Config{TrustedProxies: []string{"192.0.2.0/24"}})
	cfg := learning
	cfg.EmitTags = []string{"Surrogate-Key", "cache-tag"}
	s.mount(cfg)
	ask := func(from string) http.Header {
		r := httptest.NewRequest("GET", "/api/list", nil)
		r.RemoteAddr = from
		r.Header.Set("X-Forwarded-For", "192.0.2.7")
		w := httptest.NewRecorder()
		s.reader.Handler(s.router).ServeHTTP(w, r)
		return w.Header()
	}
	for range 2 {
		for from, trusted := range map[string]bool{"192.0.2.1:1234": true, "[::ffff:192.0.2.1]:1": true, "198.51.100.1:1": false, "[::1]:1": false, "": false, "@": false} {
			h := ask(from)
			keys, tags := h.Get("Surrogate-Key"), h.Get("Cache-Tag")
			if want := "posts front author:7"; trusted && (keys != want || tags != strings.ReplaceAll(want, " ", ",")) || !trusted && keys+tags != "" {
				t.Errorf("%q is told %q and %q", from, keys, tags)
			}
		}
	}
	if value, cut := emit("Cache-Tag", slices.Repeat([]string{strings.Repeat("x", 250)}, 100)); len(value) > 16<<10 || cut != 35 {
		t.Errorf("%d bytes of tags, %d cut", len(value), cut)
	}
}

// pathsOf is what a path leads to, worked out the long way.
func pathsOf(v any, p jsonPath) []string {
	if len(p) == 0 {
		switch v := v.(type) {
		case string:
			return []string{v}
		case json.Number:
			return []string{v.String()}
		case bool:
			return []string{fmt.Sprint(v)}
		}
		return nil
	}
	var out []string
	switch v := v.(type) {
	case map[string]any:
		if !p[0].isElement() {
			if child, ok := v[p[0].name]; ok {
				out = pathsOf(child, p[1:])
			}
		}
	case []any:
		for i, child := range v {
			if p[0].isElement() && (p[0].index == every || p[0].index == i) {
				out = append(out, pathsOf(child, p[1:])...)
			}
		}
	}
	return out
}

func FuzzJSONPath(f *testing.F) {
	for _, seed := range [][2]string{
		{"items[*].id", `{"items":[{"id":1},{"id":"é\n"}]}`}, {"$[0][*]", `[[1,2],3]`}, {"a.b", `{"a":{"b":null}}`}, {"a", `{"a":"\ud800"}`}, {"[*]", "\ufeff[1e9 , -0.5]"},
		{"a.b.c", `{"a":{"b":{"c":{}}}}`}, {"x", `{"x":1,"y":{"x":2}}`}, {"a", `{"a":1`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, path, body string) {
		p, err := parseJSONPath(path)
		if err != nil {
			return
		}
		var got []string
		tree := &pathTree{}
		tree.add(p, 0)
		ok := tree.values([]byte(body), func(_ int, _ []int, text string) bool {
			got = append(got, text)
			return true
		})
		dec := json.NewDecoder(strings.NewReader(strings.TrimPrefix(body, "\ufeff")))
		dec.UseNumber()
		var doc any
		err = dec.Decode(&doc)
		if err == nil {
			if _, more := dec.Token(); more != io.EOF {
				err = fmt.Errorf("more follows")
			}
		}
		if ok != (err == nil) {
			t.Fatalf("%q is JSON: %v, %v", body, ok, err)
		}
		if want := pathsOf(doc, p); err == nil && !repeats(body) && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q in %q = %q, want %q", path, body, got, want)
		}
	})
}

// repeats reports whether an object in body may have a name twice: then we see
// both, and encoding/json the last.
func repeats(body string) bool {
	dec := json.NewDecoder(strings.NewReader(strings.TrimPrefix(body, "\ufeff")))
	seen := map[string]bool{}
	for {
		token, err := dec.Token()
		if err != nil {
			return false
		}
		if s, ok := token.(string); ok {
			if seen[s] {
				return true
			}
			seen[s] = true
		}
	}
}

func FuzzTagHeader(f *testing.F) {
	for _, h := range tagHeaders {
		f.Add(h.name, "a b,c")
	}
	for _, value := range []string{`"a", "b";x="y, z"`, `"\"", "`, ",,  ,", "\xff\x00", `"a";;,"b"`} {
		f.Add("Cache-Groups", value)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		c, err := compile(RouteConfig{Path: "/a", Origin: "http://cms/a", LearnTags: &LearnTags{Headers: []string{name}}})
		if err != nil {
			return
		}
		l := c.learnFrom(&place{}, http.Header{http.CanonicalHeaderKey(name): {value}}, nil, nil)
		size := 0
		for i, tag := range l.tags {
			size += len(tag)
			if tag == "" || len(tag) > cache.MaxTag || slices.Contains(l.tags[:i], tag) {
				t.Fatalf("%s: %q: tag %q", name, value, tag)
			}
		}
		if len(l.tags) > maxLearntTags || size > maxLearntBytes || (l.cut > 0) != l.incomplete {
			t.Fatalf("%s: %d tags of %d bytes, %d cut, incomplete %v", name, len(l.tags), size, l.cut, l.incomplete)
		}
		for header, separator := range maps.All(emitted) {
			out, cut := emit(header, l.tags)
			if len(out) > maxEmitted || cut+len(strings.FieldsFunc(out, func(r rune) bool { return string(r) == separator })) != len(l.tags) {
				t.Fatalf("%s: %q of %q, %d cut", header, out, l.tags, cut)
			}
		}
	})
}
