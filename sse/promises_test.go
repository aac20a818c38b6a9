package sse

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"pgregory.net/rapid"
)

// A slow reader of large changes takes each page of the log in many writes.
func TestSlowReaderOfTheLogIsNotToldThatItReadTooMuch(t *testing.T) {
	l := &list{}
	h := testHandler(t, l, Config{RingLen: 1, MaxReplay: 60})
	for ms := uint64(1); ms <= 50; ms++ {
		l.add(change(ms, "a"))
	}
	h.hub.Broadcast(l.recs)
	c := newClient(h, "a")
	c.got = []Message{{ID: "0-1", Name: "ready"}}
	c.connect()
	c.conn.room = 0
	for range 400 {
		settle(c.sh)
		c.give(100)
	}
	c.drain(t)
	c.cut(1 << 30)
	if err := l.checkPromise(c.got, "a"); err != nil {
		t.Error(err)
	}
	if slices.ContainsFunc(c.got, func(m Message) bool { return m.Name == "reset" }) {
		t.Error("a reset, though 50 of at most 60 changes were missed")
	}
}

// The ring moves on while the log answers.
func TestPageThatIsOlderThanTheRingIsNoLoss(t *testing.T) {
	l := &list{}
	h := testHandler(t, l, Config{RingLen: 1})
	l.add(change(1, "a"), change(2, "a"), change(3, "a"))
	h.hub.Broadcast(l.recs)
	c := newClient(h, "a")
	c.got = []Message{{ID: "0-1", Name: "ready"}}
	c.connect()
	c.sh.pass() // asks
	testkit.Until(t, "the log has answered", func() bool {
		c.sh.mu.Lock()
		defer c.sh.mu.Unlock()
		return len(c.sh.in.pages) > 0
	})
	more := []event.Record{change(4, "a"), change(5, "a"), change(6, "a")}
	l.add(more...)
	h.hub.Broadcast(more)
	c.drain(t)
	c.cut(1 << 30)
	if err := l.checkPromise(c.got, "a"); err != nil || len(c.got) != 8 {
		t.Errorf("%v; got %q, want ready and six changes", err, c.got)
	}
}

// A page that was asked for in the life before tells nothing about this one.
func TestPageOfALifeThatIsOverIsReadAgain(t *testing.T) {
	h := testHandler(t, nil, Config{})
	h.hub.Reset("history_lost", at(100))
	asked, answer := make(chan struct{}), make(chan bool)
	h.hub.history = func(context.Context, event.Position, int) ([]event.Record, bool, error) {
		asked <- struct{}{}
		return nil, <-answer, nil
	}
	c := newClient(h, "a")
	first := newClient(h, "a")
	first.got = []Message{{ID: "150-0", Name: "ready"}}
	first.connect()
	c.sh.pass()
	testkit.Wait(t, asked, "the log to be asked")
	h.hub.Reset("store_changed", at(120))
	first.tell(hungUp)
	c.got = []Message{{ID: "150-0", Name: "ready"}} // known to the log that was
	c.connect()
	c.sh.pass()
	answer <- true
	testkit.Until(t, "the log has answered", func() bool {
		c.sh.mu.Lock()
		defer c.sh.mu.Unlock()
		return len(c.sh.in.pages) > 0
	})
	go func() { <-asked; answer <- false }()
	for range 4 {
		settle(c.sh)
	}
	c.cut(1 << 30)
	if len(c.got) != 3 || c.got[1].Name != "reset" || c.got[1].ID != "120-0" {
		t.Errorf("got %q, want a reset", c.got[1:])
	}
}

func TestStreamThatTheLogKeepsWaitingIsSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, nil, Config{})
		h.hub.Reset("history_lost", at(100))
		let := make(chan struct{})
		h.hub.history = func(context.Context, event.Position, int) ([]event.Record, bool, error) {
			<-let
			return nil, true, nil
		}
		conn := &memory{header: http.Header{}}
		begun := time.Now()
		done, cancel := run(t, h, conn, "5-0")
		defer cancel()
		<-done
		close(let)
		got := conn.messages(t)
		if took := time.Since(begun); took > 20*time.Second || len(got) != 1 || got[0].Name != "goaway" || !strings.Contains(got[0].Data, "unavailable") {
			t.Errorf("after %v: %q, want goaway within 20 s: a ping may not come before ready", took, got)
		}
	})
}

func TestResetDoesNotWaitForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, nil, Config{ResetSpread: time.Minute})
		h.hub.Reset("history_lost", at(100))
		let := make(chan struct{})
		h.hub.history = func(context.Context, event.Position, int) ([]event.Record, bool, error) {
			<-let
			return nil, false, nil
		}
		conn := &memory{header: http.Header{}}
		done, cancel := run(t, h, conn, "5-0")
		synctest.Wait()
		h.hub.Reset("store_changed", at(200))
		synctest.Wait() // no time passes
		if got := conn.messages(t); len(got) != 2 || got[0].Name != "reset" || got[0].ID != "200-0" || got[1].Name != "ready" {
			t.Errorf("got %q, want reset and ready at once: nothing is shown yet", got)
		}
		close(let)
		synctest.Wait()
		if got := conn.messages(t); len(got) != 2 {
			t.Errorf("got %q after the log's late answer", got)
		}
		cancel()
		<-done
	})
}

// A store that changes again and again must not put the reset off.
func TestResetKeepsItsMomentWhenTheStoreChangesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, nil, Config{ResetSpread: 10 * time.Second})
		conn := &memory{header: http.Header{}}
		done, cancel := run(t, h, conn, "")
		synctest.Wait()
		for ms := uint64(1); ms <= 60; ms++ { // every 200 ms
			h.hub.Reset("store_changed", at(ms))
			time.Sleep(200 * time.Millisecond)
		}
		synctest.Wait()
		if got := conn.messages(t); len(got) < 2 || got[1].Name != "reset" {
			t.Errorf("got %q in 12 s, want a reset within 10 s", got)
		}
		cancel()
		<-done
	})
}

// What comes after the end of a session is not for its streams.
func TestEndedSessionSeesNothingThatComesAfter(t *testing.T) {
	h := testHandler(t, nil, Config{})
	c := newClient(h, "a")
	c.connect()
	c.cut(1 << 30)
	c.got = nil
	c.connect()
	c.sh.mu.Lock()
	c.sub.session = "s"
	c.sh.mu.Unlock()
	h.hub.sessions["s"] = 1
	settle(c.sh)
	h.hub.Broadcast([]event.Record{{Position: at(1), EndsSession: "s"}, change(2, "a")})
	settle(c.sh)
	got, _, _ := specParse(c.conn.buf.String())
	if len(got) != 2 || got[0].Name != "ready" || got[1].Name != "goaway" || !strings.Contains(got[1].Data, `"session"`) {
		t.Errorf("got %q, want ready and goaway", got)
	}
}

func TestShardWithoutSubscribersKeepsNothing(t *testing.T) {
	h := testHandler(t, nil, Config{})
	for range 10 {
		h.hub.Live("orders", []byte("x"))
	}
	for _, sh := range h.hub.shards {
		if len(sh.in.live) > 0 || sh.running {
			t.Errorf("%d messages wait for nobody", len(sh.in.live))
		}
	}
}

// Clients that come and go leave nothing behind before their clock rings.
func TestWhoLeftIsForgotten(t *testing.T) {
	h := testHandler(t, nil, Config{})
	h.hub.Reset("", at(100))
	h.hub.history = func(_ context.Context, after event.Position, _ int) ([]event.Record, bool, error) {
		return nil, true, nil
	}
	stays := newClient(h, "a")
	stays.connect()
	for range 3 * maxLeft {
		c := newClient(h, "a")
		c.got = []Message{{ID: "200-0"}} // ahead: waits for the ring
		c.connect()
		settle(c.sh)
		settle(c.sh)
		c.cut(0)
	}
	sh := stays.sh
	listed := 0
	for _, slot := range sh.wheel.slots {
		listed += len(slot)
	}
	if listed != sh.wheel.size || listed > 2*maxLeft || len(sh.ahead) > 2*maxLeft || len(sh.frames) > 0 {
		t.Errorf("%d clocks of %d, %d ahead after %d clients left, want at most %d", listed, sh.wheel.size, len(sh.ahead), 3*maxLeft, 2*maxLeft)
	}
}

// Live readers do not wait until all who came at once have what they missed.
func TestManyWhoAreBehindDoNotHoldUpWhoKeepsUp(t *testing.T) {
	h := testHandler(t, nil, Config{MergeOver: 100})
	var recs []event.Record
	for ms := uint64(1); ms <= 3000; ms++ {
		recs = append(recs, change(ms, "a"))
	}
	h.hub.Broadcast(recs)
	live := newClient(h, "a")
	live.connect()
	live.drain(t)
	const many = 300
	for range many {
		c := newClient(h, "a")
		c.got = []Message{{ID: "0-0"}}
		c.connect()
	}
	live.sh.pass()
	if n := len(live.sh.waiting); n == 0 || n > many-minServed {
		t.Errorf("%d of %d wait for the next pass, want some and at most %d", n, many, many-minServed)
	}
	for range many {
		settle(live.sh)
	}
	live.sh.eachOpen(func(s *subscriber) {
		if s.behind != nil {
			t.Fatal("somebody is still behind")
		}
	})
}

// Every open stream has a clock, and every cursor somebody who moves it.
func TestNoStreamIsForgotten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		err := model(rt, t, func(h *Handler, clients []*client) {
			sh := clients[0].sh
			settle(sh)
			sh.eachOpen(func(s *subscriber) {
				b := s.behind
				switch {
				case s.alarm == 0:
					rt.Fatal("an open stream without a clock")
				case b == nil && !slices.Contains(s.view.live, s):
					rt.Fatal("a live stream that its view does not know")
				case b != nil && !b.full && !b.reading && !b.queued && b.reset == "" && !slices.Contains(sh.ahead, s):
					rt.Fatalf("nobody serves %+v", *b)
				}
			})
			if n := int(h.hub.metrics.blocked.Load()); n < 0 || n > sh.open {
				rt.Fatalf("%d of %d streams are blocked", n, sh.open)
			}
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
}

// Each byte of each kind of event is a place where a write may end.
func TestStreamSurvivesCutsAtEveryByte(t *testing.T) {
	begin := func(room int) (*list, *client) {
		l := &list{}
		h := testHandler(t, l, Config{RingLen: 3, MergeOver: 2})
		for ms := uint64(1); ms <= 6; ms++ {
			l.add(change(ms, "a"))
		}
		h.hub.Broadcast(l.recs)
		c := newClient(h, "a")
		c.got = []Message{{ID: "1-0", Name: "ready"}} // from the log, then merged
		c.connect()
		c.sub.behind.rest = []byte("HTTP/1.1 200 OK\r\n\r\n")
		c.conn.room = room
		settle(c.sh)
		return l, c
	}
	_, whole := begin(-1)
	whole.drain(t)
	size := whole.conn.buf.Len()
	for n := range size {
		l, c := begin(n)
		for _, ms := range []uint64{7, 8} {
			l.add(change(ms, "a"))
			c.h.hub.Broadcast(l.recs[ms-1:])
			settle(c.sh)
		}
		c.drain(t)
		head := len("HTTP/1.1 200 OK\r\n\r\n")
		got, _, _ := specParse(c.conn.buf.String()[head:])
		if err := l.checkPromise(got, "a"); err != nil {
			t.Fatalf("cut after %d of %d bytes: %v", n, size, err)
		}
		h := c.h
		h.hub.Reset("store_changed", at(uint64(20)))
		c.conn.room = n % 90 // within reset, ready or goaway
		settle(c.sh)
		c.drain(t)
		h.hub.drain()
		settle(c.sh)
		got, _, _ = specParse(c.conn.buf.String()[head:])
		last := got[len(got)-2:]
		if last[0].Name != "reset" || last[0].ID != "20-0" || last[1].Name != "goaway" || !json.Valid([]byte(last[1].Data)) {
			t.Fatalf("cut after %d bytes: the stream ends with %q", n%90, last)
		}
	}
	if size < 500 {
		t.Fatal(fmt.Sprint("a stream of ", size, " bytes shows nothing"))
	}
}
