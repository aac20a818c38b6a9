package cache

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	scanCount    = 1000             // names a SCAN looks at: about 0.7 ms of the server's time
	maxHeld      = 100_000          // fresh members held until they are put back
	batchTimeout = 10 * time.Second // of one batch, which is finished even when the caller leaves
)

//go:embed reclaim_unlink.lua
var unlinkSource string

var unlinkScript = redis.NewScript(unlinkSource)

// reclaim deletes the entries under one scope that m made void, for scopes
// that are reclaimable.
func (r *reclaimer) reclaim(ctx context.Context, scope string, m Mark) (entries int, err error) {
	start := time.Now()
	defer func() { r.metrics.seconds.Observe(time.Since(start).Seconds()) }()
	switch {
	case scope == everyone:
		entries, err = r.all(ctx, m)
	case strings.HasPrefix(scope, keyScope):
		entries, err = r.keys(ctx, []string{scope}, m)
	case strings.HasPrefix(scope, globScope):
		entries, err = r.glob(ctx, scope[len(globScope):], m)
	case indexed(scope):
		entries, err = r.drain(ctx, newGait(), r.names.shards(scope), m)
	}
	if err != nil {
		err = fmt.Errorf("reclaiming %q: %w", scope, err)
	}
	return entries, err
}

// keys deletes the entries of exact keys.
func (r *reclaimer) keys(ctx context.Context, scopes []string, m Mark) (int, error) {
	entries := make([]string, len(scopes))
	for i, scope := range scopes {
		entries[i] = r.names.entry(strings.TrimPrefix(scope, keyScope))
	}
	return r.unlinkAll(ctx, newGait(), entries, m)
}

// glob looks at every name once: SCAN finds at least those that match, and
// the key itself decides, or what stands before its query. A variant of
// another base is left to expire.
func (r *reclaimer) glob(ctx context.Context, pattern string, m Mark) (int, error) {
	var entries atomic.Int64
	err := scanGently(ctx, r.rdb, scanPattern(r.names.entryPrefix(), pattern+"*", "}", esc), func(ctx context.Context, g *gait, page []string) error {
		var void []string
		for _, name := range page {
			key, ok := r.names.entryKey(name)
			if base, _, _ := strings.Cut(key, "?"); ok && (matchGlob(pattern, key) || matchGlob(pattern, base)) {
				void = append(void, name)
			}
		}
		n, err := r.unlinkAll(ctx, g, void, m)
		entries.Add(int64(n))
		return err
	})
	return int(entries.Load()), err
}

// all deletes every void entry, and then the members of the indexes that speak of them.
func (r *reclaimer) all(ctx context.Context, m Mark) (int, error) {
	entries, err := r.glob(ctx, "*", m)
	if err != nil {
		return entries, err
	}
	var more atomic.Int64
	err = scanGently(ctx, r.rdb, r.names.indexPattern(), func(ctx context.Context, g *gait, shards []string) error {
		n, err := r.drain(ctx, g, shards, m)
		more.Add(int64(n))
		return err
	})
	return entries + int(more.Load()), err
}

// member is a key taken out of a shard of an index.
type member struct {
	shard string
	redis.Z
}

// drain takes keys out of the shards, deletes their entries where they are
// void, and puts the others back at the end (at once, they would be taken
// again). In this order nothing is lost that was refilled meanwhile:
//
//  1. we take k out
//  2. a reader stores k anew and notes it in the index
//  3. we find k fresh and put it back, which changes nothing
//
// If 2 comes before 1, putting it back is what keeps it. A crash between loses
// members: their entries are void or expire, purges do not need the index.
func (r *reclaimer) drain(ctx context.Context, g *gait, shards []string, m Mark) (entries int, err error) {
	var held []member
	defer func() {
		if back := r.putBack(ctx, g, held); err == nil {
			err = back
		}
	}()
	for len(shards) > 0 && len(held) < maxHeld {
		if g.rest(ctx); ctx.Err() != nil {
			return entries, ctx.Err()
		}
		start := time.Now()
		var taken []member
		taken, shards, err = r.take(ctx, shards, g.batch)
		if err != nil {
			held = append(held, taken...)
			return entries, err
		}
		keys := make([]string, len(taken))
		for i, t := range taken {
			keys[i] = r.names.entry(t.Member.(string))
		}
		verdicts, err := r.unlink(ctx, keys, m)
		entries += count(verdicts, unlinked)
		for i, t := range taken {
			if verdicts[i] == fresh || verdicts[i] == unknown {
				held = append(held, t)
			}
		}
		if err != nil {
			return entries, err
		}
		g.did(len(taken), time.Since(start))
	}
	return entries, nil
}

// take pops at most so many members, those of a shard that expire first, and
// returns the shards that may have more.
func (r *reclaimer) take(ctx context.Context, shards []string, most int) (taken []member, more []string, err error) {
	ctx, cancel := batch(ctx)
	defer cancel()
	some := shards[:min(len(shards), most)]
	each := int64(most / len(some))
	cmds := make([]*redis.ZSliceCmd, len(some))
	pipe := r.rdb.Pipeline()
	for i, shard := range some {
		cmds[i] = pipe.ZPopMin(ctx, shard, each)
	}
	_, err = pipe.Exec(ctx)
	for i, cmd := range cmds {
		for _, z := range cmd.Val() {
			taken = append(taken, member{shards[i], z})
		}
		if int64(len(cmd.Val())) == each {
			more = append(more, shards[i])
		}
	}
	return taken, append(more, shards[len(some):]...), err
}

// putBack goes on without rest when ctx ends: what is held is in no index.
func (r *reclaimer) putBack(ctx context.Context, g *gait, held []member) error {
	for len(held) > 0 {
		g.rest(ctx)
		start := time.Now()
		n := min(len(held), g.batch)
		if err := r.putBackBatch(ctx, held[:n]); err != nil {
			return fmt.Errorf("putting %d keys back into their index: %w", len(held), err)
		}
		held = held[n:]
		g.did(n, time.Since(start))
	}
	return nil
}

func (r *reclaimer) putBackBatch(ctx context.Context, held []member) error {
	ctx, cancel := batch(ctx)
	defer cancel()
	pipe := r.rdb.Pipeline()
	for _, h := range held {
		indexScript.Eval(ctx, pipe, []string{h.shard}, h.Member, int64(h.Score))
	}
	_, err := pipe.Exec(ctx)
	return err
}

// verdict is what became of an entry that may be void, as reclaim_unlink.lua says it.
type verdict int

const (
	absent verdict = iota
	unlinked
	fresh
	unknown // no answer
)

func count(vs []verdict, what verdict) (n int) {
	for _, v := range vs {
		if v == what {
			n++
		}
	}
	return n
}

// unlinkAll deletes those of the named entries that m made void, batch by batch.
func (r *reclaimer) unlinkAll(ctx context.Context, g *gait, entries []string, m Mark) (unlinks int, err error) {
	for len(entries) > 0 {
		g.rest(ctx)
		start := time.Now()
		n := min(len(entries), g.batch)
		verdicts, err := r.unlink(ctx, entries[:n], m)
		unlinks += count(verdicts, unlinked)
		if err != nil {
			return unlinks, err
		}
		entries = entries[n:]
		g.did(n, time.Since(start))
	}
	return unlinks, nil
}

// unlink deletes those of the named entries that m made void, in one pipeline.
// There is a verdict for each name, also beside an error.
func (r *reclaimer) unlink(ctx context.Context, entries []string, m Mark) ([]verdict, error) {
	verdicts := make([]verdict, len(entries))
	for i := range verdicts {
		verdicts[i] = unknown
	}
	if m.Epoch == "" {
		return verdicts, nil // of no event: every entry would seem to be of another epoch
	}
	ctx, cancel := batch(ctx)
	defer cancel()
	err := r.unlinkBatch(ctx, entries, m, verdicts)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		if err = r.load(ctx, unlinkScript); err == nil {
			err = r.unlinkBatch(ctx, entries, m, verdicts)
		}
	}
	r.metrics.entries.Add(float64(count(verdicts, unlinked)))
	return verdicts, err
}

// unlinkBatch asks for the verdicts that are unknown, and returns the first error.
func (r *reclaimer) unlinkBatch(ctx context.Context, entries []string, m Mark, verdicts []verdict) error {
	cmds := make([]*redis.Cmd, len(entries))
	pipe := r.rdb.Pipeline()
	for i, name := range entries {
		if verdicts[i] == unknown {
			cmds[i] = unlinkScript.EvalSha(ctx, pipe, []string{name}, m.Seq, m.Epoch)
		}
	}
	pipe.Exec(ctx) // each command has its own error
	var failed error
	for i, cmd := range cmds {
		if cmd == nil {
			continue
		}
		v, err := cmd.Int()
		switch {
		case err == nil:
			verdicts[i] = verdict(v)
		case failed == nil:
			failed = err
		}
	}
	return failed
}

// load puts a script on every master: a pipeline cannot fall back to EVAL.
func (r *reclaimer) load(ctx context.Context, s *redis.Script) error {
	return eachMaster(ctx, r.rdb, func(ctx context.Context, node redis.Cmdable) error {
		return s.Load(ctx, node).Err()
	})
}

// scanMasters hands every name that matches to each, page by page, from every
// master at once. A name may come twice.
func scanMasters(ctx context.Context, rdb redis.UniversalClient, pattern string, each func(context.Context, []string) error) error {
	return scanGently(ctx, rdb, pattern, func(ctx context.Context, g *gait, page []string) error {
		start := time.Now()
		err := each(ctx, page)
		g.worked(time.Since(start))
		return err
	})
}

// scanGently is scanMasters for who works at the gait of the master.
func scanGently(ctx context.Context, rdb redis.UniversalClient, pattern string, each func(context.Context, *gait, []string) error) error {
	return eachMaster(ctx, rdb, func(ctx context.Context, node redis.Cmdable) error {
		g := newGait()
		for cursor := uint64(0); ; {
			if g.rest(ctx); ctx.Err() != nil {
				return ctx.Err()
			}
			start := time.Now()
			page, next, err := node.Scan(ctx, cursor, pattern, scanCount).Result()
			if err != nil {
				return fmt.Errorf("scanning %q: %w", pattern, err)
			}
			g.worked(time.Since(start))
			if len(page) > 0 {
				if err := each(ctx, g, page); err != nil {
					return err
				}
			}
			if next == 0 {
				return nil
			}
			cursor = next
		}
	})
}

// eachMaster calls fn with every server that holds keys, at once.
// ClusterClient.Scan would ask one of them, chosen by chance.
func eachMaster(ctx context.Context, rdb redis.UniversalClient, fn func(context.Context, redis.Cmdable) error) error {
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return fn(ctx, node) })
	}
	return fn(ctx, rdb)
}

// batch returns a context for one batch: a batch that was begun is finished,
// or the members it took out of an index would be lost.
func batch(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), batchTimeout)
}
