package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Get returns the entry of key if it is fresh and nothing voids it.
func (s *Store) Get(ctx context.Context, key string) (*Entry, bool, error) {
	if err := checkKey(key); err != nil {
		return nil, false, err
	}
	e, state := s.find(ctx, key, nil)
	if state == untold {
		return nil, false, ErrAway
	}
	return e, state == current, nil
}

// Peek answers req from this process's memory alone, if it can be served as it
// is. It asks nobody, so it does not see Request.After.
func (s *Store) Peek(req Request) (Result, bool) { return Result{}, false }

func (s *Store) result(req Request, e *Entry, v Verdict, detail string) Result {
	s.metrics.reads[v].Inc()
	wall := s.now().wall
	r := Result{
		Entry: e, Verdict: v, Detail: detail, Token: e.Token, Position: req.Position,
		Age: max(0, wall.Sub(e.StoredAt)), TTL: e.FreshUntil.Sub(wall),
	}
	if v == Stale {
		r.Position = e.Position // it may lack what was announced since
	}
	return r
}

// reached reports whether this node knows every event up to after, so that it
// can tell what they made void. It asks the ledger where it does not.
func (s *Store) reached(ctx context.Context, after uint64) bool {
	token := s.mirror.position().token
	if after <= token {
		return true
	}
	// Seqs run at most a minute ahead of the clock, after the ledger moved.
	if server := s.pace.server(s.now().mono); server > 0 && after > max(server, token)+61e6 {
		return true
	}
	if s.away() {
		return false
	}
	return s.turnAfter().wait(ctx) == nil
}

// state is what a read found.
type state int

const (
	nothing state = iota
	voided
	current
	expired
	untold // nobody can tell now
)

// servable: nothing voids it, whatever its age.
func (s state) servable() bool { return s == current || s == expired }

// find looks an entry up and judges it, in this order: the other way round a
// pause between the two would serve what was made void meanwhile. A lease that
// is over is renewed once.
func (s *Store) find(ctx context.Context, key string, want []string) (*Entry, state) {
	for again := false; ; again = true {
		if !s.mirror.usable() && s.away() && !s.faults.leaseUnchecked {
			return nil, untold
		}
		e, err := s.lookup(ctx, key)
		if s.faults.afterLookup != nil {
			s.faults.afterLookup()
		}
		if err != nil {
			return nil, untold
		}
		st := s.state(key, e, want)
		if st != untold || again || s.resync(ctx) != nil {
			return e, st
		}
	}
}

// lookup reads an entry, nil where there is none.
func (s *Store) lookup(ctx context.Context, key string) (*Entry, error) {
	b, err := s.rdb.Get(ctx, s.names.entry(key)).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking up %q: %w", key, err)
	}
	e, err := decodeEntry(b)
	if err != nil {
		s.log.WarnContext(ctx, "entry cannot be read, taken for missing", "key", key, "err", err)
		return nil, nil
	}
	return e, nil
}

func (s *Store) state(key string, e *Entry, want []string) state {
	if e == nil {
		if !s.mirror.usable() && !s.faults.leaseUnchecked {
			return untold
		}
		return nothing
	}
	if len(want) <= len(e.scopes) && slices.Equal(want, e.scopes[:len(want)]) {
		want = nil // as they were at the fill
	}
	kind, usable := s.mirror.judge(key, position{e.Epoch, e.Token}, e.scopes, want)
	switch {
	case !usable && !s.faults.leaseUnchecked:
		return untold
	case kind != "":
		s.metrics.void.WithLabelValues(kind).Inc()
		return voided
	case s.now().wall.Before(e.FreshUntil):
		return current
	}
	return expired
}

// Prepare works out what every read of the same Request would, for requests that
// come again. A prepared Request must not be changed but for After and Position.
func (r Request) Prepare() Request {
	r.scopes = requestScopes(r)
	return r
}

func (r Request) wanted() []string {
	if r.scopes != nil {
		return r.scopes
	}
	return requestScopes(r)
}

// requestScopes are the scopes known before the fetch. They are looked at even
// where the stored entry lacks them: the configuration may have learnt a tag.
func requestScopes(req Request) []string {
	out := make([]string, 0, len(req.Tags)+5)
	if req.Base != "" {
		out = append(out, keyScope+req.Base)
	}
	for _, t := range req.Tags {
		out = append(out, tagScope+t)
	}
	return append(out, pathScopes(req.Path)...)
}
