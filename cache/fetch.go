package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// Request asks for one entry.
type Request struct {
	Key  string
	Base string   // another key, purges of which void the entry too: of variants that share a name
	Path string   // of the page or resource; purges of it or of a directory above void the entry
	Tags []string // known before the fetch; the fill may add more

	// After asks for content at least as new as an event: the seq of its
	// notification. Zero asks for nothing; one from the future is ignored.
	After uint64
	// Position is the caller's place in the change log, captured before this
	// call. An answer reflects all events up to its Result.Position.
	Position string
}

// Fill is what the origin answered.
type Fill struct {
	Status   int
	Header   map[string][]string // those worth keeping
	ETag     string
	Body     []byte
	Tags     []string      // in addition to the request's
	TTL      time.Duration // fresh for
	SWR      time.Duration // then served while it is fetched again, for
	SIE      time.Duration // or served when the origin fails, for
	NoStore  bool          // for the one who asked only: neither stored nor shared
	Negative bool          // nothing there; 404 and 410 always are
}

// FillFunc asks the origin. held is the entry that is there already, void or
// expired, or nil; a conditional request may use its ETag and body, and then
// returns them in full, with the tags of both answers. The context outlives
// the first reader, and has a limit of its own.
type FillFunc func(ctx context.Context, held *Entry) (Fill, error)

// Verdict says where an answer came from.
type Verdict string

const (
	Hit    Verdict = "hit"
	Miss   Verdict = "miss"   // fetched, by this read or one beside it
	Stale  Verdict = "stale"  // past its freshness, not void
	Bypass Verdict = "bypass" // fetched, the cache could not be used
)

// Details of a verdict.
const (
	DetailRefreshing  = "refreshing"   // stale while it is fetched again
	DetailOriginError = "origin-error" // stale since the origin failed
	DetailAway        = "ledger-away"  // bypass: nobody can tell what is void
	DetailNoStore     = "no-store"     // not to be shared
	DetailCrowded     = "crowded"      // too many fetches in flight to begin a shared one
)

// Result is the answer to a Request.
type Result struct {
	Entry     *Entry // never nil without an error
	Verdict   Verdict
	Detail    string
	Collapsed bool          // another read's fetch served this one
	Stored    bool          // this read's fetch was stored
	Position  string        // Request.Position, or where a stale entry stood
	Token     uint64        // ledger position of the entry
	Age       time.Duration // since it was fetched
	TTL       time.Duration // of freshness left, negative when stale
}

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

// Fetch returns what is cached for req, or asks the origin by fill and keeps
// the answer. Of many that ask for one key, one asks the origin.
//
// An error is fill's, or that of a bad key or an ended context. Redis being
// away is no error: then every answer comes from the origin.
func (s *Store) Fetch(ctx context.Context, req Request, fill FillFunc) (Result, error) {
	if err := checkKey(req.Key); err != nil {
		return Result{}, err
	}
	want := requestScopes(req)
	if !s.reached(ctx, req.After) {
		return s.fetchAlone(ctx, req, want, fill, DetailAway)
	}
	e, state := s.find(ctx, req.Key, want)
	switch state {
	case current:
		return s.result(req, e, Hit, ""), nil
	case expired:
		if s.now().wall.Before(e.StaleUntil) {
			if f, _ := s.join(ctx, req, want, fill); f == nil {
				return s.result(req, e, Stale, DetailCrowded), nil
			}
			return s.result(req, e, Stale, DetailRefreshing), nil
		}
	}
	return s.fetch(ctx, req, want, fill)
}

// fetch shares the origin's answer with all who ask for the key. The result of
// a fetch that began before this read may be older than what its reader was
// told, so it is checked like a stored entry. The next one need not be: it
// began after this read.
func (s *Store) fetch(ctx context.Context, req Request, want []string, fill FillFunc) (Result, error) {
	for later := false; ; later = true {
		f, joined := s.join(ctx, req, want, fill)
		if f == nil {
			return s.fetchAlone(ctx, req, want, fill, DetailCrowded)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
		switch {
		case f.err != nil:
			return s.insteadOfError(req, want, f)
		case joined && f.detail == DetailNoStore:
			return s.fetchAlone(ctx, req, want, fill, DetailNoStore)
		case joined && !later && !s.faults.joinersUnchecked && !s.state(req.Key, f.entry, want).servable():
			continue
		}
		r := s.result(req, f.entry, f.verdict, f.detail)
		r.Collapsed = joined || f.found
		r.Stored = f.stored && !joined
		if joined {
			s.metrics.collapsed.Inc()
		}
		return r, nil
	}
}

// fetchAlone asks the origin for this read only.
func (s *Store) fetchAlone(ctx context.Context, req Request, want []string, fill FillFunc, detail string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FillTimeout)
	defer cancel()
	at := s.mirror.position()
	answer, err := fill(ctx, nil)
	if err != nil {
		return Result{}, err
	}
	return s.result(req, s.newEntry(req, want, answer, at), Bypass, detail), nil
}

// insteadOfError serves the expired entry for a failed fetch, where it may be
// served: never one that an event made void, nor while nobody can tell.
func (s *Store) insteadOfError(req Request, want []string, f *flight) (Result, error) {
	if f.held != nil && s.now().wall.Before(f.held.ErrorUntil) && s.state(req.Key, f.held, want).servable() {
		return s.result(req, f.held, Stale, DetailOriginError), nil
	}
	return Result{}, f.err
}

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
