package cache

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// forget drops an entry from Redis alone.
func forget(t testing.TB, s *Store, key string) {
	t.Helper()
	if err := s.rdb.Del(t.Context(), s.names.entry(key)).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestHitNeedsNoRedis(t *testing.T) {
	s := node(t, testkit.Redis(t))
	settled(t, s)
	fetch(t, s, Request{Key: "k", Tags: []string{"a"}}, answers("x"))
	forget(t, s, "k")
	syncNow(t, s)
	if got := saw(fetch(t, s, Request{Key: "k", Tags: []string{"a"}}, answers("y"))); got != "x hit" {
		t.Errorf("read %q, want what is in memory", got)
	}
	r, ok := s.Peek(Request{Key: "k", Tags: []string{"a"}}.Prepare())
	if !ok || saw(r) != "x hit" {
		t.Errorf("Peek = %v, %v", r, ok)
	}
}

func TestWhatAnotherNodeFetchedIsKeptInMemory(t *testing.T) {
	rdb := testkit.Redis(t)
	a, b := node(t, rdb), node(t, rdb)
	settled(t, a)
	syncNow(t, b)
	fetch(t, a, Request{Key: "k"}, answers("x"))
	if got := saw(fetch(t, b, Request{Key: "k"}, answers("y"))); got != "x hit" {
		t.Fatalf("read %q", got)
	}
	forget(t, a, "k")
	if got := saw(fetch(t, b, Request{Key: "k"}, answers("y"))); got != "x hit" {
		t.Errorf("read %q, want what is in memory", got)
	}
}

// What is in memory must heed an event as soon as the node does, whether the
// reader looks there only or everywhere.
func TestMemoryServesNothingVoid(t *testing.T) {
	req := Request{Key: "post:1", Base: "base", Tags: []string{"posts"}, Path: "/blog/1"}
	for _, p := range []Purge{{Tags: []string{"posts"}}, {Keys: []string{"post:1"}}, {Keys: []string{"base"}}, {Paths: []string{"/blog/*"}},
		{Patterns: []string{"post:*"}}, {All: true}} {
		served := func(change ...func(*options)) string {
			s := node(t, testkit.Redis(t), change...)
			settled(t, s)
			fetch(t, s, req, answers("old"))
			if _, ok := s.Peek(req); !ok {
				t.Fatal("not in memory")
			}
			barrier(t, s, p, invalidate(t, s, p))
			syncNow(t, s)
			if r, ok := s.Peek(req); ok {
				return saw(r)
			}
			return saw(fetch(t, s, req, answers("new")))
		}
		if got := served(); got != "new miss" {
			t.Errorf("after %+v: read %q", p, got)
		}
		once := func(o *options) { o.faults.generationFixed = true }
		if got := served(once); got != "old hit" {
			t.Errorf("judged once for all, after %+v: read %q; nobody would see that", p, got)
		}
	}
}

func TestMemoryServesNothingWithoutALease(t *testing.T) {
	c := newClocks()
	s := node(t, testkit.Redis(t), c.set)
	syncNow(t, s)
	c.move(2*shortLease, 2*shortLease) // the phantom of a new ledger
	syncNow(t, s)
	req := Request{Key: "k"}.Prepare()
	fetch(t, s, req, answers("x"))
	if _, ok := s.Peek(req); !ok {
		t.Fatal("not in memory")
	}
	c.move(shortLease, shortLease)
	if r, ok := s.Peek(req); ok {
		t.Errorf("Peek = %q after the lease", saw(r))
	}
}

func TestPeekLeavesToFetchWhatItCannotTell(t *testing.T) {
	s := node(t, testkit.Redis(t))
	settled(t, s)
	short := func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 200, Body: []byte("x"), TTL: time.Minute, Tags: []string{"learnt"}}, nil
	}
	fetch(t, s, Request{Key: "k", Tags: []string{"a"}}, short)
	token := s.mirror.position().token
	for name, tc := range map[string]struct {
		req Request
		ok  bool
	}{
		"as it was filled":       {Request{Key: "k", Tags: []string{"a"}}, true},
		"a tag it was not under": {Request{Key: "k", Tags: []string{"b"}}, false},
		"something newer":        {Request{Key: "k", Tags: []string{"a"}, After: token + 1}, false},
		"something it has":       {Request{Key: "k", Tags: []string{"a"}, After: token}, true},
		"another key":            {Request{Key: "l", Tags: []string{"a"}}, false},
	} {
		if _, ok := s.Peek(tc.req); ok != tc.ok {
			t.Errorf("%s: Peek = %v", name, ok)
		}
	}
}

func TestMemoryStaysInItsBounds(t *testing.T) {
	s := newStore(testkit.Redis(t), testkit.Discard(), Config{Memory: 1 << 20}, options{lease: leaseTime, now: now, scripts: shipped})
	testkit.Go(t, s.Run)
	testkit.Until(t, "ready", func() bool { return s.Ready() == nil })
	body := strings.Repeat("x", 10_000)
	for i := range 500 {
		fetch(t, s, Request{Key: fmt.Sprint("k", i)}, answers(body))
	}
	s.memory.entries.CleanUp()
	if bytes, n := s.memory.entries.WeightedSize(), s.memory.entries.EstimatedSize(); bytes > 1<<20 || n < 50 {
		t.Errorf("%d entries of %d bytes in 1 MiB", n, bytes)
	}
}

func TestMemoryKeepsTheLaterFetch(t *testing.T) {
	m := newMemory(1<<20, now, nil)
	at := time.Now()
	entry := func(token uint64, stored time.Time) *Entry {
		return &Entry{Epoch: "e", Token: token, StoredAt: stored, FreshUntil: at.Add(time.Hour)}
	}
	later, earlier := entry(9, at), entry(8, at.Add(time.Second))
	m.keep("k", later)
	m.keep("k", earlier)
	if m.get("k") != later {
		t.Error("an earlier fetch took the place of a later one")
	}
	other := &Entry{Epoch: "f", Token: 1, StoredAt: at, FreshUntil: at.Add(time.Hour)}
	if m.keep("k", other); m.get("k") != other {
		t.Error("tokens of two ledgers have no order: the later one counts")
	}
	if newMemory(-1, now, nil).get("k") != nil {
		t.Error("no memory holds something")
	}
}

// A purge that is soft never makes anybody wait.
func TestSoftPurgeServesStaleWhileItIsFetchedAgain(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s, other := node(t, rdb), node(t, rdb)
		settled(t, s)
		for i, p := range []Purge{{Tags: []string{"posts"}}, {Keys: []string{"k"}}, {Patterns: []string{"k*"}}, {All: true}} {
			syncNow(t, s, other)
			was, is := fmt.Sprint("v", i), fmt.Sprint("v", i+1)
			req := Request{Key: "k", Tags: []string{"posts"}}
			fetch(t, s, req, answers(was))
			fetch(t, other, req, answers("never"))
			p.Soft = true
			barrier(t, s, p, invalidate(t, s, p))
			syncNow(t, s, other)
			for _, n := range []*Store{s, other} {
				if _, ok := n.Peek(req); ok {
					t.Errorf("%+v: in memory it is as it was", p)
				}
			}
			if r := fetch(t, s, req, answers(is)); r.Verdict != Stale || text(r.Entry) != was {
				t.Errorf("%+v: read %q at once, want %s stale", p, saw(r), was)
			}
			testkit.Until(t, "it was fetched again", func() bool {
				return saw(fetch(t, s, req, answers("never"))) == is+" hit"
			})
			hard := Purge{All: true}
			barrier(t, s, hard, invalidate(t, s, hard))
		}
	})
}

func TestHeadIsReadWithoutTheBody(t *testing.T) {
	long := []string{}
	for i := range 60 {
		long = append(long, fmt.Sprint(strings.Repeat("tag", 30), i))
	}
	for name, tags := range map[string][]string{"short header": {"a"}, "header beyond the first read": long} {
		t.Run(name, func(t *testing.T) {
			rdb := testkit.Redis(t)
			writer, s := node(t, rdb), node(t, rdb)
			settled(t, writer)
			syncNow(t, s)
			req := Request{Key: "k", Tags: tags}
			fetch(t, writer, req, answers(strings.Repeat("x", 5000)))
			req.NoBody = func(e *Entry) bool { return e.Size == 5000 }
			r := fetch(t, s, req, answers("never"))
			if _, err := r.Entry.Body(); r.Verdict != Hit || err != ErrNoBody {
				t.Errorf("%s with the body: %v", r.Verdict, err)
			}
			if _, ok := s.Peek(req); ok {
				t.Error("an entry without its body is kept in memory")
			}
			// The last of many tags counts, too.
			p := tag(tags[len(tags)-1])
			barrier(t, writer, p, invalidate(t, writer, p))
			syncNow(t, s)
			if got := saw(fetch(t, s, req, answers("new"))); got != "new miss" {
				t.Errorf("after the purge: %q", got)
			}
			req.NoBody = func(e *Entry) bool { return false }
			if got := saw(fetch(t, node(t, rdb), req, answers("never"))); got != "never bypass" && got != "new hit" {
				t.Errorf("a read that needs the body: %q", got)
			}
		})
	}
}

func TestEntriesAreReadFromTheReplica(t *testing.T) {
	rdb, replica := testkit.Redis(t), testkit.Redis(t)
	s := newStore(rdb, testkit.Discard(), Config{Memory: -1, Replica: replica}, options{lease: leaseTime, now: now, scripts: shipped})
	testkit.Go(t, s.Run)
	testkit.Until(t, "ready", func() bool { return s.Ready() == nil })
	fetch(t, s, Request{Key: "k"}, answers("x"))
	blob, err := rdb.Get(t.Context(), s.names.entry("k")).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := replica.Set(t.Context(), s.names.entry("k"), blob, 0).Err(); err != nil {
		t.Fatal(err)
	}
	forget(t, s, "k") // now the replica alone has it
	if got := saw(fetch(t, s, Request{Key: "k"}, answers("y"))); got != "x hit" {
		t.Errorf("read %q, want what the replica has", got)
	}
	p := Purge{Keys: []string{"k"}}
	barrier(t, s, p, invalidate(t, s, p))
	if got := saw(fetch(t, s, Request{Key: "k"}, answers("new"))); got != "new miss" {
		t.Errorf("read %q: the replica lags, and its entry is void", got)
	}
	replica.Close()
	if got := saw(fetch(t, s, Request{Key: "k"}, answers("never"))); got != "new hit" {
		t.Errorf("read %q, want the master's while the replica is away", got)
	}
}
