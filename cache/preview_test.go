package cache

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestPreviewCountsWhatAPurgeWouldVoid(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := running(t, rdb)
		for i := range 12 {
			key := fmt.Sprint("post:", i)
			fetch(t, s, Request{Key: key, Tags: []string{"posts", key}, Path: "/blog/" + key}, answers("x"))
		}
		fetch(t, s, Request{Key: "list", Tags: []string{"posts"}, Path: "/blog"}, answers("x"))
		fetch(t, s, Request{Key: "list?page=2", Base: "list", Tags: []string{"posts"}, Path: "/blog"}, answers("x"))
		fetch(t, s, Request{Key: "page*", Tags: []string{"pages"}, Path: "/about"}, answers("x"))
		for _, tc := range []struct {
			p       Purge
			entries int
			by      string
		}{
			{tag("posts"), 14, "tag posts 14"},
			{tag("post:3"), 1, "tag post:3 1"},
			{tag("posts", "post:3", "none"), 14, "tag none 0, tag post:3 1, tag posts 14"},
			{Purge{Keys: []string{"post:3"}}, 1, "key post:3 1"},
			{Purge{Keys: []string{"list"}}, 2, "key list 2"},
			{Purge{Keys: []string{"list?page=2", "none"}}, 1, "key list?page=2 1, key none 0"},
			{Purge{Patterns: []string{"post:*"}}, 12, "pattern post:* 12"},
			{Purge{Patterns: []string{"post:1?"}}, 2, "pattern post:1? 2"},
			{Purge{Patterns: []string{`page\*`}}, 1, `pattern page\* 1`},
			{Purge{Patterns: []string{"list", "p*"}}, 15, "pattern list 2, pattern p* 13"},
			{Purge{Paths: []string{"/blog"}}, 2, "path /blog 2"},
			{Purge{Paths: []string{"/blog/*"}}, 14, "path /blog/* 14"},
			{Purge{Paths: []string{"/*"}}, 15, "path /* 15"},
			{Purge{All: true}, 15, "all  15"},
			{Purge{Tags: []string{"pages"}, Keys: []string{"post:1"}, Soft: true}, 2, "tag pages 1, key post:1 1"},
			{tag("none"), 0, "tag none 0"},
		} {
			got, err := s.Preview(t.Context(), tc.p)
			if err != nil {
				t.Fatalf("Preview(%+v): %v", tc.p, err)
			}
			var by []string
			for _, c := range got.ByScope {
				by = append(by, fmt.Sprint(c.Kind, " ", c.Name, " ", c.Entries))
			}
			if got.Entries != tc.entries || !got.Exact || len(got.Samples) != min(tc.entries, maxSamples) || strings.Join(by, ", ") != tc.by {
				t.Errorf("Preview(%+v) = %+v, want %d entries by %s", tc.p, got, tc.entries, tc.by)
			}
		}
		if n := events(t, rdb); n != 0 {
			t.Errorf("previews wrote %d events", n)
		}
	})
}

func TestPreviewCountsOnlyWhatIsThere(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := running(t, rdb)
	for _, key := range []string{"a", "b", "c"} {
		fetch(t, s, Request{Key: key, Tags: []string{"posts"}}, answers("x"))
	}
	if err := rdb.Del(t.Context(), s.names.entry("b")).Err(); err != nil { // its index does not know
		t.Fatal(err)
	}
	got, err := s.Preview(t.Context(), tag("posts"))
	if err != nil || got.Entries != 2 || strings.Join(got.Samples, " ") != "a c" {
		t.Errorf("Preview = %+v, %v, want a and c", got, err)
	}
	if _, err := s.Preview(t.Context(), Purge{Patterns: []string{"[a"}}); err == nil {
		t.Error("a pattern that is none was previewed")
	}
}

func TestPreviewOfAWideTagSaysThatItIsRough(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := running(t, rdb)
	n := maxListed + 500
	pipe := rdb.Pipeline()
	for i := range n {
		key := fmt.Sprint("k", i)
		s.indexAdd(t.Context(), pipe, key, []string{"t:wide"}, time.Now().Add(time.Hour))
		pipe.Set(t.Context(), s.names.entry(key), "x", 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := s.Preview(t.Context(), tag("wide"))
	if err != nil || got.Entries != n || got.Exact || len(got.Samples) != maxSamples {
		t.Errorf("Preview = %+v, %v, want %d, not exact", got, err, n)
	}
}

func TestPreviewOfEverythingEnds(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := running(t, rdb)
	for from := 0; from < maxScanned+5000; from += 5000 {
		pipe := rdb.Pipeline()
		for i := range 5000 {
			pipe.Set(t.Context(), s.names.entry(fmt.Sprint("k", from+i)), "x", 0)
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Preview(t.Context(), Purge{All: true})
	if err != nil || got.Exact || got.Entries > maxScanned+scanCount || got.Entries == 0 {
		t.Errorf("Preview of more than it looks at = %+v, %v", got, err)
	}
}
