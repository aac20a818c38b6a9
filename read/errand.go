package read

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/cache"
)

// errand is what one read, refill or probe sends the origin for.
type errand struct {
	rt            *Route
	place         *place
	requestID     string
	again         bool // caches on the way must not answer
	otherVariants bool // there was an entry of another one

	// An answer that may not be stored does not enter the cache, where those who
	// wait for the same key could get it. It is left here, for the one client
	// whose request fetched it; the others ask for their own.
	mine atomic.Pointer[response]

	asks    atomic.Int32
	held    atomic.Pointer[string] // what was there in place of a fresh entry, a reason
	renewed atomic.Bool            // the origin said 304
}

// fill asks the origin for the cache; it is a cache.FillFunc.
func (j *errand) fill(ctx context.Context, held *cache.Entry) (cache.Fill, error) {
	j.note(held)
	rt := j.rt
	q := question{requestID: j.requestID, again: j.asks.Add(1) > 1 || j.again, stream: rt.streams()}
	if !q.again {
		q.held = rt.renewable(held, j.place)
	}
	res, err := rt.ask(ctx, j.place, q)
	if errors.Is(err, errOtherTag) {
		q.held = nil
		res, err = rt.ask(ctx, j.place, q)
	}
	if err != nil {
		return cache.Fill{}, err
	}
	if rt.compiled.notStorable(res) != "" {
		j.mine.Store(&res)
		return cache.Fill{Status: http.StatusNoContent, NoStore: true}, nil
	}
	j.renewed.Store(res.held != nil)
	f := rt.fillOf(j.place, res)
	if res.stream == nil {
		return f, nil
	}
	f.Stream = res.stream
	f.Finish = func(body []byte) cache.Fill {
		whole := res
		whole.stream, whole.body = nil, body
		return rt.fillOf(j.place, whole)
	}
	return f, nil
}

// streams reports whether bodies of this route may be handed on while they come
// in: nothing that is told before the body is to be read out of it.
func (rt *Route) streams() bool {
	c := rt.compiled
	return c.version == nil && (len(c.emit) == 0 || len(c.learn.values) == 0)
}

// note remembers why there is something to fetch.
func (j *errand) note(held *cache.Entry) {
	if j.held.Load() != nil {
		return
	}
	found := reasonCold
	if held != nil {
		if found = reasonExpired; time.Now().Before(held.FreshUntil) {
			found = reasonVoid
		}
	}
	j.held.Store(&found)
}

// found is what was there in place of a fresh entry, "" when nobody looked.
func (j *errand) found() string {
	if f := j.held.Load(); f != nil {
		return *f
	}
	return ""
}

// forwarded is why the origin was asked, in the words of Cache-Status.
func (j *errand) forwarded() string {
	switch {
	case j.found() == reasonExpired:
		return "stale"
	case j.found() == reasonCold && j.otherVariants:
		return "vary-miss"
	}
	return "uri-miss"
}

// fillOf makes an entry's content of a storable answer. Of one that says that
// there is nothing, only that is kept.
func (rt *Route) fillOf(p *place, res response) cache.Fill {
	if res.status == http.StatusNotFound || res.status == http.StatusGone {
		f := cache.Fill{
			Status: http.StatusNotFound, Negative: true, TTL: rt.cfg.NegativeTTL,
			Header: map[string][]string{sourceHeader: {p.source}},
		}
		if rt.compiled.version != nil {
			f.Versions = map[string]string{} // known to tell none
		}
		return f
	}
	life := rt.lifetimeFor(res, time.Now())
	header := keptHeaders(res.header)
	header[sourceHeader] = []string{p.source}
	if life.told {
		header[lifetimeHeader] = []string{life.String()}
	}
	f := cache.Fill{
		Status: res.status, Header: header, Body: res.body,
		TTL: life.left(), SWR: life.swr, SIE: life.sie, Age: life.age,
		Packable: packable(res.header.Get("Content-Type")),
	}
	if asIs(res.header) {
		f.Packable, header[asIsHeader] = false, []string{"1"}
	}
	var more []string
	if res.held != nil {
		if f.ETag = res.held.ETag; !rt.faults.tagsForgotten {
			more = res.held.Tags()
		}
		header[validatorHeader] = res.held.Header[validatorHeader]
		f.Incomplete = len(res.held.Header[incompleteHeader]) > 0
	} else {
		if f.ETag = etagOf(res); res.stream != nil && res.size > 0 {
			header[lengthHeader] = []string{strconv.FormatInt(res.size, 10)}
		}
		if own := res.header.Get("Etag"); isStrong(strings.TrimPrefix(own, "W/")) {
			header[validatorHeader] = []string{own}
		}
	}
	if res.stream != nil {
		return f // what it teaches is told at its end
	}
	rt.taught(p, &f, rt.compiled.learnFrom(p, res.header, res.body, more))
	if rt.faults.unversioned && res.held != nil {
		f.Versions = nil
	}
	return f
}

// taught adds to f what an answer told of its tags and version.
func (rt *Route) taught(p *place, f *cache.Fill, l lesson) {
	f.Tags, f.Versions = l.tags, l.versions
	rt.metrics.learnt.Add(float64(len(l.tags)))
	if l.cut > 0 {
		rt.metrics.cut.Add(float64(l.cut))
		rt.log.Warn("an answer has more tags than are kept, so every event voids it", "route", rt.cfg.Path, "key", p.key, "tags", len(l.tags), "cut", l.cut)
	}
	if l.notJSON {
		rt.metrics.notJSON.Inc()
	}
	f.Incomplete = f.Incomplete || l.incomplete && !rt.faults.cutUntold
	if f.Incomplete {
		f.Header[incompleteHeader] = []string{"1"}
	}
}
