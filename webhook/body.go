package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep a body may nest. encoding/json stops at 10000, counted
// with the envelope in which the payload travels on; what enters here must
// still be readable there.
const maxDepth = 9500

// object is a parsed body. Numbers are json.Number, so that an id beyond 2^53
// keeps its digits.
type object map[string]any

// parseObject reads a body that is one JSON object in UTF-8 and nothing else.
// Of a key that stands there twice, the last one wins.
func parseObject(body []byte) (object, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("body is not UTF-8")
	}
	if first := bytes.TrimLeft(body, " \t\r\n"); len(first) == 0 || first[0] != '{' {
		return nil, errors.New("body is not a JSON object")
	}
	if d := depth(body); d > maxDepth {
		return nil, fmt.Errorf("body nests %d deep, at most %d", d, maxDepth)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var obj object
	if err := dec.Decode(&obj); err != nil {
		return nil, errors.New("body is not valid JSON") // the decoder's own words quote the body
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("body goes on after the JSON object")
	}
	return obj, nil
}

// depth returns how deep brackets nest, those within strings not counted.
func depth(body []byte) (deepest int) {
	var d int
	var quoted bool
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			d++
			deepest = max(deepest, d)
		case c == '}', c == ']':
			d--
		}
	}
	return deepest
}

// at returns what stands at a path such as data.id or documents.0; nil when
// nothing does, or when path is empty.
func (o object) at(path string) any {
	if path == "" {
		return nil
	}
	var v any = map[string]any(o)
	for step := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(in) {
				return nil
			}
			v = in[i]
		default:
			return nil
		}
	}
	return v
}

// text returns the string or number at path; "" for anything else.
func (o object) text(path string) string {
	switch v := o.at(path).(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// object returns the object at path; nil for anything else.
func (o object) object(path string) object {
	v, _ := o.at(path).(map[string]any)
	return v
}
