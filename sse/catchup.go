package sse

import (
	"context"
	"sort"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Bounds of how many records are read from the log at a time. Who could not
// take a whole page gets smaller ones, so that less of it is read twice.
const (
	historyPage = 200
	minPage     = 8
)

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
	ring  *ring // when it was asked for
	after event.Position
	limit int
	recs  []event.Record
	whole bool
	err   error
}

// ends reports whether the log has nothing after the page.
func (p *page) ends() bool { return len(p.recs) < p.limit }

func newReader() reader { return reader{wanted: map[event.Position][]*subscriber{}} }

// want asks for the page after the position of s.
func (sh *shard) want(s *subscriber) {
	b := s.behind
	b.reading = true
	if b.page == 0 {
		b.page = historyPage
	}
	if _, ok := sh.reader.wanted[b.pos]; !ok {
		sh.reader.queue = append(sh.reader.queue, b.pos)
	}
	sh.reader.wanted[b.pos] = append(sh.reader.wanted[b.pos], s)
}

// expects reports whether s still waits for the page after pos.
func (s *subscriber) expects(pos event.Position) bool {
	return !s.closed && s.behind != nil && s.behind.reading && s.behind.pos == pos
}

// read begins the next read of the log that somebody waits for, one at a time.
func (sh *shard) read() {
	for !sh.reader.busy && len(sh.reader.queue) > 0 {
		after := sh.reader.queue[0]
		sh.reader.queue = sh.reader.queue[1:]
		limit := 0
		for _, s := range sh.reader.wanted[after] {
			if s.expects(after) {
				limit = max(limit, s.behind.page)
			}
		}
		if limit == 0 {
			delete(sh.reader.wanted, after)
			continue
		}
		sh.reader.busy = true
		asked := sh.ring
		sh.hub.ask(after, limit, func(p page) {
			p.ring = asked
			sh.post(func(in *inbox) { in.pages = append(in.pages, p) })
		})
	}
}

// ask reads a page of the log and hands it to done, in another goroutine.
func (h *Hub) ask(after event.Position, limit int, done func(page)) {
	if h.history == nil {
		done(page{after: after, limit: limit})
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), historyTimeout)
		defer cancel()
		recs, whole, err := h.history(ctx, after, limit)
		done(page{after: after, limit: limit, recs: recs, whole: whole, err: err})
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
		if !s.expects(p.after) {
			continue
		}
		s.behind.reading = false
		if p.ring.life == sh.ring.life {
			sh.catchUp(s, p, frames)
		} else { // of a life that is over: ask again
			sh.later(s)
		}
	}
}

// catchUp writes a page of the log to s, which stands before it.
func (sh *shard) catchUp(s *subscriber, p page, frames []*frame) {
	b := s.behind
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
			if !s.closed { // what is left of the page is read again
				taken := readUpTo(p.recs, b.pos)
				b.missed -= len(p.recs) - taken
				b.page = max(2*taken, minPage)
			}
			return
		}
		wanted = left
	}
	b.page = min(2*p.limit, historyPage)
	if b.pos.Compare(p.ring.from) < 0 && p.ends() {
		b.reset, b.due = HistoryLost, sh.now // the log ends before the ring begins
	}
	sh.later(s) // others first
}

// readUpTo returns how many of recs are at most at pos.
func readUpTo(recs []event.Record, pos event.Position) int {
	return sort.Search(len(recs), func(i int) bool { return recs[i].Position.Compare(pos) > 0 })
}
