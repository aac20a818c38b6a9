package read

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"github.com/freshwire/freshwire/cache"
)

// Shown says whether the origin shows what an event announced.
type Shown int

const (
	ShownUnknown Shown = iota // no route tells
	ShownCurrent
	ShownOld // it shows an older version, or what is gone
)

func (s Shown) String() string { return [...]string{"unknown", "current", "old"}[s] }

// ErrTarget is returned for a target that is the address of no route.
var ErrTarget = errors.New("read: no route has this address")

// Refill fetches what is read at target: a path, and the allowed query, as
// cache.Request.Target has it. It is kept like the answer to any read.
func (rd *Reader) Refill(ctx context.Context, target string) error {
	rt, p, err := rd.locate(target)
	if err != nil {
		return err
	}
	j := &errand{rt: rt, place: &p, requestID: rand.Text()}
	_, err = rd.cache.Fill(ctx, p.request, j.fill)
	return err
}

// Probe asks the origin for what carries tag, where a route's version speaks
// for it, and keeps the answers. Of several routes all must show what was
// announced. Targets are places to look at besides those that tag leads to by
// itself, such as pages by slug.
func (rd *Reader) Probe(ctx context.Context, tag string, targets ...string) (Shown, error) {
	rd.mu.RLock()
	routes := slices.Clone(rd.routes)
	rd.mu.RUnlock()
	shown, asked := ShownUnknown, map[string]bool{}
	probe := func(rt *Route, p place) error {
		if asked[p.key] || rt.compiled.version == nil {
			return nil
		}
		asked[p.key] = true
		s, err := rt.probe(ctx, &p, tag)
		shown = max(shown, s)
		return err
	}
	var errs []error
	for _, rt := range routes {
		for _, p := range rt.placesOf(tag) {
			errs = append(errs, probe(rt, p))
		}
	}
	for _, target := range targets {
		if rt, p, err := rd.locate(target); err == nil {
			errs = append(errs, probe(rt, p))
		} // else the target was kept under another config
	}
	return shown, errors.Join(errs...)
}

// probe asks for one place, past all caches in front of the origin.
func (rt *Route) probe(ctx context.Context, p *place, tag string) (Shown, error) {
	j := &errand{rt: rt, place: p, requestID: rand.Text(), again: true}
	res, err := rt.cache.Fill(ctx, p.request, j.fill)
	if errors.Is(err, cache.ErrOldView) {
		return ShownOld, nil
	}
	if err != nil {
		return ShownUnknown, fmt.Errorf("probing %q: %w", p.request.Target, err)
	}
	switch {
	case j.mine.Load() != nil:
		return ShownUnknown, nil // not to be cached, so nobody is shown an old one from here
	case res.Detail == cache.DetailOriginLag:
		return ShownOld, nil
	case slices.Contains(res.Entry.Tags(), tag) || p.key == tag || p.base == tag:
		return ShownCurrent, nil
	}
	return ShownUnknown, nil // a list that does not have it
}

// placesOf returns the places whose version speaks for tag, as far as the tag
// tells the names of the path.
func (rt *Route) placesOf(tag string) []place {
	c := rt.compiled
	if c.version == nil {
		return nil
	}
	templates := []template{c.version.fixed}
	if c.version.fixed == nil {
		if len(c.names) == 0 && slices.ContainsFunc(c.version.tags, func(i int) bool { return c.learn.values[i].makes(tag) }) {
			return rt.placesWith(nil)
		}
		templates = slices.Clone(c.tags)
		if c.key != nil {
			templates = append(templates, c.key)
		}
	}
	for _, t := range templates {
		if values, ok := t.invert(tag); ok && len(values) == len(c.names) {
			return rt.placesWith(values)
		}
	}
	return nil
}

// placesWith returns the place whose path has the values, in each variant that
// may hold another content.
func (rt *Route) placesWith(values map[string]string) []place {
	pairs := make([]string, 0, 2*len(values))
	for name, value := range values {
		pairs = append(pairs, name, value)
	}
	u, err := rt.compiled.path.URLPath(pairs...)
	if err != nil {
		return nil // the values do not fit the path's patterns
	}
	var out []place
	for n := range rt.compiled.variants() {
		if p, err := rt.compiled.placeAt(u.Path, values, "", n); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// makes reports whether some value makes tag.
func (v learntValue) makes(tag string) bool {
	return len(tag) > len(v.before)+len(v.after) && strings.HasPrefix(tag, v.before) && strings.HasSuffix(tag, v.after)
}

// locate finds what a target means.
func (rd *Reader) locate(target string) (*Route, place, error) {
	address, variantText, varied := strings.Cut(target, "#")
	u, err := url.ParseRequestURI(address)
	if err != nil || u.Host != "" {
		return nil, place{}, fmt.Errorf("%w: %q", ErrTarget, target)
	}
	var match mux.RouteMatch
	rd.mu.RLock()
	found := rd.router.Match(&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}, &match)
	rd.mu.RUnlock()
	rt, ok := match.Handler.(*Route)
	if !found || !ok {
		return nil, place{}, fmt.Errorf("%w: %q", ErrTarget, target)
	}
	variant := 0
	if varied {
		if variant, ok = rt.compiled.variantNamed(variantText); !ok {
			return nil, place{}, fmt.Errorf("%w: %q", ErrTarget, target)
		}
	}
	p, err := rt.compiled.placeAt(u.Path, match.Vars, u.RawQuery, variant)
	if err != nil {
		return nil, place{}, fmt.Errorf("%w: %q: %w", ErrTarget, target, err)
	}
	return rt, p, nil
}
