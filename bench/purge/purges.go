package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/bench/internal/rig"
	"github.com/freshwire/freshwire/cache"
)

const tag = "posts"

var body = []byte(strings.Repeat("x", 1024))

func key(i int) string { return fmt.Sprintf("post:%d", i) }

// site is freshwire with two nodes: one purges, the other would serve old content.
type site struct {
	srv            *rig.Process
	rdb            *redis.Client
	purger, reader *cache.Store
	stop           func()
}

// startSite starts both nodes, and waits until a barrier is only as long as
// the nodes make it: for the first seconds of a ledger it also waits for nodes
// that may have known an earlier one.
func startSite(ctx context.Context, rdb *redis.Client, srv *rig.Process) (*site, error) {
	quiet := slog.New(slog.DiscardHandler)
	s := &site{srv: srv, rdb: rdb, purger: cache.New(rdb, quiet, cache.Config{}), reader: cache.New(rdb, quiet, cache.Config{})}
	running, cancel := context.WithCancel(ctx)
	var nodes errgroup.Group
	nodes.Go(func() error { return s.purger.Run(running) })
	nodes.Go(func() error { return s.reader.Run(running) })
	s.stop = func() { cancel(); nodes.Wait() }
	if err := ready(ctx, s.purger, s.reader); err != nil {
		s.stop()
		return nil, err
	}
	for range 10 {
		p := cache.Purge{Tags: []string{"warm-up"}}
		mark, err := s.purger.Invalidate(ctx, p, cache.Mark{})
		var report cache.Report
		if err == nil {
			_, report, err = s.purger.Barrier(ctx, p, mark)
		}
		if err != nil {
			s.stop()
			return nil, err
		}
		if report.Waited < 100*time.Millisecond {
			break
		}
	}
	return s, nil
}

// purge invalidates by one number in the ledger and waits for every node; the
// memory is given back afterwards.
func (s *site) purge() purge { return purge{name: "freshwire", fill: s.fill, run: s.run} }

func (s *site) fill(ctx context.Context, size int) error {
	if err := ready(ctx, s.purger, s.reader); err != nil { // the purge before may have held the server up
		return err
	}
	origin := func(context.Context, *cache.Entry) (cache.Fill, error) {
		return cache.Fill{Status: 200, Body: body, TTL: time.Hour}, nil
	}
	var done atomic.Int64
	defer rig.Progress("filling", &done, size)()
	const callers = 64
	fillers, running := errgroup.WithContext(ctx)
	for c := range min(callers, size) {
		fillers.Go(func() error {
			for i := c; i < size; i += callers {
				res, err := s.reader.Fill(running, cache.Request{Key: key(i), Tags: []string{tag}}, origin)
				if err != nil {
					return err
				}
				if !res.Stored {
					return fmt.Errorf("entry %q is not stored", key(i))
				}
				done.Add(1)
			}
			return nil
		})
	}
	if err := fillers.Wait(); err != nil {
		return err
	}
	return s.expect(ctx, size, true)
}

func (s *site) run(ctx context.Context, size int) (r *result, err error) {
	r = &result{}
	full := s.rdb.DBSize(ctx).Val()
	p := cache.Purge{Tags: []string{tag}}
	var mark cache.Mark
	r.first, err = during(ctx, s.srv, func() error {
		start := time.Now()
		mark, err = s.purger.Invalidate(counting(ctx, &r.trips), p, cache.Mark{})
		r.void = time.Since(start)
		if err == nil {
			mark, _, err = s.purger.Barrier(ctx, p, mark)
		}
		r.invisible = time.Since(start)
		return err
	})
	if err != nil {
		return r, err
	}
	if err := s.expect(ctx, size, false); err != nil {
		return r, err
	}
	r.second, err = during(ctx, s.srv, func() error {
		start := time.Now()
		if _, err := s.purger.Reclaim(ctx, p, mark); err != nil {
			return err
		}
		err := s.gone(ctx, full-int64(size)) // what it left is done in the background
		r.back = r.invisible + time.Since(start)
		return err
	})
	return r, err
}

// gone waits until the server holds no more than so many keys.
func (s *site) gone(ctx context.Context, left int64) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(5 * time.Minute)
	for {
		n, err := s.rdb.DBSize(ctx).Result()
		if err != nil || n <= left {
			return err
		}
		select {
		case <-tick.C:
		case <-limit:
			return fmt.Errorf("%d keys are there, want no more than %d", n, left)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// expect checks a sample of the entries: all are served, or none.
func (s *site) expect(ctx context.Context, size int, served bool) error {
	for i := 0; i < size; i += max(1, size/100) {
		_, ok, err := s.reader.Get(ctx, key(i))
		if err != nil {
			return err
		}
		if ok != served {
			return fmt.Errorf("entry %q: served %t, want %t", key(i), ok, served)
		}
	}
	return nil
}

func ready(ctx context.Context, stores ...*cache.Store) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for {
		var err error
		for _, s := range stores {
			if e := s.Ready(); e != nil {
				err = e
			}
		}
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-limit:
			return fmt.Errorf("a node is not ready: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// The usual layout: a set per tag that lists its keys.
const tagSet = "tag:" + tag

func fillTagSet(rdb *redis.Client) func(context.Context, int) error {
	return func(ctx context.Context, size int) error {
		for from := 0; from < size; from += 1000 {
			pipe := rdb.Pipeline()
			for i := from; i < min(size, from+1000); i++ {
				pipe.Set(ctx, key(i), body, time.Hour)
				pipe.SAdd(ctx, tagSet, key(i))
			}
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// deleting makes a purge whose entries can be read until the last is deleted.
func deleting(name string, rdb *redis.Client, srv *rig.Process, do func(context.Context) error) purge {
	return purge{
		name: name,
		fill: fillTagSet(rdb),
		run: func(ctx context.Context, size int) (r *result, err error) {
			r = &result{}
			full := rdb.DBSize(ctx).Val()
			r.first, err = during(ctx, srv, func() error {
				start := time.Now()
				err := do(counting(ctx, &r.trips))
				r.void = time.Since(start)
				r.invisible = r.void
				return err
			})
			r.back, r.second = r.invisible, r.first
			if gone := full - rdb.DBSize(ctx).Val(); err == nil && gone != int64(size)+1 {
				err = fmt.Errorf("%d keys are gone, want %d and the set", gone, size)
			}
			return r, err
		},
	}
}

// seed is the guide's own: SMEMBERS, then one DEL of all.
func seed(rdb *redis.Client, srv *rig.Process) purge {
	return deleting("SMEMBERS + one DEL", rdb, srv, func(ctx context.Context) error {
		keys, err := rdb.SMembers(ctx, tagSet).Result()
		if err != nil {
			return err
		}
		return rdb.Del(ctx, append(keys, tagSet)...).Err()
	})
}

func pipelined(rdb *redis.Client, srv *rig.Process) purge {
	return deleting("SMEMBERS + pipelined DEL", rdb, srv, func(ctx context.Context) error {
		keys, err := rdb.SMembers(ctx, tagSet).Result()
		if err != nil {
			return err
		}
		for len(keys) > 0 {
			n := min(len(keys), 1000)
			pipe := rdb.Pipeline()
			for _, k := range keys[:n] {
				pipe.Del(ctx, k)
			}
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
			keys = keys[n:]
		}
		return rdb.Del(ctx, tagSet).Err()
	})
}

var smembersDel = redis.NewScript(`
local keys = redis.call('SMEMBERS', KEYS[1])
for i = 1, #keys, 5000 do redis.call('DEL', unpack(keys, i, math.min(i + 4999, #keys))) end
redis.call('DEL', KEYS[1])
return #keys`)

func script(rdb *redis.Client, srv *rig.Process) purge {
	p := deleting("SMEMBERS + DEL in Lua", rdb, srv, func(ctx context.Context) error {
		return smembersDel.Run(ctx, rdb, []string{tagSet}).Err()
	})
	fill := p.fill
	p.fill = func(ctx context.Context, size int) error {
		return errors.Join(fill(ctx, size), smembersDel.Load(ctx, rdb).Err())
	}
	return p
}

// trips counts the round trips of calls whose context asks for it.
type trips struct{}

func counting(ctx context.Context, n *atomic.Int64) context.Context {
	return context.WithValue(ctx, trips{}, n)
}

func (trips) count(ctx context.Context) {
	if n, ok := ctx.Value(trips{}).(*atomic.Int64); ok {
		n.Add(1)
	}
}

// DialHook and the others make trips a redis.Hook.
func (trips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (t trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		t.count(ctx)
		return next(ctx, cmd)
	}
}

func (t trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		t.count(ctx)
		return next(ctx, cmds)
	}
}
