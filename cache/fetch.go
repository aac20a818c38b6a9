package cache

import (
	"context"
	"errors"
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
	// The cache reads it to its end, and closes it. The read that began the fetch
	// gets it as it comes.
	Stream io.ReadCloser
	// Finish, when not nil, is called with the whole body, and tells all of this
	// again, but for the body: so the ETag, the tags and the versions may be made
	// of it. With Versions that are not nil, nobody gets the body before.
	Finish func(body []byte) Fill
}

// FillFunc asks the origin. held is the entry that is there already, void or
// expired, or nil; a conditional request may use its ETag and body, and then
// returns them in full, with the tags of both answers. The context outlives
// the first reader, and has a limit of its own.
//
// It may be called again, also after the read that brought it has its answer:
// where the origin shows less than an event announced.
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
	DetailCrowded     = "crowded"      // too many fetches in flight to begin a shared one, or too many who wait for one
	DetailTooLarge    = "too-large"    // beyond Config.MaxBody
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
// An error is fill's, or that of a bad key, an ended context or a crowd. Redis
// being away is no error: then every answer comes from the origin.
func (s *Store) Fetch(ctx context.Context, req Request, fill FillFunc) (Result, error) {
	if err := checkKey(req.Key); err != nil {
		return Result{}, err
	}
	w := errand{Request: req, want: req.wanted(), fill: fill, streams: true}
	if !s.reached(ctx, req.After) {
		return s.fetchAlone(ctx, w, DetailAway)
	}
	var found state
	w.seen, found = s.find(ctx, req, w.want)
	switch found {
	case current:
		s.refreshEarly(ctx, w)
		return s.result(req, w.seen, Hit, ""), nil
	case expired:
		if s.now().wall.Before(w.seen.StaleUntil) {
			if _, err := s.join(ctx, w, false); err != nil {
				return s.result(req, w.seen, Stale, DetailCrowded), nil
			}
			return s.result(req, w.seen, Stale, DetailRefreshing), nil
		}
	}
	return s.fetch(ctx, w)
}

// Fill asks the origin whatever is cached, and keeps the answer. It shares a
// call of the origin that begins after it was called, never an earlier one. It
// counts as no read.
func (s *Store) Fill(ctx context.Context, req Request, fill FillFunc) (Result, error) {
	if err := checkKey(req.Key); err != nil {
		return Result{}, err
	}
	return s.fetch(ctx, errand{Request: req, want: req.wanted(), fill: fill, anew: true})
}

// fetch shares the origin's answer with all who ask for the key. The result of
// a call that began before this read may be older than what its reader was
// told, so it is checked like a stored entry, and may not do at all. The next
// one need not be checked: it began after this read.
func (s *Store) fetch(ctx context.Context, w errand) (Result, error) {
	for later := false; ; later = true {
		t, err := s.join(ctx, w, true)
		switch {
		case errors.Is(err, errFull):
			return s.fetchAlone(ctx, w, DetailCrowded)
		case err != nil:
			return s.instead(w, w.seen, DetailCrowded, err)
		}
		landed := t.done
		if t.first {
			landed = t.flowing
		}
		select {
		case <-landed:
		case <-ctx.Done():
			s.rise(t)
			return Result{}, ctx.Err()
		}
		if t.first && t.flow != nil {
			return s.streamed(w, t.head), nil
		}
		if late := !t.first && !t.after(); late && s.tooLate(t, w, later) {
			continue
		}
		switch {
		case t.err != nil && w.anew:
			return Result{}, t.err
		case t.err != nil:
			return s.instead(w, t.held, DetailOriginError, t.err)
		case !t.first && !w.anew && (t.detail == DetailNoStore || t.detail == DetailTooLarge):
			return s.fetchAlone(ctx, w, t.detail)
		}
		return s.shared(w, t), nil
	}
}

// tooLate reports whether what came of a call that had begun before a read is
// not for it. later says that the read itself waited for the flight to start.
func (s *Store) tooLate(t seat, w errand, later bool) bool {
	switch {
	case w.anew:
		return (!later || t.found) && !s.faults.fillsJoin
	case later || t.err != nil || t.entry.body.absent:
		return false
	case t.detail == DetailOriginLag:
		return !s.faults.oldViewsShared
	}
	return !s.faults.joinersUnchecked && !s.state(w.Key, t.entry, w.want).servable()
}

// shared is what a flight that has landed gives to a read.
func (s *Store) shared(w errand, t seat) Result {
	r := s.resultFor(w, t.entry, t.verdict, t.detail)
	r.Collapsed = !t.first || t.found
	r.Stored = t.stored && (t.first || w.anew)
	if !t.first {
		s.metrics.collapsed.Inc()
	}
	return r
}

// resultFor is the result of a read, or of a Fill, which is none.
func (s *Store) resultFor(w errand, e *Entry, v Verdict, detail string) Result {
	if w.anew {
		return resultOf(w.Request, e, v, detail, s.now().wall)
	}
	return s.result(w.Request, e, v, detail)
}

// streamed is what the first reader of a flight gets while the body comes.
func (s *Store) streamed(w errand, head Result) Result {
	r := s.result(w.Request, head.Entry, head.Verdict, head.Detail)
	r.Stream = head.Stream
	return r
}

// fetchAlone asks the origin for this read only.
func (s *Store) fetchAlone(ctx context.Context, w errand, detail string) (Result, error) {
	a, err := s.ask(ctx, w, nil, func() {})
	if err != nil {
		return Result{}, err
	}
	if a.old {
		detail = DetailOriginLag
	}
	if a.body != nil && !w.streams {
		if err := a.gather(s.faults); err != nil {
			a.end()
			return Result{}, err
		}
	}
	switch {
	case a.body == nil:
		a.end()
		return s.resultFor(w, s.entryOf(w, a), Bypass, detail), nil
	case !w.streams: // too large
		a.end()
		return s.resultFor(w, s.headOf(w, a), Bypass, detail), nil
	}
	a.bound.pause()
	r := s.resultFor(w, s.headOf(w, a), Bypass, detail)
	r.Stream = direct{a}
	return r, nil
}

// instead serves an expired entry for a failed fetch, where it may be served:
// never one that an event made void, nor while nobody can tell.
func (s *Store) instead(w errand, held *Entry, detail string, err error) (Result, error) {
	if held != nil && s.now().wall.Before(held.ErrorUntil) && s.state(w.Key, held, w.want).servable() {
		return s.result(w.Request, held, Stale, detail), nil
	}
	return Result{}, err
}
