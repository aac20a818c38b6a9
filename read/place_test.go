package read

import (
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/gorilla/mux"
	"pgregory.net/rapid"
)

// placeFor routes target as a server would and returns what it asks for.
// found is false when the router itself answered.
func placeFor(t rapid.TB, cfg RouteConfig, target string) (p place, found bool, err error) {
	t.Helper()
	c, err := compile(cfg)
	if err != nil {
		t.Fatalf("compile(%+v): %v", cfg, err)
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return place{}, false, nil
	}
	router := mux.NewRouter()
	router.HandleFunc(cfg.Path, func(_ http.ResponseWriter, r *http.Request) {
		p, err = c.placeOf(r)
		found = true
	})
	r := &http.Request{Method: "GET", URL: u, Header: http.Header{}, RequestURI: target}
	router.ServeHTTP(discard{}, r)
	return p, found, err
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

func TestPlaceOfARequest(t *testing.T) {
	posts := RouteConfig{Path: "/api/posts/{id}", Origin: "http://cms/posts/{id}", Key: "post:{id}", Tags: []string{"posts", "post:{id}"}}
	list := RouteConfig{Path: "/api/posts", Origin: "http://cms/posts?per=10", Query: []string{"page", "lang"}}
	rest := RouteConfig{Path: "/c/{rest:.+}", Origin: "http://cms/x/{rest}?p={rest}"}
	for _, tc := range []struct {
		cfg                 RouteConfig
		target, key, origin string
	}{
		{posts, "/api/posts/42", "post:42", "http://cms/posts/42"},
		{posts, "/api/posts/42?utm_source=x&lang=de", "post:42", "http://cms/posts/42"},
		{posts, "/api/posts/a%3Ab", "post:a:b", "http://cms/posts/a:b"},
		{posts, "/api/posts/a%20b%3Fc%23d", "post:a b?c#d", "http://cms/posts/a%20b%3Fc%23d"},
		{posts, "/api/posts/%252e%252e", "post:%2e%2e", "http://cms/posts/%252e%252e"},
		{posts, "/api/posts/caf%C3%A9", "post:café", "http://cms/posts/caf%C3%A9"},
		{posts, "/api/posts/a@b", "post:a@b", "http://cms/posts/a@b"},
		{posts, `/api/posts/a%5Cb`, `post:a\b`, "http://cms/posts/a%5Cb"},
		{list, "/api/posts", "/api/posts", "http://cms/posts?per=10"},
		{list, "/api/posts?page=2&lang=de", "/api/posts?lang=de&page=2", "http://cms/posts?per=10&lang=de&page=2"},
		{list, "/api/posts?lang=de&page=2&x=1", "/api/posts?lang=de&page=2", "http://cms/posts?per=10&lang=de&page=2"},
		{list, "/api/posts?page=2&page=1", "/api/posts?page=2&page=1", "http://cms/posts?per=10&page=2&page=1"},
		{list, "/api/posts?page=a%26lang%3Dde", "/api/posts?page=a%26lang%3Dde", "http://cms/posts?per=10&page=a%26lang%3Dde"},
		{list, "/api/posts?per=99&%zz=1&page", "/api/posts?page=", "http://cms/posts?per=10&page="},
		{rest, "/c/a/b%2Fc", "/c/a/b/c", "http://cms/x/a/b/c?p=a%2Fb%2Fc"},
		{rest, "/c/a%3Fb%25", "/c/a%3Fb%25", "http://cms/x/a%3Fb%25?p=a%3Fb%25"},
	} {
		p, found, err := placeFor(t, tc.cfg, tc.target)
		if !found || err != nil || p.key != tc.key || p.origin != tc.origin {
			t.Errorf("%s → key %q, origin %q (found %v, %v), want %q and %q", tc.target, p.key, p.origin, found, err, tc.key, tc.origin)
		}
	}
	if p, _, _ := placeFor(t, posts, "/api/posts/42"); !reflect.DeepEqual(p.tags, []string{"posts", "post:42"}) || p.path != "/api/posts/42" {
		t.Errorf("tags %q and path %q", p.tags, p.path)
	}
}

func TestAddressesOfIllWillAreRefused(t *testing.T) {
	one := RouteConfig{Path: "/p/{id}", Origin: "http://cms/p/{id}", Query: []string{"q"}}
	two := RouteConfig{Path: "/p/x{a}", Origin: "http://cms/p/{a}/secret"}
	pair := RouteConfig{Path: "/p/{a}x{b}", Origin: "http://cms/p/{a}{b}/secret"}
	for _, tc := range []struct {
		cfg    RouteConfig
		target string
		want   error
	}{
		{one, "/p/a%00b", errAddress},
		{one, "/p/a%0d%0ab", errAddress},
		{one, "/p/%ff", errAddress},
		{one, "/p/" + strings.Repeat("x", maxValue+1), errAddress},
		{one, "/p/1?q=" + strings.Repeat("x", maxValue+1), errAddress},
		{one, "/p/1?q=a%0ab", errAddress},
		{one, "/p/1?q=%ff", errAddress},
		{one, "/p/1?" + strings.Repeat("q=1&", maxRepeats+1), errAddress},
		{one, "/p/1?" + strings.Repeat("z=1&", maxQuery), errAddress},
		{two, "/p/x..", errNowhere},
		{two, "/p/x%2e%2e", errNowhere},
		{two, "/p/x.", errNowhere},
		{pair, "/p/.x.", errNowhere},
	} {
		p, found, err := placeFor(t, tc.cfg, tc.target)
		if !found || !errors.Is(err, tc.want) {
			t.Errorf("%.60s → %+v (found %v, %v), want %v", tc.target, p, found, err, tc.want)
		}
	}
	for _, target := range []string{"/p/..", "/p/%2e%2e", "/p//x", "/p/x/../../y", "/p/a/b", "/p/a%2fb"} {
		if p, found, _ := placeFor(t, one, target); found {
			t.Errorf("%s → %+v, want the router to answer", target, p)
		}
	}
	c, err := compile(one)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"", "p", "//p", "/p/../x", "/p/./x", "/p//x", "/a/.."} { // another router may not clean
		if _, err := c.placeOf(&http.Request{URL: &url.URL{Path: p}}); !errors.Is(err, errAddress) {
			t.Errorf("path %q: %v, want errAddress", p, err)
		}
	}
}

// Different content must have different names: two requests to one route with
// one key (without a key of the config's) or one source have one origin URL.
func TestDefaultKeysAreInjective(t *testing.T) {
	cfg := RouteConfig{Path: "/{a}/{rest:.*}", Origin: "http://cms/{a}/{rest}", Query: []string{"q", "r"}}
	text := rapid.StringOf(rapid.SampledFrom([]rune("ab:/%?&=#;+ é.")))
	draw := func(t *rapid.T, name string) (place, bool) {
		target := (&url.URL{Path: "/" + text.Draw(t, name+" path") + "/" + text.Draw(t, name+" rest")}).EscapedPath()
		query := url.Values{}
		for _, q := range []string{"q", "r"} {
			if rapid.Bool().Draw(t, name+" has "+q) {
				query.Set(q, text.Draw(t, name+" "+q))
			}
		}
		p, found, err := placeFor(t, cfg, target+"?"+query.Encode())
		return p, found && err == nil
	}
	rapid.Check(t, func(t *rapid.T) {
		a, ok := draw(t, "a")
		if !ok {
			t.Skip()
		}
		b, ok := draw(t, "b")
		if !ok {
			t.Skip()
		}
		if (a.key == b.key) != (a.origin == b.origin) || (a.source == b.source) != (a.origin == b.origin) {
			t.Fatalf("%q and %q: keys %q and %q, sources %q and %q", a.origin, b.origin, a.key, b.key, a.source, b.source)
		}
	})
}

// Whatever stands in the address, the origin's host, its path up to the first
// name and its own query stay as configured.
func FuzzKey(f *testing.F) {
	for _, seed := range []string{"/api/1/x", "/api/a%2Fb/../x?lang=de", "/api/%2e%2e/x", "/api/@evil.example/x", "/api/1/x?lang=%26token%3D2", "/api/1%3Ftoken=2/x", "/api/%00/x", `/api/\\evil/x`, "/api/1/x?lang=1;lang=2"} {
		f.Add(seed)
	}
	cfg := RouteConfig{Path: "/api/{id}/{rest:.*}", Origin: "https://cms.local:8443/v1/{id}/{rest}?token=1&id={id}", Query: []string{"lang"}}
	f.Fuzz(func(t *testing.T, target string) {
		p, found, err := placeFor(t, cfg, target)
		if !found || err != nil {
			return
		}
		u, err := url.Parse(p.origin)
		if err != nil {
			t.Fatalf("%q: origin %q is not a URL: %v", target, p.origin, err)
		}
		if u.Scheme != "https" || u.Host != "cms.local:8443" || u.User != nil || u.Fragment != "" || !strings.HasPrefix(u.Path, "/v1/") {
			t.Fatalf("%q reaches %q", target, p.origin)
		}
		if strings.Contains(u.Path+"/", "/../") || strings.Contains(u.Path+"/", "/./") {
			t.Fatalf("%q leaves the path: %q", target, p.origin)
		}
		for name, values := range u.Query() {
			if name != "token" && name != "id" && name != "lang" || name != "lang" && len(values) != 1 || name == "token" && values[0] != "1" {
				t.Fatalf("%q changes the query: %q", target, p.origin)
			}
		}
		if len(p.key) == 0 || len(p.key) > 1024 || hasControl(p.key) {
			t.Fatalf("%q: key %q", target, p.key)
		}
	})
}
