package tasks

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func toldStreams(t *testing.T, r *Records, id string) int {
	t.Helper()
	rec, err := r.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Delivered
}

func TestDeliveriesOfAllNodesAddUp(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	r := NewRecords(server.Client(t), testkit.Logger(t), Config{})
	const events, nodes, rounds = 200, 3, 5 // more events than one script takes
	now := time.Now()
	for n := range events {
		r.queued(t.Context(), now, news(n))
	}
	var wg sync.WaitGroup
	for range nodes {
		node := NewRecords(server.Client(t), testkit.Logger(t), Config{})
		wg.Go(func() {
			for range rounds {
				streams := map[string]int{}
				for n := range events {
					streams[news(n).ID] = n
				}
				if err := node.CountDelivered(t.Context(), streams); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// What workers write at the same time neither loses nor resets the counts.
	for n := range events {
		ev := news(n)
		o := r.begin(t.Context(), ev, nil, now)
		r.update(t.Context(), ev.ID, o.attempt, Done, &Outcome{Position: "1-0"}, nil)
		r.queued(t.Context(), now, ev)
	}
	wg.Wait()
	for n := range events {
		if got := toldStreams(t, r, news(n).ID); got != n*nodes*rounds {
			t.Errorf("event %d delivered to %d streams, want %d", n, got, n*nodes*rounds)
		}
	}
	page, _, err := r.List(t.Context(), "", events, "")
	if err != nil || len(page) != events || page[0].Delivered+page[events-1].Delivered == 0 {
		t.Errorf("the list has %d records, %v, without counts", len(page), err)
	}
}

// A count that comes after the record has ended must not bring back a key
// that nobody lists and nothing ends.
func TestCountBringsNoRecordBack(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	r := NewRecords(rdb, testkit.Logger(t), Config{RecordCap: 2})
	left := func() int {
		keys, err := rdb.Keys(t.Context(), r.keys.record("*")).Result()
		if err != nil {
			t.Fatal(err)
		}
		return len(keys)
	}
	now := time.Now()
	streams := map[string]int{"never-there": 3}
	for n := range 5 {
		ev := news(n)
		ev.ReceivedAt = now.Add(time.Duration(n) * time.Second)
		r.queued(t.Context(), now, ev)
		streams[ev.ID] = 1 + n
	}
	if err := r.CountDelivered(t.Context(), streams); err != nil {
		t.Fatal(err)
	}
	if n := left(); n != 2 {
		t.Errorf("%d records after counting, want the 2 that are kept", n)
	}
	if got := toldStreams(t, r, news(4).ID); got != 5 {
		t.Errorf("the newest event delivered to %d streams, want 5", got)
	}
	if ttl := rdb.TTL(t.Context(), r.keys.record(news(4).ID)).Val(); ttl <= 0 || ttl > 24*time.Hour {
		t.Errorf("a counted record ends in %v", ttl)
	}

	// Without the look the test sees them.
	const look = "redis.call('EXISTS', key) == 1"
	if !strings.Contains(deliveredLua, look) {
		t.Fatal("delivered.lua does not look")
	}
	blind := redis.NewScript(strings.Replace(deliveredLua, look, "true", 1))
	if err := blind.Run(t.Context(), rdb, []string{r.keys.record(news(0).ID)}, 1).Err(); err != nil {
		t.Fatal(err)
	}
	if n := left(); n != 3 {
		t.Errorf("%d records after counting blindly, want 3", n)
	}
}

func TestRedisThatIsAwayCostsOnlyTheCount(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	o := &redis.UniversalOptions{Addrs: []string{server.Addr}}
	IngestOptions(o)
	rdb := redis.NewUniversalClient(o)
	defer rdb.Close()
	r := NewRecords(rdb, testkit.Logger(t), Config{})
	server.Kill()
	if err := r.CountDelivered(t.Context(), map[string]int{"a": 1}); err == nil {
		t.Error("counted without a Redis")
	}
	if err := r.CountDelivered(t.Context(), nil); err != nil {
		t.Errorf("nothing to count: %v", err)
	}
}

func BenchmarkCountDelivered(b *testing.B) {
	for _, events := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("events=%d", events), func(b *testing.B) {
			rdb := testkit.Redis(b)
			r := NewRecords(rdb, testkit.Discard(), Config{})
			streams := map[string]int{}
			for n := range events {
				r.queued(b.Context(), time.Now(), news(n))
				streams[news(n).ID] = 10_000
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := r.CountDelivered(b.Context(), streams); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
