package sse

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Why a subscriber is told to refetch.
const (
	reasonHistoryLost = "history_lost"
	reasonBadPosition = "bad_position"
)

// historyPage is how many records are read from the log at a time. A reader
// that blocks holds no more than this.
const historyPage = 200

// stream is one connection.
type stream struct {
	h   *Handler
	w   http.ResponseWriter
	rc  *http.ResponseController
	sub *subscriber

	opened  bool      // ready was sent
	written time.Time // of the last write
	missed  int       // records read from the log since the ring last served us
}

// scratch is what one pass over a stream needs; shared between streams, so
// that an idle one holds nothing.
type scratch struct {
	frames []*frame
	out    []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (sc *scratch) free() {
	clear(sc.frames) // a pooled buffer must not keep old frames alive
	sc.frames = sc.frames[:0]
	if cap(sc.out) <= 4*maxBatch && cap(sc.frames) <= 4096 {
		scratches.Put(sc)
	}
}

// prepare takes the deadlines of the server off this connection.
func (st *stream) prepare() error {
	if err := st.rc.SetWriteDeadline(time.Time{}); err != nil {
		return fmt.Errorf("write deadline: %w", err)
	}
	if err := st.rc.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("read deadline: %w", err)
	}
	return nil
}

// write sends b and flushes it. A socket that stays blocked is an error.
func (st *stream) write(b []byte) error {
	start := time.Now()
	err := st.rc.SetWriteDeadline(start.Add(st.h.cfg.WriteTimeout))
	if err == nil {
		_, err = st.w.Write(b)
	}
	if err == nil {
		err = st.rc.Flush()
	}
	if err != nil {
		// The deadline stays, so that ending the response does not block again.
		if time.Since(start) >= st.h.cfg.WriteTimeout {
			st.h.hub.metrics.stalled.Inc()
		}
		return err
	}
	st.written = time.Now()
	st.h.hub.metrics.bytes.Add(float64(len(b)))
	// HTTP/2 resets a stream whose deadline passes, even if nothing is written then.
	return st.rc.SetWriteDeadline(time.Time{})
}

// waitForHub waits until the hub has its first position: a stream that began
// before could not tell where.
func (st *stream) waitForHub(ctx context.Context) bool {
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-st.h.hub.ready:
		return true
	case <-timeout.C:
		st.goaway("unavailable", 2*time.Second+rand.N(5*time.Second))
	case <-st.h.draining:
		st.goaway("drain", st.h.drainRetry())
	case <-ctx.Done():
	}
	return false
}

// goaway says that we close, and when to come back.
func (st *stream) goaway(reason string, retry time.Duration) {
	st.h.hub.metrics.goaways.WithLabelValues(reason).Inc()
	_ = st.write(appendGoaway(nil, reason, retry)) // it goes either way
}

// always wakes: there is more to write.
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// run is the life of the stream: write all there is, then wait for more.
func (st *stream) run(ctx context.Context) {
	cfg := st.h.cfg
	age := time.Duration(float64(cfg.MaxStreamAge) * (0.8 + 0.4*rand.Float64()))
	end := time.Now().Add(age)
	timer := time.NewTimer(cfg.Heartbeat)
	defer timer.Stop()
	for {
		hold, more, err := st.step(ctx)
		now := time.Now()
		switch {
		case err != nil:
			return
		case !now.Before(end):
			st.goaway("age", 100*time.Millisecond+rand.N(2*time.Second))
			return
		case st.opened && now.Sub(st.written) >= cfg.Heartbeat:
			if st.write(pingEvent) != nil {
				return
			}
		}
		wait := end.Sub(now)
		if st.opened { // before, there is no ping to wait for
			wait = min(wait, cfg.Heartbeat-time.Since(st.written))
		}
		if hold > 0 {
			wait = min(wait, hold)
		}
		timer.Reset(wait)
		wake := st.sub.wake
		if more {
			wake = always
		}
		select {
		case <-wake: // the log grew past our cursor
		case <-timer.C:
		case <-st.h.draining:
			st.goaway("drain", st.h.drainRetry())
			return
		case <-ctx.Done():
			return
		}
	}
}

// step writes what the cursor has before it, in one write. more means that
// there may be more at once; hold, that there is, but not before that long.
func (st *stream) step(ctx context.Context) (hold time.Duration, more bool, err error) {
	hub := st.h.hub
	sc := scratches.Get().(*scratch)
	defer sc.free()
	b := hub.take(st.sub, sc.frames)
	if b.frames != nil {
		sc.frames = b.frames
	}
	out := sc.out[:0]
	switch {
	case b.hold > 0:
		return b.hold, false, nil

	case b.reset != "":
		hub.metrics.resets.WithLabelValues(b.reset).Inc()
		st.missed = 0
		out = appendReset(out, b.reset, b.at)
		out = st.open(out, b.at)
		more = true

	case b.behind:
		return 0, true, st.catchUp(ctx, b)

	case len(b.frames) == 0:
		if st.opened {
			return 0, false, nil
		}
		out = st.open(out, b.at)

	case len(b.frames) == 1 && st.opened: // the usual case: the shared bytes themselves
		if err := st.write(b.frames[0].wire); err != nil {
			return 0, false, err
		}
		st.delivered(b.frames)
		return 0, b.more, nil

	case b.merge:
		opened, ok := st.opened, false
		if out, ok = appendMerged(st.open(out, b.at), b.frames, st.sub); !ok {
			st.opened = opened // nothing was written
			hub.mustReset(st.sub, reasonHistoryLost)
			return 0, true, nil
		}
		hub.metrics.merged.Inc()
		more = true

	default:
		out = st.open(out, b.at)
		for _, f := range b.frames {
			out = append(out, f.wire...)
		}
		more = true
	}
	sc.out = out
	if err := st.write(out); err != nil {
		return 0, false, err
	}
	st.missed = 0
	st.delivered(b.frames)
	return 0, more, nil
}

// open puts ready before what a stream sends first: it goes on after position at.
func (st *stream) open(out []byte, at event.Position) []byte {
	if st.opened {
		return out
	}
	st.opened = true
	return appendReady(out, at)
}

func (st *stream) delivered(frames []*frame) {
	if len(frames) > 0 {
		st.h.hub.metrics.deliveries.Add(float64(len(frames)))
		st.h.hub.metrics.lag.Observe(time.Since(frames[0].at).Seconds())
	}
}

// catchUp writes one page of the log after the cursor, where the ring does not
// reach back to it, or not yet forward.
func (st *stream) catchUp(ctx context.Context, b batch) error {
	hub := st.h.hub
	recs, whole, err := st.page(ctx, b.at)
	if err != nil {
		if ctx.Err() == nil {
			st.h.log.WarnContext(ctx, "history not read", "position", b.at.String(), "err", err)
			st.goaway("unavailable", 2*time.Second+rand.N(5*time.Second))
		}
		return err
	}
	if st.missed += len(recs); !whole || st.missed > st.h.cfg.MaxReplay {
		reason := reasonHistoryLost
		if !whole && b.at.Compare(b.head) > 0 {
			reason = reasonBadPosition
		}
		hub.mustReset(st.sub, reason)
		return nil
	}
	var out []byte
	out = st.open(out, b.at)
	at, n, now := b.at, 0, time.Now()
	for _, r := range recs {
		at = r.Position
		if f := newFrame(r, now); f.wants(st.sub.channels, st.sub.all) {
			out = append(out, f.wire...)
			n++
		}
	}
	if len(out) > 0 {
		if err := st.write(out); err != nil {
			return err
		}
		hub.metrics.deliveries.Add(float64(n))
	}
	if ringReaches := hub.advance(st.sub, at); !ringReaches && len(recs) < historyPage {
		hub.mustReset(st.sub, reasonHistoryLost) // the log ends before the ring begins
	}
	return nil
}

func (st *stream) page(ctx context.Context, after event.Position) (recs []event.Record, whole bool, err error) {
	if st.h.history == nil {
		return nil, false, nil
	}
	select {
	case st.h.readers <- struct{}{}:
		defer func() { <-st.h.readers }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	return st.h.history(ctx, after, historyPage)
}
