// Package read answers GET and HEAD from the cache and, on a miss, from the
// origin, by the routes of freshwire.yaml.
//
// Hold one Reader a process and one Route for each entry of "routes". Mount a
// Route with gorilla/mux on its own path, for all methods; the router cleans
// and decodes paths, as it does unless told otherwise.
//
//	reader := read.New(store.Fetch, position, log, read.Config{})
//	route, err := reader.Route(cfg)
//	router.Handle(cfg.Path, route)
//
// It promises: the origin is sent nothing but what is in the key, so no
// request can change what others get under it. What the origin meant for one
// client (Set-Cookie, private, no-store, Vary) and what was asked for with
// Authorization is never stored and never given to another client. The
// position in Freshwire-Position is one that the content is not older than.
package read

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/cache"
	"github.com/prometheus/client_golang/prometheus"
)

// Fetch reads through the cache: cache.Store's method of that name.
type Fetch func(context.Context, cache.Request, cache.FillFunc) (cache.Result, error)

// Config of a Reader. The zero Config works.
type Config struct {
	// CORSOrigins may read with credentials, each exact: scheme, host and port.
	CORSOrigins []string `envconfig:"CORS_ORIGINS" desc:"exact origins that may read the routes with credentials"`

	// Metrics, when not nil, is told what is read.
	Metrics prometheus.Registerer `ignored:"true"`
}

// Validate reports every origin that no browser would send.
func (c Config) Validate() error {
	var errs []error
	for _, o := range c.CORSOrigins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+strings.ToLower(u.Host) != o {
			errs = append(errs, fmt.Errorf("CORS origin %q: want scheme://host or scheme://host:port in lower case, and nothing else", o))
		}
	}
	return errors.Join(errs...)
}

// Reader holds what routes share.
type Reader struct {
	fetch    Fetch
	position func() string
	log      *slog.Logger
	cfg      Config
	client   *http.Client
	metrics  *metrics

	positionLate bool // a fault that tests put in: the position is taken after the look-up
}

// New returns a Reader. position tells how far in the log of changes this
// process is; what it returned before a look-up goes out with the content.
func New(fetch Fetch, position func() string, log *slog.Logger, cfg Config) *Reader {
	return &Reader{fetch: fetch, position: position, log: log, cfg: cfg, client: newClient(), metrics: newMetrics(cfg.Metrics)}
}

// Route serves one entry of "routes".
type Route struct {
	*Reader
	cfg      RouteConfig
	compiled *compiled
	metrics  routeMetrics
	outage   outage
}

// Route returns the handler of cfg, or all of cfg's mistakes, each a *Mistake.
func (rd *Reader) Route(cfg RouteConfig) (*Route, error) {
	compiled, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	return &Route{Reader: rd, cfg: cfg.withDefaults(), compiled: compiled, metrics: rd.metrics.of(cfg.Path)}, nil
}

// The verdicts of an answer; in capitals they are the value of X-Cache.
const (
	verdictHit    = "hit"
	verdictMiss   = "miss"
	verdictStale  = "stale"
	verdictBypass = "bypass"
	verdictError  = "error"
)

var (
	errMethod = errors.New("read: neither GET nor HEAD")
	errAfter  = errors.New("read: bad Freshwire-After")
)

func (rt *Route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	// Before the look-up. After it, an event could come in between, and who
	// subscribes from here would never hear of it.
	position := rt.position()
	rt.allowOrigin(w.Header(), r)
	if r.Method == http.MethodOptions {
		rt.preflight(w, r)
		return
	}
	verdict := verdictError
	p, a, err := rt.answer(r, position, requestIDOf(w))
	if err != nil {
		rt.refuse(w, r, err)
	} else {
		verdict = a.verdict
		if rt.positionLate {
			a.position = rt.position()
		}
		rt.write(w, r, a)
	}
	took := time.Since(start)
	rt.metrics.answered(verdict, took)
	if rt.log.Enabled(r.Context(), slog.LevelDebug) {
		rt.log.DebugContext(r.Context(), "read", "route", rt.cfg.Path, "key", p.key, "verdict", verdict, "took", took, "err", err)
	}
}

// answer finds the answer to r.
func (rt *Route) answer(r *http.Request, position, requestID string) (place, answer, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return place{}, answer{}, errMethod
	}
	p, err := rt.compiled.placeOf(r)
	if err != nil {
		return p, answer{}, err
	}
	after, err := parseAfter(r.Header)
	if err != nil {
		return p, answer{}, err
	}
	var a answer
	if authorization, given := r.Header["Authorization"]; given {
		a, err = rt.pass(r.Context(), p, strings.Join(authorization, ", "), requestID, whyAuthorization)
		a.position = position
	} else {
		a, err = rt.cached(r.Context(), p, cache.Request{Key: p.key, Base: p.base, Path: p.path, Tags: p.tags, After: after, Position: position}, requestID)
	}
	return p, a, err
}

// cached reads p through the cache.
func (rt *Route) cached(ctx context.Context, p place, req cache.Request, requestID string) (answer, error) {
	// An answer that may not be stored does not enter the cache, where those
	// who wait for the same key could get it. It is left here, for the one
	// client whose request fetched it; the others ask for their own.
	var mine atomic.Pointer[response]
	res, err := rt.fetch(ctx, req, func(ctx context.Context, _ *cache.Entry) (cache.Fill, error) {
		res, err := rt.ask(ctx, p, "", requestID)
		if err != nil {
			return cache.Fill{}, err
		}
		if notStorable(res) != "" {
			mine.Store(&res)
			return cache.Fill{Status: http.StatusNoContent, NoStore: true}, nil
		}
		return rt.fillOf(p, res), nil
	})
	if err != nil {
		return answer{}, err
	}
	var a answer
	switch own, source := mine.Load(), res.Entry.Header[sourceHeader]; {
	case own != nil:
		a = passed(*own, notStorable(*own))
	case len(source) == 0: // somebody else's, and not to be shared
		a, err = rt.pass(ctx, p, "", requestID, cache.DetailNoStore)
	case source[0] != p.source:
		rt.metrics.collisions.Inc()
		a, err = rt.pass(ctx, p, "", requestID, "key-collision")
	default:
		return fromCache(res)
	}
	a.position = req.Position
	return a, err
}

const whyAuthorization = "authorization"

// sourceHeader is kept with entries and never sent; see place.source.
const sourceHeader = "Freshwire-Source"

// fillOf makes an entry's content of a storable answer. Of one that says that
// there is nothing, only that is kept.
func (rt *Route) fillOf(p place, res response) cache.Fill {
	if res.status == http.StatusNotFound || res.status == http.StatusGone {
		return cache.Fill{
			Status: http.StatusNotFound, Negative: true, TTL: rt.cfg.NegativeTTL,
			Header: map[string][]string{sourceHeader: {p.source}},
		}
	}
	header := keptHeaders(res.header)
	header[sourceHeader] = []string{p.source}
	return cache.Fill{
		Status: res.status, Header: header, ETag: etagOf(res), Body: res.body,
		TTL: rt.cfg.TTL, SWR: rt.cfg.StaleWhileRevalidate, SIE: rt.cfg.StaleIfError,
	}
}

// pass asks the origin for one client. The answer is never stored.
func (rt *Route) pass(ctx context.Context, p place, authorization, requestID, why string) (answer, error) {
	res, err := rt.ask(ctx, p, authorization, requestID)
	if err != nil {
		return answer{}, err
	}
	return passed(res, why), nil
}

// allowOrigin lets pages of the listed origins read the answer.
func (rt *Route) allowOrigin(h http.Header, r *http.Request) {
	if len(rt.Reader.cfg.CORSOrigins) == 0 {
		return
	}
	h.Add("Vary", "Origin") // also on answers to others: a cache in between must not hand them over
	origin := r.Header.Get("Origin")
	if !slices.Contains(rt.Reader.cfg.CORSOrigins, origin) {
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", "Age, Cache-Status, ETag, Freshwire-Position, Freshwire-Seq, Retry-After, X-Cache")
}

// preflight answers OPTIONS.
func (rt *Route) preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Allow", allowed)
	if h.Get("Access-Control-Allow-Origin") != "" && r.Header.Get("Access-Control-Request-Method") != "" {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD")
		h.Set("Access-Control-Allow-Headers", "Authorization, Freshwire-After, If-None-Match")
		h.Set("Access-Control-Max-Age", "600")
	}
	w.WriteHeader(http.StatusNoContent)
}

const allowed = "GET, HEAD, OPTIONS"

// refuse answers with an error.
func (rt *Route) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, detail, retryAfter := problemOf(err)
	if status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allowed)
	}
	if status == http.StatusInternalServerError && r.Context().Err() == nil {
		rt.log.ErrorContext(r.Context(), "read failed", "route", rt.cfg.Path, "request_id", requestIDOf(w), "err", err)
	}
	writeProblem(w, r, status, detail, retryAfter, requestIDOf(w))
}

// requestIDOf returns the id that the request was given, and gives it one
// when nobody did.
func requestIDOf(w http.ResponseWriter) string {
	id := w.Header().Get("X-Request-Id")
	if id == "" {
		id = rand.Text()
		w.Header().Set("X-Request-Id", id)
	}
	return id
}

// parseAfter reads Freshwire-After: the seq of an event that the content must
// not be older than. A number that no ledger reached yet is for the cache to judge.
func parseAfter(h http.Header) (uint64, error) {
	values := h["Freshwire-After"]
	if len(values) == 0 {
		return 0, nil
	}
	s := values[0]
	if len(values) > 1 || s == "" || len(s) > 19 || strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' }) {
		return 0, errAfter
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt64 {
		return 0, errAfter
	}
	return n, nil
}
