package ratelimit

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// nowhere is a connection to a handler, without the connection.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

// BenchmarkHandler shows what limits cost one request, and one after another of
// many at once: admitted by a Redis on this machine, refused from memory, and
// admitted while Redis is away.
func BenchmarkHandler(b *testing.B) {
	server := testkit.StartServer(b)
	empty := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	run := func(name string, change func(*Limiter)) {
		l := New(client(b, server.Addr), testkit.Discard(), Config{Rate: Rate{maxCount, maxPer}, Pause: time.Hour})
		change(l)
		h := l.Handler(empty)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest("GET", "/api/posts", nil)
			w := nowhere{http.Header{}}
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				r := httptest.NewRequest("GET", "/api/posts", nil)
				w := nowhere{http.Header{}}
				for pb.Next() {
					h.ServeHTTP(w, r)
				}
			})
		})
	}
	run("admitted", func(*Limiter) {})
	run("refused", func(l *Limiter) {
		l.refused.add(Client("192.0.2.1"), time.Now(), Decision{Wait: time.Hour, Reset: time.Now().Add(time.Hour)})
	})
	run("local", func(l *Limiter) { l.sleep(b.Context(), fmt.Errorf("away")) })
}

// BenchmarkMemory shows what a client costs Redis.
func BenchmarkMemory(b *testing.B) {
	const clients = 10_000
	server := testkit.StartServer(b)
	rdb := server.Client(b)
	used := func() (n int64) {
		info, err := rdb.InfoMap(b.Context(), "memory").Result()
		if err != nil {
			b.Fatal(err)
		}
		fmt.Sscan(info["Memory"]["used_memory"], &n)
		return n
	}
	for b.Loop() {
		rdb.FlushAll(b.Context())
		before := used()
		l := New(client(b, server.Addr), testkit.Discard(), Config{Rate: Rate{100, time.Minute}})
		pipe := rdb.Pipeline()
		for i := range clients {
			takeScript.Eval(b.Context(), pipe, []string{l.key(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}))}, 100, 60000)
		}
		if _, err := pipe.Exec(b.Context()); err != nil && err != redis.Nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(used()-before)/clients, "bytes/client")
	}
}
