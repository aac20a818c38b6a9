package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// A list learns the tags of the posts that it shows. Of those that it does not
// show yet it hears by the tag that its route has always.
func TestListHearsOfPostsThatEnterLeaveAndMove(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		settled(t, s)
		posts := []int{1, 2, 3}
		list := func(context.Context, *Entry) (Fill, error) {
			f := Fill{Status: 200, Body: []byte(fmt.Sprint(posts)), TTL: time.Minute}
			for _, id := range posts {
				f.Tags = append(f.Tags, fmt.Sprint("post:", id))
			}
			return f, nil
		}
		edits := []struct {
			name   string
			edit   func()
			tags   []string
			learnt bool // the tags of the list's own posts would have done
		}{
			{"a post changes", func() {}, []string{"post:2"}, true},
			{"a post enters", func() { posts = append(posts, 4) }, []string{"post", "post:4"}, false},
			{"a post leaves", func() { posts = []int{1, 2, 4} }, []string{"post", "post:3"}, true},
			{"a post moves to the front", func() { posts = []int{4, 1, 2} }, []string{"post", "post:4"}, true},
			{"the list had been emptied, and a post enters", func() { posts = []int{5} }, []string{"post", "post:5"}, false},
		}
		for _, e := range edits {
			with, without := Request{Key: "list", Tags: []string{"post"}}, Request{Key: "list of learnt tags"}
			if strings.HasPrefix(e.name, "the list had") {
				was := posts
				posts = nil
				invalidate(t, s, Purge{Keys: []string{with.Key, without.Key}})
				syncNow(t, s)
				fetch(t, s, with, list)
				fetch(t, s, without, list)
				posts = was
			}
			fetch(t, s, with, list)
			fetch(t, s, without, list)
			e.edit()
			invalidate(t, s, tag(e.tags...))
			syncNow(t, s)
			if got := text(fetch(t, s, with, list).Entry); got != fmt.Sprint(posts) {
				t.Errorf("%s: the list is %s, want %v", e.name, got, posts)
			}
			if r := fetch(t, s, without, list); (r.Verdict == Miss) != e.learnt {
				t.Errorf("%s: a list with learnt tags alone: %s %s", e.name, text(r.Entry), r.Verdict)
			}
			invalidate(t, s, Purge{Keys: []string{without.Key}})
			syncNow(t, s)
		}
	})
}

// 16 KiB of tags do not fit into the first read of a header.
func TestLastOf16KiBOfTagsVoidsAHead(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		writer, reader := node(t, rdb), node(t, rdb)
		settled(t, writer)
		syncNow(t, reader)
		var tags []string
		for i := range 64 {
			tags = append(tags, fmt.Sprintf("%03d:%s", i, strings.Repeat("t", MaxTag-4)))
		}
		fetch(t, writer, Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
			return Fill{Status: 200, Body: []byte("old"), ETag: `"old"`, Tags: tags, TTL: time.Minute}, nil
		})
		head := Request{Key: "k", NoBody: func(e *Entry) bool { return e.ETag == `"old"` }}
		if r := fetch(t, reader, head, answers("never")); r.Verdict != Hit || !slices.Equal(r.Entry.Tags(), tags) {
			t.Fatalf("%s with %d tags, want a hit with %d", r.Verdict, len(r.Entry.Tags()), len(tags))
		}
		invalidate(t, writer, tag(tags[len(tags)-1]))
		syncNow(t, reader)
		if got := saw(fetch(t, reader, head, answers("new"))); got != "new miss" {
			t.Errorf("read %q after the purge of the last tag", got)
		}
	})
}

// What an operator made stale, an event makes void: also where the stale one
// was served just before, and whoever fetches it again is still under way.
func TestHardPurgeVoidsWhatASoftOneMadeStale(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, other := node(t, rdb), node(t, rdb)
	settled(t, s)
	for _, p := range []Purge{{Tags: []string{"posts"}}, {Keys: []string{"k"}}, {All: true}} {
		syncNow(t, s, other)
		req := Request{Key: "k", Tags: []string{"posts"}}
		fetch(t, s, req, answers("old"))
		soft := p
		soft.Soft = true
		invalidate(t, other, soft)
		syncNow(t, s)
		begun, gate := make(chan struct{}), make(chan struct{})
		r := fetch(t, s, req, func(context.Context, *Entry) (Fill, error) {
			close(begun)
			<-gate
			return Fill{Status: 200, Body: []byte("old"), TTL: time.Minute}, nil
		})
		if r.Verdict != Stale {
			t.Fatalf("after %+v: %s, want stale", soft, saw(r))
		}
		testkit.Wait(t, begun, "the fetch in the background")
		invalidate(t, other, p)
		syncNow(t, s)
		done := make(chan string, 1)
		go func() {
			r, err := s.Fetch(t.Context(), req, answers("new"))
			if err != nil {
				t.Errorf("Fetch: %v", err)
			}
			done <- saw(r)
		}()
		close(gate)
		if got := testkit.Wait(t, done, "the read"); got != "new miss" {
			t.Errorf("after %+v: read %q", p, got)
		}
		invalidate(t, s, Purge{All: true})
	}
}
