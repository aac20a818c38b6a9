package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// MaxBatch is how many keys GetMany takes at once.
const MaxBatch = 1000

// ErrRefused is wrapped by the errors of Put for content that the cache does
// not keep, whenever it is asked.
var ErrRefused = errors.New("cache: not kept")

// GetMany returns the entries of keys, in their order, nil for one that is
// missing, expired or void.
func (s *Store) GetMany(ctx context.Context, keys []string) ([]*Entry, error) {
	found, err := s.LookMany(ctx, keys)
	if err != nil {
		return nil, err
	}
	entries := make([]*Entry, len(found))
	for i, r := range found {
		if r.Verdict == Hit {
			entries[i] = r.Entry
		}
	}
	return entries, nil
}

// LookMany is GetMany for who may also serve what is stale: each Result is a
// Hit, or Stale within the time that the fill allowed for fetching it again.
// The Entry is nil where there is neither.
func (s *Store) LookMany(ctx context.Context, keys []string) ([]Result, error) {
	if len(keys) > MaxBatch {
		return nil, fmt.Errorf("%w: %d keys, at most %d at once", ErrKey, len(keys), MaxBatch)
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return nil, err
		}
	}
	for again := false; ; again = true {
		if !s.mirror.usable() && s.away() {
			return nil, ErrAway
		}
		out, told, err := s.lookMany(ctx, keys)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrAway, err)
		case told:
			return out, nil
		case again:
			return nil, ErrAway
		}
		if err := s.resync(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrAway, err)
		}
	}
}

// lookMany looks up and judges, each entry in this order: see find. told is
// false where nobody can tell now.
func (s *Store) lookMany(ctx context.Context, keys []string) (out []Result, told bool, err error) {
	out = make([]Result, len(keys))
	var far []int // which memory does not answer
	for i, key := range keys {
		if e := s.memory.get(key); e != nil && s.state(key, e, nil) == current {
			out[i] = s.result(Request{Key: keys[i]}, e, Hit, "")
		} else {
			far = append(far, i)
		}
	}
	entries, err := s.lookupMany(ctx, keys, far)
	if err != nil {
		return nil, false, err
	}
	wall := s.now().wall
	for n, i := range far {
		switch e := entries[n]; s.state(keys[i], e, nil) {
		case untold:
			return nil, false, nil
		case current:
			s.memory.keep(keys[i], e)
			out[i] = s.result(Request{Key: keys[i]}, e, Hit, "")
		case expired:
			if wall.Before(e.StaleUntil) {
				out[i] = s.result(Request{Key: keys[i]}, e, Stale, "")
			}
		}
	}
	return out, true, nil
}

// lookupMany reads the entries of keys[at[i]], nil where there is none.
func (s *Store) lookupMany(ctx context.Context, keys []string, at []int) ([]*Entry, error) {
	cmds, err := s.getMany(ctx, s.cfg.Replica, keys, at)
	if err != nil {
		if cmds, err = s.getMany(ctx, s.rdb, keys, at); err != nil {
			return nil, err
		}
	}
	entries := make([]*Entry, len(at))
	for i, cmd := range cmds {
		b, err := cmd.Bytes()
		if errors.Is(err, redis.Nil) {
			continue
		} else if err != nil {
			return nil, err
		}
		if entries[i], err = decodeEntry(b); err != nil {
			s.log.WarnContext(ctx, "entry cannot be read, taken for missing", "key", keys[at[i]], "err", err)
		}
	}
	return entries, nil
}

func (s *Store) getMany(ctx context.Context, rdb redis.UniversalClient, keys []string, at []int) ([]*redis.StringCmd, error) {
	if rdb == nil {
		return nil, errNoReplica
	}
	pipe := rdb.Pipeline()
	cmds := make([]*redis.StringCmd, len(at))
	for i, k := range at {
		cmds[i] = pipe.Get(ctx, s.names.entry(keys[k]))
	}
	return cmds, exec(ctx, pipe)
}

// readCount is how many entries or indexes one pipeline asks for: the server
// runs it in one go, below 1 ms on a slow machine, too.
const readCount = 40

// longGuess is how much of an entry is read for its head where many are read at
// once: nearly all heads are shorter.
const longGuess = 2048

// heads reads entries without their bodies, nil for one that is not there or
// cannot be read.
func (s *Store) heads(ctx context.Context, keys []string) ([]*Entry, error) {
	out := make([]*Entry, len(keys))
	at := make([]int, len(keys))
	for i := range at {
		at[i] = i
	}
	for batch := range slices.Chunk(at, readCount) {
		most := make([]int64, len(batch))
		for i := range most {
			most[i] = longGuess
		}
		long, err := s.readHeads(ctx, keys, batch, most, out)
		if err != nil {
			return nil, err
		}
		if len(long) > 0 {
			for i := range most[:len(long)] {
				most[i] = maxHeader
			}
			if _, err := s.readHeads(ctx, keys, long, most[:len(long)], out); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// readHeads reads so many bytes of the entries of keys[at[i]], and returns
// those whose head is longer.
func (s *Store) readHeads(ctx context.Context, keys []string, at []int, most []int64, out []*Entry) (long []int, err error) {
	pipe := s.rdb.Pipeline()
	cmds := make([]*redis.StringCmd, len(at))
	for i, k := range at {
		cmds[i] = pipe.GetRange(ctx, s.names.entry(keys[k]), 0, most[i]-1)
	}
	if err := exec(ctx, pipe); err != nil {
		return nil, err
	}
	for i, k := range at {
		b := []byte(cmds[i].Val())
		_, _, n, err := decodePrefix(b)
		switch {
		case err != nil: // not there, or none of ours
		case n > len(b):
			long = append(long, k)
		default:
			if e, _, err := decodeHead(b); err == nil {
				e.body.absent = true
				out[k] = e
			}
		}
	}
	return long, nil
}

// Token is a place in the ledger from before something was fetched elsewhere.
// What was fetched after it may be kept under it: see Put.
type Token struct{ at position }

// Begin returns the place up to which what is fetched from now on is new. Call
// it before the fetch, never after.
func (s *Store) Begin() Token { return Token{s.mirror.position()} }

// IsZero reports whether t is no place: the ledger was never reached.
func (t Token) IsZero() bool { return t.at.epoch == "" }

// String writes t for ParseToken, in letters, digits and a dot. It is opaque
// to whoever carries it.
func (t Token) String() string {
	if t.IsZero() {
		return ""
	}
	return t.at.epoch + "." + strconv.FormatUint(t.at.token, 36)
}

// ErrToken is returned for a Token that Begin cannot have made.
var ErrToken = errors.New("cache: bad token")

// ParseToken is the inverse of Token.String.
func ParseToken(s string) (Token, error) {
	epoch, digits, ok := strings.Cut(s, ".")
	odd := func(c rune) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') }
	if !ok || len(epoch) != epochLen || strings.ContainsFunc(epoch, odd) {
		return Token{}, ErrToken
	}
	n, err := strconv.ParseUint(digits, 36, 64)
	if err != nil || n == 0 || n >= 1e16 || strconv.FormatUint(n, 36) != digits {
		return Token{}, ErrToken
	}
	return Token{position{epoch, n}}, nil
}

// Put keeps what was fetched elsewhere after begun was taken. stored is false
// when an event has made it void meanwhile, or announced another version than
// fill shows, or newer content is there: fetch it again, under a new Token.
//
// An error is ErrKey, ErrToken, ErrRefused, ErrAway, or that of an ended context.
func (s *Store) Put(ctx context.Context, req Request, fill Fill, begun Token) (stored bool, err error) {
	if err := checkKey(req.Key); err != nil {
		return false, err
	}
	if begun.IsZero() {
		return false, ErrToken
	}
	// Of what happened before this call, this node must know; and a token that
	// no ledger reached yet would hide all events up to it.
	if err := s.turnAfter().wait(ctx); err != nil {
		return false, fmt.Errorf("%w: %w", ErrAway, err)
	}
	now := s.mirror.position()
	if begun.at.epoch == now.epoch && begun.at.token > now.token {
		return false, fmt.Errorf("%w: from the future", ErrToken)
	}
	e := s.newEntry(req, req.wanted(), fill, begun.at)
	if len(e.scopes) > maxScopes {
		return false, fmt.Errorf("%w: %d tags, at most %d", ErrRefused, len(e.scopes), maxScopes)
	}
	reason := s.refusal(req.Key, e, fill)
	if reason == "" && len(s.behind(response{Fill: fill}, req.wanted())) > 0 {
		reason = "old-view"
	}
	switch reason {
	case "":
	case "void", "old-view":
		s.metrics.refused.WithLabelValues(reason).Inc()
		return false, nil
	default:
		s.metrics.refused.WithLabelValues(reason).Inc()
		return false, fmt.Errorf("%w: %s", ErrRefused, reason)
	}
	if s.store(ctx, req.Key, e, "") {
		return true, nil
	}
	return false, ctx.Err()
}
