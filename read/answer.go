package read

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/cache"
)

// answer is what a client gets, save what depends on its request.
type answer struct {
	status   int
	header   map[string][]string
	etag     string
	body     []byte
	verdict  string
	how      string // the rest of Cache-Status
	cached   bool   // age and seq are known
	age      time.Duration
	seq      uint64 // of the ledger
	position string // in the log of changes; the content is not older

	cacheControl string // instead of the route's
}

// fromCache makes an answer of what the cache found.
func fromCache(res cache.Result) (answer, error) {
	e := res.Entry
	body, err := e.Body()
	if err != nil {
		return answer{}, err
	}
	a := answer{status: e.Status, header: e.Header, etag: e.ETag, body: body, verdict: string(res.Verdict),
		cached: true, age: res.Age, seq: res.Token, position: res.Position}
	ttl := strconv.Itoa(int(res.TTL / time.Second))
	switch res.Verdict {
	case cache.Hit:
		a.how = "hit; ttl=" + ttl
	case cache.Stale:
		a.how = "fwd=stale; ttl=" + ttl
	case cache.Miss:
		a.how = "fwd=uri-miss"
		if res.Stored {
			a.how += "; stored"
		}
		if res.Collapsed {
			a.how += "; collapsed"
		}
	default:
		a.how = "fwd=bypass"
	}
	if res.Detail != "" {
		a.how += "; detail=" + res.Detail
	}
	return a, nil
}

// passed makes an answer for one client of what the origin said. It is no
// longer known to be good a moment later, so nobody may keep it; save for an
// answer to authorization, which the origin knows more about than we do.
func passed(res response, why string) answer {
	a := answer{status: res.status, verdict: verdictBypass, how: "fwd=bypass; detail=" + why, cacheControl: "private, no-store"}
	if own := res.header["Cache-Control"]; why == whyAuthorization && len(own) > 0 && len(res.header["Set-Cookie"]) == 0 {
		a.cacheControl = strings.Join(own, ", ")
	}
	if res.status == http.StatusGone {
		a.status = http.StatusNotFound
	}
	if a.status == http.StatusNotFound {
		return a
	}
	a.header = keptHeaders(res.header)
	for _, name := range []string{"Set-Cookie", "Vary", "Www-Authenticate"} {
		if values := res.header[name]; len(values) > 0 {
			a.header[name] = values
		}
	}
	a.etag, a.body = etagOf(res), res.body
	return a
}

// write sends a.
func (rt *Route) write(w http.ResponseWriter, r *http.Request, a answer) {
	h := w.Header()
	for name, values := range a.header {
		switch name {
		case sourceHeader:
		case "Vary":
			for _, v := range values {
				h.Add(name, v) // beside what CORS said
			}
		default:
			h[name] = values
		}
	}
	h["X-Cache"] = xCache[a.verdict]
	h.Set("Cache-Status", "freshwire; "+a.how)
	h.Set("X-Content-Type-Options", "nosniff")
	if a.position != "" {
		h.Set("Freshwire-Position", a.position)
	}
	if a.seq != 0 {
		h.Set("Freshwire-Seq", strconv.FormatUint(a.seq, 10))
	}
	if a.cached {
		h.Set("Age", strconv.FormatInt(max(0, int64(a.age/time.Second)), 10))
	}
	switch {
	case a.cacheControl != "":
		h.Set("Cache-Control", a.cacheControl)
	case a.status == http.StatusNotFound:
		h.Set("Cache-Control", defaultCacheControl) // who was told of the creation must not be shown the absence
	default:
		h.Set("Cache-Control", rt.cfg.CacheControl)
	}
	if a.status == http.StatusNotFound {
		writeProblem(w, r, a.status, "There is nothing at this address.", 0, requestIDOf(w))
		return
	}
	if a.etag != "" {
		h.Set("ETag", a.etag)
		if a.status < 300 && has(r.Header, a.etag) {
			for _, name := range []string{"Content-Type", "Content-Language", "Content-Disposition"} {
				delete(h, name) // about a body that is not sent
			}
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if a.status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
		if h["Content-Type"] == nil {
			h["Content-Type"] = []string{"application/octet-stream"} // else net/http would guess
		}
	}
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		w.Write(a.body)
	}
}

// A bypass is a miss to those who count hits; Cache-Status says why.
var xCache = map[string][]string{
	verdictHit: {"HIT"}, verdictMiss: {"MISS"}, verdictStale: {"STALE"}, verdictBypass: {"MISS"},
}
