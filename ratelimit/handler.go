package ratelimit

import (
	"encoding/json"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// The headers that tell a client where it stands: those that the sites of
// Upstash's Ratelimit send, with the reset in unix milliseconds, and those of
// draft-ietf-httpapi-ratelimit-headers. They are written into the map as they
// stand here, for readers that look at capitals.
const (
	headerLimit     = "X-RateLimit-Limit"
	headerRemaining = "X-RateLimit-Remaining"
	headerReset     = "X-RateLimit-Reset"
	headerPolicy    = "RateLimit-Policy"
	headerState     = "RateLimit"
)

// ExposedHeaders are the names of all of them, for Access-Control-Expose-Headers.
const ExposedHeaders = headerLimit + ", " + headerRemaining + ", " + headerReset + ", " + headerPolicy + ", " + headerState + ", Retry-After"

var exposed = []string{ExposedHeaders}

// Handler limits what next is asked. Preflights are not counted: browsers send
// them by themselves.
func (l *Limiter) Handler(next http.Handler) http.Handler {
	limit := []string{strconv.Itoa(l.cfg.Rate.Count)}
	policy := []string{`"default";q=` + limit[0] + `;w=` + strconv.FormatInt(seconds(l.cfg.Rate.Per), 10)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isPreflight(r) || l.cfg.Counts != nil && !l.cfg.Counts(r) {
			next.ServeHTTP(w, r)
			return
		}
		address := l.address(r)
		d := l.Allow(r.Context(), Client(address))
		h := w.Header()
		h[headerLimit], h[headerPolicy] = limit, policy
		d.write(h, time.Now())
		known := l.expose(h, r)
		if d.OK {
			next.ServeHTTP(w, r)
			return
		}
		if len(r.Header["X-Forwarded-For"]) > 0 && address == peer(r) {
			l.nameless.Do(func() {
				l.log.WarnContext(r.Context(), "a proxy is over the rate limit; name it in FRESHWIRE_TRUSTED_PROXIES, or all behind it count as one client", "address", address)
			})
		}
		if known {
			h["Access-Control-Allow-Origin"] = r.Header["Origin"]
			h["Access-Control-Allow-Credentials"] = []string{"true"}
			h.Add("Vary", "Origin")
		}
		if l.cfg.Refuse != nil {
			l.cfg.Refuse(w, r, d.Wait)
			return
		}
		Refuse(w, d.Wait)
	})
}

// Refuse answers 429.
func Refuse(w http.ResponseWriter, wait time.Duration) {
	h := w.Header()
	h.Set("Retry-After", strconv.FormatInt(max(1, seconds(wait)), 10))
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusTooManyRequests)
	body := map[string]any{"type": "about:blank", "title": http.StatusText(http.StatusTooManyRequests), "status": http.StatusTooManyRequests,
		"detail": "Too many requests from this address; Retry-After says when the next one is welcome."}
	if id := h.Get("X-Request-Id"); id != "" {
		body["request_id"] = id
	}
	json.NewEncoder(w).Encode(body)
}

// write tells what d decided.
func (d Decision) write(h http.Header, now time.Time) {
	until := d.Reset.Sub(now)
	if d.Remaining == 0 {
		until = d.Wait
	}
	remaining := strconv.Itoa(d.Remaining)
	h[headerRemaining] = []string{remaining}
	h[headerReset] = []string{strconv.FormatInt(d.Reset.UnixMilli(), 10)}
	h[headerState] = []string{`"default";r=` + remaining + `;t=` + strconv.FormatInt(max(0, seconds(until)), 10)}
}

// expose lets pages of the known origins read the headers.
func (l *Limiter) expose(h http.Header, r *http.Request) bool {
	origin := r.Header["Origin"]
	if len(origin) != 1 || !slices.Contains(l.cfg.CORSOrigins, origin[0]) {
		return false
	}
	h["Access-Control-Expose-Headers"] = exposed
	return true
}

// seconds rounds up: who waits so long has waited long enough.
func seconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header["Access-Control-Request-Method"] != nil
}

func (l *Limiter) address(r *http.Request) string {
	if l.cfg.Client != nil {
		return l.cfg.Client(r)
	}
	return peer(r)
}

func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// Client returns what an address is counted as: itself, or its /64 in IPv6,
// since a customer has at least that many addresses. What is no address, such
// as the peer of a unix socket, is the zero Addr: one client.
func Client(address string) netip.Addr {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Addr{}
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}
