package read

import (
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/zeebo/xxh3"
)

// etagOf returns a strong entity tag: the origin's when it has one that fits
// the body, else one made from the body; "" while that still comes.
func etagOf(res response) string {
	if tag := res.header.Get("Etag"); !res.decoded && isStrong(tag) && !namesCoding(tag) {
		return tag
	}
	if res.stream != nil {
		return ""
	}
	sum := xxh3.Hash128(res.body).Bytes()
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// namesCoding reports whether tag could be one of ours for another coding.
func namesCoding(tag string) bool {
	return strings.HasSuffix(tag, `-gzip"`) || strings.HasSuffix(tag, `-zstd"`)
}

// isStrong reports whether tag is a well-formed strong entity tag.
func isStrong(tag string) bool {
	if len(tag) < 2 || len(tag) > 256 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		return false
	}
	return etagEnd(tag) == len(tag)
}

// etagEnd returns the length of the opaque tag, with its quotes, that s begins
// with, or -1.
func etagEnd(s string) int {
	if s == "" || s[0] != '"' {
		return -1
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c < 0x21 || c == 0x7f:
			return -1
		}
	}
	return -1
}

// has reports whether the client has content with this entity tag already, by
// If-None-Match. Dates are not asked: within one second there may be two
// versions, and a client that kept the first would be told that it is the last.
func has(h http.Header, etag string) bool {
	for _, line := range h["If-None-Match"] {
		if matches(line, etag) {
			return true
		}
	}
	return false
}

// matches compares weakly, as RFC 9110 13.1.2 says for If-None-Match. Commas
// may stand within a tag, so the list is read tag by tag; what follows
// something else than a tag does not count.
func matches(list, etag string) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	for {
		list = strings.TrimLeft(list, " \t,")
		list = strings.TrimPrefix(list, "W/")
		end := etagEnd(list)
		if end < 0 {
			return false
		}
		if list[:end] == etag {
			return true
		}
		list = list[end:]
	}
}
