package read

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/cache"
)

// Route serves one entry of "routes".
type Route struct {
	*Reader
	cfg      RouteConfig
	compiled *compiled
	metrics  routeMetrics
	gate     *gate
	outage   outage

	// Values of headers, made once.
	cacheControl []string
	vary         []string
	varyCoding   []string // where the content has several codings
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
	// The position is taken before the look-up. After it, an event could come in
	// between, and who subscribes from here would never hear of it.
	start, position := time.Now(), rt.position()
	rt.allowOrigin(w.Header(), r)
	if r.Method == http.MethodOptions {
		rt.preflight(w, r)
		return
	}
	var k *known
	err := errMethod
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		k, err = rt.know(r)
	}
	if err != nil {
		rt.refuse(w, r, err)
		rt.done(r, "", verdictError, reasonOf(err), start, err)
		return
	}
	rt.read(w, r, k, start, position)
}

// read answers GET and HEAD of a known place.
func (rt *Route) read(w http.ResponseWriter, r *http.Request, k *known, start time.Time, position string) {
	p, variant, err := k.place(r.Header)
	var verdict, reason string
	if err == nil {
		verdict, reason, err = rt.answer(w, r, k, p, variant, position)
	}
	if err != nil {
		rt.refuse(w, r, err)
		verdict, reason = verdictError, reasonOf(err)
	}
	key := ""
	if p != nil {
		key = p.key
	}
	rt.done(r, key, verdict, reason, start, err)
}

// done counts an answer.
func (rt *Route) done(r *http.Request, key, verdict, reason string, start time.Time, err error) {
	took := time.Since(start)
	if verdict == verdictHit {
		rt.metrics.hits.Inc()
	} else {
		rt.metrics.count(verdict, reason)
	}
	rt.metrics.seconds.Observe(took.Seconds())
	if rt.log.Enabled(r.Context(), slog.LevelDebug) {
		rt.log.DebugContext(r.Context(), "read", "route", rt.cfg.Path, "key", key, "verdict", verdict, "reason", reason, "took", took, "err", err)
	}
}

// answer finds the answer to r, and sends it unless there is an error.
func (rt *Route) answer(w http.ResponseWriter, r *http.Request, k *known, p *place, variant int, position string) (verdict, reason string, err error) {
	authorization, authorized := r.Header["Authorization"]
	after, err := parseAfter(r.Header)
	if err != nil {
		return "", "", err
	}
	if rt.cfg.User {
		return rt.answerUser(w, r, p, position)
	}
	req := p.request
	req.Position, req.After = position, after
	if !authorized && after == 0 {
		if res, ok := rt.cache.Peek(req); ok && rt.viewOf(res.Entry).source == p.source {
			if rt.faults.positionLate {
				res.Position = rt.position()
			}
			requestIDOf(w)
			return verdictHit, reasonFresh, rt.give(w, r, res, nil)
		}
	}
	j := &errand{rt: rt, place: p, requestID: requestIDOf(w), otherVariants: k.hasOthers(variant)}
	if authorized {
		return j.pass(w, r, question{authorization: strings.Join(authorization, ", ")}, reasonAuthorization, position)
	}
	req.NoBody = rt.headIsEnough(r, p)
	res, err := rt.cache.Fetch(r.Context(), req, j.fill)
	if err != nil {
		return "", "", err
	}
	if rt.faults.positionLate {
		res.Position = rt.position()
		position = res.Position
	}
	switch own, source := j.mine.Load(), rt.viewOf(res.Entry).source; {
	case own != nil:
		why := rt.compiled.notStorable(*own)
		rt.writeOwn(w, r, *own, why, position)
		return verdictBypass, why, nil
	case source == "": // somebody else's, and not to be shared
		return j.pass(w, r, question{}, cache.DetailNoStore, position)
	case source != p.source:
		rt.metrics.collisions.Inc()
		return j.pass(w, r, question{}, reasonCollision, position)
	}
	k.saw(variant)
	return string(res.Verdict), j.reason(res), rt.give(w, r, res, j)
}

// pass asks the origin for one client. The answer is never stored.
func (j *errand) pass(w http.ResponseWriter, r *http.Request, q question, why, position string) (verdict, reason string, err error) {
	q.requestID = j.requestID
	res, err := j.rt.ask(r.Context(), j.place, q)
	if err != nil {
		return "", "", err
	}
	j.rt.writeOwn(w, r, res, why, position)
	return verdictBypass, why, nil
}

// headIsEnough returns what tells whether r can be answered without an entry's
// body: a HEAD, or a client that has the content already. Of content that may
// be packed, only who holds it knows how long it is.
func (rt *Route) headIsEnough(r *http.Request, p *place) func(*cache.Entry) bool {
	head, conditional := r.Method == http.MethodHead, len(r.Header["If-None-Match"]) > 0
	if !head && !conditional {
		return nil
	}
	return func(e *cache.Entry) bool {
		v := rt.viewOf(e)
		switch {
		case v.source != p.source:
			return false
		case e.Negative:
			return true
		}
		wants := accepted{}
		if v.choice {
			wants = acceptedBy(r.Header["Accept-Encoding"])
		}
		if conditional && e.ETag != "" && v.matched(r.Header, e.ETag, wants.best(), wants) != "" {
			return true
		}
		return head && wants.best() == identity
	}
}

// refuse answers with an error.
func (rt *Route) refuse(w http.ResponseWriter, r *http.Request, err error) {
	addVary(w.Header(), rt.vary)
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
	if id := w.Header()["X-Request-Id"]; len(id) > 0 && id[0] != "" {
		return id[0]
	}
	id := rand.Text()
	w.Header()["X-Request-Id"] = []string{id}
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
