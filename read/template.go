package read

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"github.com/freshwire/freshwire/internal/nearest"
)

// template is a text with names of the path in braces, such as "post:{id}".
type template []part

// part is a literal, or a name when name is not empty.
type part struct{ literal, name string }

// parseTemplate reads s. Only names of the path may stand in braces: unlike
// in rules, there is no event that an expression could ask.
func parseTemplate(s string, names []string) (template, error) {
	var t template
	for s != "" {
		open := strings.IndexAny(s, "{}")
		if open < 0 {
			return append(t, part{literal: s}), nil
		}
		if open > 0 {
			t = append(t, part{literal: s[:open]})
		}
		if s[open] == '}' {
			return nil, fmt.Errorf("a closing brace without an opening one before %q", s[open:])
		}
		s = s[open+1:]
		end := strings.IndexAny(s, "{}")
		if end < 0 || s[end] == '{' {
			return nil, fmt.Errorf("the brace before %q is not closed", s)
		}
		name := s[:end]
		if !slices.Contains(names, name) {
			return nil, unknownName(name, names)
		}
		t = append(t, part{name: name})
		s = s[end+1:]
	}
	return t, nil
}

func unknownName(name string, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("{%s} is not a name of the path, which has none", name)
	}
	if near := nearest.Word(name, names); near != "" {
		return fmt.Errorf("{%s} is not a name of the path: did you mean {%s}?", name, near)
	}
	return fmt.Errorf("{%s} is not a name of the path: it has {%s}", name, strings.Join(names, "}, {"))
}

// names returns the names in t, each once.
func (t template) names() []string {
	var out []string
	for _, p := range t {
		if p.name != "" && !slices.Contains(out, p.name) {
			out = append(out, p.name)
		}
	}
	return out
}

// fill puts values in as they are.
func (t template) fill(values map[string]string) string {
	if len(t) == 1 && t[0].name == "" {
		return t[0].literal
	}
	var b strings.Builder
	for _, p := range t {
		if p.name != "" {
			b.WriteString(values[p.name])
		} else {
			b.WriteString(p.literal)
		}
	}
	return b.String()
}

// invert returns the values with which t is filled to text. Where several
// would do, names take as little as they can, from the left.
func (t template) invert(text string) (values map[string]string, ok bool) {
	values = map[string]string{}
	for i, p := range t {
		if p.name == "" {
			if text, ok = strings.CutPrefix(text, p.literal); !ok {
				return nil, false
			}
			continue
		}
		end := len(text)
		if i+1 < len(t) {
			if next := t[i+1]; next.name != "" {
				end = min(1, len(text)) // two names side by side: nothing tells where one ends
			} else if i+2 == len(t) {
				end = strings.LastIndex(text, next.literal)
			} else {
				end = strings.Index(text, next.literal)
			}
		}
		if end <= 0 {
			return nil, false
		}
		if before, again := values[p.name]; again && before != text[:end] {
			return nil, false
		}
		values[p.name], text = text[:end], text[end:]
	}
	return values, len(t) > 0 && text == ""
}

// fillEscaped puts values in, each passed through escape.
func (t template) fillEscaped(values map[string]string, escape func(string) string) string {
	var b strings.Builder
	for _, p := range t {
		if p.name != "" {
			b.WriteString(escape(values[p.name]))
		} else {
			b.WriteString(p.literal)
		}
	}
	return b.String()
}

// escapeSegments escapes v for the path of a URL. A slash stays one: only a
// name whose pattern allows slashes, such as {rest:.*}, can hold it.
func escapeSegments(v string) string {
	segments := strings.Split(v, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/")
}

// pathNames returns the names in a path of gorilla/mux, and what is wrong with it.
func pathNames(path string) (names []string, err error) {
	defer func() {
		if p := recover(); p != nil { // mux panics on capturing groups
			names, err = nil, fmt.Errorf("%v", p)
		}
	}()
	switch {
	case !strings.HasPrefix(path, "/"):
		return nil, fmt.Errorf("%q does not begin with a slash", path)
	case strings.Contains(path, "//"):
		return nil, fmt.Errorf("%q has an empty segment; no request would match it", path)
	}
	route := mux.NewRouter().Path(path)
	if err := route.GetError(); err != nil {
		return nil, err
	}
	names, err = route.GetVarNames()
	if err != nil {
		return nil, err
	}
	for i, n := range names {
		if slices.Contains(names[:i], n) {
			return nil, fmt.Errorf("{%s} stands twice in %q", n, path)
		}
		if !isName(n) {
			return nil, fmt.Errorf("{%s} is not a name: letters, digits and _ only", n)
		}
	}
	return names, nil
}

func isName(s string) bool {
	for _, c := range s {
		if c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != ""
}
