package rules

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const maxGlob = 256

// checkGlob reports what is wrong with a glob of on:. Names of events hold none
// of the characters that other globs give a meaning, so these are mistakes.
func checkGlob(g string) error {
	switch {
	case g == "":
		return errors.New("is empty; * matches every event")
	case len(g) > maxGlob:
		return fmt.Errorf("%d bytes, at most %d", len(g), maxGlob)
	case strings.ContainsAny(g, "[]{}\\!"):
		return fmt.Errorf("%q: only * (any run of characters) and ? (any one) have a meaning here", g)
	case strings.ContainsFunc(g, isControl) || !utf8.ValidString(g):
		return fmt.Errorf("%q holds control characters or broken UTF-8", g)
	}
	return nil
}

// matchGlob reports whether all of name matches: * is any run of characters,
// ? any one, everything else itself, in the same case. Only the last * is ever
// tried again, so it takes at most len(glob) × len(name) steps, and about
// len(name) for globs with one *.
func matchGlob(glob, name string) bool {
	g, n := 0, 0
	star, from := -1, 0 // the last *, and where its run ends so far
	for n < len(name) {
		_, size := utf8.DecodeRuneInString(name[n:])
		switch {
		case g < len(glob) && glob[g] == '*':
			star, from = g, n
			g++
		case g < len(glob) && glob[g] == '?':
			g++
			n += size
		case g < len(glob) && glob[g] == name[n]:
			g++
			n++
		case star >= 0:
			_, size = utf8.DecodeRuneInString(name[from:])
			from += size
			g, n = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}

// escape makes a value match only itself in a Redis pattern.
func escape(s string) string {
	if !strings.ContainsAny(s, `\*?[]^`) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(`\*?[]^`, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

const maxStars = 16 // of one pattern: old Redis servers need exponential time

// checkPattern reports what is wrong with the parts of a pattern that the
// operator wrote, and refuses expressions where no escaping could help: inside
// a class, and right after a backslash.
func checkPattern(t *template) error {
	stars, class, escaped, open := 0, false, false, 0
	for _, p := range t.parts {
		if p.expr != nil {
			switch {
			case class:
				return errors.New("an expression inside […] cannot be escaped")
			case escaped:
				return errors.New(`a backslash right before an expression; write \\ for a backslash`)
			}
			continue
		}
		for i := range len(p.text) {
			c := p.text[i]
			switch {
			case escaped:
				escaped = false
			case c == '\\':
				escaped = true
			case class && c == ']':
				if in := strings.TrimPrefix(p.text[open+1:i], "^"); in == "" {
					return errors.New("an empty class")
				} else if strings.ContainsFunc(in, func(r rune) bool { return r > 127 }) {
					return errors.New("a class is of ASCII characters only: Redis matches bytes")
				}
				class = false
			case class:
			case c == '[':
				class, open = true, i
			case c == '*':
				stars++
			}
		}
	}
	switch {
	case class:
		return errors.New("a [ without its ]")
	case escaped:
		return errors.New("a backslash at the end")
	case stars > maxStars:
		return fmt.Errorf("%d stars, at most %d", stars, maxStars)
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }
