package read

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/freshwire/freshwire/cache"
	"github.com/gorilla/mux"
)

// Limits of what a request may ask for, in bytes save maxRepeats.
const (
	maxPath    = 1024
	maxValue   = 512 // of one name of the path, or of one query parameter
	maxQuery   = 4096
	maxRepeats = 16 // of one query parameter
)

// errAddress is answered with 400: an address that no client of good will sends.
var errAddress = errors.New("read: bad address")

// errNowhere is answered with 404: the address is fine, and leads nowhere.
var errNowhere = errors.New("read: no such place")

// place is what a request asks for, checked and in its normal form. Requests
// with equal places get the same content; nothing else of a request reaches
// the origin, so nothing else can make content differ.
type place struct {
	path   string            // of the request, decoded
	values map[string]string // of the names of the path
	query  string            // the allowed one
	key    string            // of the entry
	base   string            // what purges call it, where that is not the key
	tags   []string
	origin string      // URL to fetch
	varied http.Header // to send to the origin; nil where nothing varies

	// source stands for origin and varied. Entries carry it: keys are built from
	// values as they are, since rules purge them by that name, so "post:{id}"
	// with the id "1:comments" gives the key of "post:{id}:comments" with the id
	// 1. An entry whose source is another is never served.
	source string

	request cache.Request // prepared
}

// placeOf returns what r asks for. The router has decoded the path once and
// matched it with c's.
func (c *compiled) placeOf(r *http.Request) (place, error) {
	return c.placeAt(r.URL.Path, mux.Vars(r), r.URL.RawQuery, c.variantOf(r.Header))
}

// placeAt returns the place of a decoded path, whose names have the values, in
// one of its variants.
func (c *compiled) placeAt(p string, values map[string]string, rawQuery string, variant int) (place, error) {
	if err := checkPath(p); err != nil {
		return place{}, err
	}
	for _, v := range values {
		if len(v) > maxValue {
			return place{}, fmt.Errorf("%w: a segment of %d bytes, at most %d", errAddress, len(v), maxValue)
		}
	}
	query, err := c.allowedQuery(rawQuery)
	if err != nil {
		return place{}, err
	}
	origin, err := c.originURL(values, query)
	if err != nil {
		return place{}, err
	}
	out := place{path: p, values: values, query: query, origin: origin, tags: make([]string, len(c.tags))}
	for i, t := range c.tags {
		out.tags[i] = t.fill(values)
	}
	return c.variant(out, variant)
}

// variant returns another variant of p.
func (c *compiled) variant(p place, n int) (place, error) {
	p.key, p.base, p.source = defaultKey(p.path), "", p.origin
	if c.key != nil {
		if p.key = c.key.fill(p.values); p.key == "" {
			return place{}, errNowhere
		}
	}
	target := (&url.URL{Path: p.path}).EscapedPath()
	if p.query != "" {
		target += "?" + p.query
	}
	name := p.key + "?" + p.query
	if len(c.vary) > 0 { // a query cannot hold #
		text := "#" + c.variantText(n)
		if c.oneKey {
			text = ""
		}
		name, target, p.source = name+text, target+text, p.source+text
		p.varied = http.Header{}
		for i, v := range c.variantValues(n) {
			p.varied[c.vary[i].name] = []string{v}
		}
	}
	if p.query != "" || len(c.vary) > 0 {
		p.key, p.base = name, p.key
	}
	if len(p.key) > cache.MaxKey {
		return place{}, fmt.Errorf("%w: a key of %d bytes, at most %d", errAddress, len(p.key), cache.MaxKey)
	}
	p.source = sourceOf(p.source)
	p.request = cache.Request{Key: p.key, Base: p.base, Path: p.path, Tags: p.tags, Target: target}.Prepare()
	return p, nil
}

// checkPath refuses paths that have a second spelling, which would be a
// second entry, or that other programs read differently.
func checkPath(p string) error {
	switch {
	case len(p) > maxPath:
		return fmt.Errorf("%w: a path of %d bytes, at most %d", errAddress, len(p), maxPath)
	case !utf8.ValidString(p) || hasControl(p):
		return fmt.Errorf("%w: control characters or broken UTF-8", errAddress)
	case !strings.HasPrefix(p, "/"):
		return fmt.Errorf("%w: no slash at the beginning", errAddress)
	}
	if clean := path.Clean(p); clean != p && clean+"/" != p {
		return fmt.Errorf("%w: empty or dot segments", errAddress)
	}
	return nil
}

// allowedQuery returns the allowed parameters of a raw query, sorted by name
// and encoded anew. The order of equal names is kept: it may matter.
func (c *compiled) allowedQuery(raw string) (string, error) {
	if len(c.query) == 0 || raw == "" {
		return "", nil
	}
	if len(raw) > maxQuery {
		return "", fmt.Errorf("%w: a query of %d bytes, at most %d", errAddress, len(raw), maxQuery)
	}
	values, _ := url.ParseQuery(raw) // pairs that cannot be read are dropped, as unknown ones are
	for name, list := range values {
		if !slices.Contains(c.query, name) {
			delete(values, name)
			continue
		}
		if len(list) > maxRepeats {
			return "", fmt.Errorf("%w: a query parameter given %d times, at most %d", errAddress, len(list), maxRepeats)
		}
		for _, v := range list {
			if len(v) > maxValue || !utf8.ValidString(v) || hasControl(v) {
				return "", fmt.Errorf("%w: a query parameter is too long, or holds control characters or broken UTF-8", errAddress)
			}
		}
	}
	return values.Encode(), nil
}

// originURL fills the origin's template. Values are escaped, so they cannot
// leave their segment; two of them side by side could still make "..".
func (c *compiled) originURL(values map[string]string, query string) (string, error) {
	u := c.origin.fillEscaped(values, escapeSegments)
	_, rest, _ := strings.Cut(u, "://")
	for segment := range strings.SplitSeq(rest, "/") {
		if segment == "." || segment == ".." {
			return "", errNowhere
		}
	}
	own := c.originQuery.fillEscaped(values, url.QueryEscape)
	switch {
	case own != "" && query != "":
		u += "?" + own + "&" + query
	case own != "" || query != "":
		u += "?" + own + query
	}
	return u, nil
}

// sourceOf returns a short name of a URL, which may hold secrets.
func sourceOf(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:16])
}

var escapeInDefaultKey = strings.NewReplacer("%", "%25", "?", "%3F")

// defaultKey is the path, decoded. A "?" or "%" in it is escaped, so that no
// path reads like another path with a query.
func defaultKey(p string) string {
	if strings.ContainsAny(p, "%?") {
		p = escapeInDefaultKey.Replace(p)
	}
	return p
}
