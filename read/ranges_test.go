package read

import (
	"net/http"
	"strings"
	"testing"
)

func TestRangeOfABody(t *testing.T) {
	const tag, size = `"v1"`, 10
	for _, tc := range []struct {
		header, condition string
		want              span
		kind              rangeKind
	}{
		{"bytes=0-4", "", span{0, 5}, onePart}, {"bytes=5-", "", span{5, 10}, onePart}, {"bytes=-3", "", span{7, 10}, onePart}, {"Bytes=0-0", "", span{0, 1}, onePart},
		{"bytes=0-99", "", span{0, 10}, onePart}, {"bytes=-99", "", span{0, 10}, onePart}, {"bytes=9-9", "", span{9, 10}, onePart}, {"bytes= 2-3 ", "", span{2, 4}, onePart},
		{"bytes=10-", "", span{}, nowhere}, {"bytes=10-20", "", span{}, nowhere}, {"bytes=-0", "", span{}, nowhere}, {"bytes=99999999999999999999-", "", span{}, nowhere},
		{"bytes=0-1,4-5", "", span{}, wholeBody}, {"bytes=4-2", "", span{}, wholeBody}, {"bytes=-", "", span{}, wholeBody}, {"bytes=a-b", "", span{}, wholeBody},
		{"items=0-1", "", span{}, wholeBody}, {"bytes", "", span{}, wholeBody}, {"bytes=0x1-2", "", span{}, wholeBody}, {"bytes=+1-2", "", span{}, wholeBody}, {"bytes=--2", "", span{}, wholeBody},
		{"bytes=0-4", `"v1"`, span{0, 5}, onePart}, {"bytes=0-4", `"v0"`, span{}, wholeBody}, {"bytes=0-4", `W/"v1"`, span{}, wholeBody},
		{"bytes=0-4", "Mon, 01 Jan 2035 00:00:00 GMT", span{}, wholeBody}, {"bytes=0-4", `"v1-gzip"`, span{}, wholeBody},
	} {
		h := http.Header{"Range": {tc.header}}
		if tc.condition != "" {
			h["If-Range"] = []string{tc.condition}
		}
		if got, kind := rangeOf(h, tag, size); got != tc.want || kind != tc.kind {
			t.Errorf("%s, If-Range %s: %v %d, want %v %d", tc.header, tc.condition, got, kind, tc.want, tc.kind)
		}
	}
	if _, kind := rangeOf(http.Header{"Range": {"bytes=-5"}}, tag, 0); kind != nowhere {
		t.Error("a part of an empty body is found")
	}
}

func TestPartsAreOfThePlainBody(t *testing.T) {
	t.Parallel()
	s := newSite(t, says(longText, "Content-Type: application/json", `ETag: "v1"`), posts)
	for range 2 { // from the origin, then from the cache
		a := s.get("/api/posts/1", "Range: bytes=9-17", "Accept-Encoding: gzip", `If-Range: "v1"`)
		if a.status != 206 || a.body != longText[9:18] || a.header.Get("Content-Range") != "bytes 9-17/10511" || a.header.Get("Content-Length") != "9" ||
			a.header.Get("Etag") != `"v1"` || a.header.Get("Content-Encoding") != "" || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("a part = %v with %v", a, a.header)
		}
	}
	whole := s.get("/api/posts/1")
	if whole.status != 200 || whole.body != longText || whole.header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("after a part the whole = %.60v with %v", whole, whole.header)
	}
	if a := s.get("/api/posts/1", "Range: bytes=99999-"); a.status != 416 || a.header.Get("Content-Range") != "bytes */10511" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("beyond the end = %v with %v", a, a.header)
	}
	if a := s.get("/api/posts/1", "Range: bytes=0-1", `If-None-Match: "v1"`); a.status != 304 {
		t.Errorf("a part of what the client has = %v, want 304", a)
	}
	for _, h := range []string{"Range: bytes=0-1,3-4", "Range: lines=1-2"} {
		if a := s.get("/api/posts/1", h); a.status != 200 || a.body != longText {
			t.Errorf("%s = %d, want the whole", h, a.status)
		}
	}
	if a := s.do("HEAD", "/api/posts/1", "Range: bytes=0-1"); a.status != 200 {
		t.Errorf("HEAD with a range = %v", a)
	}
	if n := s.calls(); n != 1 {
		t.Errorf("the origin was asked %d times, want once, for the whole", n)
	}
	if got := s.lastCall().Header.Get("Range"); got != "" {
		t.Errorf("the origin was asked for %q", got)
	}
}

func FuzzRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-", "bytes=-1", "bytes=1-0", "bytes=9999999999999999999-", "bytes=0-0,1-1", "bytes=-"} {
		f.Add(seed, 10)
	}
	f.Fuzz(func(t *testing.T, header string, size int) {
		if size < 0 {
			return
		}
		part, kind := rangeOf(http.Header{"Range": {header}}, "", size)
		switch {
		case kind == onePart && (part.begin < 0 || part.begin >= part.end || part.end > size):
			t.Fatalf("%q of %d = %v", header, size, part)
		case kind != wholeBody && (!strings.HasPrefix(strings.ToLower(header), "bytes=") || strings.Contains(header, ",")):
			t.Fatalf("%q of %d = %v %d", header, size, part, kind)
		}
	})
}
