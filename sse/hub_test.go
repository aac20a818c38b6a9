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

// client is a stream that the test steps by hand, over several connections.
type client struct {
	h        *Handler
	channels []string
	st       *stream
	conn     *memory
	got      []Message
}

func newClient(h *Handler, channels ...string) *client {
	return &client{h: h, channels: channels}
}

// connect opens a stream where the client stands.
func (c *client) connect() {
	c.conn = &memory{header: http.Header{}}
	c.st = &stream{h: c.h, w: c.conn, rc: http.NewResponseController(c.conn)}
	var pos *event.Position
	for _, m := range slices.Backward(c.got) {
		if m.ID != "" {
			p, _ := event.ParsePosition(m.ID)
			pos = &p
			break
		}
	}
	c.st.sub = c.h.hub.join(c.channels, false, "", pos)
}

// cut ends the connection after n of the bytes that were written.
func (c *client) cut(t testing.TB, n int) {
	if c.st == nil {
		return
	}
	c.h.hub.leave(c.st.sub)
	c.conn.buf.Truncate(min(n, c.conn.buf.Len()))
	c.got = append(c.got, c.conn.messages(t)...)
	c.st, c.conn = nil, nil
}

// drain lets the stream write all it has.
func (c *client) drain(t testing.TB) {
	for range 1_000_000 {
		hold, more, err := c.st.step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !more && hold <= 0 {
			return
		}
	}
	t.Fatal("the stream never comes to rest")
}

func testHandler(t testing.TB, l *list, cfg Config) *Handler {
	if cfg.ResetSpread == 0 {
		cfg.ResetSpread = 1
	}
	hub := NewHub(testkit.Logger(t), cfg)
	hub.Reset("history_lost", at(0))
	h := NewHandler(hub, nil, testkit.Logger(t), cfg)
	if l != nil {
		h.history = l.history
	}
	return h
}

// model runs random broadcasts, steps, cuts and resets against the naive list.
// sabotage is called before each step, to break the hub on purpose.
func model(t *rapid.T, tb testing.TB, sabotage func(*Handler, *client)) error {
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
			if c := one(); c.st == nil {
				c.connect()
			}
		},
		"step": func(t *rapid.T) {
			if c := one(); c.st != nil {
				sabotage(h, c)
				if _, _, err := c.st.step(tb.Context()); err != nil {
					t.Fatal(err)
				}
			}
		},
		"cut": func(t *rapid.T) {
			if c := one(); c.st != nil {
				c.cut(tb, rapid.IntRange(0, c.conn.buf.Len()).Draw(t, "after"))
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
		if c.st == nil {
			c.connect()
		}
		sabotage(h, c)
		c.drain(tb)
		c.cut(tb, 1<<30)
		if err := l.checkPromise(c.got, c.channels...); err != nil {
			return fmt.Errorf("client of %v: %w", c.channels, err)
		}
	}
	if n := h.hub.Subscribers(); n != 0 || h.hub.Channels() != 0 || len(h.hub.byAddrs) != 0 {
		return fmt.Errorf("%d subscribers, %d channels left behind", n, h.hub.Channels())
	}
	return nil
}

func TestHubTellsEverySubscriberOfEveryChangeOrToReset(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if err := model(rt, t, func(*Handler, *client) {}); err != nil {
			rt.Fatal(err)
		}
	})
}

// The checker itself: a hub or a history that is broken on purpose must be caught.
func TestCheckerCatchesBrokenHubs(t *testing.T) {
	for name, sabotage := range map[string]func(*Handler, *client){
		"drops what a slow reader missed": func(h *Handler, c *client) {
			if c.st.sub.pending && c.st.opened {
				h.hub.advance(c.st.sub, h.hub.Position())
			}
		},
		"ignores trimming": func(h *Handler, c *client) {
			honest := h.history
			h.history = func(ctx context.Context, after event.Position, limit int) ([]event.Record, bool, error) {
				recs, whole, err := honest(ctx, after, limit)
				if !whole {
					return nil, true, err
				}
				return recs, true, err
			}
			c.st.sub.reset = ""
		},
		"writes one frame twice": func(h *Handler, c *client) {
			if p := c.st.sub.pos; p.Ms > 2 && c.st.opened && !c.st.sub.behind {
				h.hub.advance(c.st.sub, at(p.Ms-2))
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
	for ms := uint64(1); ms <= 20; ms++ {
		r := change(ms, "posts", fmt.Sprint("post:", ms))
		l.add(r)
		h.hub.Broadcast([]event.Record{r})
		quick.drain(t)
	}
	slow.drain(t)
	slow.cut(t, 1<<30)
	quick.cut(t, 1<<30)
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
	hub := NewHub(testkit.Logger(t), Config{})
	hub.Reset("", at(1))
	live := hub.join([]string{"posts"}, false, "a", nil)
	hub.Broadcast([]event.Record{change(2, "pages"), change(3, "*"), change(4, "pages")})
	old := at(1)
	late := hub.join([]string{"posts"}, false, "a", &old)
	for name, sub := range map[string]*subscriber{"live": live, "replay": late} {
		b := hub.take(sub, nil)
		if len(b.frames) != 1 || b.frames[0].pos != at(3) {
			t.Errorf("%s: a subscriber of posts takes %d frames, want the one for everybody alone", name, len(b.frames))
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
	h.hub.Broadcast([]event.Record{change(1, "a"), record(2, page, "a")})
	c.drain(t)
	c.cut(t, 1<<30)
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
	h.hub.Broadcast([]event.Record{change(1, "a"), change(2, "a"), record(3, `{"id":"x","event":"order.paid","total":5}`, "a"), change(4, "a"), change(5, "a")})
	c.drain(t)
	c.cut(t, 1<<30)
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
	h.hub.Broadcast([]event.Record{record(1, `{"id":"x"}`, "a"), record(2, single, "a", "b"), record(3, `{"id":"y"}`, "a")})
	if _, isChange := h.hub.frames[1].change(); !isChange {
		t.Fatalf("%s is no change", single)
	}
	c.drain(t)
	c.cut(t, 1<<30)
	if len(c.got) != 4 || c.got[2].ID != "2-0" || c.got[2].Data != single {
		t.Errorf("got %q, want the change between the news as it is: %s", c.got, single)
	}
}

func TestTooMuchToMergeIsAReset(t *testing.T) {
	l := &list{}
	h := testHandler(t, l, Config{MergeOver: 5})
	c := newClient(h, "a")
	c.connect()
	for ms := uint64(1); ms <= maxMergedNames+2; ms++ {
		l.add(change(ms, "a"))
	}
	h.hub.Broadcast(l.recs)
	c.drain(t)
	c.cut(t, 1<<30)
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
	c.drain(t) // the log has 3 already
	h.hub.Broadcast(l.recs[1:])
	c.drain(t)
	l.add(change(4, "a"))
	h.hub.Broadcast(l.recs[3:])
	c.drain(t)
	c.cut(t, 1<<30)
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
	if len(hub.frames) != 5 || hub.from != at(45) || hub.head != at(50) {
		t.Errorf("ring of %d frames after %v to %v, want 5 after 45-0 to 50-0", len(hub.frames), hub.from, hub.head)
	}
	hub.cfg.RingBytes = 2 * len(hub.frames[0].wire)
	hub.Broadcast([]event.Record{change(51, "a")})
	if len(hub.frames) != 2 {
		t.Errorf("ring of %d frames, want the 2 that fit", len(hub.frames))
	}
	hub.evict(time.Now().Add(2 * time.Hour))
	if len(hub.frames) != 1 || hub.bytes != len(hub.frames[0].wire) {
		t.Errorf("ring of %d frames and %d bytes, want the newest only", len(hub.frames), hub.bytes)
	}
}
