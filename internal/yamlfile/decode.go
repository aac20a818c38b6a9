package yamlfile

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/internal/nearest"
)

// decoder fills Go values from nodes and collects mistakes.
type decoder struct {
	doc      *Doc
	getenv   func(string) (string, bool)
	mistakes []error
	grown    int // bytes that variables put in so far
}

func (d *decoder) mistake(n *node, path, format string, args ...any) {
	d.mistakes = append(d.mistakes, &Error{File: d.doc.name, Line: n.line, Col: n.col, Path: path, Err: fmt.Errorf(format, args...)})
}

// value reads n into v; f is the key that v belongs to, also for what a list or
// a map holds.
func (d *decoder) value(n *node, v reflect.Value, f field, path string) {
	if v.Kind() == reflect.Pointer {
		v.Set(fresh(v.Type().Elem()).Addr())
		d.value(n, v.Elem(), f, path)
		return
	}
	shape := f.shape(v.Type())
	switch {
	case shape == aStruct && n.kind == mapping:
		d.fields(n, v, path)
	case shape == aMap && n.kind == mapping:
		d.entries(n, v, f, path)
	case shape == aList && n.kind == list:
		d.items(n, v, f, path)
	case shape < aList && n.kind == scalar:
		d.scalar(n, v, f, path)
	default:
		d.mistake(n, path, "expected %s, got %s", f.expects(v.Type()), describe(n))
	}
}

// fields reads a mapping into a struct.
func (d *decoder) fields(n *node, v reflect.Value, path string) {
	before := len(d.mistakes)
	fields := fieldsOf(v.Type())
	seen := map[string]bool{}
	for _, p := range n.pairs {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == p.key.text })
		if i < 0 {
			d.unknown(p.key, fields, path)
			continue
		}
		f := fields[i]
		at := join(path, f.name)
		switch shape := f.shape(f.typ); {
		case f.later != "":
			d.mistake(p.key, at, "this version does not do this yet%s; remove the key", because(f.later))
		case p.value.isNull() && shape >= aList: // a section whose lines are all comments
		case p.value.isNull():
			d.mistake(p.key, at, "has no value; write %s, or remove the key", f.expects(f.typ))
			seen[f.name] = true
		default:
			seen[f.name] = true
			d.value(p.value, v.FieldByIndex(f.index), f, at)
		}
	}
	for _, f := range fields {
		if f.required && !seen[f.name] {
			d.mistake(n, path, "%q is missing%s", f.name, because(f.desc))
		}
	}
	if len(d.mistakes) > before {
		return
	}
	if x, ok := v.Addr().Interface().(interface{ Validate() error }); ok {
		m := mark{n.line, n.col}
		for _, err := range d.doc.locate(x.Validate(), path) {
			var e *Error
			if errors.As(err, &e) && e.Line == 0 {
				e.Line, e.Col = m.line, m.col
			}
			d.mistakes = append(d.mistakes, err)
		}
	}
}

func (d *decoder) unknown(key *node, fields []field, path string) {
	var known []string
	for _, f := range fields {
		if f.later == "" {
			known = append(known, f.name)
		}
	}
	if near := nearest.Word(key.text, known); near != "" {
		d.mistake(key, path, "unknown key %q; did you mean %q?", clip(key.text), near)
		return
	}
	d.mistake(key, path, "unknown key %q; known keys: %s", clip(key.text), strings.Join(known, ", "))
}

func because(why string) string {
	if why == "" || why == "true" {
		return ""
	}
	return " (" + why + ")"
}

// entries reads a mapping into a map.
func (d *decoder) entries(n *node, v reflect.Value, f field, path string) {
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.pairs)))
	for _, p := range n.pairs {
		at := join(path, p.key.text)
		if f.keys != nil && !f.keys.MatchString(p.key.text) {
			d.mistake(p.key, path, "the name %q does not match %s", clip(p.key.text), f.keys)
			continue
		}
		elem := fresh(v.Type().Elem())
		switch {
		case p.value.isNull() && f.shape(elem.Type()) == aStruct: // all of it left to defaults
			d.value(&node{kind: mapping, line: p.key.line, col: p.key.col}, elem, f, at)
		case p.value.isNull():
			d.mistake(p.key, at, "has no value; write %s, or remove the key", f.expects(elem.Type()))
		default:
			d.value(p.value, elem, f, at)
		}
		v.SetMapIndex(reflect.ValueOf(p.key.text).Convert(v.Type().Key()), elem)
	}
}

// items reads a list into a slice.
func (d *decoder) items(n *node, v reflect.Value, f field, path string) {
	s := reflect.MakeSlice(v.Type(), 0, len(n.items))
	for i, item := range n.items {
		elem := fresh(v.Type().Elem())
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.isNull() {
			d.mistake(item, at, "has no value; write %s, or remove the item", f.expects(elem.Type()))
			continue
		}
		d.value(item, elem, f, at)
		if f.dropEmpty && elem.Kind() == reflect.String && elem.Len() == 0 {
			continue
		}
		s = reflect.Append(s, elem)
	}
	if f.required && s.Len() == 0 && len(n.items) == 0 {
		d.mistake(n, path, "is empty%s", because(f.desc))
	}
	v.Set(s)
}

// scalar reads one value. A value that holds a variable is taken for whatever
// the key wants, since all variables are text.
func (d *decoder) scalar(n *node, v reflect.Value, f field, path string) {
	text, expanded, ok := d.expand(n, path)
	if !ok {
		return
	}
	shape := f.shape(v.Type())
	wrong := func() {
		got := describe(n)
		if !f.secret {
			got = shown(n)
		}
		hint := ""
		if shape == aText && !f.secret {
			hint = fmt.Sprintf(" (put it in quotes: %q)", clip(n.text))
		} else if shape == aText {
			hint = " (put it in quotes)"
		}
		d.mistake(n, path, "expected %s, got %s%s", f.expects(v.Type()), got, hint)
	}
	isText := n.tag == "!!str" || n.tag == "!!timestamp" || n.quoted || expanded ||
		n.tag == "!!int" && readsItself(v.Type()) // such as 0 where 100/1m may stand
	if shape == aText && !isText ||
		shape != aText && shape != aDuration && shape != aSize && n.quoted && !expanded {
		wrong()
		return
	}
	if shape == aText {
		d.text(n, text, v, f, path)
		return
	}
	if !parse(text, v, shape) {
		wrong()
	}
}

func (d *decoder) text(n *node, text string, v reflect.Value, f field, path string) {
	said := "the value"
	if !f.secret {
		said = strconv.Quote(clip(n.text))
	}
	switch {
	case f.required && text == "" && f.shape(f.typ) == aText:
		d.mistake(n, path, "is empty%s", because(f.desc))
		return
	case text == "" && f.def == "" && len(f.enum) > 0: // as if absent
	case len(f.enum) > 0 && slices.Contains(f.laterEnum, text):
		d.mistake(n, path, "this version does not do %s yet; it can do %s", said, strings.Join(f.enum, ", "))
		return
	case len(f.enum) > 0 && !slices.Contains(f.enum, text):
		if near := nearest.Word(text, f.enum); near != "" {
			d.mistake(n, path, "%s is not known; did you mean %q?", said, near)
		} else {
			d.mistake(n, path, "%s is not known; it is one of %s", said, strings.Join(f.enum, ", "))
		}
		return
	case f.pattern != nil && text != "" && !f.pattern.MatchString(text):
		d.mistake(n, path, "%s does not match %s", said, f.pattern)
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			if f.secret {
				err = errors.New("cannot be read")
			}
			d.mistakes = append(d.mistakes, &Error{File: d.doc.name, Line: n.line, Col: n.col, Path: path, Err: err})
		}
		return
	}
	v.SetString(text)
}

// parse reads text into v, or reports false.
func parse(text string, v reflect.Value, shape shape) bool {
	switch shape {
	case aText:
		if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
			return u.UnmarshalText([]byte(text)) == nil
		}
		v.SetString(text)
		return true
	case aBool:
		v.SetBool(text == "true")
		return text == "true" || text == "false"
	case aDuration:
		t, err := time.ParseDuration(text)
		v.SetInt(int64(t))
		return err == nil && t >= 0
	case aNumber:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || x != x || x-x != 0 || v.OverflowFloat(x) {
			return false
		}
		v.SetFloat(x)
		return true
	}
	digits := strings.TrimPrefix(text, "-")
	if shape == aWhole && (digits != "0" && strings.HasPrefix(digits, "0") || strings.Trim(digits, "0123456789") != "") {
		return false // 0x10, 010 and 1_000 mean different numbers to different readers
	}
	if v.CanUint() {
		x, err := strconv.ParseUint(text, 10, 64)
		if err != nil || v.OverflowUint(x) {
			return false
		}
		v.SetUint(x)
		return true
	}
	x, err := strconv.ParseInt(text, 10, 64)
	if shape == aSize {
		x, err = parseSize(text)
	}
	if err != nil || v.OverflowInt(x) {
		return false
	}
	v.SetInt(x)
	return true
}

var units = []struct {
	name string
	size int64
}{ // longer names first: B ends them all
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"b", 1},
}

// parseSize reads 1MiB, 64KB, 10B and 1024.
func parseSize(s string) (int64, error) {
	factor := int64(1)
	s = strings.ToLower(s)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = strings.TrimRight(rest, " "), u.size
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor || s[0] == '+' {
		return 0, errors.New("not a size")
	}
	return n * factor, nil
}

// fresh returns a new value of type t, with its defaults if it is a struct of keys.
func fresh(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	if (field{}).shape(t) == aStruct && t.Kind() == reflect.Struct {
		setDefaults(v)
	}
	return v
}

// setDefaults fills v with what its tags and its SetDefaults say.
func setDefaults(v reflect.Value) {
	for _, f := range fieldsOf(v.Type()) {
		fv := v.FieldByIndex(f.index)
		switch shape := f.shape(f.typ); {
		case f.def != "" && shape == aList:
			fv.SetZero()
			for _, w := range words(f.def) {
				elem := reflect.New(f.typ.Elem()).Elem()
				mustParse(w, elem, f)
				fv.Set(reflect.Append(fv, elem))
			}
		case f.def != "":
			if fv.Kind() == reflect.Pointer {
				fv.Set(reflect.New(f.typ.Elem()))
				fv = fv.Elem()
			}
			mustParse(f.def, fv, f)
		case shape == aStruct && fv.Kind() == reflect.Struct:
			setDefaults(fv)
		}
	}
	if x, ok := v.Addr().Interface().(interface{ SetDefaults() }); ok {
		x.SetDefaults()
	}
}

func mustParse(text string, v reflect.Value, f field) {
	if !parse(text, v, f.shape(v.Type())) {
		panic(fmt.Sprintf("yamlfile: the default %q of key %q is not %s", text, f.name, f.expects(v.Type())))
	}
}

// describe names what kind of value n is, without its content.
func describe(n *node) string {
	switch {
	case n.kind == list:
		return "a list"
	case n.kind == mapping:
		return "a mapping"
	case n.quoted || n.tag == "!!str":
		return "text"
	case n.tag == "!!int" || n.tag == "!!float":
		return "a number"
	case n.tag == "!!bool":
		return "true or false"
	case n.tag == "!!null":
		return "nothing"
	}
	return "text"
}

// shown is describe with the value, for keys that are no secret. It shows what
// the file says: a variable's name and not what it holds.
func shown(n *node) string {
	switch describe(n) {
	case "text":
		return strconv.Quote(clip(n.text))
	case "a number":
		return "the number " + clip(n.text)
	case "true or false":
		return clip(n.text)
	}
	return describe(n)
}

// clip bounds what an error repeats of the file.
func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
