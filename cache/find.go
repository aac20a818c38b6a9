package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// Get returns the entry of key if it is fresh and nothing voids it.
func (s *Store) Get(ctx context.Context, key string) (*Entry, bool, error) {
	if err := checkKey(key); err != nil {
		return nil, false, err
	}
	e, state := s.find(ctx, Request{Key: key}, nil)
	if state == untold {
		return nil, false, ErrAway
	}
	return e, state == current, nil
}

// Peek answers req from this process's memory alone, where that can be done at
// once: the entry is there, fresh, and due for no refresh.
func (s *Store) Peek(req Request) (Result, bool) {
	e := s.memory.get(req.Key)
	if e == nil {
		return Result{}, false
	}
	if s.faults.afterLookup != nil {
		s.faults.afterLookup()
	}
	at, ok := s.standing(req, e)
	if !ok || !at.wall.Before(e.FreshUntil) || e.dueEarly(at.wall) {
		return Result{}, false
	}
	return s.resultAt(req, e, Hit, "", at.wall), true
}

// standing reports whether nothing voids an entry that was looked up before, by
// the shortest way: the mirror is as it was when the entry was judged.
func (s *Store) standing(req Request, e *Entry) (at instant, ok bool) {
	v := s.mirror.view.Load()
	at = s.now()
	if !v.running(at, s.lease) && !s.faults.leaseUnchecked || req.After > v.token || !e.carries(req.wanted()) {
		return at, false
	}
	if checked := e.checked.Load(); checked == v.gen || checked != 0 && s.faults.generationFixed {
		return at, true
	}
	j := s.mirror.judgeAll(req.Key, position{e.Epoch, e.Token}, e.scopes)
	if j.void != "" || j.soft || !j.usable && !s.faults.leaseUnchecked {
		return at, false
	}
	e.checked.Store(j.gen)
	return at, true
}

// Stands reports whether nothing makes an entry void, whatever its age. A
// FillFunc may ask it of the entry that it is given: what happens after that
// makes the fill void, too.
func (s *Store) Stands(req Request, held *Entry) bool {
	return s.state(req.Key, held, req.wanted()).servable()
}

// carries reports whether e was filled under the scopes that a request names.
func (e *Entry) carries(want []string) bool {
	return len(want) <= len(e.scopes) && slices.Equal(want, e.scopes[:len(want)])
}

func (s *Store) result(req Request, e *Entry, v Verdict, detail string) Result {
	return s.resultAt(req, e, v, detail, s.now().wall)
}

func (s *Store) resultAt(req Request, e *Entry, v Verdict, detail string, wall time.Time) Result {
	s.metrics.reads[v].Inc()
	if v != Bypass {
		s.noteRead(req.Key, e)
	}
	return resultOf(req, e, v, detail, wall)
}

func resultOf(req Request, e *Entry, v Verdict, detail string, wall time.Time) Result {
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
func (s *Store) find(ctx context.Context, req Request, want []string) (*Entry, state) {
	for again := false; ; again = true {
		if !s.mirror.usable() && s.away() && !s.faults.leaseUnchecked {
			return nil, untold
		}
		e, st := s.look(ctx, req, want)
		if st != untold || again || s.resync(ctx) != nil {
			return e, st
		}
	}
}

// look looks in memory, then in Redis: another process may have fetched what is
// void or expired here.
func (s *Store) look(ctx context.Context, req Request, want []string) (*Entry, state) {
	near := s.memory.get(req.Key)
	if near != nil {
		if s.faults.afterLookup != nil {
			s.faults.afterLookup()
		}
		if st := s.state(req.Key, near, want); st == current || st == untold {
			return near, st
		}
	}
	e, err := s.lookup(ctx, req)
	if s.faults.afterLookup != nil {
		s.faults.afterLookup()
	}
	if err != nil {
		return nil, untold
	}
	st := s.state(req.Key, e, want)
	switch {
	case st == current:
		s.memory.keep(req.Key, e)
	case near != nil && (e == nil || e.Epoch == near.Epoch && e.Token < near.Token):
		return near, s.state(req.Key, near, want)
	}
	return e, st
}

// lookup reads an entry from Redis, nil where there is none. Of one whose head
// is all that the request needs, it reads no more.
func (s *Store) lookup(ctx context.Context, req Request) (*Entry, error) {
	if req.NoBody != nil {
		if e, err := s.lookupHead(ctx, req.Key); err != nil || e == nil || req.NoBody(e) {
			return e, err
		}
	}
	return s.readEntry(ctx, req.Key, func(rdb redis.UniversalClient, name string) ([]byte, error) {
		return rdb.Get(ctx, name).Bytes()
	}, decodeEntry)
}

// headGuess is the length within which the head of most entries ends.
const headGuess = 512

// lookupHead reads an entry without its body. A head that is longer than the
// guess is read again as a whole: two pieces could be of two entries.
func (s *Store) lookupHead(ctx context.Context, key string) (*Entry, error) {
	for length := int64(headGuess); ; {
		more := int64(0)
		e, err := s.readEntry(ctx, key, func(rdb redis.UniversalClient, name string) ([]byte, error) {
			b, err := rdb.GetRange(ctx, name, 0, length-1).Bytes()
			if len(b) == 0 && err == nil {
				err = redis.Nil
			}
			return b, err
		}, func(b []byte) (*Entry, error) {
			if _, _, n, err := decodePrefix(b); err == nil && int64(n) > length {
				more = int64(n)
				return nil, nil
			}
			e, _, err := decodeHead(b)
			if e != nil {
				e.body.absent = true
			}
			return e, err
		})
		if more == 0 || err != nil {
			return e, err
		}
		length = more
	}
}

// readEntry reads from the replica where there is one, and from the master when
// that fails. What cannot be decoded is taken for missing.
func (s *Store) readEntry(ctx context.Context, key string, read func(redis.UniversalClient, string) ([]byte, error),
	decode func([]byte) (*Entry, error)) (*Entry, error) {
	var b []byte
	err := errNoReplica
	if s.cfg.Replica != nil {
		b, err = read(s.cfg.Replica, s.names.entry(key))
	}
	if err != nil && !errors.Is(err, redis.Nil) {
		b, err = read(s.rdb, s.names.entry(key))
	}
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking up %q: %w", key, err)
	}
	e, err := decode(b)
	if err != nil {
		s.log.WarnContext(ctx, "entry cannot be read, taken for missing", "key", key, "err", err)
		return nil, nil
	}
	return e, nil
}

var errNoReplica = errors.New("cache: no replica")

func (s *Store) state(key string, e *Entry, want []string) state {
	if e == nil {
		if !s.mirror.usable() && !s.faults.leaseUnchecked {
			return untold
		}
		return nothing
	}
	lists := [][]string{e.scopes, want}
	known := e.carries(want)
	if known {
		lists = lists[:1] // as they were at the fill
	}
	j := s.mirror.judgeAll(key, position{e.Epoch, e.Token}, lists...)
	switch {
	case !j.usable && !s.faults.leaseUnchecked:
		return untold
	case j.void != "":
		s.metrics.void.WithLabelValues(j.void).Inc()
		return voided
	case j.soft:
		return expired
	}
	if known {
		e.checked.Store(j.gen)
	}
	if s.now().wall.Before(e.FreshUntil) {
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
