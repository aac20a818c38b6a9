package main

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/freshwire/freshwire/ratelimit"
	"github.com/freshwire/freshwire/sse"
)

// streamPath is where browsers listen.
const streamPath = "/api/events"

// rate returns what one client address is admitted. The zero Rate is no limit.
func (env environment) rate(dev bool) ratelimit.Rate {
	text := env.RateLimit
	switch {
	case text == "" && dev:
		text = "0"
	case text == "":
		text = "100/1m"
	}
	rate, _ := ratelimit.ParseRate(text) // checked by validate
	return rate
}

// newLimits returns what limits the clients of this process, nil where nothing does.
func (a *app) newLimits() *ratelimit.Limiter {
	rate := a.env.rate(a.roles.dev)
	if rate == (ratelimit.Rate{}) {
		return nil
	}
	return ratelimit.New(a.client(ratelimit.Options), a.log, ratelimit.Config{
		Namespace: a.env.Namespace, Rate: rate, CORSOrigins: a.env.CORSOrigins, Metrics: a.reg,
		Client: trustedProxies(a.env.TrustedProxies).client, Counts: isLimited, Refuse: refuse,
	})
}

// limited puts the limit before h. It comes before the memory of addresses that
// were read, too; where nothing is limited, nothing is in the way.
func (a *app) limited(h http.Handler) http.Handler {
	if a.limits == nil {
		return h
	}
	return a.limits.Handler(h)
}

// isLimited says which requests count: /api/*, but neither webhooks nor
// /api/revalidate, whose callers show a secret.
func isLimited(r *http.Request) bool {
	p := routed(r)
	return strings.HasPrefix(p, "/api/") && !strings.HasPrefix(p, "/api/webhooks/") && p != "/api/revalidate"
}

// routed returns the path of r as the router will see it.
func routed(r *http.Request) string {
	p := r.URL.Path
	if strings.Contains(p, "//") || strings.Contains(p, "/.") || !strings.HasPrefix(p, "/") {
		return cleanedPath(p)
	}
	return p
}

// refuse answers a request over the limit. An EventSource gives up for good on
// 429: it is told in a stream when to come again. Many tabs were refused at the
// same time, so they come back at different ones.
func refuse(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	if routed(r) == streamPath && strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		sse.Refuse(w, r, "rate_limit", wait+rand.N(time.Second+wait/2))
		return
	}
	ratelimit.Refuse(w, wait)
}
