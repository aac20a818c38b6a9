package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/freshwire/freshwire/internal/testkit"
)

const thisEpoch = "00000000000000aa"

// after is an event at seq.
func after(seq uint64) Mark { return Mark{Seq: seq, Epoch: thisEpoch} }

// land is one namespace on a Redis, with entries written as Fetch does it.
type land struct {
	*Store
	t    testing.TB
	size int // entries of a tag that is large here; the embedded store takes long for each
}

func newLand(t testing.TB, rdb redis.UniversalClient, ns string) land {
	n := names{ns: ns}
	log := testkit.Logger(t)
	r := newReclaimer(rdb, n, log, prometheus.NewRegistry())
	r.inline = testkit.Patience // how long it takes here says nothing
	r.backoff = time.Millisecond
	return land{&Store{rdb: rdb, names: n, log: log, reclaim: r}, t, 3000}
}

type stored struct {
	key   string
	token uint64
	tags  []string
	epoch string // empty: thisEpoch
}

// put stores entries and their index members, expiring in an hour.
func (l land) put(entries ...stored) {
	l.t.Helper()
	for page := range slices.Chunk(entries, 2000) {
		pipe := l.rdb.Pipeline()
		for _, e := range page {
			epoch := e.epoch
			if epoch == "" {
				epoch = thisEpoch
			}
			var scopes []string
			for _, tag := range e.tags {
				scopes = append(scopes, tagScope+tag)
			}
			blob := fmt.Appendf(nil, "F1%016d%s%06d{}", e.token, epoch, prefixLen+2)
			pipe.Set(context.Background(), l.names.entry(e.key), blob, time.Hour)
			l.indexAdd(context.Background(), pipe, e.key, scopes, time.Now().Add(time.Hour))
		}
		if _, err := pipe.Exec(context.Background()); err != nil {
			l.t.Fatalf("storing entries: %v", err)
		}
	}
}

// keys returns the keys of all entries there, sorted.
func (l land) keys() []string {
	l.t.Helper()
	var out []string
	for _, name := range namesOn(l.t, l.rdb, l.names.entryPrefix()) {
		key, ok := l.names.entryKey(name)
		if !ok {
			l.t.Fatalf("%q is no entry's name", name)
		}
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

// indexedKeys returns what the index of a tag lists, sorted.
func (l land) indexedKeys(tag string) []string {
	l.t.Helper()
	var out []string
	for _, shard := range l.names.shards(tagScope + tag) {
		members, err := l.rdb.ZRange(context.Background(), shard, 0, -1).Result()
		if err != nil {
			l.t.Fatal(err)
		}
		out = append(out, members...)
	}
	slices.Sort(out)
	return out
}

// namesOn returns the names on all masters that begin with prefix, sorted.
func namesOn(t testing.TB, rdb redis.UniversalClient, prefix string) []string {
	t.Helper()
	var out []string
	for _, node := range masters(t, rdb) {
		found, err := node.Keys(context.Background(), EscapeGlob(prefix)+"*").Result()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (l land) mustReclaim(p Purge, m Mark) Reclaimed {
	l.t.Helper()
	got, err := l.Reclaim(context.Background(), p, m)
	if err != nil {
		l.t.Fatalf("Reclaim(%+v): %v", p, err)
	}
	return got
}

func numbered(n int, token uint64, prefix string, tags ...string) []stored {
	out := make([]stored, n)
	for i := range out {
		out[i] = stored{key: fmt.Sprintf("%s%d", prefix, i), token: token, tags: tags}
	}
	return out
}

func keysOf(entries []stored) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.key)
	}
	slices.Sort(out)
	return out
}

func want(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %s, want %s", what, brief(got), brief(want))
	}
}

func brief(s []string) string {
	if len(s) > 12 {
		return fmt.Sprintf("%d: %q…", len(s), s[:12])
	}
	return fmt.Sprintf("%q", s)
}

// What is promised of a reclaim holds on every kind of store. Each promise has
// a namespace of its own, and finds what the others left beside it untouched.
var reclaimPromises = []struct {
	name  string
	check func(t *testing.T, l land)
}{
	{"PurgedTagGivesItsMemoryBack", func(t *testing.T, l land) {
		purged, others := numbered(l.size, 5, "post:", "posts", "all"), numbered(l.size/6, 5, "page:", "pages", "all")
		l.put(purged...)
		l.put(others...)
		if got := l.mustReclaim(Purge{Tags: []string{"posts"}}, after(10)); got != (Reclaimed{l.size, true}) {
			t.Errorf("Reclaim = %+v, want %d entries and done", got, l.size)
		}
		want(t, "entries", l.keys(), keysOf(others))
		want(t, "index of posts", l.indexedKeys("posts"), nil)
		want(t, "index of pages", l.indexedKeys("pages"), keysOf(others))
	}},
	{"RefillNewerThanThePurgeSurvivesTheLateUnlink", func(t *testing.T, l land) {
		l.put(numbered(l.size/2, 5, "old:", "posts")...)
		refilled := numbered(l.size/2, 11, "new:", "posts")
		l.put(refilled...)
		p := Purge{Tags: []string{"posts"}, Keys: []string{"new:1"}, Patterns: []string{"new:*"}}
		if got := l.mustReclaim(p, after(10)); got != (Reclaimed{l.size / 2, true}) {
			t.Errorf("Reclaim = %+v, want %d entries and done", got, l.size/2)
		}
		want(t, "entries", l.keys(), keysOf(refilled))
		want(t, "index", l.indexedKeys("posts"), keysOf(refilled))
		// A later event finds them again.
		if got := l.mustReclaim(p, after(20)); got != (Reclaimed{l.size / 2, true}) {
			t.Errorf("second Reclaim = %+v, want %d entries and done", got, l.size/2)
		}
		want(t, "entries", l.keys(), nil)
	}},
	{"EntryFilledExactlyAtTheEventIsNewEnough", func(t *testing.T, l land) {
		l.put(stored{key: "at", token: 10}, stored{key: "before", token: 9})
		l.mustReclaim(Purge{Keys: []string{"at", "before"}}, after(10))
		want(t, "entries", l.keys(), []string{"at"})
	}},
	{"EntryOfALostLedgerIsDeletedWhateverItsToken", func(t *testing.T, l land) {
		l.put(stored{key: "a", token: 99, epoch: "00000000000000bb", tags: []string{"t"}}, stored{key: "b", token: 99, tags: []string{"t"}})
		l.mustReclaim(Purge{Tags: []string{"t"}}, after(10))
		want(t, "entries", l.keys(), []string{"b"})
	}},
	{"ExactPathIsIndexed", func(t *testing.T, l land) {
		pipe := l.rdb.Pipeline()
		for i, path := range []string{"/blog", "/blog/hello"} {
			key := fmt.Sprint("page", i)
			pipe.Set(t.Context(), l.names.entry(key), fmt.Sprintf("F1%016d%s000042{}", 5, thisEpoch), time.Hour)
			l.indexAdd(t.Context(), pipe, key, pathScopes(path), time.Now().Add(time.Hour))
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.mustReclaim(Purge{Paths: []string{"/blog"}}, after(10))
		want(t, "entries", l.keys(), []string{"page1"})
		for _, name := range namesOn(t, l.rdb, l.names.ns+":i:") {
			if strings.Contains(name, "/#") {
				t.Errorf("a directory is indexed: %s", name)
			}
		}
	}},
	{"AllDeletesEveryVoidEntryAndNothingElse", func(t *testing.T, l land) {
		l.put(numbered(l.size/2, 5, "post:", "posts")...)
		l.put(stored{key: "fresh", token: 11, tags: []string{"posts"}})
		others := map[string]string{
			l.names.ledger(): "x", l.names.lease("post:1"): "x", l.names.ns + "2:e:{post:1}": "x",
			"bare:" + l.names.ns: "x", "asynq:{" + l.names.ns + "}:t:1": "x",
		}
		for key, value := range others {
			if err := l.rdb.Set(t.Context(), key, value, 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if got := l.mustReclaim(Purge{All: true}, after(10)); got != (Reclaimed{l.size / 2, true}) {
			t.Errorf("Reclaim = %+v, want %d entries and done", got, l.size/2)
		}
		want(t, "entries", l.keys(), []string{"fresh"})
		want(t, "index", l.indexedKeys("posts"), []string{"fresh"})
		for key := range others {
			if l.rdb.Exists(t.Context(), key).Val() != 1 {
				t.Errorf("%q is gone", key)
			}
		}
	}},
	{"UnknownScriptIsLoadedAgain", func(t *testing.T, l land) {
		l.put(numbered(50, 5, "k", "t")...)
		err := eachMaster(t.Context(), l.rdb, func(ctx context.Context, node redis.Cmdable) error { return node.ScriptFlush(ctx).Err() })
		if err != nil {
			t.Fatal(err)
		}
		l.mustReclaim(Purge{Tags: []string{"t"}}, after(10))
		want(t, "entries", l.keys(), nil)
	}},
	{"WhatATimeLimitLeavesIsDoneInTheBackground", func(t *testing.T, l land) {
		l.put(numbered(l.size/6, 5, "k", "t")...)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		got, err := l.Reclaim(ctx, Purge{Tags: []string{"t"}, Patterns: []string{"k*"}, All: false}, after(10))
		if err != nil || got.Done {
			t.Fatalf("Reclaim without time = %+v, %v; want not done, no error", got, err)
		}
		want(t, "index", l.indexedKeys("t"), keysOf(numbered(l.size/6, 5, "k")))
		testkit.Go(t, l.reclaim.run)
		testkit.Until(t, "the background has deleted all", func() bool { return len(l.keys()) == 0 })
	}},
	{"MarkOfNoEventDeletesNothing", func(t *testing.T, l land) {
		l.put(stored{key: "k", token: 5, tags: []string{"t"}})
		l.mustReclaim(Purge{Keys: []string{"k"}, Tags: []string{"t"}, Patterns: []string{"*"}}, Mark{})
		l.reclaim.mu.Lock()
		l.reclaim.order = []string{"k:k", "t:t"} // gone from the queue, which order may hold
		l.reclaim.mu.Unlock()
		if scope, m, ok := l.reclaim.pop(); ok {
			t.Errorf("pop = %q, %+v; want nothing", scope, m)
		}
		want(t, "entries left", l.keys(), []string{"k"})
		want(t, "index", l.indexedKeys("t"), []string{"k"})
	}},
	{"PatternDeletesTheQueriesOfWhatItMatches", func(t *testing.T, l land) {
		for _, key := range []string{"posts:7:list", "posts:7:list?page=2", "posts:7:list?", "posts:7:lists", "posts:7:items?x=list"} {
			l.put(stored{key: key, token: 5})
		}
		l.mustReclaim(Purge{Patterns: []string{"posts:*:list"}}, after(10))
		want(t, "entries left", l.keys(), []string{"posts:7:items?x=list", "posts:7:lists"})
	}},
	{"PatternDeletesWhatItMatchesAndNothingElse", func(t *testing.T, l land) {
		key := rapid.StringMatching(`[ab{}*?\[\]\\^% /é:-]{1,5}`)
		item := rapid.SampledFrom([]string{"a", "b", "*", "?", "[ab]", "[^a]", "[b-a]", `\*`, `\\`, `\[`, "{", "%", " ", "/", "é", ":"})
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			l := newLand(t, l.rdb, fmt.Sprint(l.names.ns, round))
			keys := rapid.SliceOfNDistinct(key, 1, 30, rapid.ID).Draw(rt, "keys")
			pattern := strings.Join(rapid.SliceOfN(item, 1, 4).Draw(rt, "pattern"), "")
			var left []string
			for _, k := range keys {
				l.put(stored{key: k, token: 5})
				if base, _, _ := strings.Cut(k, "?"); !matchGlob(pattern, k) && !matchGlob(pattern, base) {
					left = append(left, k)
				}
			}
			slices.Sort(left)
			l.mustReclaim(Purge{Patterns: []string{pattern}}, after(10))
			got := l.keys()
			if !slices.Equal(got, left) {
				rt.Fatalf("after %q of %q: %q, want %q", pattern, keys, got, left)
			}
			l.mustReclaim(Purge{Keys: left}, after(10))
		})
	}},
}

func TestReclaimOnRedis(t *testing.T) {
	t.Parallel()
	keepPromises(t, testkit.Redis(t), 3000)
}

func TestReclaimOnCluster(t *testing.T) {
	t.Parallel()
	keepPromises(t, testkit.Cluster(t), 3000)
}

func TestReclaimOnEmbeddedStore(t *testing.T) {
	t.Parallel()
	mini := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	t.Cleanup(func() { rdb.Close() })
	keepPromises(t, rdb, 60)
}

func keepPromises(t *testing.T, rdb redis.UniversalClient, size int) {
	for i, promise := range reclaimPromises {
		t.Run(promise.name, func(t *testing.T) {
			l := newLand(t, rdb, fmt.Sprint("ns", i, "-"))
			l.size = size
			promise.check(t, l)
		})
	}
}

func TestScanReachesAllThreeMasters(t *testing.T) {
	t.Parallel()
	rdb := testkit.Cluster(t)
	l := newLand(t, rdb, "fw")
	l.put(numbered(3000, 5, "post:", "posts")...)
	full := 0
	size := func() (nodes, keys int) {
		for _, node := range masters(t, rdb) {
			n, err := node.DBSize(t.Context()).Result()
			if err != nil {
				t.Fatal(err)
			}
			nodes++
			keys += int(n)
			if n > 500 {
				full++
			}
		}
		return nodes, keys
	}
	if nodes, keys := size(); nodes != 3 || full != 3 || keys < 3000 {
		t.Fatalf("%d masters with %d keys, %d of them full: the test proves nothing", nodes, keys, full)
	}
	shards := map[int64]bool{}
	for _, name := range l.names.shards("t:posts") {
		slot, err := rdb.ClusterKeySlot(t.Context(), name).Result()
		if err != nil {
			t.Fatal(err)
		}
		shards[slot] = true
	}
	if len(shards) < indexShards/2 {
		t.Errorf("the index of one tag is in %d slots, want it spread", len(shards))
	}
	if got := l.mustReclaim(Purge{Patterns: []string{"post:*"}}, after(10)); got != (Reclaimed{3000, true}) {
		t.Errorf("Reclaim = %+v, want 3000 entries and done", got)
	}
	l.mustReclaim(Purge{All: true}, after(10))
	if _, keys := size(); keys != 0 {
		t.Errorf("%d keys are left on the masters", keys)
	}
}

func masters(t testing.TB, rdb redis.UniversalClient) []redis.Cmdable {
	t.Helper()
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return []redis.Cmdable{rdb}
	}
	var mu sync.Mutex
	var nodes []redis.Cmdable
	err := cluster.ForEachMaster(context.Background(), func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		nodes = append(nodes, node)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return nodes
}

// Readers refill while the tag is reclaimed over and over: what is stored at
// the end is listed at the end.
func TestKeyAddedDuringReclaimIsNotLostFromTheIndex(t *testing.T) {
	t.Parallel()
	l := newLand(t, testkit.Redis(t), "fw")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := range 20 {
			l.put(numbered(300, uint64(100+round), "k", "t")...)
		}
	}()
	for seq, busy := uint64(1), true; busy; seq++ {
		select {
		case <-done:
			busy = false
		default:
		}
		l.mustReclaim(Purge{Tags: []string{"t"}}, after(min(seq, 119)))
	}
	got := l.keys()
	if len(got) != 300 {
		t.Errorf("%d entries, want the 300 of the last round", len(got))
	}
	want(t, "index", l.indexedKeys("t"), got)
}

func TestIndexForgetsWhatHasExpired(t *testing.T) {
	t.Parallel()
	l := newLand(t, testkit.Redis(t), "fw")
	shard := l.names.shard("t:a", 0)
	add := func(key string, expiry time.Time) {
		t.Helper()
		if err := indexScript.Run(t.Context(), l.rdb, []string{shard}, key, expiry.UnixMilli()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(time.Hour)
	old := make([]redis.Z, 150)
	for i := range old {
		old[i] = redis.Z{Score: 1000, Member: fmt.Sprint("old", i)}
	}
	l.rdb.ZAdd(t.Context(), shard, old...)
	add("k", long)
	if n := l.rdb.ZCard(t.Context(), shard).Val(); n != 51 {
		t.Errorf("%d members after one write, want 51: at most 100 are trimmed at once", n)
	}
	add("short", time.Now().Add(time.Minute))
	if n := l.rdb.ZCard(t.Context(), shard).Val(); n != 2 {
		t.Errorf("%d members after two writes, want 2", n)
	}
	add("k", long.Add(-time.Minute))
	if got := l.rdb.ZScore(t.Context(), shard, "k").Val(); got != float64(long.UnixMilli()) {
		t.Errorf("a late writer set the expiry to %.0f, want %d", got, long.UnixMilli())
	}
	if got := l.rdb.PTTL(t.Context(), shard).Val(); got < 59*time.Minute || got > time.Hour {
		t.Errorf("the shard lives for %v, want as long as its last member", got)
	}
}

func TestQueueHoldsAScopeOnceForItsNewestEvent(t *testing.T) {
	other := func(seq uint64) Mark { return Mark{Seq: seq, Epoch: "00000000000000bb"} }
	type push struct {
		scope string
		m     Mark
	}
	tests := []struct {
		name   string
		pushes []push
		want   []push
	}{
		{"in order", []push{{"t:a", after(1)}, {"t:b", after(2)}}, []push{{"t:a", after(1)}, {"t:b", after(2)}}},
		{"newer wins", []push{{"t:a", after(1)}, {"t:b", after(1)}, {"t:a", after(3)}}, []push{{"t:a", after(3)}, {"t:b", after(1)}}},
		{"older adds nothing", []push{{"t:a", after(3)}, {"t:a", after(1)}}, []push{{"t:a", after(3)}}},
		{"new epoch wins", []push{{"t:a", after(3)}, {"t:a", other(1)}}, []push{{"t:a", other(1)}}},
		{"all swallows older", []push{{"t:a", after(1)}, {"g:x*", after(2)}, {"*", after(2)}}, []push{{"*", after(2)}}},
		{"all leaves newer", []push{{"t:a", after(3)}, {"t:b", after(1)}, {"*", after(2)}}, []push{{"t:a", after(3)}, {"*", after(2)}}},
		{"older than all adds nothing", []push{{"*", after(2)}, {"t:a", after(2)}}, []push{{"*", after(2)}}},
		{"newer than all stays", []push{{"*", after(2)}, {"t:a", after(3)}}, []push{{"*", after(2)}, {"t:a", after(3)}}},
		{"newer all swallows too", []push{{"*", after(2)}, {"t:a", after(3)}, {"*", after(4)}}, []push{{"*", after(4)}}},
		{"what cannot be found is not queued", []push{{"n:", after(1)}, {"p:/a/", after(1)}, {"p:/a", after(1)}}, []push{{"p:/a", after(1)}}},
	}
	for _, tt := range tests {
		r := newReclaimer(nil, names{ns: "fw"}, testkit.Logger(t), nil)
		for _, p := range tt.pushes {
			r.later([]string{p.scope}, p.m)
		}
		var got []push
		for scope, m, ok := r.pop(); ok; scope, m, ok = r.pop() {
			got = append(got, push{scope, m})
		}
		if !slices.Equal(got, tt.want) || len(r.queued) != 0 {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestFullQueueDropsAndCounts(t *testing.T) {
	r := newReclaimer(nil, names{ns: "fw"}, testkit.Logger(t), nil)
	scopes := make([]string, reclaimQueue+7)
	for i := range scopes {
		scopes[i] = fmt.Sprint("t:", i)
	}
	r.later(scopes, after(1))
	if got := testutil.ToFloat64(r.metrics.dropped); got != 7 {
		t.Errorf("%v dropped, want 7", got)
	}
	if got := testutil.ToFloat64(r.metrics.queue); got != reclaimQueue {
		t.Errorf("queue of %v, want %d", got, reclaimQueue)
	}
	r.later([]string{everyone}, after(1))
	if scope, _, _ := r.pop(); scope != everyone || len(r.queued) != 0 {
		t.Errorf("after a purge of all: %q first and %d more, want * alone", scope, len(r.queued))
	}
}

func TestReclaimGivesUpWhileRedisIsAwayAndGoesOnAfter(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second})
	t.Cleanup(func() { rdb.Close() })
	l := newLand(t, rdb, "fw")
	server.Kill()
	l.ReclaimLater(Purge{Tags: []string{"t"}}, after(10))
	testkit.Go(t, l.reclaim.run)
	testkit.Until(t, "the reclaimer has given up", func() bool { return testutil.ToFloat64(l.reclaim.metrics.dropped) == 1 })

	if got, err := l.Reclaim(t.Context(), Purge{Keys: []string{"k"}}, after(10)); err == nil || got.Done {
		t.Errorf("Reclaim without Redis = %+v, %v; want an error and not done", got, err)
	}
	testkit.Until(t, "that is given up too", func() bool { return testutil.ToFloat64(l.reclaim.metrics.dropped) == 2 })

	server.Start(t)
	l.put(numbered(10, 5, "k", "t")...)
	l.ReclaimLater(Purge{Tags: []string{"t"}}, after(10))
	testkit.Until(t, "entries are deleted", func() bool { return len(l.keys()) == 0 })
}

// fillTag stores many small entries of one tag in one go.
var fillTag = redis.NewScript(`
for i = 1, tonumber(ARGV[1]) do
  redis.call('SET', ARGV[2] .. 'post:' .. i .. '}', 'F10000000000000005' .. ARGV[3] .. '000042{}')
  redis.call('ZADD', KEYS[i % #KEYS + 1], 9e12, 'post:' .. i)
end`)

// The figures belong into a log, not into an assertion: see bench/purge.
func TestOthersAreServedWhileALargeTagIsReclaimed(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 entries")
	}
	t.Parallel()
	rdb := testkit.Redis(t)
	l := newLand(t, rdb, "fw")
	const size = 100_000
	shards := l.names.shards("t:posts")
	if err := fillTag.Run(t.Context(), rdb, shards, size, l.names.entryPrefix(), thisEpoch).Err(); err != nil && err != redis.Nil {
		t.Fatal(err)
	}
	before := rdb.DBSize(t.Context()).Val()

	ctx, stop := context.WithCancel(t.Context())
	worst := make(chan time.Duration)
	go func() {
		var longest time.Duration
		for ctx.Err() == nil {
			start := time.Now()
			if rdb.Ping(ctx).Err() == nil {
				longest = max(longest, time.Since(start))
			}
		}
		worst <- longest
	}()
	testkit.Go(t, l.reclaim.run)
	start := time.Now()
	l.ReclaimLater(Purge{Tags: []string{"posts"}}, after(10))
	for left := before; left > 0; { // the whole may take long on a busy machine, a tenth of it may not
		goal := max(0, left-before/10)
		testkit.Until(t, "the next tenth is deleted", func() bool {
			n, err := rdb.DBSize(t.Context()).Result()
			if err == nil {
				left = n
			}
			return err == nil && n <= goal
		})
	}
	took := time.Since(start)
	stop()
	t.Logf("%d keys given back in %v, worst wait of another client %v", before, took, testkit.Wait(t, worst, "the other client"))
	if before < size {
		t.Errorf("%d keys before, want at least %d", before, size)
	}
	testkit.Until(t, "all is counted", func() bool { return testutil.ToFloat64(l.reclaim.metrics.entries) == size })
}
