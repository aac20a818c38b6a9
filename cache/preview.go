package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Preview tells what a Purge would make void, besides the entries that say
// "not found": every purge voids those.
type Preview struct {
	Entries int      // stored now
	Exact   bool     // false: a look at everything would have taken too long, there may be fewer or more
	Samples []string // keys of some, at most maxSamples
	ByScope []ScopeCount
}

// ScopeCount is what one tag, key, path or pattern of a Purge would make void.
type ScopeCount struct {
	Kind    string // tag, key, path, pattern, all
	Name    string // as the Purge has it; empty for all
	Entries int
	Exact   bool
}

// Bounds of a preview.
const (
	maxSamples   = 10
	maxListed    = 2000            // members of indexes that are looked at one by one
	maxScanned   = 100_000         // entries that a look at all names may find
	previewBound = 2 * time.Second // of that look
)

// Preview counts what p would make void, and changes nothing. Tags, paths and
// keys are looked up; patterns, directories and all need a look at every name,
// which has a bound.
func (s *Store) Preview(ctx context.Context, p Purge) (Preview, error) {
	if err := p.Validate(); err != nil {
		return Preview{}, err
	}
	p.Soft = false // which makes no difference here
	v := &viewing{store: s, keys: make(map[string]struct{}), out: Preview{Exact: true}}
	var listed, sought []string
	for _, scope := range scopes(p) {
		switch {
		case scope == negative:
		case indexed(scope):
			listed = append(listed, scope)
		default:
			sought = append(sought, scope)
		}
	}
	if err := v.list(ctx, listed); err != nil {
		return Preview{}, fmt.Errorf("previewing a purge: %w", err)
	}
	if err := v.seek(ctx, sought); err != nil {
		return Preview{}, fmt.Errorf("previewing a purge: %w", err)
	}
	return v.result(), nil
}

// viewing is one preview under way.
type viewing struct {
	store *Store
	more  int // entries that were counted by their indexes, without a look at each
	out   Preview

	mu   sync.Mutex
	keys map[string]struct{} // of entries seen
}

// list counts what indexes list. Small ones are read, so that an entry under
// two of the scopes counts once, and one that is gone does not.
func (v *viewing) list(ctx context.Context, scopes []string) error {
	s := v.store
	now := fmt.Sprint("(", s.now().wall.UnixMilli())
	room := maxListed
	for batch := range slices.Chunk(scopes, readCount) {
		pipe := s.rdb.Pipeline()
		counts := make([][]*redis.IntCmd, len(batch))
		for i, scope := range batch {
			for _, shard := range s.names.shards(scope) {
				counts[i] = append(counts[i], pipe.ZCount(ctx, shard, now, "+inf"))
			}
		}
		if err := exec(ctx, pipe); err != nil {
			return err
		}
		for i, scope := range batch {
			n := 0
			for _, c := range counts[i] {
				n += int(c.Val())
			}
			count := ScopeCount{Entries: n, Exact: n <= room}
			count.Kind, count.Name = describeScope(scope)
			most := n
			if !count.Exact {
				most = maxSamples
			}
			keys, err := v.existing(ctx, scope, now, most)
			if err != nil {
				return err
			}
			if count.Exact {
				room -= n
				count.Entries = len(keys)
			} else {
				v.more += n - len(keys)
			}
			for _, key := range keys {
				v.keys[key] = struct{}{}
			}
			v.out.ByScope = append(v.out.ByScope, count)
		}
	}
	return nil
}

// existing returns keys listed under a scope whose entries exist.
func (v *viewing) existing(ctx context.Context, scope, after string, most int) ([]string, error) {
	if most == 0 {
		return nil, nil
	}
	listed, err := v.store.members(ctx, scope, after, most)
	if err != nil {
		return nil, err
	}
	return v.store.existing(ctx, listed)
}

// existing returns those of keys that have an entry, void or not.
func (s *Store) existing(ctx context.Context, keys []string) ([]string, error) {
	var out []string
	for batch := range slices.Chunk(keys, readCount) {
		pipe := s.rdb.Pipeline()
		there := make([]*redis.IntCmd, len(batch))
		for i, key := range batch {
			there[i] = pipe.Exists(ctx, s.names.entry(key))
		}
		if err := exec(ctx, pipe); err != nil {
			return nil, err
		}
		for i, key := range batch {
			if there[i].Val() == 1 {
				out = append(out, key)
			}
		}
	}
	return out, nil
}

// members returns keys that an index lists under a scope and that expire after
// a time ("(" and ms), at most so many of each shard, those that live longest.
func (s *Store) members(ctx context.Context, scope, after string, most int) ([]string, error) {
	pipe := s.rdb.Pipeline()
	pages := make([]*redis.StringSliceCmd, indexShards)
	for i, shard := range s.names.shards(scope) {
		pages[i] = pipe.ZRangeArgs(ctx, redis.ZRangeArgs{Key: shard, Start: "+inf", Stop: after, ByScore: true, Rev: true, Count: int64(most)})
	}
	if err := exec(ctx, pipe); err != nil {
		return nil, err
	}
	var keys []string
	for _, page := range pages {
		keys = append(keys, page.Val()...)
	}
	return keys, nil
}

// seek counts what no index lists. Exact keys are looked up; one look at every
// name finds the rest.
func (v *viewing) seek(ctx context.Context, scopes []string) error {
	if len(scopes) == 0 {
		return nil
	}
	t := newTouch(scopes)
	found := make(map[string]int, len(scopes)) // :: scope → entries
	seen := make(map[string]struct{})
	note := func(key string, own []string) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if _, again := seen[key]; again {
			return // SCAN may tell a name twice
		}
		for _, scope := range t.by(key, own) {
			found[scope]++
			seen[key], v.keys[key] = struct{}{}, struct{}{}
		}
	}
	there, err := v.store.existing(ctx, t.keys())
	if err != nil {
		return err
	}
	for _, key := range there {
		note(key, nil)
	}

	bound, cancel := context.WithTimeout(ctx, previewBound)
	defer cancel()
	directories := slices.ContainsFunc(scopes, isDirectory)
	err = scanMasters(bound, v.store.rdb, seekPattern(v.store.names, scopes), func(ctx context.Context, page []string) error {
		keys := make([]string, 0, len(page))
		for _, name := range page {
			if key, ok := v.store.names.entryKey(name); ok {
				keys = append(keys, key)
			}
		}
		heads := make([]*Entry, len(keys))
		if directories { // which only the entry itself tells
			var err error
			if heads, err = v.store.heads(ctx, keys); err != nil {
				return err
			}
		}
		for i, key := range keys {
			base, _, _ := strings.Cut(key, "?") // the name that variants share
			own := []string{keyScope + base}
			if heads[i] != nil {
				own = heads[i].scopes
			}
			note(key, own)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if len(seen) >= maxScanned {
			return errEnough
		}
		return nil
	})
	partly := errors.Is(err, errEnough) || ctx.Err() == nil && bound.Err() != nil
	if err != nil && !partly {
		return err
	}
	for _, scope := range scopes {
		count := ScopeCount{Entries: found[scope], Exact: !partly}
		count.Kind, count.Name = describeScope(scope)
		v.out.ByScope = append(v.out.ByScope, count)
	}
	return nil
}

var errEnough = errors.New("cache: enough was seen")

// seekPattern matches at least the names of what carries one of the scopes.
func seekPattern(n names, scopes []string) string {
	pattern := "*"
	if glob, ok := strings.CutPrefix(scopes[0], globScope); ok && len(scopes) == 1 {
		pattern = glob + "*" // "list?page=2" is found by a pattern of "list", too
	}
	if key, ok := strings.CutPrefix(scopes[0], keyScope); ok && len(scopes) == 1 {
		pattern = EscapeGlob(key) + "*"
	}
	return scanPattern(n.entryPrefix(), pattern, "}", esc)
}

// touch tells which of some scopes an entry carries.
type touch struct {
	exact map[string]bool
	globs []string
}

func newTouch(scopes []string) touch {
	t := touch{exact: make(map[string]bool, len(scopes))}
	for _, scope := range scopes {
		if glob, ok := strings.CutPrefix(scope, globScope); ok {
			t.globs = append(t.globs, glob)
		} else {
			t.exact[scope] = true
		}
	}
	return t
}

// keys returns the exact keys among the scopes.
func (t touch) keys() []string {
	var keys []string
	for scope := range t.exact {
		if key, ok := strings.CutPrefix(scope, keyScope); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// by returns the scopes that the entry of key carries, besides its key those in own.
func (t touch) by(key string, own []string) []string {
	var out []string
	if t.exact[everyone] {
		out = append(out, everyone)
	}
	if t.exact[keyScope+key] {
		out = append(out, keyScope+key)
	}
	for _, scope := range own {
		if t.exact[scope] && scope != keyScope+key {
			out = append(out, scope)
		}
	}
	for _, glob := range t.globs {
		if matchGlob(glob, key) || matchesAny(glob, [][]string{own}) {
			out = append(out, globScope+glob)
		}
	}
	return out
}

func isDirectory(scope string) bool {
	return strings.HasPrefix(scope, pathScope) && strings.HasSuffix(scope, "/")
}

func (v *viewing) result() Preview {
	for _, c := range v.out.ByScope {
		v.out.Exact = v.out.Exact && c.Exact
	}
	v.out.Entries = len(v.keys) + v.more
	for key := range v.keys {
		if v.out.Samples = append(v.out.Samples, key); len(v.out.Samples) == maxSamples {
			break
		}
	}
	slices.Sort(v.out.Samples)
	return v.out
}

// describeScope returns what a scope is called in a Purge.
func describeScope(scope string) (kind, name string) {
	switch {
	case scope == everyone:
		return "all", ""
	case scope == negative:
		return "missing", ""
	case strings.HasPrefix(scope, tagScope):
		return "tag", scope[len(tagScope):]
	case strings.HasPrefix(scope, keyScope):
		return "key", scope[len(keyScope):]
	case strings.HasPrefix(scope, globScope):
		return "pattern", scope[len(globScope):]
	case isDirectory(scope):
		return "path", scope[len(pathScope):] + "*"
	}
	path := scope[len(pathScope):]
	if path == "" {
		path = "/"
	}
	return "path", path
}

// exec runs a pipeline whose commands may find nothing.
func exec(ctx context.Context, pipe redis.Pipeliner) error {
	if pipe.Len() == 0 {
		return nil
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	return nil
}
