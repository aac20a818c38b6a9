package read

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// jsonPath leads from the root of a JSON document to values, such as
// "items[*].author.id".
type jsonPath []step

// step goes to the member of an object, or to elements of an array.
type step struct {
	name  string // of a member; else the step is to elements
	index int    // of an element; every for all
}

const (
	every        = -1
	maxPathSteps = 32
)

func (s step) isElement() bool { return s.name == "" }

// parseJSONPath reads names with dots between, [0] and [*]. A "$" in front,
// which stands for the document, may be there or not.
func parseJSONPath(s string) (jsonPath, error) {
	rest := strings.TrimPrefix(s, "$")
	if rest == s && s != "" && s[0] != '[' {
		rest = "." + s
	}
	var p jsonPath
	for rest != "" {
		var st step
		switch rest[0] {
		case '.':
			rest = rest[1:]
			end := strings.IndexAny(rest, ".[]")
			if end < 0 {
				end = len(rest)
			}
			if st.name = rest[:end]; st.name == "" || st.name == "*" {
				return nil, fmt.Errorf("%q: a name is missing before %q; want a path such as items[*].id", s, rest)
			}
			rest = rest[end:]
		case '[':
			inside, after, closed := strings.Cut(rest[1:], "]")
			n, err := strconv.Atoi(inside)
			switch {
			case closed && inside == "*":
				st.index = every
			case closed && err == nil && n >= 0 && n <= 1e6 && inside[0] != '+':
				st.index = n
			default:
				return nil, fmt.Errorf("%q: want [*] or a number such as [0] at %q", s, rest)
			}
			rest = after
		default:
			return nil, fmt.Errorf("%q: want a dot or [ before %q", s, rest)
		}
		p = append(p, st)
	}
	switch {
	case len(p) == 0:
		return nil, errors.New("an empty path")
	case len(p) > maxPathSteps:
		return nil, fmt.Errorf("%d steps, at most %d", len(p), maxPathSteps)
	}
	return p, nil
}

// items is the length of p up to and with its last [*]: what it has in common
// with other paths to the same item. arrays counts the arrays on the way.
func (p jsonPath) items() (length, arrays int) {
	for i, s := range p {
		if s.isElement() && s.index == every {
			length = i + 1
		}
	}
	for _, s := range p[:length] {
		if s.isElement() {
			arrays++
		}
	}
	return length, arrays
}

// pathTree is several paths as one, so that a document is read once for all.
type pathTree struct {
	members  map[string]*pathTree
	elements map[int]*pathTree // every: of all
	ends     []int             // the paths that end here
}

// add puts p into the tree, as path n.
func (t *pathTree) add(p jsonPath, n int) {
	for _, s := range p {
		next := &pathTree{}
		if s.isElement() {
			if t.elements == nil {
				t.elements = map[int]*pathTree{}
			}
			if old := t.elements[s.index]; old != nil {
				next = old
			}
			t.elements[s.index] = next
		} else {
			if t.members == nil {
				t.members = map[string]*pathTree{}
			}
			if old := t.members[s.name]; old != nil {
				next = old
			}
			t.members[s.name] = next
		}
		t = next
	}
	t.ends = append(t.ends, n)
}

// found is told of a text, number or truth value that path n leads to. at are
// the places in the arrays on the way; it is only lent. It returns false when
// it wants no more.
type found func(n int, at []int, text string) bool

// values tells yield what the paths lead to in a document, in its order. It
// reports whether body is JSON at all.
func (t *pathTree) values(body []byte, yield found) bool {
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	if !json.Valid(body) {
		return false
	}
	r := jsonReader{text: body, yield: yield}
	r.value([]*pathTree{t})
	return true
}

// jsonReader reads what is known to be valid. It goes no deeper than the paths.
type jsonReader struct {
	text  []byte
	i     int
	at    []int
	yield found
	done  bool
}

// value reads the next value, which the paths in nodes lead to.
func (r *jsonReader) value(nodes []*pathTree) {
	r.blanks()
	if len(nodes) == 0 {
		r.skip()
		return
	}
	begin := r.i
	switch r.text[r.i] {
	case '{':
		r.members(nodes)
		return
	case '[':
		r.elements(nodes)
		return
	}
	r.skip()
	text, ok := scalar(r.text[begin:r.i])
	for _, t := range nodes {
		for _, n := range t.ends {
			if ok && !r.done {
				r.done = !r.yield(n, r.at, text)
			}
		}
	}
}

func (r *jsonReader) members(nodes []*pathTree) {
	r.i++ // {
	for r.blanks(); r.text[r.i] != '}'; r.blanks() {
		if r.text[r.i] == ',' {
			r.i++
			r.blanks()
		}
		begin := r.i
		r.skip()
		name, _ := scalar(r.text[begin:r.i])
		r.blanks()
		r.i++ // :
		var next []*pathTree
		for _, t := range nodes {
			if child := t.members[name]; child != nil {
				next = append(next, child)
			}
		}
		r.value(next)
	}
	r.i++
}

func (r *jsonReader) elements(nodes []*pathTree) {
	r.i++ // [
	r.at = append(r.at, 0)
	for r.blanks(); r.text[r.i] != ']'; r.blanks() {
		if r.text[r.i] == ',' {
			r.i++
		}
		var next []*pathTree
		for _, t := range nodes {
			for _, index := range [2]int{r.at[len(r.at)-1], every} {
				if child := t.elements[index]; child != nil {
					next = append(next, child)
				}
			}
		}
		r.value(next)
		r.at[len(r.at)-1]++
	}
	r.i++
	r.at = r.at[:len(r.at)-1]
}

func (r *jsonReader) blanks() {
	for r.i < len(r.text) && (r.text[r.i] == ' ' || r.text[r.i] == '\n' || r.text[r.i] == '\t' || r.text[r.i] == '\r') {
		r.i++
	}
}

// skip goes to the end of the value that begins here.
func (r *jsonReader) skip() {
	for depth := 0; ; {
		switch c := r.text[r.i]; c {
		case '"':
			for r.i++; r.text[r.i] != '"'; r.i++ {
				if r.text[r.i] == '\\' {
					r.i++
				}
			}
			r.i++
		case '{', '[':
			depth++
			r.i++
		case '}', ']':
			depth--
			r.i++
		case ',', ':', ' ', '\n', '\t', '\r':
			r.i++
			continue
		default:
			for r.i < len(r.text) && strings.IndexByte(",:]} \n\t\r", r.text[r.i]) < 0 {
				r.i++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// scalar returns the text of a value, of a number as it is written; ok is
// false for null.
func scalar(raw []byte) (text string, ok bool) {
	switch {
	case raw[0] == 'n':
		return "", false
	case raw[0] != '"':
		return string(raw), true
	case slices.Contains(raw, '\\'), slices.ContainsFunc(raw, func(c byte) bool { return c >= 0x80 }):
		err := json.Unmarshal(raw, &text)
		return text, err == nil
	}
	return string(raw[1 : len(raw)-1]), true
}
