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

// ForeignConfig names what other programs do in the same Redis. They know
// nothing of the ledger, so their keys are deleted before anyone is told.
type ForeignConfig struct {
	// TagSets is the name of the set that lists the keys of a tag; %s is the
	// tag. Empty: there are none.
	TagSets  string   `yaml:"tag_sets" example:"tag:%s" desc:"name of the sets that list the keys of a tag, with %s for the tag; a purge deletes these keys and the set"`
	Keys     bool     `yaml:"keys" default:"false" desc:"purged keys and patterns also act on keys that other programs wrote under these very names"`
	Channels []string `yaml:"channels" example:"orders" desc:"Redis pub/sub channels of other programs: what they publish is streamed on the channel of the same name, live only (no id, no replay)"`
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
	complaints []string   // what the server refused for good; the rest was done
	more       int        // complaints beyond maxComplaints
}

const (
	foreignBatch  = 1000     // keys a pipeline, members an SSCAN
	maxComplaints = 10       // beyond it they are counted
	maxQuoted     = 120      // bytes of a name or a reply in a complaint
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
// server refuses for one key, and would refuse again, is a complaint, and the
// rest is done; a server that does not answer or cannot serve ends it. It may
// be repeated, also after a crash.
func (f *foreign) delete(ctx context.Context, p Purge) (int, []string, error) {
	err := f.tagSets(ctx, p)
	if err == nil && f.cfg.Keys {
		_, err = f.unlink(ctx, p.Keys)
		for _, pattern := range p.Patterns {
			if err != nil {
				break
			}
			err = f.matches(ctx, pattern)
		}
	}
	if f.more > 0 {
		f.complaints = append(f.complaints, fmt.Sprintf("and %d more", f.more))
	}
	if err != nil {
		return f.keys, f.complaints, fmt.Errorf("deleting foreign keys: %w", err)
	}
	return f.keys, f.complaints, nil
}

// ours reports whether a key is not another program's cache: no tag set and
// no pattern may delete it.
func (f *foreign) ours(key string) bool {
	return strings.HasPrefix(key, f.names.ns+":") || strings.HasPrefix(key, asynqPrefix)
}

// complain notes an error that ends what was done on one key alone, and that
// trying again would meet again. It returns other errors.
func (f *foreign) complain(what, name string, err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	says, forGood := refusal(err)
	if !forGood {
		return fmt.Errorf("%s %q: %w", what, name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.complaints) < maxComplaints {
		f.complaints = append(f.complaints, fmt.Sprintf("%s %q: %s", what, cut(name), cut(says)))
	} else {
		f.more++
	}
	return nil
}

// passing are the first words of replies that a server gives while it cannot
// serve at all: it will when it is asked later.
var passing = []string{
	"LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "MISCONF", "NOREPLICAS", "OOM",
	"TRYAGAIN", "MOVED", "ASK", "NOAUTH", "WRONGPASS", "NOSCRIPT", "ERR max number of clients",
}

// refusal returns what a server said about one key, and whether it would say
// the same again: of another type, not allowed, in two slots.
func refusal(err error) (says string, forGood bool) {
	var reply redis.Error
	switch {
	case errors.Is(err, errNoSet), errors.Is(err, errKept), errors.Is(err, ErrGlob):
		return err.Error(), true
	case !errors.As(err, &reply):
		return "", false
	}
	says = reply.Error()
	return says, !slices.ContainsFunc(passing, func(p string) bool { return strings.HasPrefix(says, p) })
}

// cut keeps a complaint short.
func cut(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	return s[:maxQuoted] + "…"
}

// tagSets deletes the keys that the sets of p's tags list, and the sets.
func (f *foreign) tagSets(ctx context.Context, p Purge) error {
	switch {
	case f.cfg.TagSets == "":
		return nil
	case p.All:
		pattern := strings.Replace(EscapeGlob(f.cfg.TagSets), "%s", "*", 1)
		if err := f.scan(ctx, pattern, f.empty); err != nil {
			return err
		}
		return f.scan(ctx, f.names.ns+":x:{*", func(ctx context.Context, left []string) error {
			for _, aside := range left {
				if err := f.complain("tag set", aside, f.drain(ctx, aside, "")); err != nil {
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
		if err := f.scan(ctx, pattern, f.empty); err != nil {
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
				err = f.drain(ctx, f.aside(set), set)
			}
			if err := f.complain("tag set", set, err); err != nil {
				return err
			}
			if found == 2 && (err == nil || errors.Is(err, errKept)) {
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
// after its key is gone, and with the last one the set. A member whose key the
// server keeps goes back to where it was listed, or stays when home is empty:
// a later purge meets it, and neither set is held up by it.
func (f *foreign) drain(ctx context.Context, aside, home string) error {
	kept := false
	for cursor := uint64(0); ; {
		start := time.Now()
		members, next, err := f.rdb.SScan(ctx, aside, cursor, "", foreignBatch).Result()
		if err != nil {
			return err
		}
		stay, err := f.unlink(ctx, members)
		if err != nil {
			return err
		}
		kept = kept || len(stay) > 0
		gone := make([]any, 0, len(members))
		for _, m := range members {
			if !stay[m] {
				gone = append(gone, m)
			}
		}
		if len(gone) > 0 {
			if err := f.rdb.SRem(ctx, aside, gone...).Err(); err != nil {
				return err
			}
		}
		for m := range stay {
			if home == "" {
				break
			}
			if err := f.rdb.SMove(ctx, aside, home, m).Err(); err != nil {
				return err
			}
		}
		if next == 0 {
			break
		}
		cursor = next
		if pause(ctx, time.Since(start)); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if kept {
		return errKept
	}
	return nil
}

// matches deletes the keys of other programs that a pattern matches.
func (f *foreign) matches(ctx context.Context, pattern string) error {
	if err := validGlob(pattern); err != nil {
		return f.complain("pattern", pattern, err)
	}
	return f.scan(ctx, pattern, func(ctx context.Context, keys []string) error {
		_, err := f.unlink(ctx, keys)
		return err
	})
}

// scan hands the keys that match to each. A server may refuse to list any.
func (f *foreign) scan(ctx context.Context, pattern string, each func(context.Context, []string) error) error {
	return f.complain("pattern", pattern, scanMasters(ctx, f.rdb, pattern, each))
}

// unlink deletes keys of other programs; ours among them stay. It returns
// those that the server refused to delete.
func (f *foreign) unlink(ctx context.Context, keys []string) (stay map[string]bool, err error) {
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
			key := cmd.Args()[1].(string)
			if err := f.complain("key", key, cmd.Err()); err != nil {
				return stay, err
			}
			if cmd.Err() != nil {
				if stay == nil {
					stay = map[string]bool{}
				}
				stay[key] = true
			}
			f.mu.Lock()
			f.keys += int(cmd.Val())
			f.mu.Unlock()
		}
	}
	return stay, nil
}

// DeleteForeign deletes what other programs keep about purged content in the
// same Redis: call it before anyone is told. It returns how many keys are
// gone. An error is of a server that does not serve now: try again. complaints
// name what could not be deleted and will not be next time, at most ten and a
// count; the other program may go on serving that.
func (s *Store) DeleteForeign(ctx context.Context, p Purge) (deleted int, complaints []string, err error) {
	f := foreign{rdb: s.rdb, names: s.names, cfg: s.cfg.Foreign}
	return f.delete(ctx, p)
}
