package read

import (
	"net/http"
	"strconv"
	"strings"
)

// span is a part of a body: bytes from begin up to, and without, end.
type span struct{ begin, end int }

// kinds of what a Range header asks for.
type rangeKind int

const (
	wholeBody rangeKind = iota // nothing, several parts, or what cannot be read
	onePart
	nowhere // a part beyond the end
)

// rangeOf reads the Range of a request for a body of so many bytes, whose
// plain form has the entity tag. One part is given; several are not worth
// their multipart form, and answered with the whole, as RFC 9110 14.2 allows.
func rangeOf(h http.Header, etag string, size int) (span, rangeKind) {
	lines := h["Range"]
	if len(lines) != 1 {
		return span{}, wholeBody
	}
	if condition := h["If-Range"]; len(condition) > 0 && (len(condition) > 1 || condition[0] != etag || !isStrong(etag)) {
		return span{}, wholeBody // dates too: within a second there may be two versions
	}
	unit, set, ok := strings.Cut(lines[0], "=")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return span{}, wholeBody
	}
	first, last, ok := strings.Cut(strings.Trim(set, " \t"), "-")
	if !ok || first == "" && last == "" {
		return span{}, wholeBody
	}
	from, fromOK := offset(first)
	to, toOK := offset(last)
	switch {
	case first != "" && !fromOK, last != "" && !toOK, first != "" && last != "" && to < from:
		return span{}, wholeBody
	case first == "" && to == 0, first != "" && from >= size:
		return span{}, nowhere
	case first == "" && size == 0:
		return span{}, nowhere
	case first == "":
		return span{max(0, size-to), size}, onePart
	case last == "":
		return span{from, size}, onePart
	}
	return span{from, min(to+1, size)}, onePart
}

// offset reads digits. What is beyond every body counts as far.
func offset(s string) (int, bool) {
	const far = 1 << 40
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > far {
		n = far
	}
	return int(n), true
}

func (s span) contentRange(size int) string {
	return "bytes " + strconv.Itoa(s.begin) + "-" + strconv.Itoa(s.end-1) + "/" + strconv.Itoa(size)
}
