package cache

import (
	"fmt"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// BenchmarkInvalidate is one event of so many tags, on a loopback Redis.
func BenchmarkInvalidate(b *testing.B) {
	for _, tags := range []int{1, 12, 1000} {
		b.Run(fmt.Sprintf("tags=%d", tags), func(b *testing.B) {
			s := node(b, testkit.Redis(b))
			var p Purge
			for i := range tags {
				p.Tags = append(p.Tags, fmt.Sprint("tag:", i))
			}
			b.ReportAllocs()
			for b.Loop() {
				invalidate(b, s, p)
			}
		})
	}
}

// BenchmarkSettle is an event until every node heeds it: what browsers wait for.
func BenchmarkSettle(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			rdb := testkit.Redis(b)
			var stores []*Store
			for range nodes {
				s := newStore(rdb, testkit.Discard(), Config{}, options{lease: leaseTime, now: now, scripts: shipped})
				testkit.Go(b, s.Run)
				stores = append(stores, s)
			}
			for _, s := range stores {
				testkit.Until(b, "ready", func() bool { return s.Ready() == nil })
			}
			settle := func() { p := tag("posts"); barrier(b, stores[0], p, invalidate(b, stores[0], p)) }
			settle() // the phantom lease of a new ledger
			for b.Loop() {
				settle()
			}
		})
	}
}

// BenchmarkHit is a read of 4 KiB from a loopback Redis, checked against 12 tags.
func BenchmarkHit(b *testing.B) {
	s := newStore(testkit.Redis(b), testkit.Discard(), Config{}, options{lease: leaseTime, now: now, scripts: shipped})
	testkit.Go(b, s.Run)
	testkit.Until(b, "ready", func() bool { return s.Ready() == nil })
	req := Request{Key: "post:1", Path: "/blog/hello"}
	for i := range 12 {
		req.Tags = append(req.Tags, fmt.Sprint("tag:", i))
	}
	fill := answers(string(make([]byte, 4096)))
	b.ReportAllocs()
	for b.Loop() {
		fetch(b, s, req, fill)
	}
}
