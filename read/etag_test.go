package read

import (
	"net/http"
	"strings"
	"testing"
)

func TestIfNoneMatchComparesWeakly(t *testing.T) {
	const tag = `"abc"`
	for list, want := range map[string]bool{
		`"abc"`: true, `W/"abc"`: true, `"x", "abc"`: true, `"x",W/"abc" , "y"`: true, `*`: true, ` * `: true, `,, "abc"`: true,
		`"abcd"`: false, `abc`: false, `"ABC"`: false, ``: false, `"x", *`: false, `w/"abc"`: false, `"abc`: false,
		`"x, "abc"`: false, `"a,b"`: false, `"x""abc"`: true,
	} {
		if got := matches(list, tag); got != want {
			t.Errorf("matches(%s, %s) = %v, want %v", list, tag, got, want)
		}
	}
	if !matches(`"x", "a,b"`, `"a,b"`) {
		t.Error("a comma within a tag ends it")
	}
	if !has(http.Header{"If-None-Match": {`"x"`, `"abc"`}}, tag) {
		t.Error("the second line of If-None-Match is not read")
	}
}

func TestETagIsTheOriginsWhenStrong(t *testing.T) {
	ours := `"` + strings.Repeat("0", 32) + `"`
	for given, keep := range map[string]bool{
		`"v1"`: true, `"a,b"`: true, `"é"`: true,
		`W/"v1"`: false, `v1`: false, `"`: false, ``: false, `"a"b"`: false, `"a b"`: false, `"` + strings.Repeat("x", 256) + `"`: false,
	} {
		got := etagOf(response{header: http.Header{"Etag": {given}}, body: []byte("hello")})
		if (got == given) != keep || !keep && len(got) != len(ours) {
			t.Errorf("etagOf with %s = %s, want it kept: %v", given, got, keep)
		}
	}
	if got := etagOf(response{header: http.Header{"Etag": {`"v1"`}}, body: []byte("hello"), decoded: true}); got == `"v1"` {
		t.Error("the tag of a compressed body is given to the plain one")
	}
	if a, b := etagOf(response{body: []byte("a")}), etagOf(response{body: []byte("b")}); a == b || !isStrong(a) {
		t.Errorf("tags of different bodies: %s and %s", a, b)
	}
}

func FuzzIfNoneMatch(f *testing.F) {
	for _, seed := range []string{`"abc"`, `W/"abc", "x"`, `*`, `"`, `,"`, `W/`, `"a,b",`} {
		f.Add(seed, "abc")
	}
	f.Fuzz(func(t *testing.T, list, opaque string) {
		tag := `"` + opaque + `"`
		got := matches(list, tag)
		if got && strings.TrimSpace(list) != "*" && !strings.Contains(list, tag) {
			t.Fatalf("matches(%q, %q) = true, but it is not there", list, tag)
		}
		if isStrong(tag) {
			for _, l := range []string{tag, "W/" + tag, `"other", ` + tag, tag + ", " + list} {
				if !matches(l, tag) {
					t.Fatalf("matches(%q, %q) = false", l, tag)
				}
			}
		}
	})
}
