package feed

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/redis/go-redis/v9"
)

func TestTailHandsOnHistoryThenEveryChangeInOrder(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		l := testLog(t, rdb, Config{})
		appendAll(t, l, "a", "b")
		one, two := newRecorder(), newRecorder()
		other := testLog(t, rdb, Config{})
		testkit.Go(t, func(ctx context.Context) error { return l.Tail(ctx, one) })
		testkit.Go(t, func(ctx context.Context) error { return other.Tail(ctx, two) })
		one.await(t, "reset:history_lost", "a", "b")
		two.await(t, "reset:history_lost", "a", "b")

		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 100 {
					appendAll(t, l, fmt.Sprint(w, "-", i))
				}
			})
		}
		wg.Wait()
		last := appendAll(t, l, "end")[0]
		one.await(t, "end")
		two.await(t, "end")
		if a, b := one.seen(), two.seen(); len(a) != 404 || !slices.Equal(a, b) {
			t.Errorf("two tails saw %d and %d entries, want the same 404 in the same order", len(a), len(b))
		}
		testkit.Until(t, "Position is that of the last", func() bool { return l.Position() == last })
		testkit.Until(t, "Ready", l.Ready)
	})
}

func TestTailOfAFreshLogStartsAtAPositionThatCanBeResumed(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		l := testLog(t, rdb, Config{})
		sink := newRecorder()
		testkit.Go(t, func(ctx context.Context) error { return l.Tail(ctx, sink) })
		sink.await(t, "reset:history_lost")
		testkit.Until(t, "Ready", l.Ready)
		start := l.Position()
		if start.IsZero() || sink.resets[0] != start {
			t.Fatalf("Position = %v, reset to %v", start, sink.resets[0])
		}
		appendAll(t, l, "a")
		if recs, whole, err := l.Range(t.Context(), start, 10); err != nil || !whole || len(recs) != 1 {
			t.Errorf("Range from the start = %v, %v, %v", recs, whole, err)
		}
	}, "redis", "embedded")
}

func TestHistoryIsBounded(t *testing.T) {
	rdb := testkit.Redis(t)
	l := testLog(t, rdb, Config{History: 3})
	at := appendAll(t, l, "a", "b", "c", "d", "e")
	sink := newRecorder()
	testkit.Go(t, func(ctx context.Context) error { return l.Tail(ctx, sink) })
	sink.await(t, "reset:history_lost", "c", "d", "e")
	if sink.resets[0] != at[1] {
		t.Errorf("reset to %v, want %v: all after it was handed on", sink.resets[0], at[1])
	}
}

// damage is what may happen to a store under a running tail.
var damage = map[string]struct {
	stores []string
	do     func(t *testing.T, rdb redis.UniversalClient, at event.Position)
}{
	"flushed":     {[]string{"redis", "cluster", "embedded"}, func(t *testing.T, rdb redis.UniversalClient, _ event.Position) { flush(t, rdb) }},
	"log deleted": {[]string{"redis", "embedded"}, func(t *testing.T, rdb redis.UniversalClient, _ event.Position) { rdb.Del(t.Context(), "fw:{fw}:log") }},
	"meta deleted": {[]string{"redis", "embedded"}, func(t *testing.T, rdb redis.UniversalClient, _ event.Position) {
		rdb.Del(t.Context(), "fw:{fw}:log:meta")
	}},
	"emptied": {[]string{"redis"}, func(t *testing.T, rdb redis.UniversalClient, _ event.Position) {
		rdb.XTrimMaxLen(t.Context(), "fw:{fw}:log", 0)
	}},
	"suffix lost": {[]string{"redis", "embedded"}, func(t *testing.T, rdb redis.UniversalClient, at event.Position) {
		rdb.XDel(t.Context(), "fw:{fw}:log", at.String())
	}},
	"another process serves": {[]string{"redis"}, func(t *testing.T, rdb redis.UniversalClient, _ event.Position) {
		rdb.HSet(t.Context(), "fw:{fw}:log:meta", "host", "0123")
	}},
	"flushed, clock went back": {[]string{"redis"}, func(t *testing.T, rdb redis.UniversalClient, _ event.Position) {
		flush(t, rdb)
		rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: "fw:{fw}:log", ID: "5-0", Values: []string{"e", "other"}})
		rdb.HSet(t.Context(), "fw:{fw}:log:meta", "epoch", "other", "origin", "5-0", "host", strings.TrimSpace(host(t, rdb)))
	}},
}

func flush(t *testing.T, rdb redis.UniversalClient) {
	if c, ok := rdb.(*redis.ClusterClient); ok {
		if err := c.ForEachMaster(t.Context(), func(ctx context.Context, m *redis.Client) error { return m.FlushAll(ctx).Err() }); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}

func host(t *testing.T, rdb redis.UniversalClient) string {
	_, rest, _ := strings.Cut(rdb.Info(t.Context(), "server").Val(), "run_id:")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id
}

func TestChangedStoreIsToldAndTheLogGoesOn(t *testing.T) {
	for name, d := range damage {
		for _, store := range d.stores {
			for _, when := range []string{"noticed while idle", "noticed by an append"} {
				if store == "cluster" && when == "noticed by an append" {
					continue // seconds for nothing new
				}
				if name == "suffix lost" && when == "noticed by an append" {
					continue // what follows continues what the tail has: nothing is missed
				}
				t.Run(name+"/"+store+"/"+when, func(t *testing.T) {
					t.Parallel()
					rdb := stores[store](t)
					l := testLog(t, rdb, Config{})
					sink := newRecorder()
					testkit.Go(t, func(ctx context.Context) error { return l.Tail(ctx, sink) })
					sink.await(t, "reset:history_lost")
					at := appendAll(t, l, "a", "b")
					sink.await(t, "a", "b")
					d.do(t, rdb, at[1])
					if when == "noticed while idle" {
						sink.await(t, "reset:store_changed")
					}
					after := appendAll(t, l, "c", "d")
					testkit.Until(t, "a reset is told", func() bool { return slices.Contains(sink.seen(), "reset:store_changed") })
					appendAll(t, l, "e")
					sink.await(t, "e")
					got := sink.seen()
					told := slices.Index(got, "reset:store_changed")
					// What was appended before the reset may be covered by it.
					if n := slices.Index(got, "c"); n >= 0 && n < told {
						t.Errorf("sink got %v, want nothing of the new life before the reset", got)
					}
					if after[1].Compare(at[1]) <= 0 && when == "noticed while idle" {
						t.Errorf("position %v after %v: a client that stands there would not be told", after[1], at[1])
					}
					for _, p := range at {
						if _, whole, err := l.Range(t.Context(), p, 10); whole || err != nil {
							t.Errorf("Range(%v) = whole %v, %v, want a position of another life refused", p, whole, err)
						}
					}
				})
			}
		}
	}
}

func TestLogTrimmedPastTheTailIsTold(t *testing.T) {
	s := testkit.StartServer(t, "--stream-node-max-entries", "1")
	rdb := s.Client(t)
	l := testLog(t, rdb, Config{MaxLen: 10})
	tailLog := testLog(t, s.Client(t), Config{MaxLen: 10})
	blocked := &gate{recorder: newRecorder(), enter: make(chan struct{}), leave: make(chan struct{})}
	testkit.Go(t, func(ctx context.Context) error { return tailLog.Tail(ctx, blocked) })
	blocked.await(t, "reset:history_lost")
	appendAll(t, l, "a")
	testkit.Wait(t, blocked.enter, "the tail to hand on a")
	for i := range 50 { // while the tail stands still
		appendAll(t, l, fmt.Sprint(i))
	}
	close(blocked.leave)
	blocked.await(t, "49")
	got := blocked.seen()
	n := slices.Index(got, "a")
	if n < 0 || got[n+1] != "reset:history_lost" {
		t.Fatalf("the sink got %v, want a reset after a", got)
	}
	for i, id := range got[n+2:] {
		if want := fmt.Sprint(50 - len(got[n+2:]) + i); id != want {
			t.Errorf("after the reset: %v, want the last ones without a gap", got[n+2:])
			break
		}
	}
}

// gate is a sink that stands still once.
type gate struct {
	*recorder
	once         sync.Once
	enter, leave chan struct{}
}

func (g *gate) Broadcast(recs []event.Record) {
	g.once.Do(func() {
		close(g.enter)
		<-g.leave
	})
	g.recorder.Broadcast(recs)
}

func TestTailSurvivesRedisAndTellsWhatItLost(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"empty after kill -9": {nil, []string{"reset:store_changed", "c"}},
		// Nothing is lost here, but a process cannot know that of another one's disk.
		"same data after kill -9": {[]string{"--appendonly", "yes", "--appendfsync", "always"}, []string{"a", "b", "reset:store_changed", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testkit.StartServer(t, tc.args...)
			l := testLog(t, s.Client(t), Config{})
			sink := newRecorder()
			testkit.Go(t, func(ctx context.Context) error { return l.Tail(ctx, sink) })
			at := appendAll(t, l, "a", "b")
			sink.await(t, "a", "b")
			testkit.Until(t, "Ready", l.Ready)
			s.Kill()
			testkit.Until(t, "not Ready while Redis is away", func() bool { return !l.Ready() })
			s.Start(t)
			testkit.Until(t, "Ready again", l.Ready)
			sink.await(t, "reset:store_changed")
			c := appendAll(t, l, "c")
			sink.await(t, tc.want[len(tc.want)-2:]...)
			if c[0].Compare(at[1]) <= 0 {
				t.Errorf("position %v after %v", c[0], at[1])
			}
		})
	}
}

func TestHungRedisMakesTheTailUnready(t *testing.T) {
	s := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, ReadTimeout: 500 * time.Millisecond})
	t.Cleanup(func() { rdb.Close() })
	l := testLog(t, rdb, Config{})
	sink := newRecorder()
	testkit.Go(t, func(ctx context.Context) error { return l.Tail(ctx, sink) })
	testkit.Until(t, "Ready", l.Ready)
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "not Ready while Redis hangs", func() bool { return !l.Ready() })
	if err := s.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "Ready again", l.Ready)
	appendAll(t, l, "a")
	sink.await(t, "reset:history_lost", "a") // nothing was lost: no reset in between
}

func TestJanitorForgetsTheOldButNeverTheNewest(t *testing.T) {
	for name, start := range stores {
		if name == "cluster" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			rdb := start(t)
			l := testLog(t, rdb, Config{})
			if name == "redis" {
				rdb.ConfigSet(t.Context(), "stream-node-max-entries", "1")
			}
			old := time.Now().Add(-25 * time.Hour).UnixMilli()
			newest := event.Position{}
			if _, err := openScript.Run(t.Context(), rdb, []string{l.logKey(), l.metaKey()}, "e", "", "", "").Result(); err != nil {
				t.Fatal(err)
			}
			rdb.Del(t.Context(), l.logKey())
			for i := range 5 {
				newest = event.Position{Ms: uint64(old) + uint64(i)}
				rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: l.logKey(), ID: newest.String(), Values: []string{"d", "{}", "c", "posts"}})
			}
			rdb.HSet(t.Context(), l.metaKey(), "origin", fmt.Sprint(old, "-0"))
			tl := &tail{Log: l, sink: newRecorder(), pos: newest}
			tl.trim(t.Context())
			if n := rdb.XLen(t.Context(), l.logKey()).Val(); n != 1 {
				t.Errorf("the log has %d entries, want the newest only", n)
			}
			if _, whole, err := l.Range(t.Context(), newest, 1); err != nil || !whole {
				t.Errorf("Range(newest) = %v, %v, want whole: nothing came after it", whole, err)
			}
		})
	}
}
