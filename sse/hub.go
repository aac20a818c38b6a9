// Package sse streams changes to browsers as server-sent events.
//
// A Hub keeps the last changes as encoded frames in one ring, and one cursor
// for each subscriber. Broadcast never blocks and never writes: it puts a
// longer ring in the place of the old one and wakes the shards. Each shard has
// a part of the subscribers and one goroutine: it matches a change once with
// the sets of channels that they listen to, and writes it to those who keep
// up. Who does not is served from its own cursor, when its socket has room
// again: what it missed is in the ring or, before that, in the log. A stream
// that begins at a client's position is one that fell behind, too. So live,
// replay and catching up meet in one place, and there is no gap and no repeat
// between them.
//
//	hub := sse.NewHub(logger, cfg)
//	go changes.Tail(ctx, hub)
//	router.Handle("/api/events", sse.NewHandler(hub, changes.Range, logger, cfg))
//
// A connection of HTTP/1.1 is taken over from net/http once it is checked: an
// idle one then holds neither goroutine nor buffer, and is watched with epoll.
// Others (HTTP/2; with Config.Mode plain all) keep the ordinary handler's
// goroutine, to which the shard hands what is to be written. What is written,
// and when, is decided in one place for all of them.
//
// What a stream carries, in this order:
//
//   - retry: 2000, at once.
//   - event: ready, whose id is the position that the stream goes on from. For a
//     reconnect that is the position the client came with, so a cut right after
//     it repeats nothing less: what was missed follows.
//   - or event: reset and then event: ready, both with the new position, when
//     the missed changes are not known to be whole. The reset comes first and
//     is what moves the client's position: were it the other way round, a cut
//     between the two would leave a client at the new position that was never
//     told to refetch. A reset may also come later, for the same reasons.
//   - changes without a name, each with its position as id; event: ping without
//     an id on a quiet stream; event: goaway before a close that we want.
//
// All subscribers see the changes of their channels in the same order. One
// that fell behind the ring is served from the log in pages, at its own speed;
// more than Config.MergeOver missed changes become one; past Config.MaxReplay,
// or when the log does not reach back, it is told to reset. Never silence.
package sse

import (
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Hub is the ring and its subscribers.
type Hub struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	began   time.Time
	history History // set by NewHandler
	shards  []*shard
	turn    atomic.Uint32 // of the shard that gets the next subscriber
	empty   chan struct{} // holds one: the last subscriber left

	ring     atomic.Pointer[ring] // nil before the first Reset or Broadcast
	draining atomic.Bool

	mu       sync.Mutex
	open     int
	addrs    map[string]int // client address → streams, where these are bounded
	sessions map[string]int // session → streams
	names    map[string]int // channel → views of all shards
}

// NewHub returns an empty Hub. It has no position, and its streams wait, until the first Reset.
func NewHub(log *slog.Logger, cfg Config) *Hub {
	h := &Hub{cfg: cfg.withDefaults(), log: log, began: time.Now(), empty: make(chan struct{}, 1),
		addrs: map[string]int{}, sessions: map[string]int{}, names: map[string]int{}}
	for range min(runtime.GOMAXPROCS(0), maxShards) {
		h.shards = append(h.shards, newShard(h))
	}
	h.metrics = newMetrics(cfg.Metrics, h)
	return h
}

const maxShards = 64

// now is the time that shards go by, since the hub began.
func (h *Hub) now() time.Duration { return time.Since(h.began) }

// Broadcast adds records, oldest first, and wakes who writes them. One
// goroutine calls it, the same that calls Reset.
func (h *Hub) Broadcast(recs []event.Record) {
	if len(recs) == 0 {
		return
	}
	now := time.Now()
	added := make([]*frame, 0, len(recs))
	for _, r := range recs {
		if r.EndsSession != "" {
			h.EndSession(r.EndsSession)
			continue
		}
		added = append(added, newFrame(r, now))
	}
	h.metrics.frames.Add(uint64(len(added)))
	var before ring
	if r := h.ring.Load(); r != nil {
		before = *r
	}
	h.ring.Store(before.with(added, recs[len(recs)-1].Position, &h.cfg, now))
	h.wake()
}

// Reset empties the ring and tells every subscriber to refetch, spread over
// Config.ResetSpread: what follows comes after position at.
func (h *Hub) Reset(reason string, at event.Position) {
	next := &ring{from: at, head: at, reason: reason}
	if r := h.ring.Load(); r != nil {
		next.life = r.life + 1
	}
	h.ring.Store(next)
	h.wake()
}

func (h *Hub) wake() {
	for _, sh := range h.shards {
		sh.signal()
	}
}

// maxLive is how many messages without a position may wait in a shard.
const maxLive = 1024

// Live sends data to who listens to channel now: without an id, and without
// replay to those who are away or behind.
func (h *Hub) Live(channel string, data []byte) {
	f := newLiveFrame(channel, data, time.Now())
	for _, sh := range h.shards {
		sh.post(func(in *inbox) {
			if len(in.live) < maxLive {
				in.live = append(in.live, f)
			} else {
				h.metrics.dropped.Add(1)
			}
		})
	}
}

// EndSession closes the streams of a session, which are told so.
func (h *Hub) EndSession(session string) {
	h.mu.Lock()
	n := h.sessions[session]
	h.mu.Unlock()
	if n == 0 {
		return
	}
	for _, sh := range h.shards {
		sh.post(func(in *inbox) { in.sessions = append(in.sessions, session) })
	}
}

// drain asks every subscriber to go away, and who comes later, too.
func (h *Hub) drain() {
	h.draining.Store(true)
	h.wake()
}

// Pauses that clients are asked for: different ones, so that they do not come
// back all at once.
func (h *Hub) drainRetry() time.Duration {
	return 500*time.Millisecond + rand.N(max(h.cfg.DrainSpread, 1))
}
func (h *Hub) resetDelay() time.Duration { return rand.N(max(h.cfg.ResetSpread, 1)) }
func unavailableRetry() time.Duration    { return 2*time.Second + rand.N(5*time.Second) }
func overloadRetry() time.Duration       { return 15*time.Second + rand.N(30*time.Second) }

// admit counts a subscriber, unless there are too many already.
func (h *Hub) admit(s *subscriber) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open >= h.cfg.MaxSubscribers ||
		s.addr != "" && h.addrs[s.addr] >= h.cfg.MaxPerAddress ||
		s.session != "" && h.sessions[s.session] >= h.cfg.MaxPerSession {
		return false
	}
	h.open++
	addTo(h.addrs, s.addr, 1)
	addTo(h.sessions, s.session, 1)
	return true
}

// release is the other half of admit.
func (h *Hub) release(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
	addTo(h.addrs, s.addr, -1)
	addTo(h.sessions, s.session, -1)
	if h.open == 0 {
		select {
		case h.empty <- struct{}{}:
		default:
		}
	}
}

// listened notes that a view with these channels came, or went.
func (h *Hub) listened(names []string, by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range names {
		addTo(h.names, name, by)
	}
}

// addTo adds by to a count, which is forgotten when it is zero. An empty key
// is not counted.
func addTo(counts map[string]int, key string, by int) {
	if key == "" {
		return
	}
	if counts[key] += by; counts[key] == 0 {
		delete(counts, key)
	}
}

// shard returns the one that gets the next subscriber.
func (h *Hub) shard() *shard { return h.shards[h.turn.Add(1)%uint32(len(h.shards))] }

// Subscribers returns how many streams are open.
func (h *Hub) Subscribers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// Channels returns how many channels somebody listens to by name.
func (h *Hub) Channels() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.names)
}

// Position returns the newest position, zero before the first.
func (h *Hub) Position() event.Position {
	if r := h.ring.Load(); r != nil {
		return r.head
	}
	return event.Position{}
}

// Stats are what a hub counts. The counters begin with the process.
type Stats struct {
	Subscribers, Channels, Blocked                               int
	Deliveries, Bytes, Merged, Stalled, Replays, Resets, Goaways uint64
	Position                                                     event.Position
}

// Stats returns the counts of now.
func (h *Hub) Stats() Stats {
	m := h.metrics
	return Stats{Subscribers: h.Subscribers(), Channels: h.Channels(), Blocked: int(m.blocked.Load()),
		Deliveries: m.deliveries.Load(), Bytes: m.bytes.Load(), Merged: m.merged.Load(), Stalled: m.stalled.Load(),
		Replays: m.replays.Load(), Resets: m.resetAll.Load(), Goaways: m.goneAway.Load(), Position: h.Position()}
}

// Delivery tells how many more streams a change was written to.
type Delivery struct {
	Position event.Position
	IDs      []string // of the events that the change stands for
	Streams  int
}

// Delivered returns what was delivered since the last call, of changes that
// the ring still holds. One goroutine calls it. Merged changes and an
// application's own news are not counted.
func (h *Hub) Delivered() []Delivery {
	r := h.ring.Load()
	if r == nil {
		return nil
	}
	var all []Delivery
	for _, f := range r.frames {
		n := f.streams.Load()
		if n == f.reported {
			continue
		}
		if c, ok := f.change(); ok {
			ids := c.IDs
			if len(ids) == 0 {
				ids = []string{c.ID}
			}
			all = append(all, Delivery{Position: f.pos, IDs: ids, Streams: int(n - f.reported)})
		}
		f.reported = n
	}
	return all
}
