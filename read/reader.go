// Package read answers GET and HEAD from the cache and, on a miss, from the
// origin, by the routes of freshwire.yaml.
//
// Hold one Reader a process and one Route for each entry of "routes". Mount a
// Route with gorilla/mux on its own path, for all methods; the router cleans
// and decodes paths, as it does unless told otherwise. Put the Reader's Handler
// before the router: it answers what it has seen before.
//
//	reader := read.New(store, position, log, read.Config{})
//	route, err := reader.Route(cfg)
//	router.Handle(cfg.Path, route)
//	server.Handler = reader.Handler(router)
//
// It promises: the origin is sent nothing but what is in the key, so no
// request can change what others get under it. What the origin meant for one
// client (Set-Cookie, private, no-store, Vary), what was asked for with
// Authorization, and what a route says depends on the user, is never stored and
// never given to another client. The
// position in Freshwire-Position is one that the content is not older than.
package read

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gorilla/mux"
	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/cache"
)

// Cache is what a Reader needs of cache.Store.
type Cache interface {
	Peek(cache.Request) (cache.Result, bool)
	Fetch(context.Context, cache.Request, cache.FillFunc) (cache.Result, error)
	Fill(context.Context, cache.Request, cache.FillFunc) (cache.Result, error)
	Stands(cache.Request, *cache.Entry) bool
}

// Config of a Reader. The zero Config works.
type Config struct {
	// CORSOrigins may read with credentials, each exact: scheme, host and port.
	CORSOrigins []string `envconfig:"CORS_ORIGINS" desc:"exact origins that may read the routes with credentials"`
	// OriginConcurrency bounds the requests that one origin has to answer at a
	// time. Zero means 64, at most 10000.
	OriginConcurrency int `envconfig:"ORIGIN_CONCURRENCY" default:"64" desc:"requests that one origin host has to answer at a time; others wait for their turn, as long as the route's timeout"`

	// User returns the id of the user who sent r, "" for nobody, and may add to the
	// header of the answer. It is asked for routes with user: true alone. Nil:
	// everybody is nobody.
	User func(r *http.Request, answer http.Header) (id string, err error) `ignored:"true"`
	// TrustedProxies are the CIDRs of peers that are told tags; see emit_tags.
	TrustedProxies []string `ignored:"true"`
	// Metrics, when not nil, is told what is read.
	Metrics prometheus.Registerer `ignored:"true"`
}

const (
	defaultConcurrency = 64
	largestConcurrency = 10000
)

// Validate reports every origin that no browser would send, and bounds that
// are none.
func (c Config) Validate() error {
	var errs []error
	for _, o := range c.CORSOrigins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+strings.ToLower(u.Host) != o {
			errs = append(errs, fmt.Errorf("CORS origin %q: want scheme://host or scheme://host:port in lower case, and nothing else", o))
		}
	}
	if c.OriginConcurrency < 0 || c.OriginConcurrency > largestConcurrency {
		errs = append(errs, fmt.Errorf("origin concurrency %d: want between 1 and %d", c.OriginConcurrency, largestConcurrency))
	}
	for _, cidr := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			errs = append(errs, fmt.Errorf("trusted proxy %q: want a CIDR such as 10.0.0.0/8", cidr))
		}
	}
	return errors.Join(errs...)
}

// Reader holds what routes share.
type Reader struct {
	cache    Cache
	position func() string
	log      *slog.Logger
	client   *http.Client
	metrics  *metrics
	user     func(*http.Request, http.Header) (string, error)
	proxies  []netip.Prefix
	origins  []allowedOrigin
	places   int // of each gate

	memo *otter.Cache[string, *known] // :: address → what it means
	last atomic.Pointer[positionText]

	mu     sync.RWMutex
	router *mux.Router // of the routes alone, to find what a target means
	routes []*Route
	gates  map[string]*gate // :: host of an origin → its gate

	faults faults
}

// faults are repairs that tests take out, to see that they are needed.
type faults struct {
	positionLate   bool // the position is taken after the look-up
	anyCoding      bool // a client has the content by the tag of any coding
	variantsShared bool // the key says nothing of the variant
	tagsForgotten  bool // what a 304 renews loses the tags that it had
	unversioned    bool // what a 304 renews tells no version
	weaklyRenewed  bool // weak entity tags renew what is void, too
	cutUntold      bool // nobody hears that an answer has more tags than are kept
	brokenIsWhole  bool // a stream that breaks off ends well
}

// New returns a Reader. position tells how far in the log of changes this
// process is; what it returned before a look-up goes out with the content.
func New(c Cache, position func() string, log *slog.Logger, cfg Config) *Reader {
	rd := &Reader{cache: c, position: position, log: log, client: newClient(), metrics: newMetrics(cfg.Metrics), memo: newMemo(),
		router: mux.NewRouter(), gates: map[string]*gate{}, places: cfg.OriginConcurrency}
	if rd.user = cfg.User; rd.user == nil {
		rd.user = func(*http.Request, http.Header) (string, error) { return "", nil }
	}
	if rd.places == 0 {
		rd.places = defaultConcurrency
	}
	for _, cidr := range cfg.TrustedProxies {
		if p, err := netip.ParsePrefix(cidr); err == nil { // Validate says which are not
			rd.proxies = append(rd.proxies, p.Masked())
		}
	}
	for _, o := range cfg.CORSOrigins {
		rd.origins = append(rd.origins, allowedOrigin{o, []string{o}})
	}
	return rd
}

// Route returns the handler of cfg, or all of cfg's mistakes, each a *Mistake.
func (rd *Reader) Route(cfg RouteConfig) (*Route, error) {
	compiled, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	rd.mu.Lock()
	defer rd.mu.Unlock()
	host := compiled.originHost()
	if rd.gates[host] == nil {
		rd.gates[host] = newGate(rd.places, rd.metrics.waiting)
	}
	compiled.oneKey = rd.faults.variantsShared
	rt := &Route{Reader: rd, cfg: cfg.withDefaults(), compiled: compiled, metrics: rd.metrics.of(cfg.Path), gate: rd.gates[host]}
	rt.cacheControl, rt.vary, rt.varyCoding = []string{rt.cfg.CacheControl}, rt.varied(false), rt.varied(true)
	rd.router.Handle(cfg.Path, rt)
	rd.routes = append(rd.routes, rt)
	return rt, nil
}

// positionText is a position as the value of a header.
type positionText struct {
	text   string
	values []string
}

// positionValue returns position as the value of a header. It is the same for
// all reads between two changes, so it is made once for them.
func (rd *Reader) positionValue(position string) []string {
	if last := rd.last.Load(); last != nil && last.text == position {
		return last.values
	}
	values := []string{position}
	rd.last.Store(&positionText{position, values})
	return values
}
