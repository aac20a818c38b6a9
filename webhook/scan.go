package webhook

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// maxValues is how many values a body may hold, an object's members and an
// array's elements counted alike. What is made of one costs more memory than
// its bytes.
const maxValues = 1 << 20

// span is where an object or array stands in a body.
type span struct{ from, to int }

// longSpan is the length from which a span is remembered. Looking up a path
// passes over what it does not lead into; with the long spans known, that is
// quick however large the body is.
const longSpan = 512

var errNotJSON = errors.New("is not valid JSON")

// scan checks in one pass that b is one JSON value, as encoding/json takes it
// but for UTF-8, within maxDepth and maxValues. It returns the long spans in
// their order.
func scan(b []byte) ([]span, error) {
	var room [64]int
	open := room[:0] // where the brackets stand that are not closed yet
	var long []span
	values := 0
	for i := skipSpace(b, 0); ; { // a value begins at b[i]
		if i >= len(b) {
			return nil, errNotJSON
		}
		if values++; values > maxValues {
			return nil, fmt.Errorf("holds more than %d values", maxValues)
		}
		switch c := b[i]; c {
		case '{', '[':
			if len(open) == maxDepth {
				return nil, fmt.Errorf("nests deeper than %d", maxDepth)
			}
			open = append(open, i)
			i = skipSpace(b, i+1)
			if i >= len(b) {
				return nil, errNotJSON
			}
			if b[i] == c+2 { // it is empty
				break
			}
			if c == '{' {
				if i = scanKey(b, i); i < 0 {
					return nil, errNotJSON
				}
			}
			continue
		case '"':
			i = scanString(b, i)
		case 't', 'f', 'n':
			i = scanWord(b, i)
		default:
			i = scanNumber(b, i)
		}
		if i < 0 {
			return nil, errNotJSON
		}
		for { // a value ended before b[i], or it was a bracket that closes at b[i]
			i = skipSpace(b, i)
			if len(open) == 0 {
				if i < len(b) {
					return nil, errNotJSON
				}
				slices.SortFunc(long, func(a, b span) int { return cmp.Compare(a.from, b.from) })
				return long, nil
			}
			if i >= len(b) {
				return nil, errNotJSON
			}
			from := open[len(open)-1]
			if b[i] == ',' {
				i = skipSpace(b, i+1)
				if b[from] == '{' {
					if i = scanKey(b, i); i < 0 {
						return nil, errNotJSON
					}
				}
				break
			}
			if b[i] != b[from]+2 {
				return nil, errNotJSON
			}
			i++
			open = open[:len(open)-1]
			if i-from >= longSpan && len(open) > 0 {
				if long == nil {
					long = make([]span, 0, 8)
				}
				long = append(long, span{from, i})
			}
		}
	}
}

// The functions below return where what begins at b[i] ends, or -1 when it is
// not what they scan.

// scanKey ends at the member's value.
func scanKey(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	if i = scanString(b, i); i < 0 {
		return -1
	}
	if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
		return -1
	}
	return skipSpace(b, i+1)
}

func scanString(b []byte, i int) int {
	for i = plainEnd(b, i+1); i < len(b); i = plainEnd(b, i) {
		switch {
		case b[i] == '"':
			return i + 1
		case b[i] != '\\' || i+1 == len(b):
			return -1
		}
		switch b[i+1] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i += 2
		case 'u':
			if i+6 > len(b) || !isHex(b[i+2]) || !isHex(b[i+3]) || !isHex(b[i+4]) || !isHex(b[i+5]) {
				return -1
			}
			i += 6
		default:
			return -1
		}
	}
	return -1
}

func scanWord(b []byte, i int) int {
	for _, word := range []string{"true", "false", "null"} {
		if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
			return i + len(word)
		}
	}
	return -1
}

func scanNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	whole := digitsEnd(b, i)
	if whole == i || b[i] == '0' && whole > i+1 {
		return -1
	}
	i = whole
	if i < len(b) && b[i] == '.' {
		if i = digitsEnd(b, i+1); b[i-1] == '.' {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		end := digitsEnd(b, i)
		if end == i {
			return -1
		}
		i = end
	}
	return i
}

func digitsEnd(b []byte, i int) int {
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	return i
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isHex(c byte) bool   { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// plainEnd returns where, from b[i] on, the first quote, backslash or control
// character stands; len(b) when there is none.
//
// It looks at eight bytes at a time: subtracting n from each byte sets the top
// bit of those below n, unless it was set before. A borrow disturbs only bytes
// above one that was found, and the lowest is taken.
func plainEnd(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		if found := ((w-ones*' ')&^w | (quote-ones)&^quote | (slash-ones)&^slash) & tops; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return min(i, len(b))
}
