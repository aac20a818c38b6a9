package webhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// original is what a body may have been when it was signed.
type original struct {
	body []byte
	why  string // what that says about the way
}

const reencoded = "The body was re-encoded on the way: %s. Something between the sender and us (a proxy, a platform's body parser) reads the JSON and writes it again; have it hand on the bytes as they came."

// maxRewritten is the largest body that is tried in other writings, in bytes.
const maxRewritten = 2 << 20

// maxIndent bounds what indenting a deeply nested body costs; a deeper one is not found.
const maxIndent = 64

// originals are what body may have been before something read it and wrote it
// again: small changes of the bytes first, then other ways to write the same
// JSON, the fewest differences first.
func originals(body []byte) iter.Seq[original] {
	return func(yield func(original) bool) {
		for _, o := range otherFrames(body) {
			if !bytes.Equal(o.body, body) && !yield(o) {
				return
			}
		}
		if len(body) > maxRewritten || !json.Valid(body) {
			return
		}
		for _, end := range []string{"", "\n"} {
			for _, w := range writings(body) {
				text, said := rewrite(body, w)
				text = append(text, end...)
				if end != "" {
					said = append(said, "the sender signed a newline at the end")
				}
				if !bytes.Equal(text, body) && !yield(original{text, fmt.Sprintf(reencoded, strings.Join(said, "; "))}) {
					return
				}
			}
		}
	}
}

// otherFrames are changes of a body that leave its JSON alone.
func otherFrames(body []byte) []original {
	bom := []byte("\ufeff")
	list := []original{
		{append(slices.Clone(body), '\n'), "The body lost the newline at its end on the way; the sender signed it. Have the bytes handed on as they came."},
		{append(slices.Clone(body), "\r\n"...), "The body lost the newline at its end on the way; the sender signed it. Have the bytes handed on as they came."},
		{bytes.TrimRight(body, "\r\n"), "The body got a newline at its end that the sender did not sign. If this is a capture, it was added when saving; else have the bytes handed on as they came."},
		{bytes.TrimSpace(body), "The body got white space around it that the sender did not sign. Have the bytes handed on as they came."},
		{bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")), "The line ends were changed on the way: the body has CRLF where the sender signed LF. Have the bytes handed on as they came."},
		{bytes.ReplaceAll(bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n")),
			"The line ends were changed on the way: the body has LF where the sender signed CRLF. Have the bytes handed on as they came."},
		{bytes.TrimPrefix(body, bom), "The body got a byte order mark on the way, which the sender did not sign. Have the bytes handed on as they came."},
		{append(slices.Clone(bom), body...), "The body lost its byte order mark on the way. Have the bytes handed on as they came."},
		{[]byte("payload=" + url.QueryEscape(string(body))), "The sender signed a form (payload=…), and something on the way took the JSON out of it. Have the bytes handed on, or set the content type to application/json at the sender."},
		{nil, "The sender signed an empty body: something on the way added this one."},
	}
	if plain, err := decodeBase64(string(bytes.TrimSpace(body))); err == nil && len(plain) > 0 {
		list = append(list, original{plain, "The body is base64-encoded here, and the sender signed the plain bytes. Some platforms' functions do that; decode it before handing it on."})
	}
	var text string
	if json.Unmarshal(body, &text) == nil {
		list = append(list, original{[]byte(text), "The body is a JSON text that holds the signed JSON: something on the way encoded it twice."})
	}
	if latin, ok := toLatin1(body); ok {
		list = append(list, original{latin, "The body was read as Latin-1 and written as UTF-8 on the way, so letters beyond ASCII are doubled. Have the bytes handed on as they came."})
	}
	return list
}

// toLatin1 undoes reading UTF-8 as Latin-1.
func toLatin1(body []byte) ([]byte, bool) {
	if !utf8.Valid(body) {
		return nil, false
	}
	var out []byte
	for _, r := range string(body) {
		if r > 0xff {
			return nil, false
		}
		out = append(out, byte(r))
	}
	return out, len(out) < len(body)
}

// writing is one way to write JSON; zero values leave things as they are.
type writing struct {
	html  int // 1: \u0026 for &, <, >, U+2028, U+2029; 2: these themselves; 3: \u0026 for & alone
	slash int // 1: \/; 2: /
	wide  int // beyond ASCII: 1: \u00e9; 2: \u00E9; 3: é
	space int // index of layouts
}

const (
	written = iota
	escaped
	plain

	escapedAmpersand = 3 // of html
	escapedCapital   = 2 // of wide
	plainWide        = 3
)

// layouts are how JSON is laid out by those who write it.
var layouts = []struct {
	comma, colon string
	indent       string // empty: all on one line
	newline      string
	said         string
}{
	{},
	{",", ":", "", "", "the sender signed it without blanks between the parts"},
	{", ", ": ", "", "", "the sender signed it with a blank after each comma and colon"},
	{",", ": ", "  ", "\n", "the sender signed it indented by two blanks"},
	{",", ": ", "    ", "\n", "the sender signed it indented by four blanks"},
	{",", ": ", "\t", "\n", "the sender signed it indented by tabs"},
	{",", ": ", "  ", "\r\n", "the sender signed it indented by two blanks, with CRLF"},
	{",", ": ", "    ", "\r\n", "the sender signed it indented by four blanks, with CRLF"},
}

func (w writing) changes() (n int) {
	for _, x := range []int{w.html, w.slash, w.wide, w.space} {
		if x != written {
			n++
		}
	}
	return n
}

// writings are all ways to write body that differ from it, the fewest changes first.
func writings(body []byte) []writing {
	differs := func(w writing) bool {
		text, _ := rewrite(body, w)
		return !bytes.Equal(text, body)
	}
	choose := func(n int, of func(int) writing) (kept []int) {
		kept = []int{written}
		for i := 1; i < n; i++ {
			if differs(of(i)) {
				kept = append(kept, i)
			}
		}
		return kept
	}
	htmls := choose(4, func(i int) writing { return writing{html: i} })
	slashes := choose(3, func(i int) writing { return writing{slash: i} })
	wides := choose(4, func(i int) writing { return writing{wide: i} })
	spaces := choose(len(layouts), func(i int) writing { return writing{space: i} })
	var all []writing
	for _, h := range htmls {
		for _, s := range slashes {
			for _, w := range wides {
				for _, l := range spaces {
					all = append(all, writing{h, s, w, l})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b writing) int { return cmp.Compare(a.changes(), b.changes()) })
	return all
}

// rewrite returns body, which is valid JSON, written as w says, and what differs.
func rewrite(body []byte, w writing) (out []byte, said []string) {
	r := &rewriter{w: w, told: map[string]bool{}}
	for i := 0; i < len(body); {
		switch c := body[i]; c {
		case ' ', '\t', '\r', '\n':
			if w.space == written {
				r.out = append(r.out, c)
			}
			i++
		case '"':
			end := skipString(body, i)
			r.quoted(body[i:end])
			i = end
		default:
			r.mark(c, skipSpace(body, i+1), body)
			i++
		}
	}
	if w.space != written {
		r.said = append(r.said, layouts[w.space].said)
	}
	return r.out, r.said
}

type rewriter struct {
	w     writing
	out   []byte
	depth int
	said  []string
	told  map[string]bool
}

// mark writes a character between strings; next is where the next one stands.
func (r *rewriter) mark(c byte, next int, body []byte) {
	l := layouts[r.w.space]
	if r.w.space == written {
		r.out = append(r.out, c)
		return
	}
	switch c {
	case '{', '[':
		r.out = append(r.out, c)
		if r.depth++; next < len(body) && body[next] != '}' && body[next] != ']' {
			r.line(l.indent, l.newline)
		}
	case '}', ']':
		r.depth--
		if last := r.out[len(r.out)-1]; last != '{' && last != '[' {
			r.line(l.indent, l.newline)
		}
		r.out = append(r.out, c)
	case ',':
		r.out = append(r.out, l.comma...)
		r.line(l.indent, l.newline)
	case ':':
		r.out = append(r.out, l.colon...)
	default:
		r.out = append(r.out, c)
	}
}

func (r *rewriter) line(indent, newline string) {
	if indent != "" {
		r.out = append(r.out, newline...)
		r.out = append(r.out, strings.Repeat(indent, min(max(0, r.depth), maxIndent))...)
	}
}

// quoted writes a string.
func (r *rewriter) quoted(text []byte) {
	for i := 0; i < len(text); {
		char, n := unescape(text[i:])
		was := text[i : i+n]
		i += n
		now := r.character(char, was)
		r.out = append(r.out, now...)
		if !bytes.Equal(now, was) {
			kind := string(now[:1])
			if !r.told[kind] {
				r.told[kind] = true
				r.said = append(r.said, fmt.Sprintf("it has `%s` where the sender signed `%s`", was, now))
			}
		}
	}
}

// character returns how char is to be written, which was written as was.
func (r *rewriter) character(char rune, was []byte) []byte {
	html := char == '&' || char == '<' || char == '>' || char == '\u2028' || char == '\u2029'
	switch {
	case char == '/' && r.w.slash == escaped:
		return []byte(`\/`)
	case char == '/' && r.w.slash == plain:
		return []byte("/")
	case char == '&' && r.w.html == escapedAmpersand, html && r.w.html == escaped:
		return escape(char, false)
	case html && r.w.html == plain:
		return []byte(string(char))
	case char < utf8.RuneSelf, r.w.wide == written:
		return was
	case r.w.wide == plainWide:
		return []byte(string(char))
	}
	return escape(char, r.w.wide == escapedCapital)
}

// escape writes a character as \u and its number, a large one as a pair.
func escape(char rune, capital bool) []byte {
	digits := "0123456789abcdef"
	if capital {
		digits = "0123456789ABCDEF"
	}
	var out []byte
	for _, u := range utf16.AppendRune(nil, char) {
		out = append(out, '\\', 'u', digits[u>>12], digits[u>>8&15], digits[u>>4&15], digits[u&15])
	}
	return out
}

// unescape returns the first character of text and how many bytes it takes. A
// character that must be escaped, or half a pair, is returned as -1.
func unescape(text []byte) (char rune, n int) {
	if text[0] != '\\' || len(text) < 2 {
		char, n = utf8.DecodeRune(text)
		return char, n
	}
	if text[1] == '/' {
		return '/', 2
	}
	unit := func(at int) rune {
		if len(text) < at+6 || text[at] != '\\' || text[at+1] != 'u' {
			return -1
		}
		u, err := strconv.ParseUint(string(text[at+2:at+6]), 16, 16)
		if err != nil {
			return -1
		}
		return rune(u)
	}
	first := unit(0)
	switch {
	case first < 0:
		return -1, 2
	case utf16.IsSurrogate(first):
		if char = utf16.DecodeRune(first, unit(6)); char == utf8.RuneError {
			return -1, 6
		}
		return char, 12
	case first < 0x20 || first == '"' || first == '\\' || first == 0x7f:
		return -1, 6
	}
	return first, 6
}
