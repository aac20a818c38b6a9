package read

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// Bounds of what is remembered of addresses.
const (
	maxKnown    = 16 << 10 // addresses
	maxKnownURI = 2 << 10  // bytes of one
)

// known is what an address means: its route, and its place in each variant.
type known struct {
	route    *Route
	places   []atomic.Pointer[place] // by variant, made when they are asked for
	any      *place                  // one of them
	variants atomic.Uint32           // those that an entry was seen of, a bit each
}

func newMemo() *otter.Cache[string, *known] {
	return otter.Must(&otter.Options[string, *known]{MaximumSize: maxKnown})
}

// Handler answers what it knows from earlier requests to be a route's, and
// leaves all else to next, the router: who reads what is in memory pays no
// routing. What an address means never changes, so it is remembered by its
// text alone.
func (rd *Reader) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead || len(r.RequestURI) > maxKnownURI || r.Header["Authorization"] != nil {
			next.ServeHTTP(w, r)
			return
		}
		k, ok := rd.memo.GetIfPresent(r.RequestURI)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		start, position := time.Now(), rd.position()
		k.route.allowOrigin(w.Header(), r)
		k.route.read(w, r, k, start, position)
	})
}

// know remembers what the address of r means.
func (rt *Route) know(r *http.Request) (*known, error) {
	n := rt.compiled.variantOf(r.Header)
	p, err := rt.compiled.placeOf(r)
	if err != nil {
		return nil, err
	}
	k := &known{route: rt, places: make([]atomic.Pointer[place], rt.compiled.variants()), any: &p}
	k.places[n].Store(&p)
	if uri := r.RequestURI; uri != "" && len(uri) <= maxKnownURI && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		rt.memo.Set(strings.Clone(uri), k)
	}
	return k, nil
}

// place returns what a request with these headers asks for.
func (k *known) place(h http.Header) (p *place, variant int, err error) {
	if len(k.places) > 1 {
		variant = k.route.compiled.variantOf(h)
	}
	if p = k.places[variant].Load(); p != nil {
		return p, variant, nil
	}
	other, err := k.route.compiled.variant(*k.any, variant)
	if err != nil {
		return nil, variant, err
	}
	k.places[variant].Store(&other)
	return &other, variant, nil
}

// saw notes that there is an entry of a variant.
func (k *known) saw(variant int) {
	if len(k.places) > 1 {
		k.variants.Or(1 << variant)
	}
}

// hasOthers reports whether there was an entry of another variant.
func (k *known) hasOthers(variant int) bool { return k.variants.Load()&^(1<<variant) != 0 }
