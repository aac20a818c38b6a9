package read

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/freshwire/freshwire/cache"
)

func TestCodingIsTheOneThatTheClientWantsMost(t *testing.T) {
	for _, tc := range []struct {
		accept string
		want   coding
	}{
		{"", identity}, {"gzip", gzipped}, {"zstd", zstandard}, {"br", identity}, {"identity", identity}, {"*", zstandard},
		{"gzip, deflate, br, zstd", zstandard}, {"gzip, deflate, br", gzipped}, {"GZIP", gzipped}, {"x-gzip", gzipped}, {" zstd ; q=0.5 , gzip ; q=0.9", gzipped},
		{"zstd;q=0", identity}, {"zstd;q=0, gzip", gzipped}, {"gzip;q=0.001", gzipped}, {"gzip;q=0.000", identity}, {"gzip;q=1.000", gzipped},
		{"gzip;q=0.5, identity", identity}, {"gzip;q=0.5, identity;q=0.5", gzipped}, {"*;q=0", identity}, {"*;q=0, gzip", gzipped}, {"gzip;q=0, *", zstandard},
		{"identity;q=0", identity}, {"identity;q=0, zstd;q=0.1", zstandard}, {"zstd;q=2", identity}, {"zstd;q=", identity}, {"zstd;q=0.1234", identity}, {"zstd;q=-1", identity},
		{"zstd;level=9", zstandard}, {"zstd;level=9;q=0", identity}, {",,zstd,,", zstandard}, {"zstdx", identity}, {"gzip;q=0.3, gzip;q=0.8, zstd;q=0.5", gzipped},
	} {
		if got := acceptedBy([]string{tc.accept}).best(); got != tc.want {
			t.Errorf("%q → %s, want %s", tc.accept, codingNames[got], codingNames[tc.want])
		}
	}
	if got := acceptedBy([]string{"gzip;q=0.1", "zstd;q=0.2"}).best(); got != zstandard {
		t.Errorf("two lines → %s, want zstd", codingNames[got])
	}
	if got := acceptedBy(nil).best(); got != identity {
		t.Errorf("no header → %s, want the plain form", codingNames[got])
	}
}

func TestOnlyTextIsPacked(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/json": true, "APPLICATION/JSON; charset=utf-8": true, "text/html": true, "application/vnd.api+json": true, "image/svg+xml": true,
		"application/javascript": true, "application/wasm": true, "application/rss+xml": true, "font/ttf": true,
		"": false, "image/png": false, "video/mp4": false, "application/zip": false, "font/woff2": false, "application/octet-stream": false, "application/pdf": false,
	} {
		if got := packable(contentType); got != want {
			t.Errorf("packable(%q) = %v", contentType, got)
		}
	}
}

var longText = `{"text":"` + strings.Repeat("all work and no play ", 500) + `"}`

func unpack(t *testing.T, coding, body string) string {
	t.Helper()
	var from io.Reader = strings.NewReader(body)
	var err error
	switch coding {
	case "gzip":
		from, err = gzip.NewReader(from)
	case "zstd":
		from, err = zstd.NewReader(from)
	}
	if err != nil {
		t.Fatalf("%s: %v", coding, err)
	}
	var out bytes.Buffer
	if _, err := io.Copy(&out, from); err != nil {
		t.Fatalf("%s: %v", coding, err)
	}
	return out.String()
}

func TestTextIsSentInTheClientsCoding(t *testing.T) {
	t.Parallel()
	s := newSite(t, says(longText, "Content-Type: application/json", `ETag: "v1"`), posts)
	for _, round := range []string{"MISS", "HIT"} {
		for accept, want := range map[string]string{"": "", "gzip": "gzip", "zstd, gzip": "zstd", "br": "", "gzip;q=0": ""} {
			if round == "MISS" {
				s.purge(cache.Purge{Tags: []string{"posts"}})
			}
			a := s.get("/api/posts/1", "Accept-Encoding: "+accept)
			if got := a.header.Get("Content-Encoding"); got != want || a.header.Get("X-Cache") != round {
				t.Errorf("%s, %q: Content-Encoding %q, X-Cache %s", round, accept, got, a.header.Get("X-Cache"))
			}
			if got := unpack(t, want, a.body); got != longText {
				t.Errorf("%s, %q: the body is %.60q…", round, accept, got)
			}
			if want != "" && len(a.body) > len(longText)/2 {
				t.Errorf("%s, %q: %d bytes of %d", round, accept, len(a.body), len(longText))
			}
			tag := `"v1"`
			if want != "" {
				tag = `"v1-` + want + `"`
			}
			if got := a.header.Get("Etag"); got != tag {
				t.Errorf("%s, %q: ETag %s, want %s", round, accept, got, tag)
			}
			if got := a.header.Get("Vary"); got != "Origin, Accept-Encoding" {
				t.Errorf("%s, %q: Vary %q", round, accept, got)
			}
			head := s.do("HEAD", "/api/posts/1", "Accept-Encoding: "+accept)
			for _, name := range []string{"Content-Length", "Content-Encoding", "Etag", "Vary", "Content-Type"} {
				if head.header.Get(name) != a.header.Get(name) {
					t.Errorf("%s, %q: %s of HEAD = %q, of GET %q", round, accept, name, head.header.Get(name), a.header.Get(name))
				}
			}
		}
	}
	if n := s.calls(); n != 5 {
		t.Errorf("the origin was asked %d times, want once for each purge", n)
	}
}

// A tag of a coding that the client does not take would let a cache between
// give it bytes that it cannot read.
func TestConditionIsUnderstoodInEachCodingThatTheClientTakes(t *testing.T) {
	t.Parallel()
	for name, anyCoding := range map[string]bool{"as shipped": false, "tags of all codings count": true} {
		s := newSite(t, says(longText, "Content-Type: application/json", `ETag: "v1"`), posts)
		s.reader.faults.anyCoding = anyCoding
		s.get("/api/posts/1")
		for _, tc := range []struct {
			accept, tags string
			want         string // tag of the 304, "" for a 200
		}{
			{"", `"v1"`, `"v1"`}, {"gzip", `"v1-gzip"`, `"v1-gzip"`}, {"gzip", `W/"v1-gzip"`, `"v1-gzip"`}, {"gzip, zstd", `"v1-gzip"`, `"v1-gzip"`},
			{"zstd", `"v1"`, `"v1"`}, {"gzip", `"v0", "v1-gzip"`, `"v1-gzip"`}, {"zstd", `*`, `"v1-zstd"`}, {"", `"v0-gzip"`, ""},
			{"gzip, identity;q=0", `"v1-gzip"`, `"v1-gzip"`}, {"gzip", `"v1-br"`, ""},
			{"gzip", `"v1-zstd"`, ""}, {"", `"v1-gzip"`, ""}, {"gzip, identity;q=0", `"v1"`, ""},
		} {
			a := s.get("/api/posts/1", "Accept-Encoding: "+tc.accept, "If-None-Match: "+tc.tags)
			got := ""
			if a.status == 304 {
				got = a.header.Get("Etag")
			}
			foreign := tc.want == "" && (strings.Contains(tc.tags, "zstd") || strings.Contains(tc.tags, "v1-gzip") || strings.Contains(tc.accept, "identity"))
			if (got == tc.want) == (anyCoding && foreign) {
				t.Errorf("%s: %q with %s: %d %s, want %q", name, tc.accept, tc.tags, a.status, a.header.Get("Etag"), tc.want)
			}
			if a.status == 304 && (a.header.Get("Content-Encoding") != "" || a.header.Get("Vary") != "Origin, Accept-Encoding") {
				t.Errorf("%s: headers of the 304: %v", name, a.header)
			}
		}
	}
}

func TestOriginsBytesAreLeftAloneWhereItSaysSo(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]string{
		"no-transform": {"Content-Type: application/json", "Cache-Control: max-age=60, no-transform"},
		"an image":     {"Content-Type: image/png"},
	} {
		s := newSite(t, says(longText, headers...), posts)
		for range 2 {
			a := s.get("/api/posts/1", "Accept-Encoding: gzip, zstd")
			if a.header.Get("Content-Encoding") != "" || a.body != longText {
				t.Errorf("%s: Content-Encoding %q", name, a.header.Get("Content-Encoding"))
			}
		}
	}
}

func FuzzAcceptEncoding(f *testing.F) {
	for _, seed := range []string{"", "gzip", "*;q=0", "zstd;q=0.5,gzip;q=1", "gzip;q=0.0001", ";q", "identity;q=0,*;q=0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		a := acceptedBy([]string{accept})
		for c, q := range a {
			if q < 0 || q > 1000 {
				t.Fatalf("%q: weight of %s = %d", accept, codingNames[c], q)
			}
			if coding(c) != identity && q > 0 && !strings.Contains(strings.ToLower(accept), codingNames[c]) && !strings.Contains(accept, "*") {
				t.Fatalf("%q: %s is wanted, but not named", accept, codingNames[c])
			}
		}
		if best := a.best(); !a.takes(best) {
			t.Fatalf("%q: %s is sent, but not taken", accept, codingNames[best])
		}
		if split := acceptedBy(http.Header{"A": strings.Split(accept, ",")}["A"]); split != a {
			t.Fatalf("%q = %v on one line, %v on several", accept, a, split)
		}
	})
}
