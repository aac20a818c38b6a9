package read

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/cache"
)

// Headers that are kept with entries and never sent.
const (
	ownPrefix        = "Freshwire-"
	sourceHeader     = ownPrefix + "Source"     // see place.source
	validatorHeader  = ownPrefix + "Etag"       // the origin's own entity tag, strong or weak
	lifetimeHeader   = ownPrefix + "Lifetime"   // what the origin said of freshness, in seconds: fresh, while revalidate, if error
	incompleteHeader = ownPrefix + "Incomplete" // not all of its tags are known
	lengthHeader     = ownPrefix + "Length"     // of a body that still comes
	asIsHeader       = ownPrefix + "As-Is"      // the origin wants no other coding: no-transform
)

// renewable returns held if the origin may be asked whether it is still good: by
// an entity tag of the origin's own. A weak one, which is given to what somebody
// thinks alike, renews what merely expired: what an event made void may not come
// back by it. Dates renew nothing, since a second may hold two versions.
func (rt *Route) renewable(held *cache.Entry, p *place) *cache.Entry {
	if held == nil || held.Negative || held.Status != http.StatusOK {
		return nil
	}
	source, tag := held.Header[sourceHeader], held.Header[validatorHeader]
	if len(source) == 0 || source[0] != p.source || len(tag) == 0 {
		return nil
	}
	if weak := !isStrong(tag[0]); weak && !rt.cache.Stands(p.request, held) && !rt.faults.weaklyRenewed {
		return nil
	}
	if _, err := held.Body(); err != nil {
		return nil
	}
	return held
}

// renewed makes a whole answer of a 304 and what is held, as RFC 9111 3.2
// says: headers of the 304 take the place of those held.
func renewed(held *cache.Entry, res response) (response, error) {
	if tag := res.header.Get("Etag"); tag != "" && strings.TrimPrefix(tag, "W/") != strings.TrimPrefix(held.Header[validatorHeader][0], "W/") {
		return response{}, errOtherTag
	}
	body, err := held.Body()
	if err != nil {
		return response{}, err
	}
	header := http.Header{}
	maps.Copy(header, held.Header)
	maps.Copy(header, res.header)
	return response{status: held.Status, header: header, body: body, held: held}, nil
}

// lifetimeFor is lifetimeOf, for answers that may be a 304: one that says
// nothing of freshness leaves what the origin said before.
func (rt *Route) lifetimeFor(res response, now time.Time) lifetime {
	life := rt.lifetimeOf(res.header, now)
	if res.held == nil || rt.cfg.TTL > 0 || tellsFreshness(res.header) {
		return life
	}
	if before, ok := parseLifetime(res.held.Header[lifetimeHeader]); ok {
		before.age, before.told = life.age, true
		return before
	}
	return life
}

// asIs reports whether the origin wants the body left as it is.
func asIs(h http.Header) bool {
	return controlOf(h).says("no-transform") || control{directives: splitLines(h["Cache-Control"])}.says("no-transform") || len(h[asIsHeader]) > 0
}

func (l lifetime) String() string {
	text := ""
	for _, d := range []time.Duration{l.ttl, l.swr, l.sie} {
		text += " " + strconv.FormatInt(int64(d/time.Second), 10)
	}
	return text[1:]
}

func parseLifetime(values []string) (l lifetime, ok bool) {
	if len(values) != 1 {
		return l, false
	}
	fields := strings.Fields(values[0])
	if len(fields) != 3 {
		return l, false
	}
	for i, d := range []*time.Duration{&l.ttl, &l.swr, &l.sie} {
		if *d, ok = seconds(fields[i]); !ok {
			return lifetime{}, false
		}
	}
	return l, true
}
