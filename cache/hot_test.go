package cache

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

func targeted(target string, tags ...string) *Entry {
	e := &Entry{Target: target}
	for _, t := range tags {
		e.scopes = append(e.scopes, tagScope+t)
	}
	return e
}

func hotKeys(list []Hot) string {
	var keys []string
	for _, h := range list {
		keys = append(keys, h.Key)
	}
	return strings.Join(keys, " ")
}

func TestMostReadAreFoundAmongManyReadOnce(t *testing.T) {
	h := newHot()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		key := fmt.Sprint("once:", i)
		if r.IntN(3) == 0 {
			key = fmt.Sprint("often:", int(20*r.Float64()*r.Float64())) // the first ones more often
		}
		h.note(key, targeted("/"+key))
	}
	if n := len(h.counters); n != hotCounters || len(h.least) != n {
		t.Fatalf("%d counters, %d in the heap, want %d", n, len(h.least), hotCounters)
	}
	rows := h.top()
	if len(rows) != hotTold {
		t.Fatalf("told of %d entries, want %d", len(rows), hotTold)
	}
	for i, row := range rows[:20] {
		if !strings.HasPrefix(row.Key, "often:") {
			t.Errorf("%d. is %q with %d reads, want one of those that are read often", i+1, row.Key, row.Reads)
		}
	}
	if rows[0].Key != "often:0" || rows[0].Target != "/often:0" || rows[0].Reads < rows[1].Reads {
		t.Errorf("the most read is %+v", rows[0])
	}
}

func TestReadsOfYesterdayFade(t *testing.T) {
	h := newHot()
	for range 100 {
		h.note("old", targeted("/old"))
	}
	for range 8 {
		h.fade()
	}
	h.note("new", targeted("/new"))
	if rows := h.top(); len(rows) != 1 || rows[0].Key != "new" {
		t.Errorf("after eight minutes told of %+v, want only what is read now", rows)
	}
}

func TestRowsSurviveTheWay(t *testing.T) {
	rows := []hotRow{{Hot{"k", "/t?a=1&b=<>", 80}, []string{"t:a", "p:/x/"}}, {Hot{"l", "", 1}, nil}}
	b, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	var back []hotRow
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, rows) {
		t.Errorf("%s became %+v, %v", b, back, err)
	}
}

func TestWhatIsToldStaysSmall(t *testing.T) {
	h := newHot()
	for i := range hotCounters {
		e := targeted(strings.Repeat("t", 1000))
		for j := range 1000 {
			e.scopes = append(e.scopes, fmt.Sprintf("t:%0250d", j))
		}
		h.note(fmt.Sprint(i, strings.Repeat("k", 1000)), e)
	}
	b, err := json.Marshal(h.top())
	if err != nil || len(b) > hotTexts || len(b) < hotTexts/8 {
		t.Errorf("told in %d bytes, %v; at most %d", len(b), err, hotTexts)
	}
}

func TestHottestAddsUpWhatAllProcessesRead(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	a, b := node(t, rdb), node(t, rdb)
	settled(t, a)
	syncNow(t, a, b)
	read := func(s *Store, n int, key, target string, scopes ...string) {
		for range n {
			s.hot.note(key, &Entry{Target: target, scopes: scopes})
		}
	}
	read(a, 5, "list", "/list", "t:posts", "p:/blog", "p:/blog/", "p:/")
	read(b, 9, "post:1", "/post/1", "t:posts", "t:post:1", "p:/blog/1", "p:/blog/1/", "p:/blog/", "p:/")
	read(a, 6, "post:2", "/post/2", "t:posts", "t:post:2")
	read(b, 6, "post:2", "/post/2", "t:posts", "t:post:2")
	read(a, 50, "other", "/other", "t:pages")
	read(a, 40, "nowhere", "", "t:posts")
	read(b, 3, "list?page=2", "/list?page=2", "k:list", "t:posts")
	a.tellHot(t.Context())
	b.tellHot(t.Context())
	for _, tc := range []struct {
		name string
		p    Purge
		n    int
		want string
	}{
		{"a tag", tag("posts"), 10, "post:2 post:1 list list?page=2"},
		{"the first of a tag", tag("posts"), 2, "post:2 post:1"},
		{"softly", Purge{Tags: []string{"posts"}, Soft: true}, 1, "post:2"},
		{"a key", Purge{Keys: []string{"post:1"}}, 5, "post:1"},
		{"a key with variants", Purge{Keys: []string{"list"}}, 5, "list list?page=2"},
		{"a pattern", Purge{Patterns: []string{"post:*"}}, 5, "post:2 post:1"},
		{"a path", Purge{Paths: []string{"/blog/1"}}, 5, "post:1"},
		{"a directory", Purge{Paths: []string{"/blog/*"}}, 5, "post:1 list"},
		{"everything", Purge{All: true}, 2, "other post:2"},
		{"nothing", tag("none"), 5, ""},
		{"none", tag("posts"), 0, ""},
	} {
		got, err := a.Hottest(t.Context(), tc.p, tc.n)
		if err != nil || hotKeys(got) != tc.want {
			t.Errorf("%s: Hottest = %q, %v, want %q", tc.name, hotKeys(got), err, tc.want)
		}
	}
	got, _ := a.Hottest(t.Context(), Purge{Keys: []string{"post:2"}}, 1)
	if len(got) != 1 || got[0] != (Hot{"post:2", "/post/2", 12 * hotSample}) {
		t.Errorf("post:2 = %+v, want the reads of both processes", got)
	}
}

func TestHottestFillsUpWithWhatIsStored(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	settled(t, s)
	for i := range 30 {
		key := fmt.Sprint("post:", i)
		fetch(t, s, Request{Key: key, Target: "/" + key, Tags: []string{"posts"}, Path: "/blog/" + key}, answers("x"))
	}
	fetch(t, s, Request{Key: "hidden", Tags: []string{"posts"}}, answers("x"))
	for range 30 {
		s.hot.note("post:7", targeted("/post:7", "posts"))
	}
	s.tellHot(t.Context())
	got, err := s.Hottest(t.Context(), Purge{Tags: []string{"posts"}, Keys: []string{"post:3"}}, 10)
	if err != nil || len(got) != 10 || got[0].Key != "post:7" || !slices.ContainsFunc(got, func(h Hot) bool { return h.Key == "post:3" }) {
		t.Errorf("Hottest = %q, %v, want ten, post:7 first", hotKeys(got), err)
	}
	for _, h := range got {
		if h.Target != "/"+h.Key {
			t.Errorf("%+v: want the target that was stored", h)
		}
	}
	if got, err = s.Hottest(t.Context(), Purge{Paths: []string{"/blog/post:4"}}, 3); hotKeys(got) != "post:4" {
		t.Errorf("by path: %q, %v", hotKeys(got), err)
	}
}

func TestRunTellsWhatIsRead(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	a, b := node(t, rdb), node(t, rdb)
	testkit.Go(t, a.Run)
	testkit.Until(t, "ready", func() bool { return a.Ready() == nil })
	req := Request{Key: "k", Target: "/k", Tags: []string{"posts"}}
	testkit.Until(t, "another process hears of the reads", func() bool {
		for range 50 {
			fetch(t, a, req, answers("x"))
		}
		b.hot.listMu.Lock()
		b.hot.listAt = 0
		b.hot.listMu.Unlock()
		got, err := b.Hottest(t.Context(), tag("posts"), 1)
		return err == nil && len(got) == 1 && got[0].Reads > 0
	})
}

// BenchmarkNoteRead is what counting adds to a hit.
func BenchmarkNoteRead(b *testing.B) {
	s := node(b, nil)
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprint("post:", i)
	}
	e := targeted("/x", "posts")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			s.noteRead(keys[i%len(keys)], e)
		}
	})
}
