package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrAway is returned by Ready, and marks reads, while the ledger cannot be asked.
var ErrAway = errors.New("cache: ledger is away")

// turns runs syncs one at a time: one in flight, and one that begins after it
// for those who came meanwhile. Nobody holds a lock over the network.
type turns struct {
	mu      sync.Mutex
	running *turn
	next    *turn
	left    bool          // no more syncs: the node has left
	lastErr time.Duration // monotonic; when the ledger was last found away, 0 when it answers
}

type turn struct {
	done chan struct{} // closed when err is final
	err  error
}

// awayPause is how long readers do not ask a ledger that just failed.
const awayPause = 500 * time.Millisecond

// resyncPatience is how long a reader waits for a lease before it asks the origin.
const resyncPatience = 500 * time.Millisecond

// turnAfter returns a sync that begins after this call.
func (s *Store) turnAfter() *turn { return s.takeTurn(false) }

// anyTurn returns the sync in flight, or a new one.
func (s *Store) anyTurn() *turn { return s.takeTurn(true) }

func (s *Store) takeTurn(join bool) *turn {
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	switch {
	case s.turns.left:
		t := &turn{done: make(chan struct{}), err: ErrAway}
		close(t.done)
		return t
	case s.turns.running == nil:
		s.turns.running = &turn{done: make(chan struct{})}
		go s.runTurns(s.turns.running)
		return s.turns.running
	case join:
		return s.turns.running
	case s.turns.next == nil:
		s.turns.next = &turn{done: make(chan struct{})}
	}
	return s.turns.next
}

func (s *Store) runTurns(t *turn) {
	for t != nil {
		ctx, cancel := context.WithTimeout(context.Background(), s.lease)
		news, err := s.sync(ctx)
		cancel()
		t.err = err
		t = s.endTurn(t, news && err == nil)
	}
}

// endTurn lets the waiters of t go and returns the turn that follows, if any:
// after news there always is one, since it acknowledges them.
func (s *Store) endTurn(t *turn, news bool) *turn {
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	away := s.turns.lastErr != 0
	s.metrics.syncs.Inc()
	if s.turns.lastErr = 0; t.err != nil {
		s.metrics.syncErrs.Inc()
		s.turns.lastErr = max(1, s.now().mono)
	}
	if away != (t.err != nil) {
		if t.err != nil {
			s.log.Warn("ledger is away, reads go to the origin when the lease ends", "err", t.err)
		} else {
			s.log.Info("ledger is back")
		}
	}
	close(t.done)
	t, s.turns.next = s.turns.next, nil
	if t == nil && news && !s.turns.left {
		t = &turn{done: make(chan struct{})}
	}
	s.turns.running = t
	return t
}

// away reports whether the ledger failed a moment ago, so that a read need not
// find out again.
func (s *Store) away() bool {
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	return s.turns.left || s.turns.lastErr != 0 && s.now().mono-s.turns.lastErr < awayPause
}

func (t *turn) wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resync renews the lease for a reader that found it over.
func (s *Store) resync(ctx context.Context) error {
	if s.away() {
		return ErrAway
	}
	ctx, cancel := context.WithTimeout(ctx, resyncPatience)
	defer cancel()
	return s.anyTurn().wait(ctx)
}

// Run keeps the mirror in step with the ledger and reclaims memory in the
// background, until ctx ends. Then the node leaves: no barrier waits for it,
// and later reads go to the origin. That takes a lease and half a second at
// most.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.hearBell(ctx) })
	wg.Go(func() { s.wakes.run(ctx, s.rdb) })
	wg.Go(func() { s.reclaim.run(ctx) })
	wg.Go(func() { s.runHot(ctx) })
	ended := make(chan struct{})
	tick := time.NewTicker(s.lease / 5)
	defer tick.Stop()
	for {
		s.turnAfter()
		select {
		case <-tick.C:
		case <-s.bell:
		case <-ctx.Done():
			go func() { wg.Wait(); close(ended) }()
			s.depart(context.WithoutCancel(ctx))
			select {
			case <-ended:
			case <-time.After(endPatience):
				s.log.Info("reclaiming left unfinished, entries expire by themselves")
			}
			return nil
		}
	}
}

// endPatience is how long Run waits for a batch of the reclaimer after the
// node has left: Redis may answer no more, and the batch only frees memory.
const endPatience = 500 * time.Millisecond

// hearBell rings whenever an event was written. It is a doorbell: what is new
// is asked of the ledger, so a lost message costs one tick.
func (s *Store) hearBell(ctx context.Context) {
	sub := s.rdb.Subscribe(ctx, s.names.bell())
	defer sub.Close()
	messages := sub.ChannelWithSubscriptions()
	for {
		select {
		case _, ok := <-messages:
			if !ok {
				return
			}
			s.ringBell()
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) ringBell() {
	select {
	case s.bell <- struct{}{}:
	default:
	}
}

// depart ends the lease here first, then in the ledger. The other way round a
// read could rest on a lease that no barrier waits for.
func (s *Store) depart(ctx context.Context) {
	s.turns.mu.Lock()
	s.turns.left = true
	last := s.turns.running
	s.turns.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.lease)
	defer cancel()
	for last != nil { // a sync on its way would register the node again
		if last.wait(ctx); ctx.Err() != nil {
			break
		}
		s.turns.mu.Lock()
		last = s.turns.running
		s.turns.mu.Unlock()
	}
	s.mirror.leave()
	if err := s.leave(ctx); err != nil {
		s.log.Info("node left without a word, its lease runs out", "err", err)
	}
}

// Ready reports why cached content cannot be served now: the lease is over.
func (s *Store) Ready() error {
	if !s.mirror.usable() {
		return fmt.Errorf("%w: no lease", ErrAway)
	}
	return nil
}
