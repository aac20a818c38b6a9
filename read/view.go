package read

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/cache"
)

// view is what is the same for all who read an entry through one route, worked
// out by the first. It is kept with the entry, so a hit makes no text. An entry
// from Redis is new each time, so making a view is kept cheap, too: lists of
// one lie within the view.
type view struct {
	route  *Route
	source string

	fields  []field // headers of every answer
	about   []field // headers about a body that is sent
	vary    []string
	choice  bool // the content may have other codings than the plain one
	forms   [codings]atomic.Pointer[form]
	second  atomic.Pointer[moment]
	emitted atomic.Pointer[[]field]

	seq         [1]string
	contentType [1]string
	plain       form
}

// field is a header with its canonical name.
type field struct {
	name   string
	values []string
}

// form is the content in one coding.
type form struct {
	body         []byte
	coding       []string // nil for the plain one
	etag, length [1]string
}

// moment is what changes each second.
type moment struct {
	passed, left int64 // seconds
	age, status  [1]string
}

var (
	nosniff     = []string{"nosniff"}
	bytesRanges = []string{"bytes"}
	byDefault   = []string{defaultCacheControl}
	codingLists = [codings][]string{nil, {"gzip"}, {"zstd"}}
)

// viewOf returns the view of e through rt.
func (rt *Route) viewOf(e *cache.Entry) *view {
	if v, ok := e.Memo.Load().(*view); ok && v.route == rt {
		return v
	}
	v := &view{route: rt, contentType: [1]string{"application/octet-stream"}} // else net/http would guess
	if source := e.Header[sourceHeader]; len(source) > 0 {
		v.source = source[0]
	}
	fields := make([]field, 0, len(e.Header)+5)
	for name, values := range e.Header {
		switch {
		case strings.HasPrefix(name, ownPrefix), name == "Vary", len(values) == 0:
		case name == "Content-Type":
			v.contentType[0] = values[0]
		case name == "Content-Language", name == "Content-Disposition":
			v.about = append(v.about, field{name, values})
		default:
			fields = append(fields, field{name, values})
		}
	}
	control := rt.cacheControl
	if e.Negative {
		control = byDefault // who was told of the creation must not be shown the absence
	}
	fields = append(fields, field{"Cache-Control", control}, field{"X-Content-Type-Options", nosniff})
	if e.Token != 0 {
		v.seq[0] = strconv.FormatUint(e.Token, 10)
		fields = append(fields, field{"Freshwire-Seq", v.seq[:]})
	}
	if e.Status == http.StatusOK {
		fields = append(fields, field{"Accept-Ranges", bytesRanges})
	}
	v.fields = fields
	if kind := (field{"Content-Type", v.contentType[:]}); v.about == nil {
		v.about = append(fields[len(fields):], kind) // there is room
	} else {
		v.about = append(v.about, kind)
	}
	v.choice = packable(v.contentType[0]) && e.Size >= packAbove
	if v.vary = rt.vary; v.choice {
		v.vary = rt.varyCoding
	}
	if e.Packed() == nil {
		if body, err := e.Body(); err == nil {
			v.plain.fill(e, body, identity)
			v.forms[identity].Store(&v.plain)
		}
	}
	e.Memo.Store(v)
	return v
}

// packAbove is the size from which the cache packs bodies.
const packAbove = 1 << 10

// varied returns the value of Vary, none when all get the same.
func (rt *Route) varied(choice bool) []string {
	var names []string
	if len(rt.origins) > 0 {
		names = append(names, "Origin")
	}
	if choice {
		names = append(names, "Accept-Encoding")
	}
	for _, h := range rt.compiled.vary {
		names = append(names, h.name)
	}
	if names == nil {
		return nil
	}
	return []string{strings.Join(names, ", ")}
}

// form returns e in a coding that it has. The body of an entry whose head alone
// was read is nil.
func (v *view) form(e *cache.Entry, c coding) (*form, error) {
	if f := v.forms[c].Load(); f != nil {
		return f, nil
	}
	f, err := &form{}, error(nil)
	switch c {
	case identity:
		var body []byte
		if body, err = e.Body(); err == nil || errors.Is(err, cache.ErrNoBody) {
			f.fill(e, body, identity)
			f.length[0], err = strconv.Itoa(e.Size), nil
		}
	case gzipped:
		var body []byte
		body, err = e.Zipped()
		f.fill(e, body, gzipped)
	case zstandard:
		f.fill(e, e.Packed(), zstandard)
	}
	if err != nil {
		return nil, err
	}
	v.forms[c].Store(f)
	return f, nil
}

func (f *form) fill(e *cache.Entry, body []byte, c coding) {
	f.body, f.coding = body, codingLists[c]
	f.etag[0], f.length[0] = tagOf(e.ETag, c), strconv.Itoa(len(body))
}

// at returns what the present second makes of a hit.
func (v *view) at(age, left time.Duration) *moment {
	a, l := int64(age/time.Second), int64(left/time.Second)
	if m := v.second.Load(); m != nil && m.passed == a && m.left == l {
		return m
	}
	m := &moment{a, l, [1]string{strconv.FormatInt(a, 10)}, [1]string{"freshwire; hit; ttl=" + strconv.FormatInt(l, 10)}}
	v.second.Store(m)
	return m
}

// tags returns the headers that tell e's tags to a trusted peer.
func (v *view) tags(e *cache.Entry) []field {
	if fields := v.emitted.Load(); fields != nil {
		return *fields
	}
	var fields []field
	all := e.Tags()
	for _, h := range v.route.compiled.emit {
		value, cut := emit(h.name, all)
		if cut > 0 {
			v.route.metrics.cut.Add(float64(cut))
			v.route.log.Warn("tags not told to the next cache", "route", v.route.cfg.Path, "header", h.name, "tags", len(all), "cut", cut)
		}
		if value != "" {
			fields = append(fields, field{h.name, []string{value}})
		}
	}
	v.emitted.Store(&fields)
	return fields
}
