package cache

import (
	"context"
	"io"
	"time"
)

// Request asks for one entry.
type Request struct {
	Key  string
	Base string   // another key, purges of which void the entry too: of variants that share a name
	Path string   // of the page or resource; purges of it or of a directory above void the entry
	Tags []string // known before the fetch; the fill may add more

	// Target is how to ask for the entry again, such as "/api/posts/42". It is
	// kept with the entry.
	Target string

	// After asks for content at least as new as an event: the seq of its
	// notification. Zero asks for nothing; one from the future is ignored.
	After uint64
	// Position is the caller's place in the change log, captured before this
	// call. An answer reflects all events up to its Result.Position.
	Position string

	// NoBody, when not nil, reports whether the head of an entry is all that this
	// read needs, as for HEAD and If-None-Match. Then the entry may come without
	// its body, see Entry.Body.
	NoBody func(*Entry) bool

	scopes []string // of the fields above, see Prepare
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
	Age      time.Duration // that the answer had already when it came
	NoStore  bool          // for the one who asked only: neither stored nor shared
	Negative bool          // nothing there; 404 and 410 always are
	Packable bool          // text that zstd may make smaller

	// Versions tells for tags the version that the content shows. Where an event
	// announced a newer one, the answer is an old view: it is not kept.
	Versions map[string]string
	// Incomplete says that the content has more tags than are told: every event
	// voids it.
	Incomplete bool
	// Stream, when not nil, is the body in place of Body, while it still comes in.
	// The cache reads it to its end, and closes it.
	Stream io.ReadCloser
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
	DetailOriginLag   = "origin-lag"   // the origin does not show what an event announced
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

	// Stream, when not nil, is the body of Entry, which is still coming in. Read it
	// to its end or close it; one that fails breaks off with an error.
	Stream io.ReadCloser
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
	want := req.wanted()
	if !s.reached(ctx, req.After) {
		return s.fetchAlone(ctx, req, want, fill, DetailAway)
	}
	e, state := s.find(ctx, req, want)
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

// Fill asks the origin whatever is cached, and keeps the answer.
func (s *Store) Fill(ctx context.Context, req Request, fill FillFunc) (Result, error) {
	if err := checkKey(req.Key); err != nil {
		return Result{}, err
	}
	want, at := req.wanted(), s.mirror.position()
	answer, err := s.ask(ctx, nil, fill)
	if err != nil {
		return Result{}, err
	}
	r := s.result(req, s.newEntry(req, want, answer, at), Miss, "")
	r.Stored = s.refusal(req.Key, r.Entry, answer) == "" && s.store(ctx, req.Key, r.Entry, "")
	return r, nil
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
