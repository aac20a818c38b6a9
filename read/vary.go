package read

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/maypok86/otter/v2"
	"golang.org/x/text/language"
)

const (
	maxVariants    = 32
	maxVaryValue   = 256  // bytes of a request header; a longer one counts as absent
	maxVarySeen    = 1024 // spellings of Accept-Language that are remembered
	acceptLanguage = "Accept-Language"
)

// varyHeader is a request header that makes a difference, and what differs.
type varyHeader struct {
	name   string   // canonical
	values []string // the first stands for all others
	speaks *speaks  // for Accept-Language
}

// parseVary reads the headers in the order of their names.
func parseVary(vary map[string][]string, sent http.Header) ([]varyHeader, error) {
	var out []varyHeader
	var errs []error
	variants := 1
	byName := func(a, b string) int {
		return cmp.Or(cmp.Compare(http.CanonicalHeaderKey(a), http.CanonicalHeaderKey(b)), cmp.Compare(a, b))
	}
	for _, given := range slices.SortedFunc(maps.Keys(vary), byName) {
		name, values := http.CanonicalHeaderKey(given), vary[given]
		h := varyHeader{name: name, values: values}
		switch {
		case !isToken(given):
			errs = append(errs, fmt.Errorf("%q is not the name of a header", given))
		case slices.Contains(neverVaried, name) || slices.Contains(ownHeaders, name):
			errs = append(errs, fmt.Errorf("%s cannot be one of them", name))
		case sent[name] != nil:
			errs = append(errs, fmt.Errorf("%s is set by headers already", name))
		case slices.ContainsFunc(out, func(h varyHeader) bool { return h.name == name }):
			errs = append(errs, fmt.Errorf("%s stands there twice", name))
		case len(values) == 0:
			errs = append(errs, fmt.Errorf("%s has no values; the first is for all others", name))
		}
		for i, v := range values {
			if v == "" || v != strings.TrimSpace(v) || !isHeaderValue(v) || len(v) > maxVaryValue {
				errs = append(errs, fmt.Errorf("%s: %q is not a value", name, v))
			} else if slices.ContainsFunc(values[:i], func(w string) bool { return strings.EqualFold(v, w) }) {
				errs = append(errs, fmt.Errorf("%s: %q stands there twice", name, v))
			}
		}
		if name == acceptLanguage {
			var err error
			if h.speaks, err = newSpeaks(values); err != nil {
				errs = append(errs, err)
			}
		}
		variants *= max(1, min(len(values), maxVariants+1))
		out = append(out, h)
	}
	if variants > maxVariants {
		errs = append(errs, fmt.Errorf("more than %d combinations of values, each an entry of its own", maxVariants))
	}
	return out, errors.Join(errs...)
}

// neverVaried are headers that would make an entry for each client, or that
// are for us to answer.
var neverVaried = []string{"Authorization", "Cookie", "Origin", "Freshwire-After", "Cache-Control", "Pragma", "X-Forwarded-For", "Forwarded"}

// variants is how many there are, at least 1.
func (c *compiled) variants() int {
	n := 1
	for _, h := range c.vary {
		n *= len(h.values)
	}
	return n
}

// variantOf returns the number of the variant that a request asks for.
func (c *compiled) variantOf(h http.Header) int {
	n := 0
	for i := range c.vary {
		n = n*len(c.vary[i].values) + c.vary[i].choose(h)
	}
	return n
}

// variantValues returns the value of each header in variant n.
func (c *compiled) variantValues(n int) []string {
	out := make([]string, len(c.vary))
	for i, h := range slices.Backward(c.vary) {
		out[i] = h.values[n%len(h.values)]
		n /= len(h.values)
	}
	return out
}

// variantText names a variant, as it stands in keys and targets.
func (c *compiled) variantText(n int) string {
	var b strings.Builder
	for i, v := range c.variantValues(n) {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(c.vary[i].name + "=" + url.QueryEscape(v))
	}
	return b.String()
}

// variantNamed is the inverse of variantText.
func (c *compiled) variantNamed(text string) (n int, ok bool) {
	for n := range c.variants() {
		if c.variantText(n) == text {
			return n, true
		}
	}
	return 0, false
}

// choose returns which of the values stands for what a request says.
func (v *varyHeader) choose(h http.Header) int {
	lines := h[v.name]
	if len(lines) == 0 {
		return 0
	}
	said := lines[0]
	if len(lines) > 1 {
		said = strings.Join(lines, ",")
	}
	switch {
	case len(said) > maxVaryValue:
		return 0
	case v.speaks != nil:
		return v.speaks.nearest(said)
	}
	said = strings.Trim(said, " \t")
	for i, value := range v.values {
		if strings.EqualFold(value, said) {
			return i
		}
	}
	return 0
}

// speaks finds the nearest of the languages that a site has.
type speaks struct {
	matcher language.Matcher
	seen    *otter.Cache[string, int] // what browsers say → which language
}

func newSpeaks(values []string) (*speaks, error) {
	tags := make([]language.Tag, len(values))
	for i, v := range values {
		var err error
		if tags[i], err = language.Parse(v); err != nil {
			return nil, fmt.Errorf("%s: %q is not a language: %w", acceptLanguage, v, err)
		}
	}
	return &speaks{language.NewMatcher(tags), otter.Must(&otter.Options[string, int]{MaximumSize: maxVarySeen})}, nil
}

func (s *speaks) nearest(said string) int {
	if n, ok := s.seen.GetIfPresent(said); ok {
		return n
	}
	n := 0
	if wanted, _, err := language.ParseAcceptLanguage(said); err == nil {
		if _, i, confidence := s.matcher.Match(wanted...); confidence != language.No {
			n = i
		}
	}
	s.seen.Set(strings.Clone(said), n)
	return n
}
