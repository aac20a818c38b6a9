package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestManyAreReadAtOnce(t *testing.T) {
	for name, rdb := range map[string]redis.UniversalClient{"one server": testkit.Redis(t), "cluster": testkit.Cluster(t)} {
		s := running(t, rdb)
		away := newStore(rdb, testkit.Logger(t), Config{Memory: -1}, options{lease: shortLease, now: now, scripts: shipped})
		testkit.Go(t, away.Run)
		testkit.Until(t, "ready", func() bool { return away.Ready() == nil })
		for i := range 5 {
			fetch(t, s, Request{Key: fmt.Sprint("k", i), Tags: []string{fmt.Sprint("t", i)}}, answers(fmt.Sprint("body ", i)))
		}
		fetch(t, s, Request{Key: "old"}, func(context.Context, *Entry) (Fill, error) {
			return Fill{Status: 200, Body: []byte("old"), TTL: time.Millisecond, SWR: time.Hour}, nil
		})
		if _, err := s.PurgeTags(t.Context(), "t2"); err != nil {
			t.Fatal(err)
		}
		testkit.Until(t, "the old one is stale", func() bool {
			_, fresh, _ := s.Get(t.Context(), "old")
			return !fresh
		})
		keys := []string{"k4", "none", "k2", "k0", "old", "k4"}
		for where, node := range map[string]*Store{"memory": s, "Redis": away} {
			entries, err := node.GetMany(t.Context(), keys)
			if err != nil || len(entries) != len(keys) {
				t.Fatalf("%s, %s: GetMany = %v, %v", name, where, entries, err)
			}
			var got []string
			for _, e := range entries {
				word := "-"
				if e != nil {
					word = text(e)
				}
				got = append(got, word)
			}
			if want := "body 4|-|-|body 0|-|body 4"; strings.Join(got, "|") != want {
				t.Errorf("%s, %s: GetMany(%v) = %s, want %s", name, where, keys, strings.Join(got, "|"), want)
			}
			if r, err := node.LookMany(t.Context(), []string{"old"}); err != nil || r[0].Entry == nil || saw(r[0]) != "old stale" {
				t.Errorf("%s, %s: LookMany of an expired entry in its window = %+v, %v", name, where, r, err)
			}
		}
	}
}

func TestManyRefusesBadKeys(t *testing.T) {
	t.Parallel()
	s := running(t, testkit.Redis(t))
	for _, keys := range [][]string{{""}, {"a", strings.Repeat("k", MaxKey+1)}, make([]string, MaxBatch+1)} {
		if _, err := s.GetMany(t.Context(), keys); !errors.Is(err, ErrKey) {
			t.Errorf("GetMany of %d keys: %v, want ErrKey", len(keys), err)
		}
	}
	if got, err := s.GetMany(t.Context(), nil); len(got) != 0 || err != nil {
		t.Errorf("GetMany of none = %v, %v", got, err)
	}
}

// put is what a program elsewhere does: it fetched body after it had the token.
func put(t *testing.T, s *Store, token Token, key, body string, tags ...string) bool {
	t.Helper()
	stored, err := s.Put(t.Context(), Request{Key: key, Tags: tags}, Fill{Status: 200, Body: []byte(body), TTL: time.Minute}, token)
	if err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
	return stored
}

func TestFetchedElsewhereIsKeptUnlessAnEventCameMeanwhile(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, other := running(t, rdb), running(t, rdb)
	parse := func(text string) Token {
		t.Helper()
		token, err := ParseToken(text)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	token := s.Begin()
	if !put(t, other, parse(token.String()), "k", "first", "posts") {
		t.Error("nothing happened, and it was not stored")
	}
	if e, ok, err := s.Get(t.Context(), "k"); !ok || err != nil || text(e) != "first" || e.Token != token.at.token {
		t.Errorf("Get = %v, %v, %v", e, ok, err)
	}

	token = s.Begin()
	if _, err := other.PurgeTags(t.Context(), "posts"); err != nil { // between the fetch and Put
		t.Fatal(err)
	}
	if put(t, s, token, "k", "of before the event", "posts") {
		t.Error("content of before an event was stored after it")
	}
	if !put(t, s, token, "other", "x", "pages") {
		t.Error("content that the event does not concern was not stored")
	}
	if !put(t, s, s.Begin(), "k", "second", "posts") {
		t.Error("content of after the event was not stored")
	}

	older := s.Begin()
	if _, err := s.PurgeTags(t.Context(), "unrelated"); err != nil {
		t.Fatal(err)
	}
	if !put(t, s, s.Begin(), "race", "newer") || put(t, s, older, "race", "older") {
		t.Error("an older fetch won over a newer one")
	}
}

func TestPutKeepsNoOldView(t *testing.T) {
	t.Parallel()
	s := running(t, testkit.Redis(t))
	if _, err := s.Purge(t.Context(), Purge{Tags: []string{"post:1"}, Announced: []Announcement{{Tag: "post:1", Version: "7"}}}); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]bool{"6": false, "7": true} {
		stored, err := s.Put(t.Context(), Request{Key: "post:1", Tags: []string{"post:1"}},
			Fill{Status: 200, TTL: time.Minute, Versions: map[string]string{"post:1": version}}, s.Begin())
		if stored != want || err != nil {
			t.Errorf("version %s after 7 was announced: stored %v, %v, want %v", version, stored, err, want)
		}
	}
}

func TestPutRefusesWhatCannotBeKept(t *testing.T) {
	t.Parallel()
	s := running(t, testkit.Redis(t))
	now := s.Begin()
	good := Fill{Status: 200, Body: []byte("x"), TTL: time.Minute}
	with := func(change func(*Fill)) Fill { f := good; change(&f); return f }
	for _, tc := range []struct {
		name  string
		req   Request
		fill  Fill
		token Token
		want  error
	}{
		{"no key", Request{}, good, now, ErrKey},
		{"no token", Request{Key: "k"}, good, Token{}, ErrToken},
		{"a token of tomorrow", Request{Key: "k"}, good, Token{position{now.at.epoch, now.at.token + 86400e6}}, ErrToken},
		{"no time to live", Request{Key: "k"}, with(func(f *Fill) { f.TTL = 0 }), now, ErrRefused},
		{"an error of the origin", Request{Key: "k"}, with(func(f *Fill) { f.Status = 502 }), now, ErrRefused},
		{"too large", Request{Key: "k"}, with(func(f *Fill) { f.Body = make([]byte, 5<<20) }), now, ErrRefused},
		{"a long tag", Request{Key: "k", Tags: []string{strings.Repeat("t", MaxTag+1)}}, good, now, ErrRefused},
		{"too many tags", Request{Key: "k", Tags: make([]string, maxScopes+1)}, good, now, ErrRefused},
	} {
		if stored, err := s.Put(t.Context(), tc.req, tc.fill, tc.token); stored || !errors.Is(err, tc.want) {
			t.Errorf("%s: Put = %v, %v, want %v", tc.name, stored, err, tc.want)
		}
	}
	if stored, err := s.Put(t.Context(), Request{Key: "k"}, good, Token{position{"0123456789abcdef", 1}}); stored || err != nil {
		t.Errorf("a token of a ledger that is gone: %v, %v, want not stored", stored, err)
	}
}

func FuzzParseToken(f *testing.F) {
	for _, s := range []string{Token{position{"0123456789abcdef", 1795176000123456}}.String(), "", ".", "0123456789abcdef.", "0123456789abcdef.0",
		"0123456789abcdef.01", "0123456789ABCDEF.1", "0123456789abcdef.zzzzzzzzzzzzzz", "0123456789abcdef.1.1", "0123456789abcdef.-1", "0123456789abcdef.+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			if !errors.Is(err, ErrToken) || !token.IsZero() {
				t.Errorf("ParseToken(%q) = %v, %v", s, token, err)
			}
			return
		}
		if token.String() != s || token.IsZero() || token.at.token == 0 {
			t.Errorf("ParseToken(%q) = %q: two spellings of one token", s, token)
		}
	})
}

// Without the look at the ledger before it stores, Put tells a program that
// its content is kept, though everybody was told that it is old.
func TestPutKnowsWhatHappenedBeforeIt(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, worker := node(t, rdb), node(t, rdb) // nobody runs s: it hears of nothing by itself
	settled(t, worker)
	syncNow(t, s)
	token := s.Begin()
	p := tag("posts")
	barrier(t, worker, p, invalidate(t, worker, p))
	e := s.newEntry(Request{Key: "k", Tags: p.Tags}, []string{"t:posts"}, Fill{Status: 200, TTL: time.Minute}, token.at)
	if s.refusal("k", e, Fill{Status: 200, TTL: time.Minute}) == "void" {
		t.Fatal("this node knows of the event already: the test shows nothing")
	}
	if put(t, s, token, "k", "old", "posts") {
		t.Error("stored what an event had made void before")
	}
}
