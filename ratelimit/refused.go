package ratelimit

import (
	"net/netip"
	"sync"
	"time"
)

// refusals remembers who is over the limit until one of their requests would be
// admitted, the latest maxClients to twice as many. Its zero value is ready.
type refusals struct {
	mu         sync.Mutex
	young, old map[netip.Addr]refusal // :: client → what it was told
}

type refusal struct{ until, reset time.Time }

// find returns what to tell a client that is still over the limit.
func (r *refusals) find(client netip.Addr, now time.Time) (Decision, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.young[client]
	if !ok {
		known, ok = r.old[client]
	}
	if !ok || !now.Before(known.until) {
		return Decision{}, false
	}
	return Decision{Wait: known.until.Sub(now), Reset: known.reset}, true
}

func (r *refusals) add(client netip.Addr, now time.Time, d Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young == nil || len(r.young) >= maxClients {
		r.young, r.old = map[netip.Addr]refusal{}, r.young
	}
	r.young[client] = refusal{now.Add(d.Wait), d.Reset}
}
