package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestGlobMatchesAsRedisDoes(t *testing.T) {
	type row struct {
		pattern, s string
		want       bool
	}
	match := func(pattern, s string) row { return row{pattern, s, true} }
	miss := func(pattern, s string) row { return row{pattern, s, false} }
	tests := []row{
		match("post:42", "post:42"),
		miss("post:4", "post:42"),
		miss("post:42", "post:4"),
		match("post:*", "post:42"),
		match("post:*", "post:"),
		miss("post:*", "page:42"),
		match("*", "a/b"), // unlike path.Match
		match("/blog/*", "/blog/2026/11/hello"),
		match("*/hello", "/blog/hello"),
		match("a?c", "a/c"),
		miss("a?c", "ac"),
		match(`post:\*`, "post:*"), // an escaped star is a star
		miss(`post:\*`, "post:42"),
		match("[a-c]x", "bx"),
		match("[c-a]x", "bx"), // a range may stand backwards
		miss("[^a-c]x", "bx"),
		match("[^a-c]x", "dx"),
		match(`[\]]`, "]"),
		match(`[\^]`, "^"),
		match("[ab", "b"), // an unterminated class ends with the pattern
		match("[^", "x"),
		miss("[", "["),
		match("[a-]b]", "]") /* the range a to ] */, miss("[a-]", "b"),
		match(`a\`, `a\`), // a trailing \ is itself
		match("a*b*c", "a-b-b-c"),
		miss("a*b*c", "a-c-b"),
		match("**a**", "bab"),
	}
	for _, tt := range tests {
		if got := matchGlob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("matchGlob(%q, %q) = %t, want %t", tt.pattern, tt.s, got, tt.want)
		}
	}
}

// The real server is asked for thousands of patterns over keys made of the
// same few characters, so that about as many match as do not.
func TestGlobAgreesWithServer(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	rng := rand.New(rand.NewPCG(7, 42))
	pick := func(alphabet []string, atMost int) string {
		var b strings.Builder
		for range 1 + rng.IntN(atMost) {
			b.WriteString(alphabet[rng.IntN(len(alphabet))])
		}
		return b.String()
	}
	letters := []string{"a", "b", "c", "z", "/", "*", "?", "[", "]", "^", "-", `\`, "é"}
	pieces := append([]string{"*", "*", "?", "[a-c]", "[^a]", "[z-a]", "[^z-b/]", `\*`, `\[`, `[\]a]`, "[a-]", "[]", "[^]", "[^"}, letters[:12]...)

	keys := map[string]bool{}
	for len(keys) < 300 {
		keys[pick(letters, 6)] = true
	}
	pipe := rdb.Pipeline()
	for key := range keys {
		pipe.Set(t.Context(), key, "", 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}

	matches := 0
	const patterns = 6000
	for range patterns {
		pattern := pick(pieces, 7)
		if rng.IntN(10) == 0 {
			pattern += `\`
		}
		found, err := rdb.Keys(t.Context(), pattern).Result()
		if err != nil {
			t.Fatalf("KEYS %q: %v", pattern, err)
		}
		server := map[string]bool{}
		for _, key := range found {
			server[key] = true
		}
		matches += len(found)
		for key := range keys {
			if got := matchGlob(pattern, key); got != server[key] {
				t.Fatalf("matchGlob(%q, %q) = %t, the server says %t", pattern, key, got, server[key])
			}
		}
	}
	if matches < patterns {
		t.Errorf("%d patterns matched %d keys: too few to prove anything", patterns, matches)
	}
}

func TestBadPatternsAreRefused(t *testing.T) {
	tests := []struct{ name, pattern, says string }{
		{"empty", "", "empty"},
		{"too long", strings.Repeat("a", maxGlob+1), "513 bytes"},
		{"too many stars", strings.Repeat("*a", maxGlobStars+1), "17 stars"},
		{"open class", "post:[0-9", "[ without ]"},
		{"open class after a range that took the bracket", "post:[a-]", "[ without ]"},
		{"open class whose bracket is escaped", `[a\]`, "[ without ]"},
		{"open class at the end", "post:[", "[ without ]"},
		{"empty class", "a[]b", "empty class"},
		{"empty negated class", "a[^]b", "empty class"},
		{"trailing backslash", `post:\`, `ends in \`},
		{"half a letter", "[é]", "ASCII"},
	}
	for _, tt := range tests {
		err := validGlob(tt.pattern)
		if !errors.Is(err, ErrGlob) || !strings.Contains(fmt.Sprint(err), tt.says) {
			t.Errorf("%s: validGlob(%q) = %v, want %q", tt.name, tt.pattern, err, tt.says)
		}
	}
	for _, pattern := range []string{"*", "products:*", "[a-z]*", "[^a]", `a\[b`, "[z-a]", "é*", strings.Repeat("*", maxGlob)} {
		if err := validGlob(pattern); err != nil {
			t.Errorf("validGlob(%q) = %v, want nil", pattern, err)
		}
	}
}

func TestEscapedValueMatchesItselfAlone(t *testing.T) {
	values := []string{"a", "*", "a*b", "?", "[a-z]", `\`, `\*`, "^", "a-b", "]", "é[", "**"}
	for _, pattern := range values {
		for _, s := range values {
			if got := matchGlob(EscapeGlob(pattern), s); got != (pattern == s) {
				t.Errorf("matchGlob(EscapeGlob(%q), %q) = %t", pattern, s, got)
			}
		}
	}
}

// Steps, not time: the pattern that is slow for a matcher that tries every
// star at every place is 2^n for it and n×m here.
func TestHostilePatternCostsBoundedWork(t *testing.T) {
	pattern := strings.Repeat("*a", maxGlobStars) + "b"
	s := strings.Repeat("a", 4096)
	allocs := testing.AllocsPerRun(10, func() {
		if matchGlob(pattern, s) {
			t.Error("matched")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a match, want 0", allocs)
	}
}

func BenchmarkGlob(b *testing.B) {
	for _, tt := range []struct{ name, pattern, s string }{
		{"prefix", "products:*", "products:category:shoes"},
		{"miss", "products:*", "post:42"},
		{"hostile", strings.Repeat("*a", maxGlobStars) + "b", strings.Repeat("a", 1024)},
	} {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				matchGlob(tt.pattern, tt.s)
			}
		})
	}
}

func FuzzGlob(f *testing.F) {
	for _, pattern := range []string{"*", "a*b", "[a-c]", "[^", "[z-a]", `\`, `[\]`, "a[b", strings.Repeat("*a", 40), "[a-]", "é?"} {
		f.Add(pattern, "a/b]c^")
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 2*maxGlob || len(s) > 4096 {
			return
		}
		matched := matchGlob(pattern, s)
		if want := slowGlob(pattern, s); matched != want {
			t.Errorf("matchGlob(%q, %q) = %t, want %t", pattern, s, matched, want)
		}
		if matched && validGlob(pattern) == nil {
			scan := scanPattern("fw:e:{", pattern, "}", percent)
			if name := "fw:e:{" + percent(s) + "}"; !matchGlob(scan, name) {
				t.Errorf("%q matches %q, but SCAN with %q does not find %q", pattern, s, scan, name)
			}
		}
		if s != "" && !matchGlob(EscapeGlob(s), s) {
			t.Errorf("matchGlob(EscapeGlob(%q)) misses itself", s)
		}
	})
}

// slowGlob is the obvious matcher: which places can be reached after each item.
func slowGlob(pattern, s string) bool {
	reach := make([]bool, len(s)+1)
	reach[0] = true
	for len(pattern) > 0 {
		next := make([]bool, len(s)+1)
		n := 1
		for j := range reach {
			if pattern[0] == '*' {
				next[j] = reach[j] || j > 0 && next[j-1]
			} else if j < len(s) {
				var ok bool
				n, ok = matchItem(pattern, s[j])
				next[j+1] = reach[j] && ok
			}
		}
		if len(s) == 0 && pattern[0] != '*' {
			return false
		}
		reach, pattern = next, pattern[n:]
	}
	return reach[len(s)]
}

// percent escapes as names of keys are, without asking how they do it.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte("{}*?[]\\^% ", s[i]) >= 0 || s[i] < 32 || s[i] == 127 {
			fmt.Fprintf(&b, "%%%02X", s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
