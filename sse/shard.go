package sse

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/event"
)

// shard has a part of the subscribers, and one goroutine that alone touches
// them: it matches, writes, and looks after their clocks. It holds no lock
// while it writes, and no write blocks. It runs while it has subscribers.
type shard struct {
	hub  *Hub
	wake chan struct{} // holds one

	mu      sync.Mutex
	running bool
	in      inbox

	// Of the goroutine alone.
	now      time.Duration  // of the pass, since the hub began
	ring     *ring          // nil before the first
	told     event.Position // live subscribers were told of all up to it
	slots    []*subscriber  // nil where free
	free     []int32
	open     int
	left     int    // closed since the last sweep
	served   int    // in the pass, who is behind
	turns    uint32 // how often a slot was taken
	topics   topics
	sessions map[string][]*subscriber
	reader   reader
	waiting  []*subscriber // to be served again at the next pass
	ahead    []*subscriber // at positions that the ring has not reached
	wheel    wheel
	poll     *poller // nil until the first connection is taken over
	out      []byte
	frames   []*frame
	tally    tally
}

// inbox is what others tell a shard.
type inbox struct {
	joins    []*subscriber
	signals  []signal
	pages    []page
	live     []*frame // without a position, for who is there now
	sessions []string // that ended
}

// signal is something that a socket tells.
type signal struct {
	sub  *subscriber // or, when nil, who has the slot
	slot uint32
	turn uint32 // of the slot: who has it now may be another
	what happening
}

type happening uint8

const (
	writable happening = iota
	hungUp
	stalled
)

// tally counts within a pass.
type tally struct{ deliveries, bytes uint64 }

func newShard(h *Hub) *shard {
	return &shard{hub: h, wake: make(chan struct{}, 1), topics: newTopics(), sessions: map[string][]*subscriber{},
		reader: newReader(), wheel: wheel{tick: min(max(h.cfg.Heartbeat/64, time.Millisecond), 100*time.Millisecond)}}
}

// accept begins to serve s, which was admitted and has its socket.
func (sh *shard) accept(s *subscriber) {
	sh.post(func(in *inbox) { in.joins = append(in.joins, s) })
}

// post hands something to the shard and wakes it.
func (sh *shard) post(put func(*inbox)) {
	sh.mu.Lock()
	put(&sh.in)
	switch {
	case sh.running:
	case len(sh.in.joins) > 0:
		sh.running = true
		go sh.run()
	default:
		sh.in = inbox{} // nobody is there
	}
	sh.mu.Unlock()
	sh.signal()
}

func (sh *shard) signal() {
	select {
	case sh.wake <- struct{}{}:
	default:
	}
}

// run passes whenever there may be something to do, until nobody is left.
func (sh *shard) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		begin := sh.hub.now()
		sh.pass()
		if sh.open == 0 && sh.rest() {
			return
		}
		if sh.hub.ring.Load() != sh.ring { // changes come faster than they are written: more of them in a write
			timer.Reset(min((sh.hub.now()-begin)/2, maxGather))
			<-timer.C
			continue
		}
		if len(sh.waiting) > 0 {
			runtime.Gosched()
			continue
		}
		wait, ok := sh.wheel.next(sh.hub.now())
		if !ok {
			wait = time.Hour
		}
		timer.Reset(wait)
		select {
		case <-sh.wake:
		case <-timer.C:
		}
	}
}

// maxGather bounds the pause that gathers changes under load.
const maxGather = 10 * time.Millisecond

// rest ends the shard's goroutine, unless somebody is about to join.
func (sh *shard) rest() bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(sh.in.joins) > 0 {
		return false
	}
	sh.running, sh.in = false, inbox{}
	sh.ring, sh.told = nil, event.Position{}
	sh.wheel = wheel{tick: sh.wheel.tick}
	sh.reader = newReader()
	sh.slots, sh.free, sh.waiting, sh.ahead, sh.left = nil, nil, nil, nil, 0
	if sh.poll != nil {
		sh.poll.close()
		sh.poll = nil
	}
	return true
}

// pass does all there is to do now.
func (sh *shard) pass() {
	r := sh.hub.ring.Load() // before the inbox, where a session's end is put before what comes after it
	sh.mu.Lock()
	in := sh.in
	sh.in = inbox{}
	sh.mu.Unlock()
	sh.now, sh.served = sh.hub.now(), 0

	sh.endSessions(in.sessions)
	if r != sh.ring {
		sh.follow(r)
	}
	if len(in.live) > 0 {
		sh.broadcast(in.live, sh.told)
	}
	again := sh.waiting
	sh.waiting = nil
	for _, s := range again {
		if b := s.behind; b != nil {
			b.queued = false
			sh.serve(s)
		}
	}
	for _, s := range in.joins {
		sh.join(s)
	}
	sh.endSessions(in.sessions) // of who just joined, too
	for _, p := range in.pages {
		sh.turnPage(p)
	}
	for _, sig := range in.signals {
		sh.hear(sig)
	}
	if sh.hub.draining.Load() {
		sh.eachOpen(func(s *subscriber) { sh.goaway(s, "drain", sh.hub.drainRetry()) })
	}
	sh.wheel.advance(sh.now, sh.expire)
	sh.read()
	clear(sh.frames) // must not keep old frames alive
	sh.frames = sh.frames[:0]
	sh.hub.metrics.passes.Add(1)
	sh.hub.metrics.add(&sh.tally)
}

func (sh *shard) endSessions(ended []string) {
	for _, session := range ended {
		for _, s := range slices.Clone(sh.sessions[session]) {
			sh.goaway(s, "session", time.Second)
		}
	}
}

func (sh *shard) eachOpen(do func(*subscriber)) {
	for _, s := range sh.slots {
		if s != nil {
			do(s)
		}
	}
}

// follow moves on to r: what is new in it goes to whoever is live.
func (sh *shard) follow(r *ring) {
	old, told := sh.ring, sh.told
	sh.ring, sh.told = r, r.head
	switch {
	case old == nil: // nobody is live; some may have waited for this
		sh.eachOpen(func(s *subscriber) {
			sh.begin(s)
			sh.later(s)
		})
	case r.life != old.life:
		sh.eachOpen(func(s *subscriber) {
			if s.session != "" { // its end may be among what was missed: who comes back is asked again
				sh.goaway(s, "age", sh.hub.resetDelay())
				return
			}
			b := sh.fall(s, told)
			b.reading = false // whatever the log says of a life that is over
			switch {
			case !s.opened: // nothing is shown yet
				b.due = sh.now
			case b.reset == "":
				b.due = sh.now + sh.hub.resetDelay()
			}
			if b.reset = r.reason; b.due > sh.now {
				sh.watch(s)
			} else {
				sh.later(s)
			}
		})
	case told.Compare(r.from) < 0: // the ring moved on faster than this shard
		sh.eachOpen(func(s *subscriber) {
			if s.behind == nil {
				sh.fall(s, told)
				sh.later(s)
			}
		})
	default:
		sh.broadcast(r.after(told), told)
	}
	ahead := sh.ahead
	sh.ahead = nil
	for _, s := range ahead {
		if s.behind != nil {
			sh.later(s)
		}
	}
}

// broadcast writes frames to the live subscribers that want them, as many in
// one write as fit. All before the first is at most at position told.
func (sh *shard) broadcast(frames []*frame, told event.Position) {
	for len(frames) > 0 {
		n, size := 0, 0
		for n < len(frames) && (n == 0 || size+len(frames[n].wire) <= maxBatch) {
			size += len(frames[n].wire)
			sh.topics.match(frames[n])
			n++
		}
		for i, v := range sh.topics.touched {
			sh.deliver(v, told)
			v.settle()
			sh.topics.touched[i] = nil
		}
		sh.topics.touched = sh.topics.touched[:0]
		sh.hub.metrics.lag.Observe(time.Since(frames[0].at).Seconds())
		if at := frames[n-1].pos; !at.IsZero() {
			told = at
		}
		frames = frames[n:]
	}
}

// deliver writes what is due for a view, put together once, to each of its
// live subscribers. One that does not take all of it falls behind.
func (sh *shard) deliver(v *view, told event.Position) {
	due := v.due
	wire := due[0].wire // the usual case: the shared bytes themselves
	if len(due) > 1 {
		sh.out = sh.out[:0]
		for _, f := range due {
			sh.out = append(sh.out, f.wire...)
		}
		wire = sh.out
	}
	served := len(v.live)
	for i := len(v.live) - 1; i >= 0; i-- { // who leaves is replaced by one that was served
		s := v.live[i]
		n, err := s.sock.write(wire)
		if n == len(wire) {
			s.written = sh.now
			continue
		}
		served--
		if err != nil {
			sh.close(s)
			continue
		}
		sh.tally.bytes += uint64(n)
		b := sh.fall(s, told)
		sh.count(b.cut(due, n))
		sh.blocked(s)
	}
	sh.tally.deliveries += uint64(served * len(due))
	sh.tally.bytes += uint64(served * len(wire))
	for _, f := range due {
		f.streams.Add(int64(served))
	}
}

// join begins to serve s.
func (sh *shard) join(s *subscriber) {
	var created bool
	if s.view, created = sh.topics.add(s.key); created {
		sh.hub.listened(s.view.names, 1)
	}
	if n := len(sh.free); n > 0 {
		s.slot, sh.free = sh.free[n-1], sh.free[:n-1]
		sh.slots[s.slot] = s
	} else {
		s.slot = int32(len(sh.slots))
		sh.slots = append(sh.slots, s)
	}
	sh.open++
	sh.turns++
	s.turn = sh.turns
	s.written = sh.now
	age := time.Duration(float64(sh.hub.cfg.MaxStreamAge) * (0.8 + 0.4*rand.Float64()))
	s.ends = sh.now + age
	if s.session != "" {
		sh.sessions[s.session] = append(sh.sessions[s.session], s)
	}
	if err := s.sock.watch(sh, s); err != nil {
		sh.hub.log.Warn("stream cannot be watched", "err", err)
		sh.goaway(s, "unavailable", unavailableRetry())
		return
	}
	if sh.hub.draining.Load() {
		sh.goaway(s, "drain", sh.hub.drainRetry())
		return
	}
	if sh.ring != nil {
		sh.begin(s)
	}
	sh.serve(s)
	if !s.closed {
		sh.watch(s)
	}
}

// begin sets the cursor of a subscriber that named no position.
func (sh *shard) begin(s *subscriber) {
	if b := s.behind; b.fresh {
		b.fresh, b.pos = false, sh.ring.head
	}
}

// hear acts on what a socket tells.
func (sh *shard) hear(sig signal) {
	s := sig.sub
	if s == nil {
		if int(sig.slot) >= len(sh.slots) {
			return
		}
		if s = sh.slots[sig.slot]; s == nil || s.turn != sig.turn {
			return
		}
	}
	if s.closed {
		return
	}
	switch sig.what {
	case writable:
		s.sock.ready()
		if b := s.behind; b != nil && b.full {
			b.full = false
			sh.hub.metrics.blocked.Add(-1)
			if sh.serve(s); !s.closed {
				sh.watch(s) // a reset or a ping may be due before the timeout would have been
			}
		}
	case stalled:
		sh.hub.metrics.stalled.Add(1)
		sh.close(s)
	case hungUp:
		sh.close(s)
	}
}

// watch makes the clock ring when s next needs to be looked at.
func (sh *shard) watch(s *subscriber) {
	when, b := s.ends, s.behind
	switch {
	case b != nil && b.full:
		when = min(when, b.since+sh.hub.cfg.WriteTimeout)
	case s.opened:
		when = min(when, s.written+sh.hub.cfg.Heartbeat)
	default: // soon it is, or has waited too long
		when = min(when, sh.now+min(sh.hub.cfg.Heartbeat, startTimeout)/4)
	}
	if b != nil && b.reset != "" && !b.full {
		when = min(when, b.due)
	}
	sh.wheel.add(s, when)
}

// expire looks at s when its clock rings.
func (sh *shard) expire(s *subscriber) {
	if s.closed {
		return
	}
	b := s.behind
	switch {
	case sh.now >= s.ends:
		sh.goaway(s, "age", 100*time.Millisecond+rand.N(2*time.Second))
	case b != nil && b.full:
		if sh.now < b.since+sh.hub.cfg.WriteTimeout {
			break
		}
		if left := s.sock.unsent(); left < b.unsent {
			b.since, b.unsent = sh.now, left
			break
		}
		sh.hub.metrics.stalled.Add(1)
		sh.close(s)
	case sh.ring == nil:
		if sh.now >= s.written+startTimeout {
			sh.goaway(s, "unavailable", unavailableRetry())
		}
	case b != nil && b.reset != "" && sh.now >= b.due:
		sh.serve(s)
	case !s.opened && b.reading && sh.now >= s.written+sh.hub.cfg.Heartbeat: // the log does not answer, and a ping may not come before ready
		sh.goaway(s, "unavailable", unavailableRetry())
	case s.opened && sh.now >= s.written+sh.hub.cfg.Heartbeat:
		sh.ping(s)
	}
	if !s.closed {
		sh.watch(s)
	}
}

// later serves s at the next pass.
func (sh *shard) later(s *subscriber) {
	if !s.behind.queued {
		s.behind.queued = true
		sh.waiting = append(sh.waiting, s)
	}
}

// goaway says that we close and when to come back, and closes.
func (sh *shard) goaway(s *subscriber, reason string, retry time.Duration) {
	sh.hub.metrics.goaway(reason)
	out := appendGoaway(nil, reason, retry)
	if b := s.behind; b != nil {
		out = append(slices.Clone(b.rest), out...)
	}
	sh.end(s, out)
}

// close closes the connection of s, without a word.
func (sh *shard) close(s *subscriber) { sh.end(s, nil) }

// end writes last, if it can, and frees everything of s.
func (sh *shard) end(s *subscriber, last []byte) {
	if s.closed {
		return
	}
	s.closed = true
	if s.behind == nil {
		s.view.part(s)
	} else if s.behind.full {
		sh.hub.metrics.blocked.Add(-1)
	}
	if names := s.view.names; sh.topics.remove(s.key, s.view) {
		sh.hub.listened(names, -1)
	}
	sh.slots[s.slot] = nil
	sh.free = append(sh.free, s.slot)
	sh.open--
	if s.session != "" {
		left := slices.DeleteFunc(sh.sessions[s.session], func(o *subscriber) bool { return o == s })
		if sh.sessions[s.session] = left; len(left) == 0 {
			delete(sh.sessions, s.session)
		}
	}
	s.behind = nil
	s.sock.end(last)
	sh.hub.release(s)
	if sh.left++; sh.left > sh.open+maxLeft {
		sh.sweep()
	}
}

// maxLeft bounds those who left and are still on some list, beside as many as are open.
const maxLeft = 1024

// sweep forgets who left where they are not looked for otherwise.
func (sh *shard) sweep() {
	sh.left = 0
	gone := func(s *subscriber) bool { return s.closed }
	sh.ahead = slices.DeleteFunc(sh.ahead, gone)
	for pos, readers := range sh.reader.wanted {
		sh.reader.wanted[pos] = slices.DeleteFunc(readers, gone)
	}
	sh.wheel.sweep(gone)
}
