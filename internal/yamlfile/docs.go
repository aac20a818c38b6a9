package yamlfile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Meta is what a schema says about itself.
type Meta struct {
	ID, Title, Description string
}

// Schema returns a JSON Schema (draft-07) of the file that the struct v, or a
// pointer to it, is read from. It allows what Decode allows, as far as a schema
// can tell: what a variable holds is known at start only.
func Schema(v any, meta Meta) ([]byte, error) {
	s := structSchema(structType(v))
	s["$schema"] = "http://json-schema.org/draft-07/schema#"
	for k, text := range map[string]string{"$id": meta.ID, "title": meta.Title, "description": meta.Description} {
		if text != "" {
			s[k] = text
		}
	}
	out, err := json.MarshalIndent(s, "", "  ")
	return append(out, '\n'), err
}

func structType(v any) reflect.Type {
	t := reflect.TypeOf(v)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

type object = map[string]any

func structSchema(t reflect.Type) object {
	props, required := object{}, []string{}
	for _, f := range fieldsOf(t) {
		props[f.name] = f.schema()
		if f.required {
			required = append(required, f.name)
		}
	}
	s := object{"type": "object", "additionalProperties": false, "properties": props}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func (f field) schema() object {
	if f.later != "" {
		return object{"not": object{}, "description": "This version does not do this yet. " + f.desc}
	}
	s := f.typeSchema(f.typ)
	if shape := f.shape(f.typ); shape >= aList && !f.required {
		s["type"] = []string{s["type"].(string), "null"} // all its lines may be comments
	}
	if f.desc != "" {
		s["description"] = f.desc
	}
	if f.def != "" {
		s["default"] = f.literal(f.def)
	}
	if f.example != "" {
		s["examples"] = []any{f.literal(f.example)}
	}
	return s
}

const holdsVariable = `\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}`

// typeSchema describes a value of type t. Every text may hold a variable.
func (f field) typeSchema(t reflect.Type) object {
	if t.Kind() == reflect.Pointer {
		return f.typeSchema(t.Elem())
	}
	or := func(s object) object {
		return object{"anyOf": []any{s, object{"type": "string", "pattern": holdsVariable}}}
	}
	switch f.shape(t) {
	case aBool:
		return or(object{"type": "boolean"})
	case aWhole:
		s := object{"type": "integer"}
		if t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64 {
			s["minimum"] = 0
		}
		return or(s)
	case aNumber:
		return or(object{"type": "number"})
	case aDuration:
		return object{"anyOf": []any{object{"const": 0}, object{"type": "string", "pattern": `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$|` + holdsVariable}}}
	case aSize:
		return object{"anyOf": []any{object{"type": "integer", "minimum": 0}, object{"type": "string", "pattern": `^[0-9]+ *(([KkMmGg][Ii]?)?[Bb])?$|` + holdsVariable}}}
	case aList:
		return object{"type": "array", "items": f.typeSchema(t.Elem())}
	case aMap:
		s := object{"type": "object", "additionalProperties": f.typeSchema(t.Elem())}
		if f.keys != nil {
			s["propertyNames"] = object{"pattern": f.keys.String()}
		}
		return s
	case aStruct:
		return structSchema(t)
	}
	switch {
	case len(f.enum) > 0:
		return or(object{"type": "string", "enum": f.enum})
	case f.pattern != nil:
		return object{"type": "string", "pattern": f.pattern.String() + "|" + holdsVariable}
	case f.required:
		return object{"type": "string", "minLength": 1}
	case readsItself(t):
		return object{"type": []string{"string", "integer"}}
	}
	return object{"type": "string"}
}

// literal turns a default, written as text in its tag, into JSON.
func (f field) literal(text string) any {
	switch f.shape(f.typ) {
	case aBool:
		return text == "true"
	case aWhole, aNumber:
		if x, err := strconv.ParseFloat(text, 64); err == nil {
			return x
		}
	case aList:
		return words(text)
	}
	return text
}

// Markdown returns tables of all keys that the struct v, or a pointer to it,
// can be read from: one section a struct, in the order of the fields.
func Markdown(v any) string {
	var b strings.Builder
	t := structType(v)
	var top []field
	for _, f := range fieldsOf(t) {
		if _, in := f.within(); in != nil {
			b.WriteString(section(f.name, f))
			continue
		}
		top = append(top, f)
	}
	if len(top) == 0 {
		return strings.TrimPrefix(b.String(), "\n")
	}
	return table(top) + b.String()
}

// within returns the struct that a key holds, directly, in a list or by name,
// and how a path goes on there.
func (f field) within() (suffix string, t reflect.Type) {
	for t = f.typ; ; t = t.Elem() {
		switch {
		case t == durationType || readsItself(t):
			return "", nil
		case t.Kind() == reflect.Struct:
			return suffix, t
		case t.Kind() == reflect.Slice:
			suffix += "[]"
		case t.Kind() == reflect.Map:
			suffix += ".<name>"
		case t.Kind() != reflect.Pointer:
			return "", nil
		}
	}
}

// section is the heading and table of a key that holds a struct, and after it
// the sections of what is in that.
func section(path string, f field) string {
	suffix, t := f.within()
	path += suffix
	var b strings.Builder
	fmt.Fprintf(&b, "\n## `%s`\n", path)
	if f.desc != "" {
		fmt.Fprintf(&b, "\n%s\n", sentence(f.desc))
	}
	if f.later != "" {
		fmt.Fprintf(&b, "\nThis version does not do this yet%s.\n", because(f.later))
		return b.String()
	}
	b.WriteString("\n" + table(fieldsOf(t)))
	for _, g := range fieldsOf(t) {
		if _, in := g.within(); in != nil {
			b.WriteString(section(path+"."+g.name, g))
		}
	}
	return b.String()
}

func sentence(s string) string {
	if s = strings.ToUpper(s[:1]) + s[1:]; strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

func table(fields []field) string {
	var b strings.Builder
	b.WriteString("| key | value | default | meaning |\n|---|---|---|---|\n")
	for _, f := range fields {
		def := "–"
		switch {
		case f.def != "":
			def = "`" + f.def + "`"
		case f.required:
			def = "required"
		}
		desc := f.desc
		if f.example != "" {
			desc += ", such as `" + f.example + "`"
		}
		if f.later != "" {
			desc += " (this version does not do this yet)"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, cell(f.kindOfValue(f.typ)), cell(def), cell(strings.TrimPrefix(desc, ", ")))
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func (f field) kindOfValue(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		return f.kindOfValue(t.Elem())
	}
	switch f.shape(t) {
	case aBool:
		return "true, false"
	case aWhole, aNumber:
		return "number"
	case aDuration:
		return "duration"
	case aSize:
		return "size"
	case aList:
		return "list of " + f.kindOfValue(t.Elem())
	case aMap:
		return "name: " + f.kindOfValue(t.Elem())
	case aStruct:
		return "mapping"
	}
	switch {
	case len(f.enum) > 0:
		return "`" + strings.Join(f.enum, "`, `") + "`"
	case f.secret:
		return "secret"
	}
	return "text"
}
