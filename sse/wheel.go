package sse

import (
	"slices"
	"time"
)

// wheel is a timing wheel: who must be looked at, by the tick when (Varghese
// and Lauck, "Hashed and Hierarchical Timing Wheels", 1987, with one wheel
// whose turn is longer than most waits; a longer wait is looked at once a turn).
type wheel struct {
	tick  time.Duration
	slots [wheelSize][]*subscriber
	spare []*subscriber // emptied, for the next slot that is used
	now   int64         // tick up to which all was looked at
	size  int           // entries, stale ones too
}

const wheelSize = 512

// add makes the wheel fire s at the tick of when, or sooner if that was asked for before.
func (w *wheel) add(s *subscriber, when time.Duration) {
	at := int64((when + w.tick - 1) / w.tick)
	at = min(max(at, w.now+1), w.now+wheelSize-1)
	if s.alarm != 0 && s.alarm <= at {
		return
	}
	s.alarm = at // an entry at a later tick is stale now
	slot := &w.slots[at%wheelSize]
	if *slot == nil {
		*slot, w.spare = w.spare, nil
	}
	*slot = append(*slot, s)
	w.size++
}

// advance fires everybody whose tick is not after now.
func (w *wheel) advance(now time.Duration, fire func(*subscriber)) {
	to := int64(now / w.tick)
	if w.size == 0 {
		w.now = max(w.now, to)
		return
	}
	if to-w.now > wheelSize {
		w.now = to - wheelSize // each slot once
	}
	for w.now < to {
		w.now++
		slot := &w.slots[w.now%wheelSize]
		due := *slot
		*slot = nil // fire may add to it, for the next turn
		w.size -= len(due)
		for _, s := range due {
			if s.alarm != 0 && s.alarm <= w.now {
				s.alarm = 0
				fire(s)
			}
		}
		if due != nil {
			clear(due)
			w.spare = due[:0]
		}
	}
}

// sweep drops who is gone.
func (w *wheel) sweep(gone func(*subscriber) bool) {
	for i, slot := range w.slots {
		w.slots[i] = slices.DeleteFunc(slot, gone)
		w.size -= len(slot) - len(w.slots[i])
	}
}

// next returns how long after now somebody has to be looked at, and false when
// there is nobody.
func (w *wheel) next(now time.Duration) (time.Duration, bool) {
	if w.size == 0 {
		return 0, false
	}
	for at := w.now + 1; at < w.now+wheelSize; at++ {
		if len(w.slots[at%wheelSize]) > 0 {
			return max(time.Duration(at)*w.tick-now, 0), true
		}
	}
	return time.Duration(wheelSize) * w.tick, true
}
