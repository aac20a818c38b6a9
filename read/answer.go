package read

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/cache"
)

// status describes what the cache did, as the value of Cache-Status, RFC 9211.
func (j *errand) status(res cache.Result) string {
	how := "freshwire; "
	switch res.Verdict {
	case cache.Hit:
		how += "hit; ttl=" + ttlOf(res)
	case cache.Stale:
		how += "fwd=stale; ttl=" + ttlOf(res)
	case cache.Miss:
		how += "fwd=" + j.forwarded()
		if j.renewed.Load() {
			how += "; fwd-status=304"
		}
		if res.Stored {
			how += "; stored"
		}
		if res.Collapsed {
			how += "; collapsed"
		}
	default:
		how += "fwd=bypass"
	}
	switch {
	case res.Detail != "":
		how += "; detail=" + res.Detail
	case res.Verdict == cache.Miss && j.found() == reasonVoid:
		how += "; detail=" + reasonVoid
	}
	return how
}

func ttlOf(res cache.Result) string { return strconv.FormatInt(int64(res.TTL/time.Second), 10) }

// give answers with an entry. The hot path of the house: see BenchmarkHit.
func (rt *Route) give(w http.ResponseWriter, r *http.Request, res cache.Result, j *errand) error {
	e := res.Entry
	v := rt.viewOf(e)
	h := w.Header()
	var now *moment
	if res.Verdict == cache.Hit {
		now = v.at(res.Age, res.TTL)
		h["X-Cache"] = isHit
	} else {
		now = &moment{age: [1]string{strconv.FormatInt(int64(res.Age/time.Second), 10)}, status: [1]string{j.status(res)}}
		h["X-Cache"] = xCache[string(res.Verdict)]
	}
	h["Age"], h["Cache-Status"] = now.age[:], now.status[:]
	for i := range v.fields {
		h[v.fields[i].name] = v.fields[i].values
	}
	addVary(h, v.vary)
	if res.Position != "" {
		h["Freshwire-Position"] = rt.positionValue(res.Position)
	}
	if len(rt.compiled.emit) > 0 && rt.trusts(r.RemoteAddr) {
		for _, f := range v.tags(e) {
			h[f.name] = f.values
		}
	}
	if e.Negative {
		writeProblem(w, r, http.StatusNotFound, "There is nothing at this address.", 0, requestIDOf(w))
		return nil
	}
	if res.Stream != nil {
		return rt.pour(w, r, v, res)
	}

	chosen, wants := identity, accepted{}
	if v.choice {
		wants = acceptedBy(r.Header["Accept-Encoding"])
		if e.Packed() != nil {
			chosen = wants.best()
		}
	}
	if len(r.Header["If-None-Match"]) > 0 && e.ETag != "" {
		if tag := v.matched(r.Header, e.ETag, chosen, wants); tag != "" {
			h["Etag"] = []string{tag}
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	if len(r.Header["Range"]) > 0 && r.Method == http.MethodGet && e.Status == http.StatusOK {
		part, kind := rangeOf(r.Header, e.ETag, e.Size)
		switch kind {
		case onePart:
			return v.writePart(w, e, part)
		case nowhere:
			v.takeBack(h)
			h["Content-Range"] = []string{"bytes */" + strconv.Itoa(e.Size)}
			writeProblem(w, r, http.StatusRequestedRangeNotSatisfiable, "There is no such part.", 0, requestIDOf(w))
			return nil
		}
	}
	f, err := v.form(e, chosen)
	if err != nil {
		v.takeBack(h)
		return err
	}
	for i := range v.about {
		h[v.about[i].name] = v.about[i].values
	}
	if f.etag[0] != "" {
		h["Etag"] = f.etag[:]
	}
	if f.coding != nil {
		h["Content-Encoding"] = f.coding
	}
	h["Content-Length"] = f.length[:]
	w.WriteHeader(e.Status)
	if r.Method != http.MethodHead {
		w.Write(f.body)
	}
	return nil
}

// takeBack leaves out what was said of the entry, for an answer that is not it.
func (v *view) takeBack(h http.Header) {
	for _, f := range v.fields {
		delete(h, f.name)
	}
	for _, name := range []string{"Age", "Cache-Status", "X-Cache"} {
		delete(h, name)
	}
}

// matched returns the entity tag that the client has already, of one of the
// codings that it takes, or "". A tag of another coding would let a cache
// between hand that to a client that cannot read it.
func (v *view) matched(h http.Header, etag string, chosen coding, wants accepted) string {
	if tag := tagOf(etag, chosen); has(h, tag) {
		return tag
	}
	if v.choice {
		for c := range codings {
			if tag := tagOf(etag, c); (wants.takes(c) || v.route.faults.anyCoding) && has(h, tag) {
				return tag
			}
		}
	}
	return ""
}

// writePart sends a part of the plain body.
func (v *view) writePart(w http.ResponseWriter, e *cache.Entry, part span) error {
	h := w.Header()
	f, err := v.form(e, identity)
	if err != nil {
		v.takeBack(h)
		return err
	}
	for _, field := range v.about {
		h[field.name] = field.values
	}
	if f.etag[0] != "" {
		h["Etag"] = f.etag[:]
	}
	h["Content-Range"] = []string{part.contentRange(len(f.body))}
	h["Content-Length"] = []string{strconv.Itoa(part.end - part.begin)}
	w.WriteHeader(http.StatusPartialContent)
	w.Write(f.body[part.begin:part.end])
	return nil
}

// pour hands a body on while it comes in. One that breaks off breaks off here,
// too, so that nobody takes it for whole.
func (rt *Route) pour(w http.ResponseWriter, r *http.Request, v *view, res cache.Result) error {
	defer res.Stream.Close()
	h := w.Header()
	for _, f := range v.about {
		h[f.name] = f.values
	}
	delete(h, "Accept-Ranges")
	if tag := res.Entry.ETag; tag != "" {
		h["Etag"] = []string{tag}
		if has(r.Header, tag) {
			for _, f := range v.about {
				delete(h, f.name)
			}
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	if length := res.Entry.Header[lengthHeader]; len(length) > 0 {
		h["Content-Length"] = length
	}
	w.WriteHeader(res.Entry.Status)
	if r.Method == http.MethodHead {
		return nil
	}
	control := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := res.Stream.Read(buf)
		if n > 0 {
			if _, gone := w.Write(buf[:n]); gone != nil {
				return nil
			}
			control.Flush()
		}
		switch {
		case errors.Is(err, io.EOF), err != nil && rt.faults.brokenIsWhole:
			return nil
		case err != nil:
			rt.metrics.count(verdictError, reasonOf(err))
			panic(http.ErrAbortHandler)
		}
	}
}

// writeOwn answers one client with what the origin said to it. It is no longer
// known to be good a moment later, so nobody may keep it; save for an answer
// to authorization, which the origin knows more about than we do.
func (rt *Route) writeOwn(w http.ResponseWriter, r *http.Request, res response, why, position string) {
	h := w.Header()
	h["X-Cache"] = xCache[verdictBypass]
	h["Cache-Status"] = []string{"freshwire; fwd=bypass; detail=" + why}
	h["X-Content-Type-Options"] = nosniff
	if position != "" {
		h["Freshwire-Position"] = rt.positionValue(position)
	}
	h["Cache-Control"] = []string{"private, no-store"}
	if own := res.header["Cache-Control"]; why == reasonAuthorization && len(own) > 0 && len(res.header["Set-Cookie"]) == 0 {
		h["Cache-Control"] = []string{strings.Join(own, ", ")}
	}
	addVary(h, rt.vary)
	if res.status == http.StatusNotFound || res.status == http.StatusGone {
		writeProblem(w, r, http.StatusNotFound, "There is nothing at this address.", 0, requestIDOf(w))
		return
	}
	for name, values := range keptHeaders(res.header) {
		h[name] = values
	}
	for _, name := range []string{"Set-Cookie", "Www-Authenticate"} {
		if values := res.header[name]; len(values) > 0 {
			h[name] = append(h[name], values...) // beside the cookie of a session
		}
	}
	addVary(h, res.header["Vary"])
	if tag := etagOf(res); tag != "" {
		h["Etag"] = []string{tag}
		if res.status < 300 && has(r.Header, tag) {
			for _, name := range []string{"Content-Type", "Content-Language", "Content-Disposition"} {
				delete(h, name) // about a body that is not sent
			}
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if res.status != http.StatusNoContent {
		h["Content-Length"] = []string{strconv.Itoa(len(res.body))}
		if h["Content-Type"] == nil {
			h["Content-Type"] = []string{"application/octet-stream"} // else net/http would guess
		}
	}
	w.WriteHeader(res.status)
	if r.Method != http.MethodHead {
		w.Write(res.body)
	}
}

// addVary adds to Vary; values may be shared.
func addVary(h http.Header, values []string) {
	switch already := h["Vary"]; {
	case len(values) == 0:
	case len(already) == 0:
		h["Vary"] = values[:len(values):len(values)]
	default:
		h["Vary"] = append(already[:len(already):len(already)], values...)
	}
}

// trusts reports whether the peer is a proxy that may see tags.
func (rd *Reader) trusts(remote string) bool {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	for _, p := range rd.proxies {
		if p.Contains(peer.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// A bypass is a miss to those who count hits; Cache-Status says why.
var (
	isHit  = []string{"HIT"}
	xCache = map[string][]string{verdictHit: isHit, verdictMiss: {"MISS"}, verdictStale: {"STALE"}, verdictBypass: {"MISS"}}
)
