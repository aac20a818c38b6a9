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

// benchStore runs a Store on a Redis of its own until it has its lease.
func benchStore(b *testing.B, cfg Config) *Store {
	b.Helper()
	s := newStore(testkit.Redis(b), testkit.Discard(), cfg, options{lease: leaseTime, now: now, scripts: shipped})
	testkit.Go(b, s.Run)
	testkit.Until(b, "ready", func() bool { return s.Ready() == nil })
	return s
}

// twelveTags asks for a page that was made from a dozen things.
func twelveTags() Request {
	req := Request{Key: "post:1", Path: "/blog/hello"}
	for i := range 12 {
		req.Tags = append(req.Tags, fmt.Sprint("tag:", i))
	}
	return req
}

// BenchmarkHit is a read of 4 KiB, checked against 12 tags, from a loopback
// Redis and from memory.
func BenchmarkHit(b *testing.B) {
	fill := answers(string(make([]byte, 4096)))
	for _, tc := range []struct {
		name   string
		memory int64
	}{{"redis", -1}, {"memory", 0}} {
		b.Run(tc.name, func(b *testing.B) {
			s := benchStore(b, Config{Memory: tc.memory})
			req := twelveTags().Prepare()
			b.ReportAllocs()
			for b.Loop() {
				fetch(b, s, req, fill)
			}
		})
	}
	b.Run("peek", func(b *testing.B) {
		s := benchStore(b, Config{})
		req := twelveTags().Prepare()
		fetch(b, s, req, fill)
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := s.Peek(req); !ok {
				// The lease may have been late; it is renewed.
				fetch(b, s, req, fill)
			}
		}
	})
}

// BenchmarkJudge is the check of one entry with 12 tags, a key and a path
// against a mirror of 10,000 scopes: each time anew, and when the mirror has not
// changed since.
func BenchmarkJudge(b *testing.B) {
	s := benchStore(b, Config{})
	req := twelveTags().Prepare()
	fetch(b, s, req, answers("x"))
	for i := range 5 {
		p := Purge{}
		for j := range 1900 {
			p.Tags = append(p.Tags, fmt.Sprint("other:", i, ":", j))
		}
		invalidate(b, s, p)
	}
	e := s.memory.get(req.Key)
	b.Run("anew", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if j := s.mirror.judgeAll(req.Key, position{e.Epoch, e.Token}, e.scopes); j.void != "" {
				b.Fatal(j)
			}
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.standing(req, e)
		}
	})
}

// BenchmarkEntry is what an entry of 4 KiB of JSON costs to write and to read.
func BenchmarkEntry(b *testing.B) {
	var text []byte
	for i := 0; len(text) < 4096; i++ {
		text = fmt.Appendf(text, `{"id":%d,"title":"Post number %d","author":{"id":%d}},`, i, i*7919%1000, i%17)
	}
	e := sampleEntry()
	e.setBody(text[:4096], true)
	blob, err := e.encode()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.setBody(text[:4096], true)
			if _, err := e.encode(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := decodeEntry(blob); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode and unpack", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e, err := decodeEntry(blob)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := e.Body(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
