package read

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/cache"
)

// view is what is the same for all who read an entry through one route, worked
// out by the first. It is kept with the entry, so a hit makes no text.
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
}

// field is a header with its canonical name.
type field struct {
	name   string
	values []string
}

// form is the content in one coding.
type form struct {
	body         []byte
	etag, length []string
	coding       []string // nil for the plain one
}

// moment is what changes each second.
type moment struct {
	age, left      int64 // seconds
	ages, statuses []string
}

// viewOf returns the view of e through rt.
func (rt *Route) viewOf(e *cache.Entry) *view {
	if v, ok := e.Memo.Load().(*view); ok && v.route == rt {
		return v
	}
	v := &view{route: rt}
	if source := e.Header[sourceHeader]; len(source) > 0 {
		v.source = source[0]
	}
	contentType := "application/octet-stream" // else net/http would guess
	for name, values := range e.Header {
		switch {
		case strings.HasPrefix(name, ownPrefix), name == "Vary", len(values) == 0:
		case name == "Content-Type":
			contentType = values[0]
		case name == "Content-Language", name == "Content-Disposition":
			v.about = append(v.about, field{name, values})
		default:
			v.fields = append(v.fields, field{name, values})
		}
	}
	v.about = append(v.about, field{"Content-Type", []string{contentType}})
	control := rt.cfg.CacheControl
	if e.Negative {
		control = defaultCacheControl // who was told of the creation must not be shown the absence
	}
	v.fields = append(v.fields, field{"Cache-Control", []string{control}}, field{"X-Content-Type-Options", []string{"nosniff"}})
	if e.Token != 0 {
		v.fields = append(v.fields, field{"Freshwire-Seq", []string{strconv.FormatUint(e.Token, 10)}})
	}
	if e.Status == http.StatusOK {
		v.fields = append(v.fields, field{"Accept-Ranges", []string{"bytes"}})
	}
	v.choice = packable(contentType) && e.Size >= packAbove
	v.vary = rt.varied(v.choice)
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
	f := &form{}
	size := e.Size
	switch c {
	case identity:
		body, err := e.Body()
		if err != nil && !isHead(err) {
			return nil, err
		}
		f.body = body
	case gzipped:
		body, err := e.Zipped()
		if err != nil {
			return nil, err
		}
		f.body, size = body, len(body)
	case zstandard:
		f.body = e.Packed()
		size = len(f.body)
	}
	if c != identity {
		f.coding = []string{codingNames[c]}
	}
	f.length = []string{strconv.Itoa(size)}
	if e.ETag != "" {
		f.etag = []string{tagOf(e.ETag, c)}
	}
	v.forms[c].Store(f)
	return f, nil
}

// at returns what the present second makes of a hit.
func (v *view) at(age, left time.Duration) *moment {
	a, l := int64(age/time.Second), int64(left/time.Second)
	if m := v.second.Load(); m != nil && m.age == a && m.left == l {
		return m
	}
	m := &moment{a, l, []string{strconv.FormatInt(a, 10)}, []string{"freshwire; hit; ttl=" + strconv.FormatInt(l, 10)}}
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
