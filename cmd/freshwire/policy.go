package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// eviction watches what the masters do when their memory is full. One that may
// drop any key may drop the ledger, the queue or the log of changes, without a
// word; then nothing that freshwire promises holds.
type eviction struct {
	rdb redis.UniversalClient
	log *slog.Logger

	mu      sync.Mutex
	started bool  // the process runs: who looks first says it by itself
	known   bool  // every master has told
	bad     error // a master evicts any key
	warned  bool  // of what is not good, but no danger now
}

// Pauses between looks.
const (
	evictionPause  = time.Minute
	evictionSooner = 2 * time.Second // until the masters have told once
	evictionBound  = 2 * time.Second // of one look
)

// errEvicts is why a process does not start, or is not ready.
var errEvicts = errors.New("the store, Redis, may evict what must not be lost")

// refuse looks once, and returns an error where the process must not start.
// Redis being away is none.
func (e *eviction) refuse(ctx context.Context) error {
	if err := e.look(ctx); err != nil {
		e.log.InfoContext(ctx, "eviction policy of Redis not known yet", "err", err)
	}
	return e.ready()
}

// ready reports the danger that was found last.
func (e *eviction) ready() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bad
}

// run looks each minute until ctx ends.
func (e *eviction) run(ctx context.Context) error {
	e.mu.Lock()
	e.started = true
	e.mu.Unlock()
	for {
		pause := evictionPause
		e.mu.Lock()
		if !e.known {
			pause = evictionSooner
		}
		e.mu.Unlock()
		select {
		case <-time.After(pause):
			if err := e.look(ctx); err != nil && ctx.Err() == nil {
				e.log.DebugContext(ctx, "eviction policy of Redis not asked", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// look asks every master, and notes and logs what changed. An error says that
// not all of them answered.
func (e *eviction) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, evictionBound)
	defer cancel()
	var mu sync.Mutex
	var bad, odd []string
	err := eachMaster(ctx, e.rdb, func(ctx context.Context, addr string, node redis.Cmdable) error {
		info, err := node.Info(ctx, "memory").Result()
		if err != nil && !isRefusal(err) {
			return err
		}
		danger, note := judgeEviction(info)
		mu.Lock()
		defer mu.Unlock()
		if danger != "" {
			bad = append(bad, addr+": "+danger)
		}
		if note != "" {
			odd = append(odd, addr+": "+note)
		}
		return nil
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.known = e.known || err == nil
	switch {
	case len(bad) > 0:
		now := fmt.Errorf("%w: %s. Set maxmemory-policy to noeviction (or a volatile-… one): redis-cli CONFIG SET maxmemory-policy noeviction, "+
			"and the same in redis.conf; a hosted Redis has a setting for it", errEvicts, strings.Join(bad, "; "))
		if e.bad == nil && e.started {
			e.log.Error("not ready any more", "err", now)
		}
		e.bad = now
	case err == nil && e.bad != nil:
		e.log.Info("Redis evicts nothing of ours any more")
		e.bad = nil
	}
	if len(odd) > 0 && !e.warned {
		e.warned = true
		e.log.Warn("look at the eviction policy of Redis", "servers", strings.Join(odd, "; "))
	}
	return err
}

// isRefusal reports whether a server answered, but not what was asked.
func isRefusal(err error) bool {
	var answered redis.Error
	return errors.As(err, &answered) && !errors.Is(err, redis.Nil)
}

// judgeEviction reads INFO memory. A danger must not be; a note is for people.
func judgeEviction(info string) (danger, note string) {
	policy, limit := "", int64(-1)
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "maxmemory_policy":
			policy = value
		case "maxmemory":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				limit = n
			}
		}
	}
	switch {
	case policy == "":
		return "", "it does not tell its maxmemory-policy; see to it that it is noeviction or volatile-…"
	case !strings.HasPrefix(policy, "allkeys-"):
		return "", ""
	case limit == 0:
		return "", "maxmemory-policy is " + policy + ", harmless only as long as maxmemory is 0; set noeviction"
	}
	return "maxmemory-policy is " + policy, ""
}

// eachMaster calls fn with every server that holds keys, at once.
func eachMaster(ctx context.Context, rdb redis.UniversalClient, fn func(ctx context.Context, addr string, node redis.Cmdable) error) error {
	switch c := rdb.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return fn(ctx, node.Options().Addr, node) })
	case *redis.Client:
		return fn(ctx, c.Options().Addr, c)
	}
	return fn(ctx, "Redis", rdb)
}
