package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
)

// flight is one fetch of one key, and all who wait for it in this process.
// Its fields are written before done is closed, and only read after.
type flight struct {
	done chan struct{}

	entry   *Entry
	err     error
	held    *Entry // what was there before
	verdict Verdict
	detail  string
	found   bool // another process had fetched it
	stored  bool
}

// maxFlights bounds the fetches of one process that go on without a reader.
// Above it each read asks the origin for itself, and stops when its reader does.
const maxFlights = 512

var errFillEnded = errors.New("cache: fill ended without an answer")

// join returns the fetch of the key that is in flight, or starts one, nil where
// there are too many. It goes on when its readers leave: it still serves the
// next one.
func (s *Store) join(ctx context.Context, req Request, want []string, fill FillFunc) (f *flight, joined bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.flights[req.Key]; ok {
		return f, true
	}
	if len(s.flights) >= maxFlights {
		s.metrics.crowded.Inc()
		return nil, false
	}
	f = &flight{done: make(chan struct{}), verdict: Miss}
	s.flights[req.Key] = f
	go s.fly(context.WithoutCancel(ctx), f, req, want, fill)
	return f, false
}

// fly takes off only once this process may ask the origin, and lands even when
// fill panics.
func (s *Store) fly(ctx context.Context, f *flight, req Request, want []string, fill FillFunc) {
	var nonce string
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("cache: fill panicked: %v", p)
			s.log.ErrorContext(ctx, "fill panicked", "key", req.Key, "err", f.err, "stack", string(debug.Stack()))
		} else if f.entry == nil && f.err == nil {
			f.err = errFillEnded // runtime.Goexit
		}
		if nonce != "" {
			s.release(ctx, req.Key, nonce)
		}
		s.mu.Lock()
		delete(s.flights, req.Key)
		s.mu.Unlock()
		close(f.done)
	}()
	var held *Entry
	if nonce, held, f.found = s.acquire(ctx, req.Key, want); f.found {
		f.entry = held
		return
	}
	f.held = held

	// Events up to here are in what the origin will say. The token is taken now,
	// not later: an event that comes during the fetch must void its result.
	at := s.mirror.position()
	answer, err := s.ask(ctx, held, fill)
	if err != nil {
		f.err = err
		return
	}
	if s.faults.tokenLate {
		at = s.mirror.position()
	}
	e := s.newEntry(req, want, answer, at)
	switch reason := s.refusal(req.Key, e, answer); reason {
	case "":
		f.stored = s.store(ctx, req.Key, e, nonce)
	case "no-store":
		f.verdict, f.detail = Bypass, DetailNoStore
		fallthrough
	default:
		s.metrics.refused.WithLabelValues(reason).Inc()
	}
	if f.detail == "" && !s.mirror.usable() {
		f.verdict, f.detail = Bypass, DetailAway
	}
	if f.stored {
		nonce = "" // the script released it
	}
	f.entry = e
}

func (s *Store) ask(ctx context.Context, held *Entry, fill FillFunc) (Fill, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FillTimeout)
	defer cancel()
	begun := s.now().mono
	defer func() { s.metrics.fills.Observe((s.now().mono - begun).Seconds()) }()
	return fill(ctx, held)
}

// Bounds of a fill lease. A process that died while it fetched makes others
// wait for leasePatience.
const (
	fillLeaseMin  = 5 * time.Second
	fillLeaseMax  = 15 * time.Second
	leasePatience = 3 * time.Second
	leasePollMax  = 20 * time.Millisecond
)

// acquire waits for the right to ask the origin for key, so that of all
// processes one does. nonce is the token of the lease, empty where there is
// none to be had: Redis is away, or the one who holds it is slow. found means
// that held was stored by another meanwhile and is fresh.
func (s *Store) acquire(ctx context.Context, key string, want []string) (nonce string, held *Entry, found bool) {
	if s.away() {
		return "", nil, false
	}
	nonce = randomHex()
	name, life := s.names.lease(key), min(max(s.cfg.FillTimeout+time.Second, fillLeaseMin), fillLeaseMax)
	begun := s.now().mono
	for wait := time.Millisecond; ; wait = min(2*wait, leasePollMax) {
		won, err := s.rdb.SetNX(ctx, name, nonce, life).Result()
		if err == nil && !won {
			// The client may have sent it twice, and lost to itself.
			holder, _ := s.rdb.Get(ctx, name).Result()
			won = holder == nonce
		}
		if err != nil {
			return "", nil, false
		}
		if late := s.now().mono-begun > leasePatience; won || late {
			held, _ = s.lookup(ctx, Request{Key: key})
			if held != nil && s.state(key, held, want) == current {
				if won {
					s.release(ctx, key, nonce)
				}
				return "", held, true
			}
			if !won {
				nonce = ""
			}
			return nonce, held, false
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return "", nil, false
		}
	}
}

func (s *Store) release(ctx context.Context, key, nonce string) {
	if err := s.scripts.release.Run(ctx, s.rdb, []string{s.names.lease(key)}, nonce).Err(); err != nil {
		s.log.DebugContext(ctx, "fill lease left to expire", "key", key, "err", err)
	}
}

func (s *Store) newEntry(req Request, want []string, a Fill, at position) *Entry {
	scopes := slices.Clone(want)
	for _, t := range a.Tags {
		if scope := tagScope + t; t != "" && !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	none := a.Negative || a.Status == 404 || a.Status == 410
	if none || a.Incomplete {
		scopes = append(scopes, negative)
	}
	stored := s.now().wall
	until := stored.Add(a.TTL)
	e := &Entry{
		Status: a.Status, Header: a.Header, ETag: a.ETag, Negative: none,
		StoredAt: stored.Add(-a.Age), FreshUntil: until, StaleUntil: until.Add(a.SWR), ErrorUntil: until.Add(a.SIE),
		Target: req.Target, Position: req.Position, Token: at.token, Epoch: at.epoch, scopes: scopes,
	}
	e.setBody(a.Body, s.packable(a))
	return e
}

// Entry returns f as a read gets it that the cache does not keep.
func (f Fill) Entry() *Entry {
	now := time.Now()
	e := &Entry{
		Status: f.Status, Header: f.Header, ETag: f.ETag, Negative: f.Negative || f.Status == 404 || f.Status == 410,
		StoredAt: now.Add(-f.Age), FreshUntil: now, StaleUntil: now, ErrorUntil: now,
	}
	e.setBody(f.Body, false)
	return e
}

// refusal says why e is not stored, "" where it is.
func (s *Store) refusal(key string, e *Entry, a Fill) string {
	switch {
	case a.NoStore:
		return "no-store"
	case a.Status >= 500:
		return "status"
	case a.TTL+max(a.SWR, a.SIE) < time.Millisecond:
		return "no-ttl"
	case int64(len(a.Body)) > s.cfg.MaxBody:
		return "body"
	case slices.ContainsFunc(e.scopes, func(s string) bool { return len(s) > MaxTag+len(tagScope) && s[0] == tagScope[0] }):
		return "tag"
	case e.Epoch == "":
		return "no-ledger"
	}
	if kind, _ := s.mirror.judge(key, position{e.Epoch, e.Token}, e.scopes); kind != "" {
		return "void"
	}
	return ""
}

// store keeps e, and ends the fill. Failing costs a miss.
func (s *Store) store(ctx context.Context, key string, e *Entry, nonce string) bool {
	blob, err := e.encode()
	if err != nil {
		s.metrics.refused.WithLabelValues("header").Inc()
		s.log.WarnContext(ctx, "answer not stored", "key", key, "err", err)
		return false
	}
	now := s.now().wall
	life := min(e.end().Sub(now), s.cfg.Retain)
	stored, err := s.scripts.store.Run(ctx, s.rdb, []string{s.names.entry(key), s.names.lease(key)},
		blob, life.Milliseconds(), nonce, fmt.Sprintf(tokenPattern, e.Token), e.Epoch).Bool()
	switch {
	case err != nil:
		s.metrics.refused.WithLabelValues("error").Inc()
		s.log.WarnContext(ctx, "answer not stored", "key", key, "err", err)
		return false
	case !stored:
		s.metrics.refused.WithLabelValues("newer").Inc()
		return false
	}
	s.memory.keep(key, e)
	pipe := s.rdb.Pipeline()
	s.indexAdd(ctx, pipe, key, e.scopes, now.Add(life))
	if _, err := pipe.Exec(ctx); err != nil {
		s.log.DebugContext(ctx, "entry not indexed, it will expire by itself", "key", key, "err", err)
	}
	return true
}
