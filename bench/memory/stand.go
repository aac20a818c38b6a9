package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/bench/internal/rig"
	"github.com/freshwire/freshwire/cache"
)

// stand is a Redis and a client that measures. Nodes have clients of their own,
// whose buffers are gone when it does.
type stand struct {
	redis *rig.Process
	rdb   *redis.Client
}

const callers = 64

func newStand(ctx context.Context) (*stand, error) {
	server, err := rig.Redis(ctx, rig.AnyCore)
	if err != nil {
		return nil, err
	}
	return &stand{server, redis.NewClient(&redis.Options{Addr: server.Addr, ReadTimeout: time.Minute})}, nil
}

func (s *stand) stop() {
	s.rdb.Close()
	s.redis.Stop()
}

// node runs a Store until the returned function is called.
func (s *stand) node(ctx context.Context, cfg cache.Config) (*cache.Store, func(), error) {
	rdb := redis.NewClient(&redis.Options{Addr: s.redis.Addr, PoolSize: callers})
	store := cache.New(rdb, slog.New(slog.DiscardHandler), cfg)
	running, cancel := context.WithCancel(ctx)
	var node errgroup.Group
	node.Go(func() error { return store.Run(running) })
	stop := func() { cancel(); node.Wait(); rdb.Close() }
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := store.Ready()
		if err == nil {
			return store, stop, nil
		}
		if time.Since(begun) > 20*time.Second || ctx.Err() != nil {
			stop()
			return nil, nil, fmt.Errorf("the node is not ready: %w", err)
		}
	}
}

// kind is a kind of entries that is measured.
type kind struct {
	name    string
	entries int
	tags    int  // different ones, of which each entry has tagsEach, or the only one
	route   bool // with what package read adds: path, address, position, headers
}

func key(i int) string { return "post:" + strconv.Itoa(i) }

func (k kind) request(i int) cache.Request {
	req := cache.Request{Key: key(i)}
	for j := range min(tagsEach, k.tags) {
		req.Tags = append(req.Tags, "tag:"+strconv.Itoa((i*tagsEach+j)%k.tags))
	}
	if k.route {
		req.Path = "/api/posts/" + strconv.Itoa(i)
		req.Target, req.Position = req.Path, "1795176000123-0"
	}
	return req
}

func (k kind) fill(body []byte) cache.Fill {
	f := cache.Fill{Status: 200, Body: body, TTL: 12 * time.Hour}
	if k.route {
		f.ETag = `"f00dfeedf00dfeedf00dfeedf00dfeed"`
		f.Header = map[string][]string{"Content-Type": {"application/json"}, "Freshwire-Source": {"f00dfeedf00dfeedf00dfeedf00dfeed"}}
	}
	return f
}

// cost is in bytes of Redis.
type cost struct {
	entry   float64 // without body and index
	members float64 // of the index, per entry
	member  float64
}

// entries writes entries of one kind, measures them, and empties the Redis.
func (s *stand) entries(ctx context.Context, k kind) (c cost, err error) {
	defer func() { err = errors.Join(err, s.rdb.FlushAll(context.WithoutCancel(ctx)).Err()) }()
	few := k
	few.entries = callers
	if err := errors.Join(s.writeAnew(ctx, few), s.rdb.FlushAll(ctx).Err()); err != nil { // scripts stay
		return c, err
	}
	before, err := s.used(ctx)
	if err != nil {
		return c, err
	}
	if err := s.writeAnew(ctx, k); err != nil {
		return c, err
	}
	full, err := s.used(ctx)
	if err != nil {
		return c, err
	}
	members, err := s.dropIndex(ctx)
	if err != nil {
		return c, err
	}
	plain, err := s.used(ctx)
	if err != nil {
		return c, err
	}
	c.entry = float64(plain-before)/float64(k.entries) - bodySize
	c.members = float64(members) / float64(k.entries)
	if members > 0 {
		c.member = float64(full-plain) / float64(members)
	}
	return c, nil
}

// writeAnew writes entries with a node that is there for nothing else.
func (s *stand) writeAnew(ctx context.Context, k kind) error {
	store, stop, err := s.node(ctx, cache.Config{Memory: -1})
	if err != nil {
		return err
	}
	defer stop()
	return s.write(ctx, store, k, k.name)
}

// write fetches entries, those that are there already for nothing.
func (s *stand) write(ctx context.Context, store *cache.Store, k kind, what string) error {
	body := []byte(strings.Repeat("x", bodySize))
	var done atomic.Int64
	defer rig.Progress(what, &done, k.entries)()
	work, running := errgroup.WithContext(ctx)
	for c := range callers {
		work.Go(func() error {
			for i := c; i < k.entries; i += callers {
				if err := running.Err(); err != nil {
					return err
				}
				res, err := store.Fetch(running, k.request(i), func(context.Context, *cache.Entry) (cache.Fill, error) { return k.fill(body), nil })
				if err != nil {
					return err
				}
				if !res.Stored && res.Verdict != cache.Hit {
					return fmt.Errorf("entry %q is not stored: %s %s", key(i), res.Verdict, res.Detail)
				}
				done.Add(1)
			}
			return nil
		})
	}
	return work.Wait()
}

// used is the memory that Redis uses, once it has come to rest.
func (s *stand) used(ctx context.Context) (int64, error) {
	var last int64
	for range 50 {
		info, err := s.rdb.Info(ctx, "memory").Result()
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseInt(field(info, "used_memory"), 10, 64)
		if err != nil {
			return 0, err
		}
		if last != 0 && max(n-last, last-n) < 4<<10 {
			return n, nil
		}
		last = n
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return last, nil
}

func field(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (s *stand) version(ctx context.Context) (string, error) {
	info, err := s.rdb.Info(ctx, "server").Result()
	return field(info, "redis_version"), err
}

// dropIndex deletes the lists of keys by tag and path, and returns how many
// keys they listed.
func (s *stand) dropIndex(ctx context.Context) (members int64, err error) {
	var cursor uint64
	for {
		names, next, err := s.rdb.Scan(ctx, cursor, "fw:i:*", 1000).Result()
		if err != nil {
			return members, err
		}
		pipe := s.rdb.Pipeline()
		var sizes []*redis.IntCmd
		for _, name := range names {
			sizes = append(sizes, pipe.ZCard(ctx, name))
			pipe.Del(ctx, name)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return members, err
		}
		for _, n := range sizes {
			members += n.Val()
		}
		if cursor = next; cursor == 0 {
			return members, nil
		}
	}
}

// ledgerCost is what purges cost, in bytes.
type ledgerCost struct {
	scope, mirror, event float64
	events               int64
}

// ledger purges so many tags, ten an event.
func (s *stand) ledger(ctx context.Context, scopes int) (c ledgerCost, err error) {
	store, stop, err := s.node(ctx, cache.Config{Memory: -1})
	if err != nil {
		return c, err
	}
	defer stop()
	const each = 10
	purge := func(from, to int) error {
		var done atomic.Int64
		defer rig.Progress("purging", &done, to-from)()
		for i := from; i < to; i += each {
			var p cache.Purge
			for j := i; j < min(i+each, to); j++ {
				p.Tags = append(p.Tags, "product:"+strconv.Itoa(j))
			}
			if _, err := store.Invalidate(ctx, p, cache.Mark{}); err != nil {
				return err
			}
			done.Add(each)
		}
		return nil
	}
	if err := purge(0, each); err != nil {
		return c, err
	}
	before := heap()
	if err := purge(each, scopes); err != nil {
		return c, err
	}
	c.mirror = float64(heap()-before) / float64(scopes-each)
	runtime.KeepAlive(store)
	for _, part := range []struct {
		key  string
		each *float64
	}{{"fw:{fw}:ledger", &c.scope}, {"fw:{fw}:seqs", &c.event}} {
		size, err := s.rdb.MemoryUsage(ctx, part.key, 0).Result()
		if err != nil {
			return c, err
		}
		if c.events, err = s.rdb.ZCard(ctx, part.key).Result(); err != nil {
			return c, err
		}
		*part.each = float64(size) / float64(c.events)
	}
	return c, nil
}

// heap is what is live in this process.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers let go
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// tier is what an entry takes in the memory of a process, in bytes.
type tier struct {
	entries       int64
	real, counted float64
}

var errNoTier = errors.New("this cache keeps nothing in the memory of the process")

// memoryTier reads entries into the memory of a node that others wrote.
func (s *stand) memoryTier(ctx context.Context, entries int) (t tier, err error) {
	k := kind{entries: entries, tags: max(tagsEach, entries/100)}
	writer, stopWriter, err := s.node(ctx, cache.Config{Memory: -1})
	if err != nil {
		return t, err
	}
	defer stopWriter()
	if err := s.write(ctx, writer, k, "writing for the memory tier"); err != nil {
		return t, err
	}
	reg := prometheus.NewRegistry()
	reader, stopReader, err := s.node(ctx, cache.Config{Memory: 8 << 30, Metrics: reg})
	if err != nil {
		return t, err
	}
	defer stopReader()
	before := heap()
	if err := s.write(ctx, reader, k, "reading into the memory tier"); err != nil {
		return t, err
	}
	grown := float64(heap() - before)
	runtime.KeepAlive(reader)
	held, err := gauge(reg, "freshwire_cache_memory_entries")
	if err != nil {
		return t, err
	}
	counted, err := gauge(reg, "freshwire_cache_memory_bytes")
	if err != nil {
		return t, err
	}
	if held == 0 {
		return t, errNoTier
	}
	return tier{int64(held), grown / held, counted / held}, nil
}

func gauge(reg *prometheus.Registry, name string) (float64, error) {
	families, err := reg.Gather()
	if err != nil {
		return 0, err
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue(), nil
		}
	}
	return 0, fmt.Errorf("%w: no metric %s", errNoTier, name)
}
