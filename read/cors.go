package read

import (
	"net/http"
)

// allowedOrigin may read with credentials.
type allowedOrigin struct {
	name   string
	values []string // name, as the value of a header
}

var (
	credentials = []string{"true"}
	exposed     = []string{"Accept-Ranges, Age, Cache-Status, Content-Range, ETag, Freshwire-Position, Freshwire-Seq, RateLimit, RateLimit-Policy, Retry-After, X-Cache, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"}
)

const allowed = "GET, HEAD, OPTIONS"

// allowOrigin lets pages of the listed origins read the answer. That it varies
// by origin is said with every answer, also to others: a cache in between must
// not hand them over.
func (rd *Reader) allowOrigin(h http.Header, r *http.Request) {
	if len(rd.origins) == 0 {
		return
	}
	origin := r.Header["Origin"]
	if len(origin) != 1 {
		return
	}
	for _, o := range rd.origins {
		if o.name == origin[0] {
			h["Access-Control-Allow-Origin"] = o.values
			h["Access-Control-Allow-Credentials"] = credentials
			h["Access-Control-Expose-Headers"] = exposed
		}
	}
}

// preflight answers OPTIONS.
func (rt *Route) preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	addVary(h, rt.vary)
	h.Set("Allow", allowed)
	if h.Get("Access-Control-Allow-Origin") != "" && r.Header.Get("Access-Control-Request-Method") != "" {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD")
		asked := "Authorization, Freshwire-After, If-None-Match, If-Range, Range"
		for _, v := range rt.compiled.vary {
			asked += ", " + v.name
		}
		h.Set("Access-Control-Allow-Headers", asked)
		h.Set("Access-Control-Max-Age", "600")
	}
	w.WriteHeader(http.StatusNoContent)
}
