package sse

import (
	"slices"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Why a subscriber is told to refetch.
const (
	HistoryLost = "history_lost"
	BadPosition = "bad_position"
)

// Bounds of what is written at a time.
const (
	maxBatch = 32 << 10 // bytes of frames
	maxServe = 8        // batches for one subscriber, before others have their turn

	// When so many who are behind were served and it took so long, the rest
	// waits for the next pass: who keeps up is not to wait for them.
	minServed = 16
	maxBehind = 5 * time.Millisecond
)

// subscriber is one stream. It belongs to its shard.
type subscriber struct {
	sock    socket
	key     string // of its view
	addr    string // that it is counted for; empty when addresses are not
	session string // that it ends with; empty: none

	view    *view
	behind  *backlog // nil while it is live: it was told of all that its shard knows
	written time.Duration
	ends    time.Duration // when it is asked to reconnect
	alarm   int64         // tick that the wheel rings for it
	slot    int32
	at      int32 // in view.live
	turn    uint32
	opened  bool // ready was sent
	closed  bool
}

// socket takes bytes without ever blocking.
type socket interface {
	// watch begins to tell sh what happens to the connection of s.
	watch(sh *shard, s *subscriber) error

	// write takes a beginning of b. When it takes less than all without an
	// error, the shard hears writable once there is room again.
	write(b []byte) (n int, err error)

	// ready is called when writable was heard.
	ready()

	// unsent returns how much of what was taken the client does not have yet:
	// less than before means that it reads, if slowly.
	unsent() int

	// end takes b if it can, and ends the connection once what was taken is on
	// its way.
	end(b []byte)
}

// backlog is what stands between a subscriber and being live.
type backlog struct {
	rest   []byte         // goes first: of a frame that was cut, or the answer's head
	pos    event.Position // the cursor: all up to it is written or in rest, or not for this subscriber
	reset  string         // reason of a reset to be told, before anything after rest
	due    time.Duration  // when to tell it
	since  time.Duration  // when the socket was found full, or last took something
	unsent int            // by the socket, then
	page   int            // records to be read from the log at a time
	missed int            // records read from the log since the ring last served it

	fresh   bool // pos is the head that it finds
	full    bool // the socket takes no more for now
	reading bool // a page of the log is on its way
	known   bool // the log knows pos, though the ring may not
	queued  bool // it is among those to be served again
}

// fall makes s one that is behind: it was told of all up to pos.
func (sh *shard) fall(s *subscriber, pos event.Position) *backlog {
	if s.behind == nil {
		s.view.part(s)
		s.behind = &backlog{pos: pos}
	}
	return s.behind
}

// live is the end of fall.
func (sh *shard) live(s *subscriber) {
	s.behind = nil
	s.view.join(s)
}

// cut says that only n bytes of frames were written. It returns those that
// were begun.
func (b *backlog) cut(frames []*frame, n int) (begun []*frame) {
	b.rest = nil
	for i, f := range frames {
		if n == 0 {
			return frames[:i]
		}
		if !f.pos.IsZero() { // not live only
			b.pos = f.pos
		}
		if n < len(f.wire) {
			b.rest = f.wire[n:]
			return frames[:i+1]
		}
		n -= len(f.wire)
	}
	return frames
}

// blocked waits until the socket of s takes more.
func (sh *shard) blocked(s *subscriber) {
	b := s.behind
	b.full, b.since, b.unsent = true, sh.now, s.sock.unsent()
	sh.hub.metrics.blocked.Add(1)
	sh.watch(s)
}

// serve writes what s has before it: what a write left, a reset, what it
// missed. Once that is all, s is live.
func (sh *shard) serve(s *subscriber) {
	sh.served++
	for range maxServe {
		if b := s.behind; s.closed || b == nil || b.full || b.reading {
			return
		}
		if sh.served > minServed && sh.hub.now()-sh.now > maxBehind {
			break
		}
		if !sh.step(s) {
			return
		}
	}
	if b := s.behind; !s.closed && b != nil && !b.full && !b.reading {
		sh.later(s)
	}
}

// step writes once, and reports whether there may be more at once.
func (sh *shard) step(s *subscriber) (more bool) {
	b, r := s.behind, sh.ring
	if len(b.rest) > maxBatch {
		return sh.send(s, b.rest, nil, b.pos)
	}
	out := append(sh.out[:0], b.rest...)
	switch {
	case r == nil: // it waits for the hub's first position
		sh.send(s, out, nil, b.pos)
		return false

	case b.reset != "" && sh.now < b.due:
		sh.send(s, out, nil, b.pos)
		return false

	case b.reset != "":
		sh.hub.metrics.reset(b.reset)
		out = appendReset(out, b.reset, r.head)
		out = s.open(out, r.head)
		*b = backlog{rest: b.rest, queued: b.queued}
		return sh.send(s, out, nil, r.head)

	case b.pos.Compare(r.from) < 0 || b.pos.Compare(r.head) > 0 && !b.known:
		if sh.send(s, out, nil, b.pos) {
			sh.want(s)
		}
		return false

	case b.pos.Compare(r.head) > 0: // this node lags behind the log: the ring will reach it
		if sh.send(s, s.open(out, b.pos), nil, b.pos) {
			sh.ahead = append(sh.ahead, s)
		}
		return false
	}

	clear(sh.frames)
	sh.frames = sh.frames[:0]
	for _, f := range r.after(b.pos) {
		if s.view.wants(f) {
			sh.frames = append(sh.frames, f)
		}
	}
	opened := s.opened
	out = s.open(out, b.pos)
	if len(sh.frames) > sh.hub.cfg.MergeOver {
		merged, ok := appendMerged(out, sh.frames, s.view)
		if !ok {
			s.opened = opened // nothing was written
			b.reset, b.due = HistoryLost, sh.now
			return true
		}
		sh.hub.metrics.merged.Add(1)
		sh.tally.deliveries += uint64(len(sh.frames))
		return sh.send(s, merged, nil, r.head)
	}
	batch, left := cutBatch(sh.frames)
	to := r.head
	if len(left) > 0 {
		to = batch[len(batch)-1].pos
	}
	if !sh.send(s, out, batch, to) {
		return false
	}
	if len(left) == 0 {
		sh.live(s)
	}
	return len(left) > 0
}

// cutBatch returns as many of frames as are written at a time.
func cutBatch(frames []*frame) (batch, left []*frame) {
	size := 0
	for i, f := range frames {
		if size += len(f.wire); size > maxBatch && i > 0 {
			return frames[:i], frames[i:]
		}
	}
	return frames, nil
}

// send writes out, which begins with what is left from before, and then
// frames; after that the cursor stands at to. It reports whether all of it was
// taken. It is the owner of sh.out, of which out may be a part.
func (sh *shard) send(s *subscriber, out []byte, frames []*frame, to event.Position) bool {
	b := s.behind
	before := len(out)
	for _, f := range frames {
		out = append(out, f.wire...)
	}
	if cap(out) <= 8*maxBatch {
		sh.out = out[:0]
	}
	n := 0
	if len(out) > 0 {
		var err error
		if n, err = s.sock.write(out); err != nil {
			sh.close(s)
			return false
		}
		sh.tally.bytes += uint64(n)
	}
	switch {
	case n == len(out):
		b.rest, b.pos = nil, to
		if n > 0 {
			s.written = sh.now
		}
		sh.count(frames)
		return true
	case n < before:
		if n < len(b.rest) && len(b.rest) == before {
			b.rest = b.rest[n:]
		} else {
			b.rest = slices.Clone(out[n:before])
		}
		if len(frames) == 0 {
			b.pos = to
		}
	case len(frames) == 0: // not reached: then before is all
	default:
		sh.count(b.cut(frames, n-before))
	}
	sh.blocked(s)
	return false
}

// count notes that frames were written to one more subscriber.
func (sh *shard) count(frames []*frame) {
	sh.tally.deliveries += uint64(len(frames))
	for _, f := range frames {
		f.streams.Add(1)
	}
}

// open puts ready before what a stream sends first: it goes on after position at.
func (s *subscriber) open(out []byte, at event.Position) []byte {
	if s.opened {
		return out
	}
	s.opened = true
	return appendReady(out, at)
}

// ping shows that the stream is alive.
func (sh *shard) ping(s *subscriber) {
	if b := s.behind; b != nil && len(b.rest) > 0 {
		return
	}
	n, err := s.sock.write(pingEvent)
	switch {
	case err != nil:
		sh.close(s)
	case n < len(pingEvent):
		sh.fall(s, sh.told).rest = pingEvent[n:]
		sh.blocked(s)
	default:
		s.written = sh.now
		sh.tally.bytes += uint64(n)
	}
}
