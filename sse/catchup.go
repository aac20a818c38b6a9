package sse

import (
	"context"
	"time"

	"github.com/freshwire/freshwire/event"
)

// historyPage is how many records are read from the log at a time.
const historyPage = 200

// historyTimeout bounds one read of the log.
const historyTimeout = 10 * time.Second

// reader asks the log for what the ring does not hold, a page at a time for all
// who stand at the same position.
type reader struct {
	wanted map[event.Position][]*subscriber
	queue  []event.Position // of wanted, in the order they came
	busy   bool
}

// page is what the log says.
type page struct {
	after event.Position
	recs  []event.Record
	whole bool
	err   error
}

func newReader() reader { return reader{wanted: map[event.Position][]*subscriber{}} }

// want asks for the page after the position of s.
func (sh *shard) want(s *subscriber) {
	b := s.behind
	b.reading = true
	if _, ok := sh.reader.wanted[b.pos]; !ok {
		sh.reader.queue = append(sh.reader.queue, b.pos)
	}
	sh.reader.wanted[b.pos] = append(sh.reader.wanted[b.pos], s)
}

// read begins the next read of the log, one at a time.
func (sh *shard) read() {
	if sh.reader.busy || len(sh.reader.queue) == 0 {
		return
	}
	sh.reader.busy = true
	after := sh.reader.queue[0]
	sh.reader.queue = sh.reader.queue[1:]
	sh.hub.ask(after, func(p page) { sh.post(func(in *inbox) { in.pages = append(in.pages, p) }) })
}

// ask reads a page of the log and hands it to done, in another goroutine.
func (h *Hub) ask(after event.Position, done func(page)) {
	if h.history == nil {
		done(page{after: after})
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), historyTimeout)
		defer cancel()
		recs, whole, err := h.history(ctx, after, historyPage)
		done(page{after, recs, whole, err})
	}()
}

// turnPage gives a page to those who asked for it.
func (sh *shard) turnPage(p page) {
	sh.reader.busy = false
	readers := sh.reader.wanted[p.after]
	delete(sh.reader.wanted, p.after)
	if p.err != nil {
		sh.hub.log.Warn("history not read", "position", p.after.String(), "subscribers", len(readers), "err", p.err)
	}
	frames := make([]*frame, 0, len(p.recs))
	now := time.Now()
	for _, r := range p.recs {
		if r.EndsSession == "" {
			frames = append(frames, newFrame(r, now))
		}
	}
	for _, s := range readers {
		if b := s.behind; !s.closed && b != nil {
			b.reading = false
			sh.catchUp(s, p, frames)
		}
	}
}

// catchUp writes a page of the log to s, which stands before it.
func (sh *shard) catchUp(s *subscriber, p page, frames []*frame) {
	b := s.behind
	if b.reset != "" { // the store changed meanwhile: nothing of this counts
		sh.serve(s)
		return
	}
	if p.err != nil {
		sh.goaway(s, "unavailable", unavailableRetry())
		return
	}
	if b.missed += len(p.recs); !p.whole || b.missed > sh.hub.cfg.MaxReplay {
		b.reset, b.due = HistoryLost, sh.now
		if !p.whole && b.pos.Compare(sh.ring.head) > 0 {
			b.reset = BadPosition
		}
		sh.serve(s)
		return
	}
	b.known = true
	to := b.pos
	if n := len(p.recs); n > 0 {
		to = p.recs[n-1].Position
	}
	wanted := make([]*frame, 0, len(frames))
	for _, f := range frames {
		if s.view.wants(f) {
			wanted = append(wanted, f)
		}
	}
	for first := true; first || len(wanted) > 0; first = false {
		batch, left := cutBatch(wanted)
		at := to
		if len(left) > 0 {
			at = batch[len(batch)-1].pos
		}
		out := append(sh.out[:0], b.rest...)
		out = s.open(out, b.pos)
		if !sh.send(s, out, batch, at) {
			return // what is left of the page is read again
		}
		wanted = left
	}
	if b.pos.Compare(sh.ring.from) < 0 && len(p.recs) < historyPage {
		b.reset, b.due = HistoryLost, sh.now // the log ends before the ring begins
	}
	sh.later(s) // others first
}
