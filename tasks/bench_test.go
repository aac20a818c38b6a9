package tasks

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

func BenchmarkEnqueue(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(map[int]string{1: "callers=1", 32: "callers=32"}[callers], func(b *testing.B) {
			s := testkit.StartServer(b)
			q := NewQueue(redisAs(b, s, IngestOptions), testkit.Discard(), Config{})
			var n atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(max(1, callers/2)) // × GOMAXPROCS
			b.ResetTimer()
			enqueue := func() {
				if added, err := q.Enqueue(context.Background(), news(int(n.Add(1)))); err != nil || !added {
					b.Errorf("Enqueue = %v, %v", added, err)
				}
			}
			if callers == 1 {
				for range b.N {
					enqueue()
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					enqueue()
				}
			})
		})
	}
}

// BenchmarkEnqueueAll enqueues batches, as a journal hands them over; size=1 is
// the reference, one by one. The queue does not fill up: it is emptied now and then.
func BenchmarkEnqueueAll(b *testing.B) {
	for _, size := range []int{1, 128} {
		b.Run("size="+strconv.Itoa(size), func(b *testing.B) {
			s := testkit.StartServer(b)
			rdb := redisAs(b, s, IngestOptions)
			q := NewQueue(rdb, testkit.Discard(), Config{QueueCap: 1_000_000})
			payload := []byte(`{"text":"` + strings.Repeat("x", 512) + `"}`)
			b.ReportAllocs()
			for n := 0; n < b.N; n += size {
				if n%102_400 == 0 && n > 0 {
					b.StopTimer()
					rdb.FlushDB(context.Background())
					b.StartTimer()
				}
				evs := make([]event.Event, min(size, b.N-n))
				for i := range evs {
					evs[i] = news(n + i)
					evs[i].Payload = payload
				}
				added, err := q.EnqueueAll(context.Background(), evs)
				if err != nil || slices.Contains(added, false) {
					b.Fatalf("EnqueueAll = %v, %v", added, err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkKnown asks from many callers, as webhooks do beside their fsync.
func BenchmarkKnown(b *testing.B) {
	s := testkit.StartServer(b)
	q := NewQueue(redisAs(b, s, IngestOptions), testkit.Discard(), Config{})
	b.ReportAllocs()
	b.SetParallelism(32) // × GOMAXPROCS
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := q.Known(context.Background(), []string{"an-event-that-nobody-sent-yet"}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkEncodeEvent(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		ev := news(1)
		ev.Payload = []byte(`{"text":"` + strings.Repeat("x", size) + `"}`)
		for name, encode := range map[string]func(event.Event) ([]byte, error){
			"ours":  EncodeEvent,
			"plain": func(ev event.Event) ([]byte, error) { return json.Marshal(ev) },
		} {
			b.Run(name+"/bytes="+strconv.Itoa(size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := encode(ev); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkEventThroughWorker sends events one after the other (the wait is
// Asynq's polling), and all at once (the time an event is throughput). Steps
// other than the append do nothing.
func BenchmarkEventThroughWorker(b *testing.B) {
	for _, mode := range []string{"one", "burst"} {
		b.Run(mode, func(b *testing.B) {
			s := testkit.StartServer(b)
			rdb := redisAs(b, s, WorkerOptions)
			st := newSite(rdb, "fw")
			published := make(chan time.Duration, 1024)
			steps := st.steps()
			steps.Plan = func(ev event.Event) rules.Plan {
				return rules.Plan{Rules: []int{0}, Purge: event.Purge{Tags: []string{"posts"}}}
			}
			steps.Invalidate = func(context.Context, Subject, Mark) (Mark, error) { return Mark{Seq: 1}, nil }
			steps.Barrier = func(_ context.Context, _ Subject, m Mark) (Mark, Report, error) {
				return m, Report{Settled: true}, nil
			}
			steps.Reclaim = func(context.Context, event.Purge, Mark) (int, []string, error) { return 0, nil, nil }
			add := steps.Append
			steps.Append = func(ctx context.Context, c event.Change) (string, bool, error) {
				pos, added, err := add(ctx, c)
				published <- time.Since(c.At)
				return pos, added, err
			}
			q := NewQueue(redisAs(b, s, IngestOptions), testkit.Discard(), Config{})
			w := NewWorker(rdb, steps, testkit.Discard(), Config{})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- w.Run(ctx) }()
			var took []time.Duration
			b.ResetTimer()
			if mode == "one" {
				for n := range b.N {
					mustEnqueue(b, q, news(n))
					took = append(took, <-published)
				}
			} else {
				go func() {
					for n := range b.N {
						if _, err := q.Enqueue(ctx, news(n)); err != nil {
							b.Error(err)
						}
					}
				}()
				for range b.N {
					took = append(took, <-published)
				}
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
			cancel()
			<-done
		})
	}
}
