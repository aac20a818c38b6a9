package read

import (
	"strings"
)

// coding is a content coding that answers can have.
type coding int

const (
	identity coding = iota
	gzipped
	zstandard
	codings // how many there are
)

// codingNames are the names in headers, and suffixes of entity tags.
var codingNames = [codings]string{"identity", "gzip", "zstd"}

// accepted is how much a client wants each coding, in thousandths; 0 is not at all.
type accepted [codings]int

// acceptedBy reads Accept-Encoding. What is not named is not wanted, save the
// plain form, which anybody takes who does not rule it out; even then it is
// better than nothing.
func acceptedBy(lines []string) accepted {
	const unset = -1
	a, rest := accepted{unset, unset, unset}, unset
	for _, line := range lines {
		for line != "" {
			var member string
			member, line, _ = strings.Cut(line, ",")
			name, parameters, _ := strings.Cut(member, ";")
			q := weight(parameters)
			switch name = strings.Trim(name, " \t"); {
			case name == "*":
				rest = q
			case strings.EqualFold(name, "gzip"), strings.EqualFold(name, "x-gzip"):
				a[gzipped] = max(a[gzipped], q)
			case strings.EqualFold(name, "zstd"):
				a[zstandard] = max(a[zstandard], q)
			case strings.EqualFold(name, "identity"):
				a[identity] = max(a[identity], q)
			}
		}
	}
	for c := range a {
		if a[c] != unset {
			continue
		}
		switch {
		case rest != unset:
			a[c] = rest
		case coding(c) == identity:
			a[c] = 1 // wanted least
		default:
			a[c] = 0
		}
	}
	return a
}

// weight reads the q of a member's parameters, in thousandths. One that cannot
// be read is 0: not sending a coding is never wrong.
func weight(parameters string) int {
	for parameters != "" {
		var p string
		p, parameters, _ = strings.Cut(parameters, ";")
		name, value, _ := strings.Cut(p, "=")
		if name = strings.Trim(name, " \t"); name != "q" && name != "Q" {
			continue
		}
		value = strings.Trim(value, " \t")
		whole, fraction, _ := strings.Cut(value, ".")
		if whole != "0" && whole != "1" || len(fraction) > 3 {
			return 0
		}
		q := 0
		for i := range 3 {
			q *= 10
			if i < len(fraction) {
				if fraction[i] < '0' || fraction[i] > '9' {
					return 0
				}
				q += int(fraction[i] - '0')
			}
		}
		if whole == "1" {
			return 1000
		}
		return q
	}
	return 1000
}

// best is the coding that the client wants most; of equals the smallest.
func (a accepted) best() coding {
	best := identity
	for _, c := range [...]coding{gzipped, zstandard} {
		if a[c] > 0 && a[c] >= a[best] {
			best = c
		}
	}
	return best
}

// takes reports whether c may be sent.
func (a accepted) takes(c coding) bool { return a[c] > 0 || c == identity && a.best() == identity }

// tagOf is the entity tag of the content in a coding: other bytes need
// another strong tag.
func tagOf(etag string, c coding) string {
	if c == identity || etag == "" {
		return etag
	}
	return etag[:len(etag)-1] + "-" + codingNames[c] + `"`
}

// packable reports whether content of this type is text, which packing makes
// smaller. Images, sound, films and archives are packed already.
func packable(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	t = strings.ToLower(strings.Trim(t, " \t"))
	if strings.HasPrefix(t, "text/") || strings.HasSuffix(t, "+json") || strings.HasSuffix(t, "+xml") || strings.HasSuffix(t, "+text") {
		return true
	}
	switch t {
	case "application/json", "application/ld+json", "application/x-ndjson", "application/jsonl", "application/xml", "application/xml-dtd",
		"application/javascript", "application/x-javascript", "application/ecmascript", "application/wasm", "application/graphql",
		"application/yaml", "application/x-yaml", "application/rtf", "application/manifest+json", "application/vnd.ms-fontobject",
		"application/x-font-ttf", "application/x-www-form-urlencoded", "font/ttf", "font/otf", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon":
		return true
	}
	return false
}
