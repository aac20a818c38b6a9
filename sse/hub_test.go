package sse

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"pgregory.net/rapid"
)

var now0 = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func at(ms uint64) event.Position { return event.Position{Ms: ms} }

func record(ms uint64, data string, channels ...string) event.Record {
	return event.Record{Position: at(ms), Channels: channels, Data: []byte(data)}
}

// change returns a record of a change whose event id tells its position.
func change(ms uint64, channels ...string) event.Record {
	data, _ := json.Marshal(event.Change{ID: fmt.Sprint("e", ms), Seq: ms, Event: "post.update", Source: "blog", Type: "post", Action: event.Update,
		Entity: fmt.Sprint(ms), Tags: []string{"posts", fmt.Sprint("post:", ms)}, Paths: []string{fmt.Sprint("/", ms)}, Channels: channels, At: now0})
	return event.Record{Position: at(ms), Channels: channels, Data: data}
}

// list is the naive log that hub and streams are held against.
type list struct {
	mu      sync.Mutex
	recs    []event.Record
	trimmed event.Position // all up to it is gone from history
}

func (l *list) add(recs ...event.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recs = append(l.recs, recs...)
}

func (l *list) history(_ context.Context, after event.Position, limit int) ([]event.Record, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after.Compare(l.trimmed) < 0 || len(l.recs) > 0 && after.Compare(l.recs[len(l.recs)-1].Position) > 0 {
		return nil, false, nil
	}
	recs := l.after(after)
	return recs[:min(limit, len(recs))], true, nil
}

func (l *list) after(pos event.Position) []event.Record {
	i := slices.IndexFunc(l.recs, func(r event.Record) bool { return r.Position.Compare(pos) > 0 })
	if i < 0 {
		return nil
	}
	return l.recs[i:]
}

// checkPromise holds what one client received, over all its connections,
// against the log: between two resets it was told of every change of its
// channels, once a connection at most, in order.
func (l *list) checkPromise(messages []Message, channels ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var pos event.Position
	begun := false
	for i, m := range messages {
		switch m.Name {
		case "ping", "goaway":
			continue
		}
		p, err := event.ParsePosition(m.ID)
		if err != nil {
			return fmt.Errorf("message %d: id %q", i, m.ID)
		}
		switch m.Name {
		case "reset":
			pos, begun = p, true
			continue
		case "ready":
			if begun && p != pos {
				return fmt.Errorf("message %d: ready at %v, the client stood at %v", i, p, pos)
			}
			pos, begun = p, true
			continue
		}
		var c event.Change
		if err := json.Unmarshal([]byte(m.Data), &c); err != nil {
			return fmt.Errorf("message %d: %v", i, err)
		}
		ids := c.IDs
		if len(ids) == 0 {
			ids = []string{c.ID}
		}
		want := l.ids(pos, p, channels)
		if !slices.Equal(ids, want) {
			return fmt.Errorf("message %d: told of %v after %v, want %v", i, ids, pos, want)
		}
		pos = p
	}
	if !begun {
		return fmt.Errorf("no ready, no reset in %d messages", len(messages))
	}
	if missed := l.ids(pos, event.Position{Ms: 1 << 62}, channels); len(missed) > 0 {
		return fmt.Errorf("never told of %d changes after %v, first %v", len(missed), pos, missed[0])
	}
	return nil
}

func (l *list) ids(after, upTo event.Position, channels []string) []string {
	var ids []string
	for _, r := range l.after(after) {
		if r.Position.Compare(upTo) > 0 {
			break
		}
		if slices.ContainsFunc(r.Channels, func(ch string) bool { return slices.Contains(channels, ch) }) {
			ids = append(ids, fmt.Sprint("e", r.Position.Ms))
		}
	}
	return ids
}

// memory is a connection that keeps what is written.
type memory struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	header  http.Header
	fail    error
	onWrite func()
}

func (m *memory) Header() http.Header { return m.header }
func (m *memory) WriteHeader(int)     {}
func (m *memory) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	if m.onWrite != nil {
		m.onWrite()
	}
	return m.buf.Write(b)
}
func (m *memory) FlushError() error                { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) messages(t testing.TB) []Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	got, _, _ := specParse(m.buf.String())
	return got
}

// wire is a socket with as much room as the test gives it.
type wire struct {
	room int // bytes that it takes; less than zero: any
	buf  bytes.Buffer
	over bool
}

func (w *wire) watch(*shard, *subscriber) error { return nil }
func (w *wire) ready()                          {}
func (w *wire) unsent() int                     { return 0 }
func (w *wire) end(b []byte)                    { w.write(b); w.over = true }
func (w *wire) write(b []byte) (int, error) {
	if w.room >= 0 {
		b = b[:min(len(b), w.room)]
		w.room -= len(b)
	}
	return w.buf.Write(b)
}

// client is a subscriber whose shard the test steps by hand, over several connections.
type client struct {
	h        *Handler
	sh       *shard
	channels []string
	sub      *subscriber
	conn     *wire
	got      []Message
}

func newClient(h *Handler, channels ...string) *client {
	h.hub.shards = h.hub.shards[:1]
	h.hub.shards[0].running = true // by the test
	return &client{h: h, sh: h.hub.shards[0], channels: channels}
}

// connect opens a stream where the client stands.
func (c *client) connect() {
	c.conn = &wire{room: -1}
	c.sub = &subscriber{key: viewOf(slices.Clone(c.channels), false), sock: c.conn, behind: &backlog{fresh: true}}
	for _, m := range slices.Backward(c.got) {
		if m.ID != "" {
			c.sub.behind.pos, _ = event.ParsePosition(m.ID)
			c.sub.behind.fresh = false
			break
		}
	}
	if !c.h.hub.admit(c.sub) {
		panic("too many clients")
	}
	c.sh.accept(c.sub)
}

// cut ends the connection after n of the bytes that were written.
func (c *client) cut(n int) {
	if c.sub == nil {
		return
	}
	c.tell(hungUp)
	settle(c.sh)
	c.conn.buf.Truncate(min(n, c.conn.buf.Len()))
	got, _, _ := specParse(c.conn.buf.String())
	c.got = append(c.got, got...)
	c.sub, c.conn = nil, nil
}

func (c *client) tell(what happening) {
	c.sh.post(func(in *inbox) { in.signals = append(in.signals, signal{sub: c.sub, what: what}) })
}

// give makes room for n more bytes, or any number when n is less than zero.
func (c *client) give(n int) {
	c.conn.room = n
	c.tell(writable)
}

// drain lets the shard write all that there is for this client.
func (c *client) drain(t testing.TB) {
	c.give(-1)
	for range 100_000 {
		settle(c.sh)
		if c.sub.closed || c.sub.behind == nil && len(c.sh.in.joins) == 0 {
			return
		}
	}
	t.Fatal("the stream never comes to rest")
}

// settle is a pass, and another one once the log has answered.
func settle(sh *shard) {
	sh.pass()
	for sh.reader.busy {
		<-sh.wake
		sh.pass()
	}
}

func testHandler(t testing.TB, l *list, cfg Config) *Handler {
	if cfg.ResetSpread == 0 {
		cfg.ResetSpread = 1
	}
	hub := NewHub(testkit.Logger(t), cfg)
	hub.Reset("history_lost", at(0))
	h := NewHandler(hub, nil, testkit.Logger(t), cfg)
	if l != nil {
		hub.history = l.history
	}
	return h
}

// model runs random broadcasts, steps, cuts and resets against the naive list.
// sabotage is called before each step, to break the hub on purpose.
func model(t *rapid.T, tb testing.TB, sabotage func(*Handler, []*client)) error {
	l := &list{}
	cfg := Config{RingLen: rapid.IntRange(1, 8).Draw(t, "ring"), MergeOver: rapid.IntRange(1, 6).Draw(t, "merge"), MaxReplay: rapid.IntRange(5, 500).Draw(t, "replay")}
	h := testHandler(tb, l, cfg)
	names := []string{"a", "b", "c"}
	clients := []*client{newClient(h, "a"), newClient(h, "b", "c"), newClient(h, "a", "b", "c"), newClient(h, "quiet")}
	var newest uint64 = 1
	one := func() *client { return clients[rapid.IntRange(0, len(clients)-1).Draw(t, "client")] }
	t.Repeat(map[string]func(*rapid.T){
		"broadcast": func(t *rapid.T) {
			var recs []event.Record
			for range rapid.IntRange(1, 12).Draw(t, "records") {
				newest += uint64(rapid.IntRange(1, 3).Draw(t, "gap"))
				recs = append(recs, change(newest, rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID).Draw(t, "channels")...))
			}
			l.add(recs...)
			h.hub.Broadcast(recs)
		},
		"connect": func(t *rapid.T) {
			if c := one(); c.sub == nil {
				c.connect()
			}
		},
		"pass": func(t *rapid.T) {
			sabotage(h, clients)
			settle(clients[0].sh)
		},
		"room": func(t *rapid.T) {
			if c := one(); c.sub != nil {
				c.give(rapid.SampledFrom([]int{-1, 0, 1, 20, 100, 400}).Draw(t, "bytes"))
			}
		},
		"cut": func(t *rapid.T) {
			if c := one(); c.sub != nil {
				c.cut(rapid.IntRange(0, c.conn.buf.Len()).Draw(t, "after"))
			}
		},
		"trim": func(t *rapid.T) {
			if rapid.IntRange(0, 4).Draw(t, "trim?") == 0 && len(l.recs) > 0 {
				l.trimmed = l.recs[rapid.IntRange(0, len(l.recs)-1).Draw(t, "upTo")].Position
			}
		},
		"reset": func(t *rapid.T) {
			if rapid.IntRange(0, 9).Draw(t, "reset?") == 0 {
				newest++
				l.trimmed = at(newest)
				h.hub.Reset("store_changed", at(newest))
			}
		},
		"": func(*rapid.T) {},
	})
	for _, c := range clients {
		if c.sub == nil {
			c.connect()
		}
		sabotage(h, clients)
		c.drain(tb)
		c.cut(1 << 30)
		if err := l.checkPromise(c.got, c.channels...); err != nil {
			return fmt.Errorf("client of %v: %w", c.channels, err)
		}
	}
	if n := h.hub.Subscribers(); n != 0 || h.hub.Channels() != 0 || len(h.hub.addrs) != 0 {
		return fmt.Errorf("%d subscribers, %d channels left behind", n, h.hub.Channels())
	}
	return nil
}

func TestHubTellsEverySubscriberOfEveryChangeOrToReset(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if err := model(rt, t, func(*Handler, []*client) {}); err != nil {
			rt.Fatal(err)
		}
	})
}

// The checker itself: a hub or a history that is broken on purpose must be caught.
func TestCheckerCatchesBrokenHubs(t *testing.T) {
	var broken *Handler
	each := func(clients []*client, do func(*client, *subscriber, *backlog)) {
		for _, c := range clients {
			if c.sub != nil && c.sub.view != nil && c.sub.behind != nil {
				do(c, c.sub, c.sub.behind)
			}
		}
	}
	for name, sabotage := range map[string]func(*Handler, []*client){
		"drops what a slow reader missed": func(h *Handler, clients []*client) {
			each(clients, func(c *client, s *subscriber, b *backlog) {
				if s.opened && len(b.rest) == 0 {
					b.pos = h.hub.Position()
				}
			})
		},
		"ignores trimming": func(h *Handler, clients []*client) {
			if broken == h {
				return
			}
			broken = h
			honest := h.hub.history
			h.hub.history = func(ctx context.Context, after event.Position, limit int) ([]event.Record, bool, error) {
				recs, whole, err := honest(ctx, after, limit)
				for n := 0; !whole && n < 3000; n++ {
					after.Ms++
					recs, whole, err = honest(ctx, after, limit)
				}
				return recs, whole, err
			}
		},
		"writes one frame twice": func(h *Handler, clients []*client) {
			each(clients, func(c *client, s *subscriber, b *backlog) {
				if b.pos.Ms > 2 && s.opened {
					b.pos.Ms -= 2
				}
			})
		},
		"forgets the rest of a frame": func(h *Handler, clients []*client) {
			each(clients, func(c *client, s *subscriber, b *backlog) { b.rest = nil })
		},
		"begins at the head whatever the client had": func(h *Handler, clients []*client) {
			for _, c := range clients {
				if c.sub != nil && c.sub.view == nil {
					c.sub.behind.fresh = true
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			caught := false
			for seed := range 400 {
				rapid.Custom(func(rt *rapid.T) int {
					if err := model(rt, t, sabotage); err != nil {
						caught = true
					}
					return 0
				}).Example(seed)
				if caught {
					return
				}
			}
			t.Error("400 runs of a broken hub passed the check")
		})
	}
}

func TestSlowSubscriberGetsWhatItMissedAsOneChange(t *testing.T) {
	l := &list{}
	h := testHandler(t, l, Config{MergeOver: 5})
	slow, quick := newClient(h, "posts", "post:3"), newClient(h, "posts")
	slow.connect()
	quick.connect()
	slow.drain(t)
	quick.drain(t)
	slow.give(0)
	for ms := uint64(1); ms <= 20; ms++ {
		r := change(ms, "posts", fmt.Sprint("post:", ms))
		l.add(r)
		h.hub.Broadcast([]event.Record{r})
		quick.drain(t)
	}
	slow.drain(t)
	slow.cut(1 << 30)
	quick.cut(1 << 30)
	for _, c := range []*client{slow, quick} {
		if err := l.checkPromise(c.got, "posts"); err != nil {
			t.Error(err)
		}
	}
	if len(quick.got) != 21 {
		t.Errorf("the quick one got %d messages, want ready and 20 changes", len(quick.got))
	}
	if len(slow.got) != 2 {
		t.Fatalf("the slow one got %d messages, want ready and one change", len(slow.got))
	}
	var c event.Change
	if err := json.Unmarshal([]byte(slow.got[1].Data), &c); err != nil {
		t.Fatal(err)
	}
	if slow.got[1].ID != "20-0" || c.ID != "e20" || c.Seq != 20 || c.Event != "post.update" || c.Entity != "" || len(c.IDs) != 20 || len(c.Tags) != 21 || len(c.Paths) != 20 {
		t.Errorf("merged change = %+v", c)
	}
	if !slices.Equal(c.Channels, []string{"posts", "post:3"}) {
		t.Errorf("merged change names channels %v, want only those subscribed to", c.Channels)
	}
}

func TestChangeForEverybodyReachesEverybody(t *testing.T) {
	h := testHandler(t, nil, Config{})
	h.hub.Reset("", at(1))
	live, late := newClient(h, "posts"), newClient(h, "posts")
	live.connect()
	live.drain(t)
	h.hub.Broadcast([]event.Record{change(2, "pages"), change(3, "*"), change(4, "pages")})
	settle(live.sh)
	late.got = []Message{{ID: "1-0", Name: "ready"}}
	late.connect()
	late.drain(t)
	for name, c := range map[string]*client{"live": live, "replay": late} {
		c.cut(1 << 30)
		if last := c.got[len(c.got)-1]; last.ID != "3-0" || c.got[len(c.got)-2].Name != "ready" {
			t.Errorf("%s: a subscriber of posts gets %q, want ready and the change for everybody alone", name, c.got)
		}
	}
}

func TestMergedChangeOfDifferentTypesSaysSo(t *testing.T) {
	h := testHandler(t, nil, Config{MergeOver: 1})
	c := newClient(h, "a")
	c.connect()
	c.drain(t)
	page := strings.Replace(string(change(2, "a").Data), `"type":"post"`, `"type":"page"`, 1)
	page = strings.Replace(page, `"action":"update"`, `"action":"delete"`, 1)
	c.give(0)
	h.hub.Broadcast([]event.Record{change(1, "a"), record(2, page, "a")})
	settle(c.sh) // it falls behind
	c.drain(t)
	c.cut(1 << 30)
	var got event.Change
	if err := json.Unmarshal([]byte(c.got[1].Data), &got); err != nil {
		t.Fatal(err)
	}
	if got.Event != "*.invalidate" || got.Type != "*" || got.Action != event.Invalidate || got.Source != "blog" {
		t.Errorf("merged = %+v", got)
	}
}

func TestNewsOfAnApplicationIsNeverMerged(t *testing.T) {
	h := testHandler(t, nil, Config{MergeOver: 2})
	c := newClient(h, "a")
	c.connect()
	c.drain(t)
	c.give(0)
	h.hub.Broadcast([]event.Record{change(1, "a"), change(2, "a"), record(3, `{"id":"x","event":"order.paid","total":5}`, "a"), change(4, "a"), change(5, "a")})
	settle(c.sh) // it falls behind
	c.drain(t)
	c.cut(1 << 30)
	if len(c.got) != 4 || c.got[1].ID != "2-0" || c.got[2].Data != `{"id":"x","event":"order.paid","total":5}` || c.got[3].ID != "5-0" {
		t.Errorf("got %q, want ready, a merged change, the news, a merged change", c.got)
	}
}

func TestOneChangeBetweenNewsKeepsItsFields(t *testing.T) {
	h := testHandler(t, nil, Config{MergeOver: 2})
	c := newClient(h, "a")
	c.connect()
	c.drain(t)
	single := strings.Replace(string(change(2, "a", "b").Data), `"tags"`, `"fields":{"title":"New"},"tags"`, 1)
	c.give(0)
	h.hub.Broadcast([]event.Record{record(1, `{"id":"x"}`, "a"), record(2, single, "a", "b"), record(3, `{"id":"y"}`, "a")})
	if _, isChange := h.hub.ring.Load().frames[1].change(); !isChange {
		t.Fatalf("%s is no change", single)
	}
	settle(c.sh) // it falls behind
	c.drain(t)
	c.cut(1 << 30)
	if len(c.got) != 4 || c.got[2].ID != "2-0" || c.got[2].Data != single {
		t.Errorf("got %q, want the change between the news as it is: %s", c.got, single)
	}
}

func TestTooMuchToMergeIsAReset(t *testing.T) {
	l := &list{}
	h := testHandler(t, l, Config{MergeOver: 5})
	c := newClient(h, "a")
	c.got = []Message{{ID: "0-0", Name: "ready"}}
	for ms := uint64(1); ms <= maxMergedNames+2; ms++ {
		l.add(change(ms, "a"))
	}
	h.hub.Broadcast(l.recs)
	c.connect()
	c.drain(t)
	c.cut(1 << 30)
	c.got = c.got[1:]
	if len(c.got) != 2 || c.got[0].Name != "reset" || c.got[1].Name != "ready" || c.got[0].ID != c.got[1].ID {
		t.Errorf("got %.200q, want a reset and ready at one position", c.got)
	}
}

func TestResumeOfAPositionAheadWaitsForALaggingNode(t *testing.T) {
	l := &list{}
	h := testHandler(t, l, Config{})
	l.add(change(1, "a"), change(2, "a"), change(3, "a"))
	h.hub.Broadcast(l.recs[:1])
	c := newClient(h, "a")
	c.got = []Message{{ID: "2-0", Name: "ready"}} // another node had it
	c.connect()
	settle(c.sh) // the log has 3 already
	settle(c.sh)
	if c.sub.behind == nil || !c.sub.opened {
		t.Error("a position ahead of the ring does not wait for it")
	}
	h.hub.Broadcast(l.recs[1:])
	c.drain(t)
	l.add(change(4, "a"))
	h.hub.Broadcast(l.recs[3:])
	c.drain(t)
	c.cut(1 << 30)
	if err := l.checkPromise(c.got, "a"); err != nil {
		t.Error(err)
	}
	if len(c.got) != 4 || c.got[1].ID != "2-0" || c.got[2].ID != "3-0" || c.got[3].ID != "4-0" {
		t.Errorf("got %q, want ready at 2, then 3 and 4", c.got)
	}
}

func TestRingIsBoundedByCountBytesAndAge(t *testing.T) {
	hub := NewHub(testkit.Logger(t), Config{RingLen: 5, RingBytes: 1 << 20, RingAge: time.Hour})
	for ms := uint64(1); ms <= 50; ms++ {
		hub.Broadcast([]event.Record{change(ms, "a")})
	}
	if r := hub.ring.Load(); len(r.frames) != 5 || r.from != at(45) || r.head != at(50) {
		t.Errorf("ring of %d frames after %v to %v, want 5 after 45-0 to 50-0", len(r.frames), r.from, r.head)
	}
	hub.cfg.RingBytes = 2 * len(hub.ring.Load().frames[0].wire)
	hub.Broadcast([]event.Record{change(51, "a")})
	r := hub.ring.Load()
	if len(r.frames) != 2 {
		t.Errorf("ring of %d frames, want the 2 that fit", len(r.frames))
	}
	if r = r.with(nil, r.head, &hub.cfg, time.Now().Add(2*time.Hour)); len(r.frames) != 1 || r.bytes != len(r.frames[0].wire) {
		t.Errorf("ring of %d frames and %d bytes, want the newest only", len(r.frames), r.bytes)
	}
}
