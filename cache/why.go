package cache

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Standing is what a read finds now.
type Standing string

const (
	StandsFresh   Standing = "fresh"
	StandsStale   Standing = "stale"   // expired, or by a soft purge; may be served within its windows
	StandsVoid    Standing = "void"    // an event made it so: nobody is served it
	StandsMissing Standing = "missing" // never fetched, expired for good, or deleted after a purge
	StandsUnknown Standing = "unknown" // the ledger is away
)

// Why tells what a read of one key finds, and why.
type Why struct {
	Key      string
	Standing Standing
	Entry    *Entry        // its head: the one in memory, or else in Redis; nil where there is none
	InMemory bool          // of the process that was asked
	InRedis  int64         // bytes, 0 where there is none
	Packed   bool          // stored as zstd
	Expires  time.Duration // until Redis drops it
	Age      time.Duration
	By       []Cause     // what makes it void or stale, the newest first; of a missing key, the last purges of it
	Versions []Announced // what events announced for its tags
}

// Cause is a purge that covers an entry.
type Cause struct {
	Kind string // tag, key, path, pattern, all, missing (everything that says "not found"), epoch (the ledger was lost)
	Name string // as the Purge had it
	Soft bool
	Event
}

// Event is one event of the ledger.
type Event struct {
	Seq       uint64
	At        time.Time // by the clock of the Redis server
	By        string    // Purge.By; empty where nobody was named
	Forgotten bool      // too old for the ledger to know more than its seq
}

// Announced is an Announcement and its event.
type Announced struct {
	Announcement
	Seq uint64
}

// maxCauses bounds the causes that are told of.
const maxCauses = 10

// Why tells what a read of key finds now. It counts as no read.
func (s *Store) Why(ctx context.Context, key string) (Why, error) {
	if err := checkKey(key); err != nil {
		return Why{}, err
	}
	w := Why{Key: key}
	far, err := s.weigh(ctx, &w)
	if err != nil {
		return w, fmt.Errorf("asking why: %w", err)
	}
	if near := s.memory.get(key); near != nil && (far == nil || near.Token >= far.Token) {
		w.Entry, w.InMemory = near, true
	} else {
		w.Entry = far
	}
	if err := s.turnAfter().wait(ctx); err != nil {
		w.Standing = StandsUnknown
		return w, nil
	}
	w.Standing = s.standingOf(w.Entry)
	if w.Entry == nil {
		w.By, err = s.name(ctx, s.mirror.purges([]string{keyScope + key}, key, 0))
		w.By = slices.DeleteFunc(w.By, isHorizon)
	} else {
		w.Age, w.Packed = s.now().wall.Sub(w.Entry.StoredAt), w.Entry.body.packed
		w.By = s.mirror.causes(key, w.Entry)
		for _, t := range w.Entry.Tags() {
			if a, ok := s.mirror.announced(t); ok {
				w.Versions = append(w.Versions, Announced{a.Announcement, a.seq})
			}
		}
		switch {
		case len(w.By) > 0 && !w.By[0].Soft:
			w.Standing = StandsVoid
		case len(w.By) > 0 && w.Standing == StandsFresh:
			w.Standing = StandsStale
		}
		w.By, err = s.name(ctx, w.By)
	}
	return w, err
}

// Scopes names what a purge voids e by, besides its key: "tag posts", "path /blog/*".
func (e *Entry) Scopes() []string {
	out := make([]string, len(e.scopes))
	for i, scope := range e.scopes {
		kind, name := describeScope(scope)
		out[i] = strings.TrimSpace(kind + " " + name)
	}
	return out
}

// isHorizon: the ledger knows nothing older, which need not be by a purge.
func isHorizon(c Cause) bool { return c.Kind == "all" && c.Forgotten }

// weigh looks at what Redis has of w's key.
func (s *Store) weigh(ctx context.Context, w *Why) (*Entry, error) {
	name := s.names.entry(w.Key)
	pipe := s.rdb.Pipeline()
	size, life := pipe.StrLen(ctx, name), pipe.PTTL(ctx, name)
	if err := exec(ctx, pipe); err != nil {
		return nil, err
	}
	w.InRedis, w.Expires = size.Val(), max(0, life.Val())
	if w.InRedis == 0 {
		return nil, nil
	}
	heads, err := s.heads(ctx, []string{w.Key})
	if err != nil {
		return nil, err
	}
	return heads[0], nil
}

// standingOf tells how old e is, of purges apart.
func (s *Store) standingOf(e *Entry) Standing {
	wall := s.now().wall
	switch {
	case e == nil:
		return StandsMissing
	case wall.Before(e.FreshUntil):
		return StandsFresh
	}
	return StandsStale
}

// causes returns what makes e void or, softly, stale: hard ones first, each
// with its newest seq.
func (m *mirror) causes(key string, e *Entry) []Cause {
	if epoch := m.position().epoch; e.Epoch != epoch {
		return []Cause{{Kind: "epoch", Event: Event{Forgotten: true}}}
	}
	return m.purges(e.scopes, key, e.Token)
}

// purges returns what happened after a seq to an entry of key with the scopes.
func (m *mirror) purges(scopes []string, key string, after uint64) []Cause {
	scopes = append([]string{keyScope + key}, scopes...)
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []Cause
	for _, set := range []*scopeSet{&m.hard, &m.soft} {
		out = append(out, set.purges(scopes, after, set == &m.soft)...)
	}
	return out[:min(len(out), maxCauses)]
}

func (set *scopeSet) purges(scopes []string, after uint64, soft bool) []Cause {
	var out []Cause
	add := func(scope string, seq uint64) {
		kind, name := describeScope(scope)
		out = append(out, Cause{Kind: kind, Name: name, Soft: soft, Event: Event{Seq: seq, At: atSeq(seq)}})
	}
	for i, scope := range scopes {
		if seq := set.scopes[scope]; seq > after && !slices.Contains(scopes[:i], scope) {
			add(scope, seq)
		}
	}
	for _, g := range set.globs {
		if g.seq > after && matchesAny(g.pattern, [][]string{scopes}) {
			add(globScope+g.pattern, g.seq)
		}
	}
	if set.floor > after {
		add(everyone, set.floor)
	}
	// The newest first and, of one event, what says most first.
	slices.SortStableFunc(out, func(a, b Cause) int {
		return cmp.Or(cmp.Compare(b.Seq, a.Seq), cmp.Compare(vagueness(a.Kind), vagueness(b.Kind)))
	})
	return out
}

func vagueness(kind string) int {
	return slices.Index([]string{"key", "tag", "path", "pattern", "all", "missing"}, kind)
}

// atSeq returns the time that a seq says.
func atSeq(seq uint64) time.Time { return time.UnixMicro(int64(seq)) }

// name fills in which events the causes are.
func (s *Store) name(ctx context.Context, causes []Cause) ([]Cause, error) {
	pipe := s.rdb.Pipeline()
	members := make([]*redis.StringSliceCmd, len(causes))
	for i, c := range causes {
		seq := fmt.Sprint(c.Seq)
		members[i] = pipe.ZRangeArgs(ctx, redis.ZRangeArgs{Key: s.names.seqs(), Start: seq, Stop: seq, ByScore: true, Count: 1})
	}
	if err := exec(ctx, pipe); err != nil {
		return causes, fmt.Errorf("asking who purged: %w", err)
	}
	for i := range causes {
		found := members[i].Val()
		causes[i].Forgotten = len(found) == 0
		if len(found) > 0 {
			_, causes[i].By, _ = strings.Cut(found[0], ".")
		}
	}
	return causes, nil
}

// Sentence says in a line what w found. called tells what people call who
// purged (Event.By); nil leaves it as it is.
func (w Why) Sentence(called func(by string) string) string {
	switch e := w.Entry; {
	case w.Standing == StandsUnknown:
		return "unknown: the ledger is away, every read goes to the origin"
	case e == nil && len(w.By) > 0:
		return "missing: " + w.By[0].sentence(called) + ", and nobody has asked for it since"
	case e == nil:
		return "missing: nobody has asked for it, or what was stored has expired"
	case w.Standing == StandsVoid && w.By[0].Kind == "epoch":
		return "void: the ledger was lost after it was stored, which makes everything void"
	case w.Standing == StandsVoid && w.By[0].Kind == "all" && w.By[0].Forgotten:
		return "void: it is older than the ledger remembers, or everything was purged long ago"
	case w.Standing == StandsVoid:
		return "void: " + w.By[0].sentence(called)
	case w.Standing == StandsStale && len(w.By) > 0:
		return "stale: " + w.By[0].sentence(called) + "; served while it is fetched again"
	case w.Standing == StandsStale:
		return fmt.Sprintf("stale since %s: it was fresh for %v, and nothing purged it", clock(e.FreshUntil), e.FreshUntil.Sub(e.StoredAt).Round(time.Millisecond))
	default:
		return fmt.Sprintf("fresh until %s, if nothing purges it before", clock(e.FreshUntil))
	}
}

// sentence says "tag post:42 was purged at 12:00:03.123 by X".
func (c Cause) sentence(called func(string) string) string {
	what := c.Kind + " " + c.Name
	switch c.Kind {
	case "all":
		what = "everything"
	case "missing":
		what = `it says "not found", and something` // any event may have created it
	}
	verb := " was purged at "
	if c.Soft {
		verb = " was purged softly at "
	}
	return what + verb + clock(c.At) + c.sentenceBy(called)
}

func (e Event) sentenceBy(called func(string) string) string {
	switch {
	case e.Forgotten:
		return " (by whom is forgotten)"
	case e.By == "":
		return ""
	case called != nil:
		return " by " + called(e.By)
	}
	return " by " + e.By
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 UTC") }

// AboutTag tells what carries a tag, and when it was last purged.
type AboutTag struct {
	Tag     string
	Carried Preview   // by how many entries
	By      []Cause   // last purges of it, or of everything: the newest first, a soft one apart
	Version Announced // that an event announced; Seq 0 where none did
}

// AboutTag looks at one tag.
func (s *Store) AboutTag(ctx context.Context, tag string) (AboutTag, error) {
	about := AboutTag{Tag: tag}
	if tag == "" || len(tag) > MaxTag {
		return about, fmt.Errorf("%w: a tag of %d bytes, want 1 to %d", ErrKey, len(tag), MaxTag)
	}
	var err error
	if about.Carried, err = s.Preview(ctx, Purge{Tags: []string{tag}}); err != nil {
		return about, err
	}
	if err := s.turnAfter().wait(ctx); err != nil {
		return about, fmt.Errorf("%w: %w", ErrAway, err)
	}
	s.mirror.mu.RLock()
	for _, set := range []*scopeSet{&s.mirror.hard, &s.mirror.soft} {
		about.By = append(about.By, set.purges([]string{tagScope + tag}, 0, set == &s.mirror.soft)...)
	}
	s.mirror.mu.RUnlock()
	if a, ok := s.mirror.announced(tag); ok {
		about.Version = Announced{a.Announcement, a.seq}
	}
	about.By, err = s.name(ctx, about.By)
	about.By = slices.DeleteFunc(about.By, isHorizon)
	return about, err
}
