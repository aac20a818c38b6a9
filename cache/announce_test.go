package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"
)

func TestAnnouncementComesBackAsItWasMade(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Announcement{Tag: rapid.StringN(1, 40, -1).Draw(t, "tag"), Gone: rapid.Bool().Draw(t, "gone")}
		if !want.Gone {
			want.Version = rapid.String().Draw(t, "version")
		}
		if got, ok := parseAnnouncement(want.member()); !ok || got != want {
			t.Fatalf("%+v came back as %+v, %v", want, got, ok)
		}
	})
	for _, junk := range []string{"", ":", "1:", "1:a", "x:a=1", "-1:a=1", "99:a=1", "1:a?1"} {
		if a, ok := parseAnnouncement(junk); ok {
			t.Errorf("%q was read as %+v", junk, a)
		}
	}
}

func TestEveryNodeKnowsWhatWasAnnounced(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker, reader := node(t, rdb), node(t, rdb)
		settled(t, worker)
		syncNow(t, reader)
		p := tag("post:42")
		p.Announced = []Announcement{{Tag: "post:42", Version: "7"}}
		m := invalidate(t, worker, p)
		syncNow(t, reader)
		for _, s := range []*Store{worker, reader} {
			a, ok := s.mirror.announced("post:42")
			if !ok || a.Announcement != p.Announced[0] || a.seq != m.Seq {
				t.Errorf("announced %+v, %v", a, ok)
			}
		}
		p.Announced = []Announcement{{Tag: "post:42", Gone: true}}
		invalidate(t, worker, p)
		syncNow(t, reader)
		if a, _ := reader.mirror.announced("post:42"); !a.Gone {
			t.Errorf("announced %+v, want the newest word", a)
		}
		if _, ok := reader.mirror.announced("post:43"); ok {
			t.Error("something is announced for a thing that no event was about")
		}
	})
}

func TestAnnouncementIsOverAfterAWhile(t *testing.T) {
	m := newMirror(time.Hour, now)
	seq := uint64(time.Hour.Microseconds())
	m.merge(m.question(), answer{epoch: "e", whole: true, token: seq, want: []stamp{{Announcement{Tag: "a", Version: "1"}.member(), seq}}}, now(), now())
	if _, ok := m.announced("a"); !ok {
		t.Fatal("not announced")
	}
	m.merge(m.question(), answer{epoch: "e", whole: true, token: seq + uint64(wantSpan.Microseconds()) + 1}, now(), now())
	if _, ok := m.announced("a"); ok {
		t.Error("still announced")
	}
}

func TestTheHigherVersionIsAnnouncedInWhateverOrderItIsWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		first, second Announcement
		want          Announcement
	}{
		"numbers in order":       {Announcement{Tag: "a", Version: "9"}, Announcement{Tag: "a", Version: "10"}, Announcement{Tag: "a", Version: "10"}},
		"numbers the other way":  {Announcement{Tag: "a", Version: "10"}, Announcement{Tag: "a", Version: "9"}, Announcement{Tag: "a", Version: "10"}},
		"hashes have no order":   {Announcement{Tag: "a", Version: "ff"}, Announcement{Tag: "a", Version: "ee"}, Announcement{Tag: "a", Version: "ee"}},
		"of two kinds":           {Announcement{Tag: "a", Version: "10"}, Announcement{Tag: "a", Version: "2026-11-20T12:00:00Z"}, Announcement{Tag: "a", Version: "2026-11-20T12:00:00Z"}},
		"gone after a version":   {Announcement{Tag: "a", Version: "10"}, Announcement{Tag: "a", Gone: true}, Announcement{Tag: "a", Gone: true}},
		"there again after gone": {Announcement{Tag: "a", Gone: true}, Announcement{Tag: "a", Version: "3"}, Announcement{Tag: "a", Version: "3"}},
	} {
		written := []stamp{{tc.first.member(), 101}, {tc.second.member(), 102}}
		for _, order := range [][]stamp{{written[0], written[1]}, {written[1], written[0]}, {written[0], written[1], written[0]}} {
			m := newMirror(time.Hour, now)
			for _, s := range order {
				m.merge(m.question(), answer{epoch: "e", whole: true, token: 200, want: []stamp{s}}, now(), now())
			}
			if got, ok := m.announced("a"); !ok || got.Announcement != tc.want || got.seq != 102 {
				t.Errorf("%s, learnt as %v: announced %+v, %v; want %+v of the later event", name, order, got, ok, tc.want)
			}
		}
	}
}

// A failover that forgets an event forgets its announcement, too.
func TestAnnouncementIsGivenBackWithItsEvent(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker, reader := node(t, rdb), node(t, rdb)
		settled(t, worker)
		before := copyLedger(t, rdb)
		p := tag("post:42")
		p.Announced = []Announcement{{Tag: "post:42", Version: "7"}}
		m := invalidate(t, worker, p)
		syncNow(t, worker)
		before.restore(t, rdb)
		if err := rdb.ZRem(t.Context(), worker.names.want(), p.Announced[0].member()).Err(); err != nil {
			t.Fatal(err)
		}
		otherHost(t, rdb)
		syncNow(t, worker, reader)
		a, ok := reader.mirror.announced("post:42")
		if !ok || a.Version != "7" || a.seq <= m.Seq {
			t.Errorf("announced %+v, %v; want it under a new seq, above %d", a, ok, m.Seq)
		}
	})
}

func TestToldIsKeptForWhoMeetsAnOldView(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		p := tag("post:42")
		p.Announced = []Announcement{{Tag: "post:42", Version: "7"}}
		m := invalidate(t, s, p)
		if err := s.Told(t.Context(), p, m); err != nil {
			t.Fatal(err)
		}
		if err := s.Told(t.Context(), Purge{Announced: []Announcement{{Tag: "post:42", Version: "6"}}}, Mark{Seq: m.Seq - 1}); err != nil {
			t.Fatal(err) // of an earlier event, which took longer
		}
		if got, want := rdb.Get(t.Context(), s.names.told("post:42")).Val(), fmt.Sprint(m.Seq, ":7:post:42=7"); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		if ttl := rdb.TTL(t.Context(), s.names.told("post:42")).Val(); ttl <= 0 || ttl > wantSpan {
			t.Errorf("kept for %v", ttl)
		}
	})
}

func TestWhoPurgedIsKeptWithTheEvent(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		for by, member := range map[string]string{"EVENT1": ".EVENT1", "": "", "a b": "", "a:b": ""} {
			p := tag("a")
			p.By = by
			m := invalidate(t, s, p)
			if got := m.Member[len("1795176000120456:0123456789abcdef"):]; got != member {
				t.Errorf("by %q: member ends in %q, want %q", by, got, member)
			}
			again, err := s.Invalidate(t.Context(), p, m)
			if err != nil || again != m {
				t.Errorf("by %q: invalidated again as %+v, %v; want %+v", by, again, err, m)
			}
		}
	})
}
