package ratelimit

import (
	"net/netip"
	"sync"
	"time"
)

// maxClients bounds the clients that a node knows in a window. One beyond it is
// admitted uncounted.
const maxClients = 1 << 16

// local counts as take.lua does, for this node alone.
type local struct {
	rate Rate // fixed

	mu        sync.Mutex
	window    int64                // number of the window that cur is of
	cur, prev map[netip.Addr]count // :: client → what was admitted
}

// count is what was admitted of a client in one window.
type count struct{ n, last int64 } // last: unix ms

func newLocal(r Rate) *local {
	return &local{rate: r, cur: map[netip.Addr]count{}}
}

// take decides about one request.
func (l *local) take(client netip.Addr, now time.Time) Decision {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit, size, ms := int64(l.rate.Count), l.rate.Per.Milliseconds(), now.UnixMilli()
	cur, prev := l.turn(client, ms)
	passed := ms % size

	free := floorDiv(limit*size-prev.n*(size-passed), size) - cur.n
	d := Decision{OK: free >= 1}
	if d.OK {
		free--
		cur = count{cur.n + 1, ms}
		l.put(client, cur)
	}
	life := max(cur.last, prev.last) + size - ms
	d.Remaining, d.Reset = int(max(free, 0)), time.UnixMilli(ms+life)
	if free < 1 {
		var wait int64
		if cur.n < limit {
			wait = size - (limit-cur.n-1)*size/prev.n - passed
		} else {
			wait = 2*size - (limit-1)*size/cur.n - passed
		}
		d.Wait = time.Duration(min(wait, life)) * time.Millisecond
	}
	return d
}

// note counts a request that was admitted elsewhere.
func (l *local) note(client netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	cur, _ := l.turn(client, now.UnixMilli())
	l.put(client, count{cur.n + 1, now.UnixMilli()})
}

// turn begins a new window when it is time, and returns what counts of a client.
func (l *local) turn(client netip.Addr, ms int64) (cur, prev count) {
	size := l.rate.Per.Milliseconds()
	if window := ms / size; window != l.window {
		l.prev = nil
		if window == l.window+1 {
			l.prev = l.cur
		}
		l.window, l.cur = window, map[netip.Addr]count{}
	}
	cur, prev = l.cur[client], l.prev[client]
	if ms-max(cur.last, prev.last) >= size {
		delete(l.prev, client) // it must not come back with the next one
		return count{}, count{}
	}
	return cur, prev
}

func (l *local) put(client netip.Addr, c count) {
	if _, known := l.cur[client]; known || len(l.cur) < maxClients {
		l.cur[client] = c
	}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
