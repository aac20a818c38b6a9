package cache

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestWhyNamesTheEvent(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s, other := running(t, rdb), running(t, rdb)
		req := Request{Key: "post:42", Base: "post", Tags: []string{"posts", "post:42"}, Path: "/blog/hello", Target: "/api/posts/42"}
		why := func() Why {
			t.Helper()
			w, err := s.Why(t.Context(), "post:42")
			if err != nil {
				t.Fatal(err)
			}
			return w
		}
		if w := why(); w.Standing != StandsMissing || w.Entry != nil || !strings.Contains(w.Sentence(nil), "missing: nobody has asked") {
			t.Errorf("never fetched: %+v, %s", w, w.Sentence(nil))
		}
		for _, tc := range []struct {
			p    Purge
			want string // standing, and the sentence with the time left out
		}{
			{Purge{Tags: []string{"posts", "post:42"}, By: "ev1"}, "void: tag posts was purged at by ev1"},
			{Purge{Keys: []string{"post:42"}, By: "ev2"}, "void: key post:42 was purged at by ev2"},
			{Purge{Keys: []string{"post"}, By: "ev3"}, "void: key post was purged at by ev3"},
			{Purge{Patterns: []string{"post:*"}, By: "ev4"}, "void: pattern post:* was purged at by ev4"},
			{Purge{Paths: []string{"/blog/*"}, By: "ev5"}, "void: path /blog/* was purged at by ev5"},
			{Purge{Paths: []string{"/blog/hello"}}, "void: path /blog/hello was purged at"},
			{Purge{Tags: []string{"posts"}, Soft: true, By: "operator"}, "stale: tag posts was purged softly at by operator; served while it is fetched again"},
			{Purge{All: true, By: "operator"}, "void: everything was purged at by operator"},
		} {
			var w Why
			testkit.Until(t, "it is fetched again", func() bool { // after a soft purge in the background
				fetch(t, s, req, func(context.Context, *Entry) (Fill, error) {
					return Fill{Status: 200, Body: []byte("old"), TTL: time.Minute, SWR: time.Hour, Tags: []string{"learnt"}}, nil
				})
				w = why()
				return w.Standing == StandsFresh && w.InMemory
			})
			if w.InRedis == 0 || w.Expires <= 0 || w.Entry.Target != req.Target || len(w.By) != 0 {
				t.Fatalf("fetched: %+v, want fresh", w)
			}
			before := time.Now()
			m := invalidate(t, other, tc.p)
			barrier(t, other, tc.p, m)
			w = why()
			at := w.By[0].At
			got := strings.Join(strings.Fields(strings.Replace(w.Sentence(nil), clock(at), "", 1)), " ")
			if got = strings.ReplaceAll(got, " ;", ";"); got != tc.want || !strings.HasPrefix(got, string(w.Standing)) || w.By[0].Seq != m.Seq {
				t.Errorf("after %+v: %s (%+v), want %s", tc.p, got, w.By[0], tc.want)
			}
			if d := at.Sub(before); d < -2*time.Second || d > 2*time.Minute { // seqs may run a minute ahead
				t.Errorf("purged at %v, %v from now", at, d)
			}
		}
		if _, err := rdb.Del(t.Context(), s.names.entry("post:42")).Result(); err != nil {
			t.Fatal(err)
		}
		w, err := other.Why(t.Context(), "post:42")
		if err != nil || w.Standing != StandsMissing || !strings.Contains(w.Sentence(nil), "was purged at") {
			t.Errorf("deleted after a purge: %+v, %v, %s", w, err, w.Sentence(nil))
		}
	})
}

func TestWhyTellsHowOldEventsAre(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := running(t, rdb)
	fetch(t, s, Request{Key: "k", Tags: []string{"t"}}, answers("x"))
	m := invalidate(t, s, Purge{Tags: []string{"t"}, By: "ev1"})
	if err := rdb.ZRem(t.Context(), s.names.seqs(), m.Member).Err(); err != nil { // as if 10,000 had followed
		t.Fatal(err)
	}
	w, err := s.Why(t.Context(), "k")
	if err != nil || w.Standing != StandsVoid || !w.By[0].Forgotten || !strings.Contains(w.Sentence(nil), "forgotten") {
		t.Errorf("%+v, %v: %s", w, err, w.Sentence(nil))
	}
}

func TestWhyNamesEventsAsTheirRecordsDo(t *testing.T) {
	w := Why{Standing: StandsVoid, Entry: &Entry{}, By: []Cause{{Kind: "tag", Name: "post:42", Event: Event{Seq: 1, At: time.UnixMicro(1795176000123000), By: "abc"}}}}
	got := w.Sentence(func(by string) string { return "event " + by + " (post.update from blog)" })
	if want := "void: tag post:42 was purged at 2026-11-20 12:00:00.123 UTC by event abc (post.update from blog)"; got != want {
		t.Errorf("Sentence = %q, want %q", got, want)
	}
}

func TestWhyOfALostLedgerAndOfNone(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { rdb.Close() })
	s := running(t, rdb)
	fetch(t, s, Request{Key: "k"}, answers("x"))
	if err := rdb.Del(t.Context(), s.names.ledger()).Err(); err != nil {
		t.Fatal(err)
	}
	w, err := s.Why(t.Context(), "k")
	if err != nil || w.Standing != StandsVoid || !strings.Contains(w.Sentence(nil), "ledger was lost") {
		t.Errorf("ledger lost: %+v, %v: %s", w, err, w.Sentence(nil))
	}
	server.Kill()
	if w, err := s.Why(t.Context(), "k"); err == nil && w.Standing != StandsUnknown {
		t.Errorf("Redis away: %+v", w)
	}
}

func TestTagTellsWhoCarriesItAndWhoPurgedIt(t *testing.T) {
	t.Parallel()
	s := running(t, testkit.Redis(t))
	if about, err := s.AboutTag(t.Context(), "posts"); err != nil || about.Carried.Entries != 0 || len(about.By) != 0 {
		t.Errorf("unknown tag: %+v, %v", about, err)
	}
	for _, key := range []string{"a", "b"} {
		fetch(t, s, Request{Key: key, Tags: []string{"posts"}}, answers("x"))
	}
	p := Purge{Tags: []string{"posts"}, By: "ev1", Announced: []Announcement{{Tag: "posts", Version: "7"}}}
	m := invalidate(t, s, p)
	about, err := s.AboutTag(t.Context(), "posts")
	if err != nil || about.Carried.Entries != 2 || len(about.By) != 1 || about.By[0].Seq != m.Seq || about.By[0].By != "ev1" ||
		about.Version.Version != "7" || about.Version.Seq != m.Seq {
		t.Errorf("AboutTag = %+v, %v", about, err)
	}
	if _, err := s.AboutTag(t.Context(), ""); err == nil {
		t.Error("a tag without a name")
	}
}
