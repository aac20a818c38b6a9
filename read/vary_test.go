package read

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/cache"
)

var spoken = RouteConfig{Path: "/api/home", Origin: "ORIGIN/home", Key: "home", Tags: []string{"home"}, Query: []string{"page"},
	Vary: map[string][]string{"accept-language": {"en", "de", "pt-BR"}, "X-Market": {"eu", "us"}}}

func TestRequestHeadersAreTakenForOneOfTheListed(t *testing.T) {
	c, err := compile(RouteConfig{Path: "/a", Origin: "http://cms/a", Vary: spoken.Vary})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ language, market, want string }{
		{"", "", "en eu"}, {"de", "", "de eu"}, {"de-AT, en;q=0.8", "US", "de us"}, {"pt", " us ", "pt-BR us"}, {"fr, de;q=0.5", "x", "de eu"},
		{"zh", "", "en eu"}, {"*", "", "en eu"}, {"de;q=0, en", "", "en eu"}, {strings.Repeat("de,", 200), "", "en eu"}, {";;;", "us,eu", "en eu"}, {"\x00", "\x00", "en eu"},
	} {
		h := http.Header{}
		if tc.language != "" {
			h["Accept-Language"] = []string{tc.language}
		}
		if tc.market != "" {
			h["X-Market"] = []string{tc.market}
		}
		for range 2 { // worked out, then remembered
			if got := strings.Join(c.variantValues(c.variantOf(h)), " "); got != tc.want {
				t.Errorf("%q and %q → %s, want %s", tc.language, tc.market, got, tc.want)
			}
		}
	}
	for n := range c.variants() {
		if back, ok := c.variantNamed(c.variantText(n)); !ok || back != n {
			t.Errorf("variant %d is named %q, which names %d", n, c.variantText(n), back)
		}
	}
	if c.variants() != 6 {
		t.Errorf("%d variants, want 6", c.variants())
	}
}

func TestVariantsAreEntriesOfTheirOwnWithOneName(t *testing.T) {
	t.Parallel()
	for name, shared := range map[string]bool{"as shipped": false, "variants share a key": true} {
		s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Vary", "Accept-Language, X-Market, Accept-Encoding")
			fmt.Fprint(w, r.Header.Get("Accept-Language"), " ", r.Header.Get("X-Market"))
		})
		s.reader.faults.variantsShared = shared
		s.mount(spoken)
		mixed := false
		for _, round := range []string{"MISS", "HIT"} {
			for header, want := range map[string]string{"Accept-Language: de-CH": "de eu", "Accept-Language: en-GB": "en eu", "X-Market: us": "en us"} {
				a := s.get("/api/home?page=1&x=2", header)
				mixed = mixed || a.body != want
				if !shared {
					s.expect(header, a, fmt.Sprintf("200 %s %q", round, want))
				}
				if got := a.header.Get("Vary"); !shared && got != "Origin, Accept-Language, X-Market" {
					t.Errorf("%s: Vary = %q", header, got)
				}
			}
		}
		if mixed != shared {
			t.Errorf("%s: variants were mixed up: %v", name, mixed)
		}
		if shared {
			continue
		}
		if got := s.get("/api/home?page=1", "X-Market: us", "Accept-Language: de").header.Get("Cache-Status"); got != "freshwire; fwd=vary-miss; stored" && got != "freshwire; fwd=uri-miss; stored" {
			t.Errorf("Cache-Status of another address = %q", got)
		}
		if got := s.get("/api/home?page=1&x=2", "X-Market: us", "Accept-Language: pt").header.Get("Cache-Status"); got != "freshwire; fwd=vary-miss; stored" {
			t.Errorf("Cache-Status of another variant = %q", got)
		}
		s.purge(cache.Purge{Keys: []string{"home"}})
		for _, header := range []string{"Accept-Language: de", "X-Market: us"} {
			if a := s.get("/api/home?page=1&x=2", header); a.header.Get("X-Cache") != "MISS" {
				t.Errorf("%s after a purge of the key = %v", header, a)
			}
		}
	}
}

func TestWhatVariesByOtherHeadersIsNotStored(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x", "Vary: Accept-Language, Cookie"), spoken)
	for range 2 {
		a := s.get("/api/home")
		s.expect("a cookie", a, `200 MISS "x"`)
		if got := strings.Join(a.header.Values("Vary"), ", "); got != "Origin, Accept-Language, X-Market, Accept-Language, Cookie" {
			t.Errorf("Vary = %q", got)
		}
	}
}

func TestVaryIsCheckedAtStart(t *testing.T) {
	many := make([]string, 33)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for name, tc := range map[string]struct {
		vary map[string][]string
		want string
	}{
		"too many":       {map[string][]string{"X-A": many}, "more than 32"},
		"a product":      {map[string][]string{"X-A": many[:6], "X-B": many[:6]}, "more than 32"},
		"a cookie":       {map[string][]string{"cookie": {"a"}}, "Cookie cannot be one"},
		"authorization":  {map[string][]string{"Authorization": {"a"}}, "cannot be one"},
		"coding":         {map[string][]string{"Accept-Encoding": {"gzip"}}, "cannot be one"},
		"no values":      {map[string][]string{"X-A": nil}, "no values"},
		"twice":          {map[string][]string{"X-A": {"a", "A"}}, "twice"},
		"header twice":   {map[string][]string{"X-A": {"a"}, "x-a": {"b"}}, "twice"},
		"set already":    {map[string][]string{"X-Set": {"a"}}, "set by headers"},
		"no language":    {map[string][]string{"Accept-Language": {"not a language"}}, "not a language"},
		"a bad value":    {map[string][]string{"X-A": {"a\r\nb"}}, "not a value"},
		"no header name": {map[string][]string{"X A": {"a"}}, "not the name"},
	} {
		err := RouteConfig{Path: "/a", Origin: "http://cms/a", Headers: map[string]string{"X-Set": "1"}, Vary: tc.vary}.Validate()
		if got := mistakes(err); len(got) != 1 || got[0].YAMLPath() != "vary" || !strings.Contains(got[0].Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func FuzzVaryValue(f *testing.F) {
	for _, seed := range []string{"de", "de-AT;q=0.9, en", "*", "x-klingon", strings.Repeat("a-", 100), "de\xff", ",,,"} {
		f.Add(seed, seed)
	}
	c, err := compile(RouteConfig{Path: "/a", Origin: "http://cms/a", Vary: spoken.Vary})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, language, market string) {
		h := http.Header{"Accept-Language": {language}, "X-Market": {market, market}}
		n := c.variantOf(h)
		if n < 0 || n >= c.variants() {
			t.Fatalf("%q, %q: variant %d", language, market, n)
		}
		values := c.variantValues(n)
		if !slices.Contains(spoken.Vary["accept-language"], values[0]) || !slices.Contains(spoken.Vary["X-Market"], values[1]) {
			t.Fatalf("%q, %q: the origin would be sent %q", language, market, values)
		}
	})
}
