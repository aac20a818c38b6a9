// Package ratelimit admits so many requests of a client address in so long, all
// nodes of a site together.
//
// Hold one Limiter a process and put its Handler before whatever answers:
//
//	limits := ratelimit.New(rdb, log, ratelimit.Config{Rate: rate})
//	server.Handler = limits.Handler(router)
//
// The window slides: what was admitted in the fixed window before counts with
// the share of it that still overlaps the sliding one, as Cloudflare counts
// ("How we built rate limiting capable of scaling to millions of domains", 2017)
// and as Upstash's Ratelimit.slidingWindow does. A client costs two numbers,
// whatever the limit is. All that is admitted in an interval of length d, up to
// one window long, is at most limit × (1 + d/window): no burst is above the
// limit, also not where two windows meet, and over a long time it is the limit
// that counts. One window after the last admitted request nothing of it is left.
// What is refused does not count.
//
// Redis' clock decides, so nodes need not agree on the time. Redis that is away
// or slow delays nobody: each node then counts by itself, in the same way, until
// it answers again. An admitted request costs a round trip, refused ones none:
// a client over its limit is remembered until one of its requests would be
// admitted. (BenchmarkHandler)
package ratelimit

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// key names what is stored of a client: a string, see take.lua. Each client has
// a hash tag of its own, so that a cluster spreads them. The length of the
// window is in it: after a change of the settings counting begins anew.
func (l *Limiter) key(client netip.Addr) string {
	name := "-"
	if client.IsValid() {
		name = client.String()
	}
	return l.keys + name + "}"
}

//go:embed take.lua
var takeLua string

var takeScript = redis.NewScript(takeLua)

// Options sets o up for the client of a Limiter: no command is repeated, and
// each ends when its context does.
func Options(o *redis.UniversalOptions) {
	o.MaxRetries = -1
	o.DialerRetries = 1
	o.DialTimeout = time.Second // of its own: a request that waits for it ends earlier
	o.ContextTimeoutEnabled = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// Limiter counts the requests of clients. It is safe for use by many goroutines.
type Limiter struct {
	cfg     Config // fixed, as all up to local
	rdb     redis.UniversalClient
	log     *slog.Logger
	metrics *metrics
	keys    string // the beginning of every key
	script  *redis.Script

	local   *local
	refused refusals

	asleep   atomic.Int64 // unix ns until which Redis is left alone; 0: it answers
	probing  atomic.Bool  // one request finds out whether it answers again
	nameless sync.Once    // see Handler
}

// New returns a Limiter on rdb, which Options set up and the caller closes.
func New(rdb redis.UniversalClient, log *slog.Logger, cfg Config) *Limiter {
	cfg = cfg.withDefaults()
	return &Limiter{
		cfg: cfg, rdb: rdb, log: log, metrics: newMetrics(cfg.Metrics), script: takeScript,
		keys:  cfg.Namespace + ":rate:" + strconv.FormatInt(cfg.Rate.Per.Milliseconds(), 10) + ":{",
		local: newLocal(cfg.Rate),
	}
}

// Decision is about one request.
type Decision struct {
	OK        bool
	Remaining int           // requests that would be admitted now
	Wait      time.Duration // until one more is admitted; 0 while some remain
	Reset     time.Time     // when the whole limit is free, if nothing more is sent
}

// Allow decides about one request of a client, as Client names it.
func (l *Limiter) Allow(ctx context.Context, client netip.Addr) Decision {
	now := time.Now()
	if d, ok := l.refused.find(client, now); ok {
		l.metrics.memory.Inc()
		return d
	}
	if l.isAsleep(client, now) {
		return l.allowLocally(client, now)
	}
	d, err := l.ask(ctx, client)
	if err != nil {
		l.sleep(ctx, err)
		return l.allowLocally(client, now)
	}
	if !d.OK {
		l.metrics.refused.Inc()
		l.refused.add(client, now, d)
		return d
	}
	l.metrics.admitted.Inc()
	l.local.note(client, now) // what was used up here is not given again when Redis goes away
	return d
}

// ask lets Redis decide. A caller that leaves changes nothing: the request was made.
func (l *Limiter) ask(ctx context.Context, client netip.Addr) (Decision, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout)
	defer cancel()
	reply, err := l.script.Run(ctx, l.rdb, []string{l.key(client)}, l.cfg.Rate.Count, l.cfg.Rate.Per.Milliseconds()).Int64Slice()
	if err != nil {
		return Decision{}, err
	}
	if len(reply) != 4 {
		return Decision{}, fmt.Errorf("take script answered %d values, want 4", len(reply))
	}
	return Decision{OK: reply[0] == 1, Remaining: int(reply[1]), Wait: time.Duration(reply[2]) * time.Millisecond, Reset: time.UnixMilli(reply[3])}, nil
}

func (l *Limiter) allowLocally(client netip.Addr, now time.Time) Decision {
	d := l.local.take(client, now)
	if d.OK {
		l.metrics.localAdmitted.Inc()
	} else {
		l.metrics.localRefused.Inc()
	}
	return d
}

// isAsleep reports whether Redis is left alone. Once in a while it is asked
// about a request that nobody waits for.
func (l *Limiter) isAsleep(client netip.Addr, now time.Time) bool {
	until := l.asleep.Load()
	if until == 0 {
		return false
	}
	if now.UnixNano() >= until && l.probing.CompareAndSwap(false, true) {
		go l.probe(client)
	}
	return true
}

func (l *Limiter) probe(client netip.Addr) {
	defer l.probing.Store(false)
	if _, err := l.ask(context.Background(), client); err != nil {
		l.sleep(context.Background(), err)
		return
	}
	if l.asleep.Swap(0) != 0 {
		l.metrics.local.Set(0)
		l.log.Info("rate limits are shared again")
	}
}

// sleep leaves Redis alone for a while: one that hangs shall not cost each
// request the timeout.
func (l *Limiter) sleep(ctx context.Context, err error) {
	l.metrics.errors.Inc()
	if l.asleep.Swap(time.Now().Add(l.cfg.Pause).UnixNano()) == 0 {
		l.metrics.local.Set(1)
		l.log.WarnContext(ctx, "rate limits are counted by each node alone", "err", err)
	}
}
