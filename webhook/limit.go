package webhook

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Rate is so many in so long, such as 100/1m. The zero Rate stands for a
// default, Unlimited for none.
type Rate struct {
	Count int
	Per   time.Duration
}

// Unlimited is written 0.
var Unlimited = Rate{Count: -1}

// UnmarshalText reads 100/1m and 0.
func (r *Rate) UnmarshalText(text []byte) error {
	if string(text) == "0" {
		*r = Unlimited
		return nil
	}
	count, per, _ := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(count, 10, 20)
	d, bad := time.ParseDuration(per)
	if err != nil || bad != nil || n == 0 || d < time.Millisecond || d > 24*time.Hour {
		return fmt.Errorf("%q is neither 0 nor like 50/1s", text)
	}
	*r = Rate{int(n), d}
	return nil
}

func (r Rate) String() string {
	if r.Count <= 0 {
		return "0"
	}
	return fmt.Sprintf("%d/%v", r.Count, r.Per)
}

// quota is a rate with a burst: what is not used is saved up to that many.
type quota struct {
	rate  Rate
	burst int
}

// take accounts for one more at now and returns the state to keep. When it is
// one too many, the state stays and wait tells when there is room again.
//
// The state is the time at which all that was taken is paid for at the rate;
// it may be so far ahead of the clock as a burst takes. Its zero is a full bucket.
func (q quota) take(paid int64, now time.Time) (after int64, wait time.Duration) {
	if q.rate.Count <= 0 {
		return paid, 0
	}
	at := now.UnixNano()
	each := int64(q.rate.Per) / int64(q.rate.Count)
	after = max(paid, at) + each
	if ahead := after - at - each*int64(q.burst); ahead > 0 {
		return paid, time.Duration(ahead)
	}
	return after, 0
}

// bucket is the quota of one source. It is safe for use by many goroutines.
type bucket struct {
	quota quota // fixed
	paid  atomic.Int64
}

// take returns 0, or how long to wait.
func (b *bucket) take(now time.Time) time.Duration {
	for {
		paid := b.paid.Load()
		after, wait := b.quota.take(paid, now)
		if wait > 0 || after == paid || b.paid.CompareAndSwap(paid, after) {
			return wait
		}
	}
}

// caller is who sends to a source, as far as an address tells: one IPv4
// address, or the /64 that one IPv6 host can choose from.
type caller struct {
	net    netip.Addr
	source string // empty for a URL that is no source's
}

func callerOf(addr netip.Addr, source string) caller {
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	return caller{addr, source}
}

// strangers bounds the deliveries of callers that cannot prove themselves, so
// that reading and hashing what they send does not slow down who can.
//
// An address is no proof of anything: a CMS sends from where all its customers
// do, and behind a proxy that we were not told of everybody has one address.
// So what a caller is refused is counted for each source apart, and an address
// from which that source was sent a verified delivery within friendTime is
// never turned away. A CMS that shares its address with a flood gets through
// at the rate of the limit at worst until its first delivery did.
type strangers struct {
	quota quota // fixed

	mu      sync.RWMutex
	refused map[caller]int64     // state of quota; at most maxStrangers
	friends map[caller]time.Time // last verified delivery; at most maxFriends
}

const (
	maxStrangers = 1 << 14
	maxFriends   = 1 << 12 // only who knows a secret gets in here

	friendTime    = time.Hour
	friendRenewal = time.Minute // how exact a friend's time is
)

func newStrangers(q quota) *strangers {
	return &strangers{quota: q, refused: map[caller]int64{}, friends: map[caller]time.Time{}}
}

// wait returns how long c is turned away for; 0: not at all.
func (s *strangers) wait(c caller, now time.Time) time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	paid, ok := s.refused[c]
	if !ok {
		return 0
	}
	_, wait := s.quota.take(paid, now)
	if seen, friend := s.friends[c]; friend && now.Sub(seen) < friendTime {
		return 0
	}
	return wait
}

// refuse counts a delivery of c that proved nothing.
func (s *strangers) refuse(c caller, now time.Time) {
	if s.quota.rate.Count <= 0 || !c.net.IsValid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	paid, ok := s.refused[c]
	if !ok && len(s.refused) >= maxStrangers {
		evict(s.refused, func(a, b int64) bool { return a < b })
	}
	s.refused[c], _ = s.quota.take(paid, now)
}

// verify counts a delivery of c that proved a secret.
func (s *strangers) verify(c caller, now time.Time) {
	if s.quota.rate.Count <= 0 || !c.net.IsValid() {
		return
	}
	s.mu.RLock()
	seen, ok := s.friends[c]
	s.mu.RUnlock()
	if ok && now.Sub(seen) < friendRenewal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok && len(s.friends) >= maxFriends {
		evict(s.friends, time.Time.Before)
	}
	s.friends[c] = now
}

// evict removes the least of a few entries: a bounded table needs no better.
func evict[V any](table map[caller]V, less func(a, b V) bool) {
	var least caller
	n := 0
	for c, v := range table {
		if n == 0 || less(v, table[least]) {
			least = c
		}
		if n++; n == 8 {
			break
		}
	}
	delete(table, least)
}
