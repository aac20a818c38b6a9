package rules

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// template is a text with expressions in it.
type template struct {
	parts []part
}

type part struct {
	text string
	expr *expression // nil: text
}

// maxProduct bounds the items that one template gives.
const maxProduct = 10_000

func compileTemplate(s string) (*template, error) {
	if s == "" {
		return nil, errors.New("is empty")
	}
	if strings.ContainsFunc(s, isControl) || !utf8.ValidString(s) {
		return nil, errors.New("holds control characters or broken UTF-8")
	}
	t := &template{}
	for at := 0; at < len(s); {
		open := strings.IndexAny(s[at:], "{}")
		switch {
		case open < 0:
			t.parts = append(t.parts, part{text: s[at:]})
			return t, nil
		case s[at+open] == '}':
			return nil, fmt.Errorf("character %d: a } without its {; write {'}'} for the character itself", 1+utf8.RuneCountInString(s[:at+open]))
		case open > 0:
			t.parts = append(t.parts, part{text: s[at : at+open]})
		}
		at += open
		end := closing(s[at:])
		if end < 0 {
			return nil, fmt.Errorf("character %d: this { has no }; write {'{'} for the character itself", 1+utf8.RuneCountInString(s[:at]))
		}
		e, err := compileExpr(s[at+1 : at+end])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s[at:at+end+1], err)
		}
		t.parts = append(t.parts, part{expr: e})
		at += end + 1
	}
	return t, nil
}

// closing returns the index of the brace that closes the one s begins with, or
// -1. Braces within quotes do not count.
func closing(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		case '\'', '"', '`':
			end := quoted(s[i:])
			if end < 0 {
				return -1
			}
			i += end
		}
	}
	return -1
}

// quoted returns the index of the quote that closes the one s begins with, or -1.
func quoted(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case s[0]:
			return i
		case '\\':
			if s[0] != '`' {
				i++
			}
		}
	}
	return -1
}

// uses reports whether an expression of t satisfies f.
func (t *template) uses(f func(*expression) bool) bool {
	for _, p := range t.parts {
		if p.expr != nil && f(p.expr) {
			return true
		}
	}
	return false
}

var errTooMany = fmt.Errorf("more than %d items", maxProduct)

// items returns what t stands for: one item, or for lists every combination.
// Elements that give no text are told to problem and left out; an error leaves
// out all of t. Values go through esc first.
func (t *template) items(env map[string]any, esc func(string) string, problem func(error)) ([]string, error) {
	out := []string{""}
	for _, p := range t.parts {
		values := []string{p.text}
		if p.expr != nil {
			v, err := p.expr.run(env)
			if err != nil {
				return nil, err
			}
			if values, err = texts(v, problem); err != nil {
				return nil, err
			}
			for i, v := range values {
				values[i] = esc(v)
			}
		}
		if len(out)*len(values) > maxProduct {
			return nil, errTooMany
		}
		next := make([]string, 0, len(out)*len(values))
		for _, a := range out {
			for _, b := range values {
				next = append(next, a+b)
			}
		}
		out = next
	}
	return out, nil
}

// texts turns the value of an expression into the texts that it stands for.
func texts(v any, problem func(error)) ([]string, error) {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice {
		if r.Len() > maxProduct {
			return nil, errTooMany
		}
		out := make([]string, 0, r.Len())
		for i := range r.Len() {
			s, err := asText(r.Index(i).Interface())
			if err != nil {
				problem(fmt.Errorf("element %d: %w", i, err))
				continue
			}
			out = append(out, s)
		}
		return out, nil
	}
	s, err := asText(v)
	if err != nil {
		return nil, err
	}
	return []string{s}, nil
}

// asText writes a value as it stands in a tag: numbers in plain digits.
func asText(v any) (string, error) {
	s := ""
	switch v := v.(type) {
	case nil:
		return "", errors.New("the value is missing")
	case string:
		if v == "" {
			return "", errors.New("the value is empty")
		}
		s = v
	case bool:
		s = strconv.FormatBool(v)
	case int:
		s = strconv.Itoa(v)
	case int64:
		s = strconv.FormatInt(v, 10)
	case uint64:
		s = strconv.FormatUint(v, 10)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return "", errors.New("the value is not a number")
		}
		s = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		if reflect.ValueOf(v).Kind() == reflect.Slice {
			return "", errors.New("the value is a list within a list")
		}
		return "", fmt.Errorf("the value is %s and no text", kindName(v))
	}
	if strings.ContainsFunc(s, isControl) || !utf8.ValidString(s) {
		return "", errors.New("the value holds control characters or broken UTF-8")
	}
	return s, nil
}

func kindName(v any) string {
	if reflect.ValueOf(v).Kind() == reflect.Map {
		return "a mapping"
	}
	return fmt.Sprintf("of type %T", v)
}
