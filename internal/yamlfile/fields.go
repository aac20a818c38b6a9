package yamlfile

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// field is a key of a struct, as its tags describe it.
type field struct {
	name      string
	index     []int
	typ       reflect.Type
	desc      string
	def       string
	example   string
	later     string
	enum      []string
	laterEnum []string
	pattern   *regexp.Regexp
	keys      *regexp.Regexp
	bytes     bool
	secret    bool
	required  bool
	dropEmpty bool
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// fieldsOf lists the keys of a struct type in their order. It panics on tags
// that make no sense: that is a mistake of ours and not of the file.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, opts, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if sf.Anonymous && name == "" || opts == "inline" {
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				all = append(all, f)
			}
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		if !sf.IsExported() {
			panic(fmt.Sprintf("yamlfile: %s.%s has a yaml tag and is not exported", t, sf.Name))
		}
		tag := sf.Tag.Get
		all = append(all, field{
			name: name, index: []int{i}, typ: sf.Type,
			desc: tag("desc"), def: tag("default"), example: tag("example"), later: tag("later"),
			enum: words(tag("enum")), laterEnum: words(tag("later_enum")),
			pattern: compiled(tag("pattern")), keys: compiled(tag("keys")),
			bytes: tag("unit") == "bytes", secret: tag("secret") == "true",
			required: tag("required") == "true", dropEmpty: tag("dropempty") == "true",
		})
	}
	for i, f := range all {
		if slices.ContainsFunc(all[:i], func(g field) bool { return g.name == f.name }) {
			panic(fmt.Sprintf("yamlfile: %s has two keys %q", t, f.name))
		}
	}
	return all
}

func words(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func compiled(s string) *regexp.Regexp {
	if s == "" {
		return nil
	}
	return regexp.MustCompile(s)
}

// shape is what kind of value a Go type reads.
type shape int

const (
	aText shape = iota
	aBool
	aWhole
	aNumber
	aDuration
	aSize
	aList
	aMap
	aStruct
)

// readsItself reports whether a type has a syntax of its own.
func readsItself(t reflect.Type) bool { return reflect.PointerTo(t).Implements(textType) }

func (f field) shape(t reflect.Type) shape {
	switch {
	case t == durationType:
		return aDuration
	case readsItself(t):
		return aText
	}
	switch t.Kind() {
	case reflect.Pointer:
		return f.shape(t.Elem())
	case reflect.String:
		return aText
	case reflect.Bool:
		return aBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if f.bytes {
			return aSize
		}
		return aWhole
	case reflect.Float32, reflect.Float64:
		return aNumber
	case reflect.Slice:
		return aList
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return aMap
		}
	case reflect.Struct:
		return aStruct
	}
	panic(fmt.Sprintf("yamlfile: key %q has the type %s, which cannot be read", f.name, t))
}

// expects says in words what a key of this type wants.
func (f field) expects(t reflect.Type) string {
	switch f.shape(t) {
	case aBool:
		return "true or false"
	case aWhole:
		return "a whole number"
	case aNumber:
		return "a number"
	case aDuration:
		return `a duration such as "5m"`
	case aSize:
		return `a size such as "1MiB"`
	case aList:
		return "a list"
	case aMap, aStruct:
		return "a mapping"
	}
	return "text"
}
