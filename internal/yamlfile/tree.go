package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

type kind int

const (
	scalar kind = iota
	list
	mapping
)

// node is a value of the file with aliases followed and merge keys merged.
type node struct {
	kind   kind
	text   string // of a scalar
	tag    string // of a scalar: !!str, !!int, !!float, !!bool, !!null
	quoted bool
	items  []*node
	pairs  []pair // in the order of the file, no key twice
	line   int
	col    int
}

type pair struct{ key, value *node }

func (n *node) isNull() bool { return n.kind == scalar && n.tag == "!!null" && !n.quoted }

func (n *node) child(step string) *node {
	if i, err := strconv.Atoi(strings.Trim(step, "[]")); err == nil && step[0] == '[' {
		if i < 0 || i >= len(n.items) {
			return nil
		}
		return n.items[i]
	}
	for _, p := range n.pairs {
		if p.key.text == step {
			return p.value
		}
	}
	return nil
}

var stepPattern = regexp.MustCompile(`\[\d+\]|[^.\[]+`)

func steps(path string) []string { return stepPattern.FindAllString(path, -1) }

// builder makes a node of what the YAML library parsed.
type builder struct {
	doc   *Doc
	count int
	open  map[*yaml.Node]bool // anchors that are being followed
}

// Parse reads data as one YAML document. Its errors are those that make the
// rest unreadable; mistakes such as a key that stands twice are told by Decode.
func Parse(name string, data []byte) (*Doc, error) {
	d := &Doc{name: name, marks: map[string]mark{}}
	if len(data) > MaxBytes {
		return nil, &Error{File: name, Err: fmt.Errorf("%d bytes, at most %d", len(data), MaxBytes)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := dec.Decode(&first); {
	case err == io.EOF: // nothing but comments
		first = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: 1, Column: 1}
	case err != nil:
		return nil, syntaxError(name, data, err)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, &Error{File: name, Line: max(1, second.Line), Err: errors.New("a second document begins here (---); put everything into one")}
	case err != io.EOF:
		return nil, syntaxError(name, data, err)
	}
	b := &builder{doc: d, open: map[*yaml.Node]bool{}}
	root := &first
	if root.Kind == yaml.DocumentNode {
		root = root.Content[0]
	}
	var err error
	if d.root, err = b.build(root, "", 0); err != nil {
		return nil, err
	}
	return d, nil
}

var (
	yamlLine   = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)
	parserSaid = regexp.MustCompile(`did not find expected (key|'-' indicator|node content|',' or|<)`)
	readerSaid = regexp.MustCompile(`control characters|UTF|Unicode|surrogate`)
	unreadable = regexp.MustCompile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\uFFFD")
)

// syntaxError turns the library's error into one with a place. It never repeats
// what the file says: that may be a secret. The library counts lines from 0 in
// what its parser found and from 1 in what its scanner found, and leaves out 0.
func syntaxError(name string, data []byte, err error) error {
	msg := err.Error()
	m := yamlLine.FindStringSubmatch(msg)
	line, _ := strconv.Atoi(m[1])
	msg = msg[len(m[0]):]
	switch {
	case strings.Contains(msg, "unknown anchor"):
		if anchor := strings.Split(msg, "'"); len(anchor) == 3 {
			line = lineOf(data, regexp.MustCompile(`\*`+regexp.QuoteMeta(anchor[1])))
		}
		msg = "an unquoted value that begins with * refers to an anchor, and there is none of that name; put the value in quotes"
	case readerSaid.MatchString(msg):
		line = lineOf(bytes.ToValidUTF8(data, []byte("\uFFFD")), unreadable)
	case parserSaid.MatchString(msg), line == 0:
		line++
	}
	if tab := lineOf(data, regexp.MustCompile(`(?m)^ *\t`)); tab > 0 && strings.Contains(msg, "cannot start any token") {
		msg, line = "a tab in the indentation; use spaces", tab
	}
	return &Error{File: name, Line: line, Err: errors.New(msg)}
}

func lineOf(data []byte, re *regexp.Regexp) int {
	at := re.FindIndex(data)
	if at == nil {
		return 0
	}
	return 1 + bytes.Count(data[:at[1]-1], []byte("\n"))
}

func (b *builder) build(y *yaml.Node, path string, depth int) (*node, error) {
	b.count++
	if depth > MaxDepth {
		return nil, b.fatal(y, path, "more than %d levels deep", MaxDepth)
	}
	if b.count > MaxNodes {
		return nil, b.fatal(y, path, "more than %d values, counting what aliases repeat", MaxNodes)
	}
	if _, ok := b.doc.marks[path]; !ok {
		b.doc.marks[path] = mark{y.Line, y.Column}
	}
	n := &node{line: y.Line, col: y.Column}
	if y.Style&yaml.TaggedStyle != 0 {
		b.mistake(y, path, "tags (!…) are not used here; put a text that begins with ! in quotes")
		n.quoted = true
	}
	switch y.Kind {
	case yaml.AliasNode:
		if b.open[y.Alias] {
			return nil, b.fatal(y, path, "an alias that holds itself")
		}
		b.open[y.Alias] = true
		defer delete(b.open, y.Alias)
		return b.build(y.Alias, path, depth+1)
	case yaml.ScalarNode:
		n.text, n.tag = y.Value, y.ShortTag()
		n.quoted = n.quoted || y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	case yaml.SequenceNode:
		n.kind = list
		for i, c := range y.Content {
			item, err := b.build(c, fmt.Sprintf("%s[%d]", path, i), depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
	case yaml.MappingNode:
		n.kind = mapping
		return n, b.pairs(n, y, path, depth)
	}
	return n, nil
}

// pairs reads the keys of a mapping; those of merged mappings (<<) come last
// and give way to its own.
func (b *builder) pairs(n *node, y *yaml.Node, path string, depth int) error {
	own := map[string]bool{}
	var merged []*yaml.Node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		switch {
		case k.Kind != yaml.ScalarNode:
			b.mistake(k, path, "a key must be plain text")
		case k.ShortTag() == "!!merge":
			merged = append(merged, v)
		case own[k.Value]:
			b.mistake(y.Content[i], path, "key %q stands here twice", k.Value)
		default:
			own[k.Value] = true
			value, err := b.build(v, join(path, k.Value), depth+1)
			if err != nil {
				return err
			}
			n.pairs = append(n.pairs, pair{&node{text: k.Value, line: y.Content[i].Line, col: y.Content[i].Column}, value})
		}
	}
	for len(merged) > 0 {
		v := merged[0]
		merged = merged[1:]
		from, err := b.build(v, path, depth+1)
		if err != nil {
			return err
		}
		switch from.kind {
		case list:
			target := v
			if target.Kind == yaml.AliasNode {
				target = target.Alias
			}
			merged = append(merged, target.Content...)
			if b.count += len(target.Content); b.count > MaxNodes {
				return b.fatal(v, path, "more than %d values, counting what aliases repeat", MaxNodes)
			}
		case mapping:
			for _, p := range from.pairs {
				if !own[p.key.text] {
					own[p.key.text] = true
					n.pairs = append(n.pairs, p)
				}
			}
		default:
			b.mistake(v, path, "only a mapping can be merged with <<")
		}
	}
	return nil
}

func (b *builder) mistake(y *yaml.Node, path, format string, args ...any) {
	b.doc.mistakes = append(b.doc.mistakes, b.fatal(y, path, format, args...))
}

func (b *builder) fatal(y *yaml.Node, path, format string, args ...any) error {
	return &Error{File: b.doc.name, Line: y.Line, Col: y.Column, Path: path, Err: fmt.Errorf(format, args...)}
}
