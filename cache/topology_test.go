package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// The name of a node is random: two processes of one name would acknowledge
// for each other.
func TestProcessesOfOneNameWouldServeOldContent(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	judge := func(shared bool) (stale bool) {
		rdb.FlushAll(t.Context())
		worker, reader, twin := node(t, rdb), node(t, rdb), node(t, rdb)
		if shared {
			twin.node = reader.node
		}
		settled(t, worker)
		worker.leave(t.Context())
		held := hold(t, reader, "post:1", "posts")
		syncNow(t, twin, reader)
		p := tag("posts")
		m := invalidate(t, worker, p)
		syncNow(t, twin) // hears of it, the reader does not
		barrier(t, worker, p, m)
		return reader.state("post:1", held, nil).servable()
	}
	if judge(false) {
		t.Error("the reader serves what the event made void")
	}
	if !caught(func() bool { return judge(true) }) {
		t.Error("one name for two processes is not caught")
	}
}

// A master that its replicas have left may have an heir. With
// min-replicas-to-write it renews no lease: who still talks to it stops serving.
func TestMasterWithoutItsReplicasRenewsNoLease(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	_, line := testkit.StartReplica(t, server)
	rdb := server.Client(t)
	s := node(t, rdb)
	syncNow(t, s)
	rdb.ConfigSet(t.Context(), "min-replicas-max-lag", "1")
	refuses := func() bool { return s.turnAfter().wait(t.Context()) != nil }

	line.Hold()
	testkit.Until(t, "the replica is late", func() bool {
		n, err := rdb.Wait(t.Context(), 1, time.Millisecond).Result()
		return err != nil || n == 0
	})
	if refuses() {
		t.Fatal("refused without the setting, so this proves nothing")
	}
	rdb.ConfigSet(t.Context(), "min-replicas-to-write", "1")
	testkit.Until(t, "no lease is renewed", refuses)
	testkit.Until(t, "the lease is over", func() bool { return s.Ready() != nil })
	if _, err := s.Invalidate(t.Context(), tag("posts"), Mark{}); err == nil {
		t.Error("an event was taken that no replica may ever have")
	}
	line.Release()
	testkit.Until(t, "the node serves again", func() bool { return !refuses() && s.Ready() == nil })
}

// A process stops after it looked into its memory.
func TestPauseAfterALookIntoMemoryServesNothingOld(t *testing.T) {
	t.Parallel()
	judge := func(change ...func(*options)) bool {
		rdb := testkit.Redis(t)
		c := newClocks()
		stop := func() {}
		s := node(t, rdb, append(change, c.set, func(o *options) { o.faults.afterLookup = func() { stop() } })...)
		worker := node(t, rdb)
		syncNow(t, s)
		c.move(2*shortLease, 2*shortLease)
		syncNow(t, s)
		req := Request{Key: "post:1", Tags: []string{"posts"}}
		fetch(t, s, req, answers("old"))
		if _, ok := s.Peek(req); !ok {
			t.Fatal("not in memory")
		}
		var once sync.Once
		stop = func() {
			once.Do(func() {
				invalidate(t, worker, tag("posts"))
				c.move(shortLease, shortLease)
			})
		}
		_, ok := s.Peek(req)
		return ok
	}
	if judge() {
		t.Error("served what was void when it was judged")
	}
	if !judge(func(o *options) { o.faults.leaseUnchecked = true }) {
		t.Error("nothing goes wrong without the check of the lease, so this proves nothing")
	}
}

// A worker dies after its invalidation, Redis loses it, and another worker
// tries again with the mark that was remembered.
func TestRetryAfterALossIsANewEvent(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	reader := node(t, rdb)
	settled(t, reader)
	dead := node(t, rdb)
	p := tag("posts")
	first := invalidate(t, dead, p)
	rdb.FlushAll(t.Context())
	syncNow(t, reader)
	held := hold(t, reader, "post:1", "posts") // from an origin that lags, say
	heir := node(t, rdb)
	second, err := heir.Invalidate(t.Context(), p, first)
	if err != nil || second.Epoch == first.Epoch || second.Member == first.Member {
		t.Fatalf("Invalidate = %+v, %v; want another than %+v", second, err, first)
	}
	barrier(t, heir, p, second)
	if syncNow(t, reader); reader.state("post:1", held, nil).servable() {
		t.Error("the event was forgotten")
	}
	if third, err := heir.Invalidate(t.Context(), p, second); err != nil || third != second {
		t.Errorf("a retry with nothing lost = %+v, %v; want %+v", third, err, second)
	}
}

// The clock was a year ahead for a while. Seqs stay up there, and order holds.
func TestClockThatWasFarAheadStopsNothing(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := node(t, rdb, skewed())
	rdb.Set(t.Context(), "skew", "31536000", 0)
	syncNow(t, s)
	invalidate(t, s, tag("posts"))
	rdb.Set(t.Context(), "skew", "0", 0)
	testkit.Until(t, "the lease runs", func() bool { syncNow(t, s); return s.Ready() == nil })
	held := hold(t, s, "post:1", "posts")
	for range 3 {
		p := tag("posts")
		barrier(t, s, p, invalidate(t, s, p))
	}
	syncNow(t, s)
	if s.state("post:1", held, nil).servable() {
		t.Error("an entry of before the event is served")
	}
	if e := hold(t, s, "post:2", "posts"); e.Token <= held.Token {
		t.Errorf("token %d of a later fetch, want above %d", e.Token, held.Token)
	}
}

// A node that is cut off cannot know what was announced. Its answer says so,
// also where it hears of everything before the answer is given.
func TestAnswerOfANodeThatKnewNothingIsMarked(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb, c, part := server.Client(t), newClocks(), &partition{}
	rdb.AddHook(part)
	s, worker := node(t, rdb, c.set), node(t, server.Client(t))
	syncNow(t, s, worker)
	part.cut.Store(true)
	c.move(shortLease, shortLease)
	if s.turnAfter().wait(t.Context()) == nil {
		t.Fatal("not cut off")
	}
	p, m := announce(t, "2", worker)
	tell(t, worker, p, m)

	rdb.AddHook(hook{func(_ context.Context, cmd redis.Cmder, send func() error) error {
		if sends(cmd, s.names.entry("k")) && part.cut.CompareAndSwap(true, false) { // as the answer is stored
			c.move(2*awayPause, 2*awayPause)
			for s.Ready() != nil && t.Context().Err() == nil {
				s.turnAfter().wait(t.Context())
			}
		}
		return send()
	}})
	var calls atomic.Int64
	r := fetch(t, s, Request{Key: "k", Tags: []string{"post:1"}}, edge(&calls, "1"))
	if part.cut.Load() {
		t.Fatal("still cut off: this proves nothing")
	}
	if saw(r) != "1 bypass" || r.Detail != DetailAway {
		t.Errorf("read %q %q, want a bypass: nobody could tell", saw(r), r.Detail)
	}
	if got := saw(fetch(t, s, Request{Key: "k", Tags: []string{"post:1"}}, edge(&calls, "1", "1", "2"))); got != "2 miss" {
		t.Errorf("then read %q, want what was announced", got)
	}
}
