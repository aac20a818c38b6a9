package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep a body may nest. encoding/json stops at 10000, counted
// with the envelope in which the payload travels on; what enters here must
// still be readable there.
const maxDepth = 9500

// value is one JSON value of a body, still as its bytes. A delivery is asked
// for a handful of its parts, so they are looked up when needed instead of
// building a tree of all. The zero value is where nothing stands.
//
// A path names keys and array elements apart by dots: data.id, documents.0. Of
// a key that stands there twice, the last one wins. A number keeps its digits.
type value struct {
	raw  []byte // valid, without white space around it
	from int    // where raw begins in the body
	long []span // the long parts of the body, for skipping them
}

// parseObject reads a body that is one JSON object in UTF-8 and nothing else.
func parseObject(body []byte) (value, error) {
	if !utf8.Valid(body) {
		return value{}, errors.New("body is not UTF-8")
	}
	body = bytes.Trim(body, " \t\r\n")
	if len(body) == 0 || body[0] != '{' {
		return value{}, errors.New("body is not a JSON object")
	}
	long, err := scan(body)
	if err != nil {
		return value{}, fmt.Errorf("body %w", err)
	}
	return value{raw: body, long: long}, nil
}

func (v value) exists() bool   { return len(v.raw) > 0 && v.raw[0] != 'n' } // null is nothing, too
func (v value) isObject() bool { return len(v.raw) > 0 && v.raw[0] == '{' }
func (v value) isText() bool   { return len(v.raw) > 0 && v.raw[0] == '"' }

// at returns what stands at path; v itself for the empty path.
func (v value) at(path string) value {
	for path != "" && len(v.raw) > 0 {
		var step string
		step, path, _ = strings.Cut(path, ".")
		v = v.child(step)
	}
	return v
}

// text returns the string or number at path; "" for anything else, and for the
// empty path, which a source that has no such part is set up with.
func (v value) text(path string) string {
	if path == "" {
		return ""
	}
	return v.at(path).string()
}

// string returns v itself as text returns its parts.
func (v value) string() string {
	switch {
	case v.isText():
		return unquote(v.raw)
	case len(v.raw) > 0 && (v.raw[0] == '-' || '0' <= v.raw[0] && v.raw[0] <= '9'):
		return string(v.raw)
	}
	return ""
}

// object returns the object at path; the zero value for anything else.
func (v value) object(path string) value {
	if v = v.at(path); !v.isObject() {
		return value{}
	}
	return v
}

// isTrue reports whether true stands at path.
func (v value) isTrue(path string) bool { return path != "" && string(v.at(path).raw) == "true" }

// list returns the elements of the array at path; nil for anything else.
func (v value) list(path string) []value {
	v = v.at(path)
	if len(v.raw) == 0 || v.raw[0] != '[' {
		return nil
	}
	items := []value{}
	v.each(func(_ []byte, item value) bool {
		items = append(items, item)
		return true
	})
	return items
}

// keys returns the keys of an object in their order, each once.
func (v value) keys() []string {
	if !v.isObject() {
		return nil
	}
	var keys []string
	seen := map[string]bool{}
	v.each(func(key []byte, _ value) bool {
		if k := unquote(key); !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
		return true
	})
	return keys
}

// child returns the member or element that step names.
func (v value) child(step string) value {
	var found value
	switch v.raw[0] {
	case '{':
		v.each(func(key []byte, item value) bool {
			if string(key[1:len(key)-1]) == step || bytes.IndexByte(key, '\\') >= 0 && unquote(key) == step {
				found = item
			}
			return true
		})
	case '[':
		n, err := strconv.Atoi(step)
		if err != nil || n < 0 {
			break
		}
		v.each(func(_ []byte, item value) bool {
			if n--; n < 0 {
				found = item
			}
			return n >= 0
		})
	}
	return found
}

// each calls f with every member (its key still quoted) or element of v until
// f returns false.
func (v value) each(f func(key []byte, item value) bool) {
	b := v.raw
	i := skipSpace(b, 1)
	for i < len(b) && b[i] != '}' && b[i] != ']' {
		var key []byte
		if b[0] == '{' {
			end := skipString(b, i)
			key = b[i:end]
			i = skipSpace(b, skipSpace(b, end)+1) // the colon
		}
		end := v.skip(i)
		if !f(key, value{b[i:end], v.from + i, v.long}) {
			return
		}
		if i = skipSpace(b, end); i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
}

// skip returns where the value that begins at v.raw[i] ends.
func (v value) skip(i int) int {
	b := v.raw
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		if n, ok := slices.BinarySearchFunc(v.long, v.from+i, func(s span, at int) int { return s.from - at }); ok {
			return v.long[n].to - v.from
		}
		return skipBrackets(b, i)
	}
	for i < len(b) && b[i] > ' ' && b[i] != ',' && b[i] != ']' && b[i] != '}' {
		i++
	}
	return i
}

// skipBrackets returns where the object or array that begins at b[i] ends.
func skipBrackets(b []byte, i int) int {
	for d := 0; i < len(b); {
		switch b[i] {
		case '"':
			i = skipString(b, i)
			continue
		case '{', '[':
			d++
		case '}', ']':
			if d--; d == 0 {
				return i + 1
			}
		}
		i++
	}
	return i
}

// skipString returns where the string that begins at b[i] ends.
func skipString(b []byte, i int) int {
	for i = plainEnd(b, i+1); i < len(b) && b[i] != '"'; i = plainEnd(b, i) {
		i += 2 // a backslash and what it escapes
	}
	return min(i+1, len(b))
}

// unquote returns the text of a quoted string.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil { // it is valid, or v would not be
		return ""
	}
	return s
}
