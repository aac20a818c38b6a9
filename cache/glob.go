package cache

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of a pattern. A match costs at most len(pattern) × len(key) steps here;
// servers before Redis 7.0.9 need exponential time in the number of stars
// (CVE-2022-36021), and SCAN sends the pattern to them.
const (
	maxGlob      = 512
	maxGlobStars = 16
)

// ErrGlob is wrapped by every complaint about a pattern.
var ErrGlob = errors.New("cache: bad pattern")

// validGlob reports why a pattern is refused. Redis gives a meaning to every
// text, an unterminated class too; what is refused here is what its author
// cannot have meant.
func validGlob(pattern string) error {
	if pattern == "" {
		return fmt.Errorf("%w: empty", ErrGlob)
	}
	if len(pattern) > maxGlob {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrGlob, len(pattern), maxGlob)
	}
	stars := 0
	for i := 0; i < len(pattern); {
		n := 1
		switch pattern[i] {
		case '*':
			if i == 0 || pattern[i-1] != '*' {
				stars++
			}
		case '\\':
			if i+1 == len(pattern) {
				return fmt.Errorf(`%w %q: ends in \`, ErrGlob, pattern)
			}
			n = 2
		case '[':
			if n = classLen(pattern[i:]); n == 0 {
				return fmt.Errorf("%w %q: [ without ]", ErrGlob, pattern)
			}
			class := pattern[i : i+n]
			if class == "[]" || class == "[^]" {
				return fmt.Errorf("%w %q: empty class", ErrGlob, pattern)
			}
			// Redis matches bytes: [é] would match half a letter.
			if strings.ContainsFunc(class, func(r rune) bool { return r > 127 }) {
				return fmt.Errorf("%w %q: a class is of ASCII characters only", ErrGlob, pattern)
			}
		}
		i += n
	}
	if stars > maxGlobStars {
		return fmt.Errorf("%w %q: %d stars, at most %d", ErrGlob, pattern, stars, maxGlobStars)
	}
	return nil
}

// EscapeGlob returns a pattern that matches value alone, in a class too.
func EscapeGlob(value string) string {
	if !strings.ContainsAny(value, globSpecial) {
		return value
	}
	var b strings.Builder
	for i := range len(value) {
		if strings.IndexByte(globSpecial, value[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(value[i])
	}
	return b.String()
}

const globSpecial = `*?[]\^-`

// matchGlob reports whether pattern matches all of s, as Redis' KEYS and SCAN
// would: * and ? cross every character, '/' too, and \ makes the next one plain.
//
// An item other than * takes exactly one byte, so going back to the last star
// is enough: what an earlier one could take more, the last one can take.
func matchGlob(pattern, s string) bool {
	star, from := -1, 0 // behind the last star; where its rest was last tried
	i, j := 0, 0
	for j < len(s) {
		if i < len(pattern) {
			if pattern[i] == '*' {
				i++
				star, from = i, j
				continue
			}
			if n, ok := matchItem(pattern[i:], s[j]); ok {
				i += n
				j++
				continue
			}
		}
		if star < 0 {
			return false
		}
		from++
		i, j = star, from
	}
	for i < len(pattern) && pattern[i] == '*' {
		i++
	}
	return i == len(pattern)
}

// matchItem matches c with the first item of pattern, n bytes long, not a star.
func matchItem(pattern string, c byte) (n int, ok bool) {
	switch {
	case pattern[0] == '?':
		return 1, true
	case pattern[0] == '[':
		return matchClass(pattern, c)
	case pattern[0] == '\\' && len(pattern) > 1:
		return 2, pattern[1] == c
	}
	return 1, pattern[0] == c
}

// matchClass follows Redis where it is odd: [z-a] is [a-z], in [a-] the range
// takes the ']', and an unterminated class ends with the pattern.
func matchClass(pattern string, c byte) (n int, ok bool) {
	i := 1
	not := i < len(pattern) && pattern[i] == '^'
	if not {
		i++
	}
	for ; i < len(pattern); i++ {
		rest := pattern[i:]
		switch {
		case rest[0] == '\\' && len(rest) > 1:
			i++
			ok = ok || rest[1] == c
		case rest[0] == ']':
			return i + 1, ok != not
		case len(rest) > 2 && rest[1] == '-':
			i += 2
			lo, hi := min(rest[0], rest[2]), max(rest[0], rest[2])
			ok = ok || lo <= c && c <= hi
		default:
			ok = ok || rest[0] == c
		}
	}
	return len(pattern), ok != not
}

// classLen returns the length of the class that pattern begins with, 0 when it
// is not terminated.
func classLen(pattern string) int {
	n, _ := matchClass(pattern, 0)
	// It is terminated when one more character behind it stays outside.
	if m, _ := matchClass(pattern+"x", 0); m != n {
		return 0
	}
	return n
}

// scanPattern returns a pattern for SCAN that matches at least the stored names
// of the keys that pattern matches. A name is percent-escaped: one byte of the
// key may be three of the name, so every wildcard becomes a star, and the
// caller asks matchGlob about the key itself.
func scanPattern(prefix, pattern, suffix string, esc func(string) string) string {
	var b, plain strings.Builder
	b.WriteString(EscapeGlob(prefix))
	star := false
	for i := 0; i < len(pattern); {
		n := 1
		switch {
		case pattern[i] == '*' || pattern[i] == '?' || pattern[i] == '[':
			if pattern[i] == '[' {
				n, _ = matchClass(pattern[i:], 0)
			}
			b.WriteString(EscapeGlob(esc(plain.String())))
			plain.Reset()
			if !star {
				b.WriteByte('*')
			}
			star = true
		default:
			if pattern[i] == '\\' && i+1 < len(pattern) {
				i++
			}
			plain.WriteByte(pattern[i])
			star = false
		}
		i += n
	}
	b.WriteString(EscapeGlob(esc(plain.String())))
	b.WriteString(EscapeGlob(suffix))
	return b.String()
}
