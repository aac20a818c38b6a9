package read

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/internal/nearest"
)

// Limits of what one answer may teach.
const (
	maxLearntTags  = 1000
	maxLearntBytes = 16 << 10
	maxVersionText = 128
)

// learner reads the tags and versions of answers.
type learner struct {
	headers []tagHeader
	values  []learntValue
	tree    *pathTree // of values, then of the version; nil for none
}

// learntValue makes a tag of each value that a path leads to.
type learntValue struct {
	path          jsonPath
	before, after string // of the value, in the tag
}

func (v learntValue) tag(value string) string { return v.before + value + v.after }

// template is the tag with {} for the value, as the config has it.
func (v learntValue) template() string { return v.tag("{}") }

// parseLearntValues reads "items[*].id → post:{}".
func parseLearntValues(list []string, wrong func(string, error)) []learntValue {
	var out []learntValue
	for i, s := range list {
		at := fmt.Sprintf("learn_tags.json[%d]", i)
		from, to, ok := strings.Cut(strings.Replace(s, "->", "→", 1), "→")
		if !ok {
			wrong(at, errors.New("want a path, an arrow and a tag, such as items[*].author.id → author:{}"))
			continue
		}
		path, err := parseJSONPath(strings.TrimSpace(from))
		wrong(at, err)
		before, after, ok := strings.Cut(strings.TrimSpace(to), "{}")
		if !ok || strings.ContainsAny(before+after, "{}") {
			wrong(at, fmt.Errorf("the tag %q: want {} once, where the value goes, and nothing else in braces", strings.TrimSpace(to)))
		}
		out = append(out, learntValue{path, before, after})
	}
	return out
}

// plant makes the tree of all that is read from bodies.
func (l *learner) plant(v *versionRule) {
	if len(l.values) == 0 && v == nil {
		return
	}
	l.tree = &pathTree{}
	for i, value := range l.values {
		l.tree.add(value.path, i)
	}
	if v != nil {
		l.tree.add(v.path, len(l.values))
	}
}

// lesson is what an answer taught.
type lesson struct {
	tags       []string
	versions   map[string]string // tag → version; nil for routes without one
	incomplete bool              // not all tags are in tags
	cut        int               // how many are not
	notJSON    bool
}

// learnFrom reads the tags and the version of an answer. more are tags that it has besides.
func (c *compiled) learnFrom(p *place, h http.Header, body []byte, more []string) lesson {
	var out lesson
	seen, size := map[string]bool{}, 0
	for _, t := range p.tags {
		seen[t] = true
	}
	add := func(tag string) {
		if tag == "" || seen[tag] {
			return
		}
		if len(tag) > cache.MaxTag || len(out.tags) == maxLearntTags || size+len(tag) > maxLearntBytes {
			out.cut++
			out.incomplete = true
			return
		}
		seen[tag] = true
		size += len(tag)
		out.tags = append(out.tags, tag)
	}
	for _, header := range c.learn.headers {
		for _, line := range h[header.name] {
			for _, tag := range header.split(line) {
				add(tag)
			}
		}
	}
	for _, tag := range more {
		add(tag)
	}
	if c.learn.tree == nil {
		return out
	}
	var bound *binding
	if c.version != nil {
		bound = c.version.binding()
	}
	ok := c.learn.tree.values(body, func(n int, at []int, text string) bool {
		if n == len(c.learn.values) {
			bound.version(at, text)
			return true
		}
		tag := ""
		if text != "" {
			tag = c.learn.values[n].tag(text)
		}
		add(tag)
		if bound != nil && tag != "" && len(tag) <= cache.MaxTag {
			bound.tag(n, at, tag)
		}
		return out.cut <= maxLearntTags // whoever lists so many is not worth the rest
	})
	out.notJSON = !ok
	if bound != nil {
		out.versions = bound.versions(p)
	}
	return out
}

// tagHeader is a header that lists tags.
type tagHeader struct {
	name  string // canonical
	split func(string) []string
}

var (
	blanks = func(s string) []string { return strings.Fields(s) }
	commas = func(s string) []string {
		return splitWith(s, func(c rune) bool { return c == ',' })
	}
	blanksOrCommas = func(s string) []string {
		return splitWith(s, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' })
	}
)

func splitWith(s string, separates func(rune) bool) []string {
	list := strings.FieldsFunc(s, separates)
	for i, t := range list {
		list[i] = strings.TrimSpace(t)
	}
	return list
}

// tagHeaders are the headers that systems list tags in, each with its own way.
var tagHeaders = []tagHeader{
	{"Surrogate-Key", blanks},        // Fastly
	{"Xkey", blanksOrCommas},         // Varnish
	{"Cache-Tag", commas},            // Cloudflare, Netlify
	{"Cache-Tags", commas},           // Bunny
	{"Edge-Cache-Tag", commas},       // Akamai
	{"X-Next-Cache-Tags", commas},    // Next.js
	{"X-Cache-Tags", blanksOrCommas}, // FOSHttpCache
	{"X-Drupal-Cache-Tags", blanksOrCommas},
	{"Cache-Groups", structuredStrings}, // RFC 9875
}

// knownTagHeader returns the header of a name; another than those above lists
// its tags with blanks or commas.
func knownTagHeader(name string) (tagHeader, error) {
	if !isToken(name) {
		return tagHeader{}, fmt.Errorf("%q is not the name of a header", name)
	}
	canonical := http.CanonicalHeaderKey(name)
	var names []string
	for _, h := range tagHeaders {
		if h.name == canonical {
			return h, nil
		}
		names = append(names, h.name)
	}
	if near := nearest.Word(canonical, names); near != "" {
		return tagHeader{}, fmt.Errorf("%q: did you mean %s?", name, near)
	}
	return tagHeader{canonical, blanksOrCommas}, nil
}

func parseLearntHeaders(names []string, wrong func(string, error)) []tagHeader {
	var out []tagHeader
	for i, name := range names {
		h, err := knownTagHeader(name)
		wrong(fmt.Sprintf("learn_tags.headers[%d]", i), err)
		out = append(out, h)
	}
	return out
}

// structuredStrings reads a list of strings of RFC 9651, such as
// "post:1", "posts"; p=1. Parameters are dropped. What is no such list has none.
func structuredStrings(s string) []string {
	var out []string
	for rest := strings.Trim(s, " \t"); rest != ""; {
		if rest[0] != '"' {
			return nil
		}
		var b strings.Builder
		i := 1
		for ; i < len(rest) && rest[i] != '"'; i++ {
			if rest[i] == '\\' {
				if i++; i == len(rest) || rest[i] != '"' && rest[i] != '\\' {
					return nil
				}
			}
			if rest[i] < ' ' || rest[i] >= 0x7f {
				return nil
			}
			b.WriteByte(rest[i])
		}
		if i == len(rest) {
			return nil
		}
		out = append(out, b.String())
		rest = strings.TrimLeft(rest[i+1:], " \t")
		if strings.HasPrefix(rest, ";") {
			parameters, _ := memberEnd(rest)
			rest = rest[parameters:]
		}
		if rest == "" {
			return out
		}
		if rest[0] != ',' {
			return nil
		}
		if rest = strings.TrimLeft(rest[1:], " \t"); rest == "" {
			return nil // a comma at the end
		}
	}
	return out
}

// memberEnd returns where the member of a list that s begins with ends: at a
// comma outside of quotes. closed is false when a quote is open there.
func memberEnd(s string) (end int, closed bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			return i, true
		}
	}
	return len(s), !quoted
}

// Emitted headers, and what separates their tags.
var emitted = map[string]string{"Surrogate-Key": " ", "Xkey": " ", "Cache-Tag": ",", "Cache-Tags": ",", "Edge-Cache-Tag": ","}

const maxEmitted = 16 << 10 // bytes of one header; CDNs drop what is longer

func parseEmitted(names []string, wrong func(string, error)) []tagHeader {
	var out []tagHeader
	for i, name := range names {
		canonical := http.CanonicalHeaderKey(name)
		if _, ok := emitted[canonical]; !ok {
			wrong("emit_tags["+strconv.Itoa(i)+"]", fmt.Errorf("%q: want Surrogate-Key, xkey, Cache-Tag, Cache-Tags or Edge-Cache-Tag", name))
		}
		out = append(out, tagHeader{name: canonical})
	}
	return out
}

// emit writes tags as the value of one of the emitted headers. Tags that the
// header cannot hold are cut: those with blanks, commas or beyond ASCII.
func emit(header string, tags []string) (value string, cut int) {
	var b strings.Builder
	separator := emitted[header]
	for _, t := range tags {
		more := len(t)
		if b.Len() > 0 {
			more += len(separator)
		}
		if t == "" || b.Len()+more > maxEmitted || slices.ContainsFunc([]byte(t), func(c byte) bool { return c <= ' ' || c == ',' || c >= 0x7f }) {
			cut++
			continue
		}
		if b.Len() > 0 {
			b.WriteString(separator)
		}
		b.WriteString(t)
	}
	return b.String(), cut
}
