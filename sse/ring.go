package sse

import (
	"sort"
	"time"

	"github.com/freshwire/freshwire/event"
)

// ring is what a hub remembers of the log at one moment. It never changes:
// shards read it without a lock, and the hub puts a new one in its place.
type ring struct {
	frames []*frame       // oldest first; a stored element never changes
	bytes  int            // of the frames' wire
	from   event.Position // everything after it is in frames
	head   event.Position // newest position of the log, whether a frame or not

	life   int    // how often the hub was reset; who belongs to another life must be told
	reason string // of the last reset
}

// after returns the frames after pos, which is not before r.from.
func (r *ring) after(pos event.Position) []*frame {
	return r.frames[sort.Search(len(r.frames), func(i int) bool { return r.frames[i].pos.Compare(pos) > 0 }):]
}

// with returns r and recs, within the bounds of cfg.
func (r ring) with(added []*frame, head event.Position, cfg *Config, now time.Time) *ring {
	r.frames = append(r.frames, added...) // readers of the ring before see less of the same array
	for _, f := range added {
		r.bytes += len(f.wire)
	}
	r.head = head
	n := 0
	for n < len(r.frames)-1 && (len(r.frames)-n > cfg.RingLen || r.bytes > cfg.RingBytes || now.Sub(r.frames[n].at) > cfg.RingAge) {
		r.bytes -= len(r.frames[n].wire)
		r.from = r.frames[n].pos
		n++
	}
	r.frames = r.frames[n:] // append moves the rest to a new array in time
	return &r
}
