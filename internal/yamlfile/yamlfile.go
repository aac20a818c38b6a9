// Package yamlfile reads a YAML file strictly into Go structs, and tells every
// mistake of the file at once, each with its line and column.
//
// The struct's tags are the one place where a key is described: Decode reads by
// them, Schema prints a JSON Schema for editors from them, and Markdown prints
// the tables of the documentation. The tags are
//
//	yaml:"name"         the key; a field without it is no key. Embedded structs share their parent's keys
//	desc:"one line"     what it is, for the documentation and the schema
//	default:"5m"        what stands when the key is absent, as text (lists: comma separated)
//	example:"…"         shown in the schema
//	enum:"a,b"          the only texts allowed
//	later_enum:"c"      texts that are known, but that this version cannot do yet
//	later:"why"         a known key that this version cannot do yet; may be "true"
//	required:"true"     must be present and not empty
//	pattern:"^…$"       what the text must match
//	keys:"^…$"          what the names of a map must match
//	unit:"bytes"        an int64 written as 1MiB, 64KB or 1024
//	secret:"true"       the value is never shown
//	dropempty:"true"    empty texts of a list are dropped
//
// Fields may be string, bool, integers, floats, time.Duration ("5m"), slices,
// maps with string keys, structs, pointers to these, and types that implement
// encoding.TextUnmarshaler. A struct may have SetDefaults(), called before its
// keys are read, and Validate() error, called when they held no mistake.
//
// Inside values, after the YAML was parsed, ${NAME} is replaced from the
// environment and ${NAME:-text} by text when NAME is unset or empty. $${NAME}
// stands for ${NAME} itself. A variable's value can therefore never become
// YAML syntax. Anything else with a dollar or braces is left alone.
//
// The file of a stranger is bounded: 1 MiB, 32 levels, 100 000 values after
// aliases are followed, 64 KiB a value.
package yamlfile

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Limits of a file.
const (
	MaxBytes = 1 << 20
	MaxDepth = 32
	MaxNodes = 100_000
	MaxValue = 64 << 10 // bytes of one value after variables are replaced
)

// Error is one mistake in a file.
type Error struct {
	File string
	Line int // from 1; 0 when the mistake is nowhere in particular
	Col  int // from 1; 0 when only the line is known
	Path string
	Err  error
}

// Error returns "freshwire.yaml:12:5: sources.blog: unknown key …".
func (e *Error) Error() string {
	msg := e.Err.Error()
	if e.Path != "" && !strings.HasPrefix(msg, e.Path) {
		msg = e.Path + ": " + msg
	}
	return place(e.File, e.Line, e.Col) + ": " + msg
}

func (e *Error) Unwrap() error { return e.Err }

func place(file string, line, col int) string {
	switch {
	case line == 0:
		return file
	case col == 0:
		return fmt.Sprintf("%s:%d", file, line)
	}
	return fmt.Sprintf("%s:%d:%d", file, line, col)
}

// Doc is a parsed file that remembers where everything stands.
type Doc struct {
	name     string
	root     *node
	marks    map[string]mark // path of a value → where it stands
	mistakes []error         // seen while parsing, told by Decode
}

type mark struct{ line, col int }

// Decode reads data into dst, a pointer to a struct, and returns all mistakes
// joined, in the order of the file. dst is only to be used when there are none.
// The name is what errors call the file.
func Decode(name string, data []byte, dst any, getenv func(string) (string, bool)) error {
	doc, err := Parse(name, data)
	if err != nil {
		return err
	}
	return doc.Decode(dst, getenv)
}

// Decode reads the document into dst like the function of the same name.
func (d *Doc) Decode(dst any, getenv func(string) (string, bool)) error {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		panic("yamlfile: Decode wants a pointer to a struct")
	}
	dec := &decoder{doc: d, getenv: getenv, mistakes: slices.Clone(d.mistakes)}
	root := d.root
	if root.isNull() {
		root = &node{kind: mapping, line: root.line, col: root.col}
	}
	setDefaults(v.Elem())
	dec.value(root, v.Elem(), field{}, "")
	return inOrder(dec.mistakes)
}

// Keys returns the keys of the mapping at path in the order of the file, which
// a Go map forgets. It returns nil when there is no mapping.
func (d *Doc) Keys(path string) []string {
	n := d.root
	for _, step := range steps(path) {
		if n = n.child(step); n == nil {
			return nil
		}
	}
	var keys []string
	for _, p := range n.pairs {
		keys = append(keys, p.key.text)
	}
	return keys
}

// Where returns the place of the value at path, such as rules[0].when, as
// "freshwire.yaml:31:11". For a key that is absent it is the nearest place
// around it.
func (d *Doc) Where(path string) string {
	m := d.mark(path)
	return place(d.name, m.line, m.col)
}

func (d *Doc) mark(path string) mark {
	for path != "" {
		if m, ok := d.marks[path]; ok {
			return m
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return d.marks[""]
}

// Located is an error that knows which value of the file it is about, without
// knowing the file: YAMLPath is such as "rules[0].when". Packages whose structs
// are read from the file return it from their own checks.
type Located interface {
	error
	YAMLPath() string
}

// Locate gives each of the joined errors in err its place in the file: one that
// wraps a Located gets its line and column, any other the name of the file.
// It returns them joined in the order of the file.
func (d *Doc) Locate(err error) error {
	return inOrder(d.locate(err, ""))
}

func (d *Doc) locate(err error, parent string) []error {
	if err == nil {
		return nil
	}
	if list, ok := joined(err); ok {
		var all []error
		for _, e := range list {
			all = append(all, d.locate(e, parent)...)
		}
		return all
	}
	var done *Error
	if errors.As(err, &done) {
		return []error{err}
	}
	e := &Error{File: d.name, Path: parent, Err: err}
	var l Located
	if errors.As(err, &l) {
		e.Path = join(parent, l.YAMLPath())
		if parent != "" { // its text begins with a path within parent
			e.Err = errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), l.YAMLPath()), ": "))
		}
	}
	if e.Path != "" {
		m := d.mark(e.Path)
		e.Line, e.Col = m.line, m.col
	}
	return []error{e}
}

// Flatten returns the errors that errors.Join put together in err, one by one.
func Flatten(err error) []error {
	if err == nil {
		return nil
	}
	list, ok := joined(err)
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range list {
		all = append(all, Flatten(e)...)
	}
	return all
}

// joined takes err apart if it is what errors.Join made, and not an error with
// a text of its own that wraps several.
func joined(err error) ([]error, bool) {
	j, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil, false
	}
	var text []string
	for _, e := range j.Unwrap() {
		text = append(text, e.Error())
	}
	return j.Unwrap(), strings.Join(text, "\n") == err.Error()
}

func inOrder(list []error) error {
	slices.SortStableFunc(list, func(a, b error) int {
		var x, y *Error
		if !errors.As(a, &x) || !errors.As(b, &y) {
			return 0
		}
		return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Col, y.Col))
	})
	return errors.Join(list...)
}

// join appends a path to its parent's: a.b, a[0], and a[0].b.
func join(parent, path string) string {
	if parent == "" || path == "" || path[0] == '[' {
		return parent + path
	}
	return parent + "." + path
}
