package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// errand is what a read goes to the origin for.
type errand struct {
	Request
	want    []string // scopes of the request
	fill    FillFunc
	seen    *Entry // what the read found and could not use, or is about to expire; nil none
	anew    bool   // what is stored will not do
	streams bool   // the body may come while it is read
}

// flight is one errand, and all who wait for it in this process.
type flight struct {
	errand                // of the read that began it; anew is guarded by Store.mu
	done    chan struct{} // closed when it has landed
	flowing chan struct{} // closed when the body begins to come, and when it has landed

	// Guarded by Store.mu.
	asks    int // calls of the origin that have begun
	readers int // that came to wait for it

	// Written by the flight before flowing is closed, if it flows.
	flow *flow
	head Result // of the one who began it

	// Written by the flight before done is closed.
	entry   *Entry
	err     error
	held    *Entry // what was there before
	verdict Verdict
	detail  string
	found   bool // another process had fetched it
	stored  bool

	// The flight's own.
	nonce  string // of the fill lease, empty when there is none
	landed bool
}

// seat is a read's place in a flight.
type seat struct {
	*flight
	first bool // it began the flight
	asks  int  // calls of the origin that had begun when it came
}

// after reports whether the answer was asked for after the read came. It is
// told once the flight has landed.
func (t seat) after() bool { return t.flight.asks > t.asks }

// maxFlights bounds the fetches of one process that go on without a reader.
// Above it each read asks the origin for itself, and stops when its reader does.
const maxFlights = 512

// maxReaders bounds who waits for one fetch.
const maxReaders = 10_000

// ErrCrowded is returned where too many wait for one fetch already, and nothing
// stale may be served.
var ErrCrowded = errors.New("cache: too many readers wait for one fetch")

var (
	errFull      = errors.New("cache: too many fetches in flight")
	errFillEnded = errors.New("cache: fill ended without an answer")
)

// join gives a read its place in the flight of its key, or starts one. It goes
// on when its readers leave: it still serves the next one. The error is errFull
// or ErrCrowded.
func (s *Store) join(ctx context.Context, w errand, waits bool) (seat, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, joined := s.flights[w.Key]
	switch {
	case !joined && len(s.flights) >= maxFlights:
		s.metrics.crowded.Inc()
		return seat{}, errFull
	case joined && waits && f.readers >= s.maxReaders:
		s.metrics.crowded.Inc()
		return seat{}, ErrCrowded
	case !joined:
		f = &flight{errand: w, done: make(chan struct{}), flowing: make(chan struct{}), verdict: Miss}
		f.streams = w.streams && waits
		s.flights[w.Key] = f
		go s.fly(ctx, f)
	case w.anew && f.asks == 0 && !f.found:
		f.anew = true
	}
	if waits {
		f.readers++
	}
	return seat{f, !joined, f.asks}, nil
}

// rise is for a read that waits no more.
func (s *Store) rise(t seat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.readers--
}

// fly asks the origin once this process may, and lands even when fill panics.
func (s *Store) fly(reader context.Context, f *flight) {
	ctx := context.WithoutCancel(reader)
	defer func() {
		p := recover()
		if p != nil {
			s.log.ErrorContext(ctx, "fill panicked", "key", f.Key, "err", p, "stack", string(debug.Stack()))
		}
		if f.flow != nil {
			f.flow.end(errFillEnded) // it has ended, save after a panic
		}
		switch {
		case f.landed:
		case p != nil:
			f.err = fmt.Errorf("cache: fill panicked: %v", p)
		case f.entry == nil && f.err == nil:
			f.err = errFillEnded // runtime.Goexit
		}
		s.land(ctx, f)
	}()
	if f.nonce, f.entry = s.acquire(ctx, f); f.entry != nil {
		return
	}
	if f.nonce != "" && !s.faults.leaseNotRenewed {
		go s.renew(ctx, f.Key, f.nonce, f.done)
	}
	s.carry(ctx, reader, f)
}

// land lets those who wait go, once.
func (s *Store) land(ctx context.Context, f *flight) {
	if f.landed {
		return
	}
	if f.nonce != "" {
		s.release(ctx, f.Key, f.nonce)
	}
	f.landed = true
	s.mu.Lock()
	delete(s.flights, f.Key)
	s.mu.Unlock()
	close(f.done)
	if f.flow == nil {
		close(f.flowing)
	}
}

// carry asks the origin, and keeps what it says.
func (s *Store) carry(ctx, reader context.Context, f *flight) {
	s.mu.Lock()
	w := f.errand // until a call begins, those who join may change it
	s.mu.Unlock()
	r, err := s.ask(ctx, w, f.held, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f.asks++
	})
	if err != nil {
		f.err = err
		return
	}
	defer r.end()
	f.verdict, f.detail = s.verdictOf(r)
	if r.body != nil {
		s.open(reader, f, r)
		if !r.NoStore && !r.body.large() {
			if f.err = r.gather(s.faults); f.err != nil {
				return
			}
			r.old = r.old || len(s.behind(r, f.want)) > 0 // seen too late for its first reader
		}
	}
	if r.body != nil { // for its first reader alone; the others need not wait for it
		f.entry = s.headOf(f.errand, r)
		if !r.NoStore {
			f.verdict, f.detail = Bypass, DetailTooLarge
		}
		s.metrics.refused.WithLabelValues(s.refusalOf(f.Key, f.entry, r)).Inc()
		s.land(ctx, f)
		r.body.pass(r.bound)
		return
	}
	e := s.entryOf(f.errand, r)
	if reason := s.refusalOf(f.Key, e, r); reason != "" {
		s.metrics.refused.WithLabelValues(reason).Inc()
	} else if f.stored = s.store(ctx, f.Key, e, f.nonce); f.stored {
		f.nonce = "" // the script released it
	}
	if r.old && !r.NoStore {
		s.follow(ctx, f.errand)
	}
	f.verdict, f.detail = s.verdictOf(r) // the lease may have ended since
	f.entry = e
}

// verdictOf is how an answer of the origin is served to who asked for it.
func (s *Store) verdictOf(r response) (Verdict, string) {
	switch {
	case r.NoStore:
		return Bypass, DetailNoStore
	case r.old:
		return Miss, DetailOriginLag
	case r.blind || !s.mirror.usable():
		return Bypass, DetailAway
	}
	return Miss, ""
}

// response is what one call of the origin gave.
type response struct {
	Fill
	at    position      // of the ledger, from before the call
	took  time.Duration // until it came, or began to
	old   bool          // it shows less than an event announced
	blind bool          // nobody could tell whether it does
	body  *flow         // in place of Fill.Body, while it comes
	bound *bound        // of the call
}

// end frees what the call holds.
func (r response) end() {
	if r.body != nil {
		r.body.src.Close()
	}
	r.bound.end()
}

// call asks the origin once.
func (s *Store) call(ctx context.Context, w errand, held *Entry, patience time.Duration) (r response, err error) {
	ctx, r.bound = newBound(ctx, patience)
	defer func() {
		if r.body == nil { // also after a panic
			r.bound.end()
		}
	}()
	begun := s.now().mono
	// Events up to here are in what the origin will say. The token is taken now,
	// not later: an event that comes during the fetch must void its result.
	r.at = s.mirror.position()
	r.Fill, err = w.fill(ctx, held)
	r.took = s.now().mono - begun
	s.metrics.fills.Observe(r.took.Seconds())
	if err != nil {
		return r, r.bound.explain(err)
	}
	if s.faults.tokenLate {
		r.at = s.mirror.position()
	}
	switch {
	case r.Stream != nil:
		r.body = newFlow(r.Stream, s.cfg.MaxBody)
	case r.Finish != nil:
		r.Fill = r.finished(r.Body)
	}
	return r, nil
}

// bound ends a context when it is late.
type bound struct {
	patience time.Duration
	timer    *time.Timer
	cancel   context.CancelCauseFunc
	late     atomic.Bool
}

func newBound(ctx context.Context, patience time.Duration) (context.Context, *bound) {
	ctx, cancel := context.WithCancelCause(ctx)
	b := &bound{patience: patience, cancel: cancel}
	b.timer = time.AfterFunc(patience, func() {
		b.late.Store(true)
		cancel(context.DeadlineExceeded)
	})
	return ctx, b
}

func (b *bound) pause() { b.timer.Stop() }
func (b *bound) again() { b.timer.Reset(b.patience) }
func (b *bound) end()   { b.timer.Stop(); b.cancel(nil) }

// explain says of a cancelled call that it was too late, if so.
func (b *bound) explain(err error) error {
	if errors.Is(err, context.Canceled) && b.late.Load() {
		return fmt.Errorf("%w: no answer within %v", context.DeadlineExceeded, b.patience)
	}
	return err
}
