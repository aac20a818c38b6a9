package cache

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever way a mirror heard of the events, it judges as the whole list of
// events does.
func TestMirrorJudgesAsTheEventsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClocks()
		m := newMirror(time.Hour, c.now)
		m.merge(m.question(), answer{epoch: "e", whole: true, token: 1}, c.now(), c.now())
		var events []stamp
		seq := uint64(1)
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			seq += uint64(rapid.IntRange(1, 3).Draw(t, "step"))
			scope := rapid.SampledFrom([]string{"t:a", "t:b", "k:x", "g:x*", "g:y*", "p:/a/", "*", "n:", "~t:a", "~t:b", "~k:x", "~g:x*", "~*"}).Draw(t, "scope")
			events = append(events, stamp{scope, seq})
			if rapid.Bool().Draw(t, "learn") {
				m.learn(Mark{Seq: seq, Member: fmt.Sprint(seq, ":x"), Epoch: "e"}, []string{scope}, nil)
			}
		}
		// Answers may overlap, and come again.
		for range rapid.IntRange(0, 3).Draw(t, "again") {
			n := rapid.IntRange(0, len(events)).Draw(t, "upto")
			m.merge(m.question(), answer{epoch: "e", whole: true, token: 1, scopes: events[:n]}, c.now(), c.now())
		}
		m.merge(m.question(), answer{epoch: "e", whole: true, token: seq + 1, scopes: events}, c.now(), c.now())

		token := uint64(rapid.IntRange(1, int(seq)+1).Draw(t, "token"))
		void, soft := false, false
		for _, e := range events {
			switch e.scope {
			case "t:a", "k:x", "g:x*", "p:/a/", "*":
				void = void || e.seq > token
			case "~t:a", "~k:x", "~g:x*", "~*":
				soft = soft || e.seq > token
			}
		}
		if j := m.judgeAll("x", position{"e", token}, []string{"t:a", "p:/a/"}, nil); (j.void != "") != void || !void && j.soft != soft {
			t.Fatalf("judgeAll at %d = %+v, want void %v, soft %v; events %v", token, j, void, soft, events)
		}
		kind, usable := m.judge("x", position{"e", token}, []string{"t:a", "p:/a/"}, nil)
		if !usable || (kind != "") != void {
			t.Fatalf("judge at %d = %q, %v; events %v", token, kind, usable, events)
		}
	})
}

func TestMirrorForgetsOnlyWhatItsFloorSays(t *testing.T) {
	c := newClocks()
	m := newMirror(time.Hour, c.now)
	for i := range uint64(5 * pruneMin) {
		m.merge(m.question(), answer{epoch: "e", whole: true, token: i + 1, floor: i / 2, scopes: []stamp{{fmt.Sprint("t:", i), i}}}, c.now(), c.now())
	}
	if n := m.size(); n > 5*pruneMin*3/4 {
		t.Errorf("%d scopes kept, half of %d are below the floor", n, 5*pruneMin)
	}
	for i := uint64(1); i < 5*pruneMin; i += 97 {
		if kind, _ := m.judge("k", position{"e", i - 1}, []string{fmt.Sprint("t:", i)}); kind == "" {
			t.Errorf("scope of seq %d no longer voids what is older", i)
		}
	}
}

// An answer tells only what lies above the question. What came in between may
// not make the mirror seem to know the rest.
func TestMirrorNeverKnowsLessThanItsTokenSays(t *testing.T) {
	void := func(m *mirror) bool {
		kind, usable := m.judge("k", position{m.position().epoch, 120}, []string{"t:x"})
		return !usable || kind == "tag"
	}
	tests := []struct {
		name    string
		between func(m *mirror, t instant)
		answer  answer
	}{
		{"late mark of a ledger that is gone", func(m *mirror, _ instant) {
			m.learn(Mark{Seq: 90, Member: "90:z", Epoch: "gone"}, []string{"t:q"}, nil)
		}, answer{token: 300, whole: true, epoch: "e"}},
		{"mark of a new ledger, answer of the old one", func(m *mirror, _ instant) {
			m.learn(Mark{Seq: 1000, Member: "1000:z", Epoch: "new"}, []string{"t:q"}, nil)
		}, answer{token: 300, whole: true, epoch: "e"}},
		{"another epoch began, answer of the old one", func(m *mirror, t instant) {
			m.merge(m.question(), answer{token: 1000, whole: true, epoch: "new"}, t, t)
		}, answer{token: 300, whole: true, epoch: "e"}},
		{"another epoch began and ended", func(m *mirror, t instant) {
			m.merge(m.question(), answer{token: 1000, whole: true, epoch: "new"}, t, t)
			m.merge(m.question(), answer{token: 50, whole: true, epoch: "e"}, t, t)
		}, answer{token: 300, whole: true, epoch: "e"}},
	}
	for _, tt := range tests {
		c := newClocks()
		m := newMirror(time.Hour, c.now)
		m.merge(m.question(), answer{token: 200, floor: 100, whole: true, epoch: "e", newest: "150:n", scopes: []stamp{{"*", 100}, {"t:x", 150}}}, c.now(), c.now())
		q, t0 := m.question(), c.now()
		c.move(time.Millisecond, time.Millisecond)
		tt.between(m, c.now())
		c.move(time.Millisecond, time.Millisecond)
		m.merge(q, tt.answer, t0, c.now())
		if at := m.position(); at.epoch == "e" && at.token >= 150 && !void(m) {
			t.Errorf("%s: what is void is served, at %+v", tt.name, m.position())
		}
		if q = m.question(); q.epoch == "e" && q.token == 300 && m.hard.scopes["t:x"] != 150 {
			t.Errorf("%s: the mirror says that it knows all up to %d, and lacks a scope of 150", tt.name, q.token)
		}
	}
}

func TestMarkOfAnotherLedgerEndsTheLeaseUntilASyncAfterIt(t *testing.T) {
	c := newClocks()
	m := newMirror(time.Hour, c.now)
	m.merge(m.question(), answer{token: 200, whole: true, epoch: "e"}, c.now(), c.now())
	q, t0 := m.question(), c.now()
	c.move(time.Second, time.Second)
	m.learn(Mark{Seq: 1000, Member: "1000:z", Epoch: "new"}, []string{"t:q"}, nil)
	if news, _ := m.merge(q, answer{token: 300, whole: true, epoch: "e"}, t0, c.now()); m.usable() || !news {
		t.Errorf("after the answer to a question from before: usable = %v, asks again = %v; want false, true", m.usable(), news)
	}
	c.move(time.Second, time.Second)
	if m.merge(m.question(), answer{token: 2000, whole: true, epoch: "new"}, c.now(), c.now()); !m.usable() {
		t.Error("no lease after a sync that began later")
	}
}

func TestUnevenServerClockIsNotBelieved(t *testing.T) {
	const lease = time.Second
	ms := time.Millisecond
	type sample struct {
		t0, t1 time.Duration
		server uint64
	}
	even := func(ts ...time.Duration) (out []sample) {
		for _, at := range ts {
			out = append(out, sample{at, at + ms, uint64(1e9 + at.Microseconds())})
		}
		return out
	}
	tests := []struct {
		name     string
		samples  []sample
		at       time.Duration
		believed bool
	}{
		{"never seen", nil, 0, false},
		{"seen once, just now", even(5000 * ms), 5001 * ms, false},
		{"watched for a lease", even(0, 400*ms, 800*ms, 1200*ms), 1300 * ms, true},
		{"watched long", even(0, 400*ms, 800*ms, 1200*ms, 1600*ms, 2000*ms), 2100 * ms, true},
		{"stepped ahead", append(even(0, 400*ms, 800*ms), sample{1200 * ms, 1201 * ms, 1e9 + 9e6}), 1300 * ms, false},
		{"stepped back", append(even(0, 400*ms, 800*ms), sample{1200 * ms, 1201 * ms, 1e9 - 9e6}), 1300 * ms, false},
		{"stepped, then even for a lease", append(even(0), sample{400 * ms, 401 * ms, 9e9}, sample{1500 * ms, 1501 * ms, 9e9 + 1.1e6}), 1600 * ms, true},
		{"answers too slow to tell", []sample{{0, 300 * ms, 1e9 + 150e3}, {1200 * ms, 1500 * ms, 1e9 + 1350e3}}, 1600 * ms, false},
	}
	for _, tc := range tests {
		var p pace
		for _, s := range tc.samples {
			p.note(s.t0, s.t1, s.server, lease)
		}
		if got := p.believable(tc.at, lease); (got > 0) != tc.believed {
			t.Errorf("%s: believable = %d, want believed = %v", tc.name, got, tc.believed)
		}
	}
}
