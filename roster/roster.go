// Package roster tells the processes of a site what each of them does just now.
//
// A process says so again and again with Announce; who says nothing for
// Config.Silence is not on the list any more, and who ends well takes itself
// off with Leave:
//
//	nodes := roster.New(rdb, roster.Config{Name: "streams"})
//	nodes.Announce(ctx, id, []byte(`{"subscribers":12}`))
//	all, err := nodes.List(ctx)
//
// Redis' clock alone decides who is silent.
package roster

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// The stored data. Index and words share a hash tag, so one command reads them.
func (r *Roster) index() string         { return r.prefix }            // sorted set of ids, all with score 0
func (r *Roster) word(id string) string { return r.prefix + ":" + id } // string: what a process said last, expires

// maxListed bounds a list.
const maxListed = 1000

// Config of a Roster.
type Config struct {
	// Namespace is the prefix of all keys, and their hash tag. Empty means "fw".
	Namespace string

	// Name tells the lists of a site apart.
	Name string

	// Silence is how long a process is listed after its last word. Zero means 10s.
	Silence time.Duration
}

// Roster is one list of processes.
type Roster struct {
	rdb     redis.UniversalClient
	prefix  string
	silence time.Duration
}

// New returns the list of a name on rdb, which stays the caller's to close.
func New(rdb redis.UniversalClient, cfg Config) *Roster {
	ns := cmp.Or(cfg.Namespace, "fw")
	return &Roster{rdb: rdb, prefix: ns + ":{" + ns + "}:" + cfg.Name, silence: cmp.Or(cfg.Silence, 10*time.Second)}
}

// Announce puts what a process says on the list, instead of what it said before.
func (r *Roster) Announce(ctx context.Context, id string, word []byte) error {
	_, err := r.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, r.word(id), word, r.silence)
		p.ZAdd(ctx, r.index(), redis.Z{Member: id})
		p.Expire(ctx, r.index(), time.Hour+r.silence)
		return nil
	})
	if err != nil {
		return fmt.Errorf("announcing %q: %w", id, err)
	}
	return nil
}

// Leave takes a process off the list.
func (r *Roster) Leave(ctx context.Context, id string) error {
	_, err := r.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, r.word(id))
		p.ZRem(ctx, r.index(), id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("leaving as %q: %w", id, err)
	}
	return nil
}

// List returns the last words of all who are not silent, in no order. It
// forgets the others; one that speaks just then is back with its next word.
func (r *Roster) List(ctx context.Context) ([][]byte, error) {
	ids, err := r.rdb.ZRange(ctx, r.index(), 0, maxListed-1).Result()
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", r.prefix, err)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = r.word(id)
	}
	found, err := r.rdb.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", r.prefix, err)
	}
	var words [][]byte
	var silent []any
	for i, v := range found {
		if text, ok := v.(string); ok {
			words = append(words, []byte(text))
		} else {
			silent = append(silent, ids[i])
		}
	}
	if len(silent) > 0 {
		if err := r.rdb.ZRem(ctx, r.index(), silent...).Err(); err != nil {
			return nil, fmt.Errorf("forgetting the silent of %s: %w", r.prefix, err)
		}
	}
	return words, nil
}
