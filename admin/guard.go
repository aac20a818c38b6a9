// Package admin is the operators' side of freshwire: who may enter, the
// records of events, purges with receipts, the Asynq dashboard, health and
// readiness.
//
// Nothing here knows Redis or Asynq's workers: what the handlers show and do
// comes as functions from main.
//
// Every handler behind a Guard answers to people and scripts that the Guard
// lets in, and to no page of another site that a browser of theirs visits.
package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Guard decides who is an operator: whoever shows the token, or, when there is
// no token, whoever calls from this machine without a proxy in between.
type Guard struct {
	token [sha256.Size]byte // hash of the token; compared in constant time
	set   bool
	also  *[sha256.Size]byte // of another token that opens this door alone, nil: none
	csrf  http.CrossOriginProtection
}

// NewGuard returns a guard for token. An empty token lets loopback callers in.
func NewGuard(token string) *Guard {
	return &Guard{token: sha256.Sum256([]byte(token)), set: token != ""}
}

// Also returns a guard like g that lets those in, too, who show another token;
// an empty one lets in nobody else.
func (g *Guard) Also(token string) *Guard {
	out := &Guard{token: g.token, set: g.set}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		out.also = &sum
	}
	return out
}

// Allows reports whether r comes from an operator.
func (g *Guard) Allows(r *http.Request) bool {
	if g.also != nil && shows(r, *g.also) {
		return true
	}
	if g.set {
		return g.ShowsToken(r)
	}
	return isDirectLoopback(r)
}

// ShowsToken reports whether r carries the token, as "Authorization: Bearer
// <token>" or as the password of basic authentication (any user name), which
// is what a browser can send by itself.
func (g *Guard) ShowsToken(r *http.Request) bool { return g.set && shows(r, g.token) }

// shows reports whether r carries the token with that hash.
func shows(r *http.Request, token [sha256.Size]byte) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		if _, given, ok = r.BasicAuth(); !ok {
			return false
		}
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(given)))
	return subtle.ConstantTimeCompare(sum[:], token[:]) == 1
}

// isDirectLoopback reports whether r was sent on this machine to this machine.
// The Host must be a loopback name, or a page that rebinds its own name to
// 127.0.0.1 could call us; a forwarding header means that a proxy passed a
// stranger on.
func isDirectLoopback(r *http.Request) bool {
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback() && isLoopbackHost(r.Host)
}

func isLoopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Protect lets operators through to h. Others get 401, pages of other sites
// 403, whatever they know.
func (g *Guard) Protect(h http.Handler) http.Handler { return g.protect(h, "Bearer") }

// ProtectPages is Protect for what people open in a browser: it asks for the
// token with the browser's own dialogue (any user name, the token as password).
func (g *Guard) ProtectPages(h http.Handler) http.Handler { return g.protect(h, "Basic") }

func (g *Guard) protect(h http.Handler, scheme string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if g.isCrossSite(r) {
			Problem(w, http.StatusForbidden, "Requests from other sites are refused.")
			return
		}
		if !g.Allows(r) {
			detail := "Send the admin token as a bearer token."
			if !g.set {
				detail = "Without FRESHWIRE_ADMIN_TOKEN only direct callers on this machine may enter."
			}
			w.Header().Set("WWW-Authenticate", scheme+` realm="freshwire"`)
			Problem(w, http.StatusUnauthorized, detail)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// isCrossSite reports whether a browser sends r for a page of another site.
// Reading is refused too: records of events are nobody else's business. A
// person who follows a link to the dashboard is let through.
func (g *Guard) isCrossSite(r *http.Request) bool {
	if g.csrf.Check(r) != nil {
		return true
	}
	site := r.Header.Get("Sec-Fetch-Site")
	navigation := r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	return (site == "cross-site" || site == "same-site") && !navigation
}
