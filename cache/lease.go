package cache

import (
	"context"
	"fmt"
	"time"
)

// A fill lease is renewed as long as its fetch goes on: a slow origin is asked
// once, and a process that died makes others wait for fillLease at most.
const (
	fillLease = 3 * time.Second
	renewing  = time.Second
)

// Who waits for another process's fetch is woken at its end, and looks by
// itself at these pauses.
const (
	pollMin = 20 * time.Millisecond
	pollMax = 100 * time.Millisecond
)

// acquire waits for the right to ask the origin, so that of all processes one
// does. nonce is the token of the lease, empty where there is none to be had:
// Redis is away, or the one who holds it is slow. found is what another process
// stored meanwhile, where it will do.
func (s *Store) acquire(ctx context.Context, f *flight) (nonce string, found *Entry) {
	if s.away() {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FillTimeout)
	defer cancel()
	nonce = randomHex()
	known := ""
	if f.seen != nil && !f.seen.body.absent && !s.faults.refreshFindsItself { // else it is read again in full
		f.held = f.seen
		known = entryMagic + fmt.Sprintf(tokenPattern, f.held.Token) + f.held.Epoch
	}
	var woken <-chan struct{}
	for pause := s.poll.min; ; pause = min(2*pause, s.poll.max) {
		won, blob, err := s.tryLease(ctx, f.Key, nonce, known)
		switch {
		case err != nil:
			return "", nil
		case won:
			return nonce, nil
		case blob != "":
			known = blob[:min(len(blob), headLenAt)]
			if e, err := decodeEntry([]byte(blob)); err == nil {
				if f.held = e; s.accept(f, e) {
					return "", e
				}
			}
			continue
		}
		if woken == nil {
			s.metrics.waits.Inc()
			var leave func()
			woken, leave = s.wakes.await(s.names.wake(f.Key))
			defer leave()
		}
		timer := time.NewTimer(pause)
		select {
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
		}
		if timer.Stop(); ctx.Err() != nil {
			return "", nil
		}
	}
}

// accept reports whether a flight may end with what another process stored.
func (s *Store) accept(f *flight, e *Entry) bool {
	if s.state(f.Key, e, f.want) != current {
		return false
	}
	s.memory.keep(f.Key, e)
	if seen := f.seen; seen != nil && seen.Token == e.Token && seen.Epoch == e.Epoch && !s.faults.refreshFindsItself {
		return false // it shall be fetched again since it is about to expire
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.found = !f.anew
	return f.found
}

func (s *Store) tryLease(ctx context.Context, key, nonce, known string) (won bool, entry string, err error) {
	v, err := s.scripts.acquire.Run(ctx, s.rdb, []string{s.names.entry(key), s.names.lease(key)},
		nonce, fillLease.Milliseconds(), known).Slice()
	if err != nil {
		return false, "", err
	}
	r := reply{v: v}
	won, entry = r.int(0) == 1, r.text(1)
	return won, entry, r.err
}

// renew keeps a lease until its flight has landed.
func (s *Store) renew(ctx context.Context, key, nonce string, landed <-chan struct{}) {
	tick := time.NewTicker(renewing)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			err := s.scripts.renew.Run(ctx, s.rdb, []string{s.names.lease(key)}, nonce, fillLease.Milliseconds()).Err()
			if err != nil {
				s.log.DebugContext(ctx, "fill lease not renewed", "key", key, "err", err)
			}
		case <-landed:
			return
		}
	}
}

func (s *Store) release(ctx context.Context, key, nonce string) {
	if err := s.scripts.release.Run(ctx, s.rdb, []string{s.names.lease(key)}, nonce, s.names.wake(key)).Err(); err != nil {
		s.log.DebugContext(ctx, "fill lease left to expire", "key", key, "err", err)
	}
}
