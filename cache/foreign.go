package cache

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// ForeignConfig names what other programs wrote into the same Redis. They
// know nothing of the ledger, so their keys are deleted before anyone is told.
type ForeignConfig struct {
	// TagSets is the name of the set that lists the keys of a tag; %s is the
	// tag. Empty: there are none.
	TagSets  string   `yaml:"tag_sets" example:"tag:%s" desc:"name of the sets that list the keys of a tag, with %s for the tag; a purge deletes these keys and the set"`
	Keys     bool     `yaml:"keys" default:"false" desc:"purged keys and patterns also act on keys that other programs wrote under these very names"`
	Channels []string `yaml:"channels" example:"orders" later:"channels of other programs are not streamed yet" desc:"Redis pub/sub channels of other programs, streamed live only"`
}

// Validate reports everything that is wrong with c.
func (c ForeignConfig) Validate() error {
	if c.TagSets == "" {
		return nil
	}
	var errs []error
	if strings.Count(c.TagSets, "%s") != 1 {
		errs = append(errs, fmt.Errorf("tag_sets %q: want %%s once, where the tag stands", c.TagSets))
	}
	if strings.Trim(c.TagSets, "%s") == "" {
		errs = append(errs, fmt.Errorf("tag_sets %q: want something beside %%s, or every key is a tag's", c.TagSets))
	}
	return errors.Join(errs...)
}

// foreign deletes what other programs keep about purged content, once.
type foreign struct {
	rdb   redis.UniversalClient
	names names
	cfg   ForeignConfig

	mu         sync.Mutex // masters are scanned at once
	keys       int        // deleted
	complaints []error    // what the server refused; the rest was done
	more       int        // complaints beyond maxComplaints
}

const (
	foreignBatch  = 1000 // keys a pipeline, members an SSCAN
	maxComplaints = 10
	asynqPrefix   = "asynq:" // of the queue, which shares our Redis
)

//go:embed foreign_aside.lua
var asideSource string

var asideScript = redis.NewScript(asideSource)

var (
	errNoSet = errors.New("is not a set")
	errKept  = errors.New("has members that could not be deleted")
)

// delete deletes what p names, and returns how many keys are gone. What the
// server refuses for one key is reported and the rest is done; a server that
// does not answer ends it. It may be repeated, also after a crash.
func (f *foreign) delete(ctx context.Context, p Purge) (int, error) {
	err := f.tagSets(ctx, p)
	if err == nil && f.cfg.Keys {
		err = f.unlink(ctx, p.Keys)
		for _, pattern := range p.Patterns {
			if err != nil {
				break
			}
			err = f.matches(ctx, pattern)
		}
	}
	if f.more > 0 {
		f.complaints = append(f.complaints, fmt.Errorf("and %d more", f.more))
	}
	if err := errors.Join(append(f.complaints, err)...); err != nil {
		return f.keys, fmt.Errorf("deleting foreign keys: %w", err)
	}
	return f.keys, nil
}

// ours reports whether a key is not another program's cache: no tag set and
// no pattern may delete it.
func (f *foreign) ours(key string) bool {
	return strings.HasPrefix(key, f.names.ns+":") || strings.HasPrefix(key, asynqPrefix)
}

// complain notes an error that ends what was done on one key alone. It
// returns other errors.
func (f *foreign) complain(what, key string, err error) error {
	var reply redis.Error
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	err = fmt.Errorf("%s %q: %w", what, key, err)
	if !errors.As(err, &reply) && !errors.Is(err, errNoSet) && !errors.Is(err, errKept) {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.complaints) < maxComplaints {
		f.complaints = append(f.complaints, err)
	} else {
		f.more++
	}
	return nil
}

func (f *foreign) refused() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.complaints) + f.more
}

// tagSets deletes the keys that the sets of p's tags list, and the sets.
func (f *foreign) tagSets(ctx context.Context, p Purge) error {
	switch {
	case f.cfg.TagSets == "":
		return nil
	case p.All:
		pattern := strings.Replace(EscapeGlob(f.cfg.TagSets), "%s", "*", 1)
		err := scanMasters(ctx, f.rdb, pattern, f.empty)
		if err != nil {
			return err
		}
		return scanMasters(ctx, f.rdb, f.names.ns+":x:{*", func(ctx context.Context, left []string) error {
			for _, aside := range left {
				if err := f.drain(ctx, aside); err != nil {
					return err
				}
			}
			return nil
		})
	}
	sets, below := f.setsOf(p)
	for sets := range slices.Chunk(sets, foreignBatch) {
		if err := f.empty(ctx, sets); err != nil {
			return err
		}
	}
	for _, pattern := range below {
		if err := scanMasters(ctx, f.rdb, pattern, f.empty); err != nil {
			return err
		}
	}
	return nil
}

// setsOf returns the names of the tag sets that p empties, and patterns of
// those below a path. A path's tag has a colon for every slash, as in the
// guide that these programs follow.
func (f *foreign) setsOf(p Purge) (sets, below []string) {
	add := func(tag string) {
		if tag != "" {
			sets = append(sets, strings.Replace(f.cfg.TagSets, "%s", tag, 1))
		}
	}
	for _, tag := range p.Tags {
		add(tag)
	}
	for _, path := range p.Paths {
		path, subtree := strings.CutSuffix(path, "/*")
		tag := strings.ReplaceAll(path, "/", ":")
		add(tag)
		if subtree {
			below = append(below, strings.Replace(EscapeGlob(f.cfg.TagSets), "%s", EscapeGlob(tag+":")+"*", 1))
		}
	}
	slices.Sort(sets)
	return slices.Compact(sets), below
}

// empty deletes the members of each set as keys, then the set.
//
// A set is first moved aside. Otherwise a program could write a key anew and
// add it to the set after we deleted the key and before we deleted the member:
// then no set lists the key, and no later purge finds it. To SPOP members
// would lose them, and leave their keys, when we crash. What is aside waits
// for a repetition.
func (f *foreign) empty(ctx context.Context, sets []string) error {
	sets = slices.DeleteFunc(sets, f.ours)
	for len(sets) > 0 {
		cmds := make([]*redis.Cmd, len(sets))
		pipe := f.rdb.Pipeline()
		for i, set := range sets {
			cmds[i] = asideScript.Eval(ctx, pipe, []string{set, f.aside(set)})
		}
		pipe.Exec(ctx) // each command has its own error
		var again []string
		for i, set := range sets {
			found, err := cmds[i].Int()
			if err == nil && found < 0 {
				err = errNoSet
			}
			if err == nil && found > 0 {
				err = f.drain(ctx, f.aside(set))
			}
			if err := f.complain("tag set", set, err); err != nil {
				return err
			}
			if err == nil && found == 2 {
				again = append(again, set) // now the set of that name
			}
		}
		sets = again
	}
	return nil
}

// aside names the place of a set that is being emptied, in its slot: what it
// has in braces, or all of it. A name with a } that closes nothing has no
// other name in its slot that can be told beforehand: in a cluster the server
// refuses it.
func (f *foreign) aside(set string) string {
	tag := set
	if _, after, ok := strings.Cut(set, "{"); ok {
		if in, _, ok := strings.Cut(after, "}"); ok && in != "" {
			tag = in
		}
	}
	return f.names.ns + ":x:{" + tag + "}:" + set
}

// drain deletes the members of a set aside as keys. A member leaves the set
// after its key is gone, and with the last one the set.
func (f *foreign) drain(ctx context.Context, aside string) error {
	for cursor := uint64(0); ; {
		start := time.Now()
		members, next, err := f.rdb.SScan(ctx, aside, cursor, "", foreignBatch).Result()
		if err != nil {
			return err
		}
		refused := f.refused()
		if err := f.unlink(ctx, members); err != nil {
			return err
		}
		if f.refused() > refused {
			return errKept
		}
		if len(members) > 0 {
			gone := make([]any, len(members))
			for i, m := range members {
				gone[i] = m
			}
			if err := f.rdb.SRem(ctx, aside, gone...).Err(); err != nil {
				return err
			}
		}
		if next == 0 {
			return nil
		}
		cursor = next
		if pause(ctx, time.Since(start)); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// matches deletes the keys of other programs that a pattern matches.
func (f *foreign) matches(ctx context.Context, pattern string) error {
	if err := validGlob(pattern); err != nil {
		f.complaints = append(f.complaints, err)
		return nil
	}
	return scanMasters(ctx, f.rdb, pattern, f.unlink)
}

// unlink deletes keys of other programs; ours among them stay.
func (f *foreign) unlink(ctx context.Context, keys []string) error {
	for keys := range slices.Chunk(keys, foreignBatch) {
		var cmds []*redis.IntCmd
		pipe := f.rdb.Pipeline()
		for _, key := range keys {
			if key != "" && !f.ours(key) {
				cmds = append(cmds, pipe.Unlink(ctx, key))
			}
		}
		if len(cmds) == 0 {
			continue
		}
		pipe.Exec(ctx) // each command has its own error
		for _, cmd := range cmds {
			if err := f.complain("key", cmd.Args()[1].(string), cmd.Err()); err != nil {
				return err
			}
			f.mu.Lock()
			f.keys += int(cmd.Val())
			f.mu.Unlock()
		}
	}
	return nil
}

// DeleteForeign deletes what other programs keep about purged content in the
// same Redis: call it before anyone is told. It returns how many keys are
// gone; an error names what could not be deleted.
func (s *Store) DeleteForeign(ctx context.Context, p Purge) (int, error) {
	f := foreign{rdb: s.rdb, names: s.names, cfg: s.cfg.Foreign}
	return f.delete(ctx, p)
}
