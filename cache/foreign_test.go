package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// seedLayout is what a site built after the common guide keeps.
var seedLayout = ForeignConfig{TagSets: "tag:%s", Keys: true}

// site is another program on our Redis.
type site struct {
	t   testing.TB
	rdb redis.UniversalClient
}

// setCache stores a key and lists it under its tags, as that program does.
func (s site) setCache(key string, tags ...string) {
	s.t.Helper()
	ctx := context.Background()
	err := s.rdb.SetEx(ctx, key, "{}", time.Hour).Err()
	for _, tag := range tags {
		if err == nil {
			err = s.rdb.SAdd(ctx, "tag:"+tag, key).Err()
		}
	}
	if err != nil {
		s.t.Fatalf("storing %q: %v", key, err)
	}
}

func (s site) purge(cfg ForeignConfig, p Purge) (int, []string, error) {
	store := Store{rdb: s.rdb, names: names{ns: "fw"}, cfg: Config{Foreign: cfg}}
	return store.DeleteForeign(context.Background(), p)
}

func (s site) mustPurge(cfg ForeignConfig, p Purge) int {
	s.t.Helper()
	n, complaints, err := s.purge(cfg, p)
	if err != nil || len(complaints) > 0 {
		s.t.Fatalf("DeleteForeign(%+v): %q, %v", p, complaints, err)
	}
	return n
}

// left checks which keys are there.
func (s site) left(keys ...string) {
	s.t.Helper()
	slices.Sort(keys)
	want(s.t, "keys left", namesOn(s.t, s.rdb, ""), keys)
}

var foreignPromises = []struct {
	name  string
	check func(t *testing.T, s site)
}{
	{"TagTakesItsKeysAndItsSet", func(t *testing.T, s site) {
		s.setCache("post:1", "posts", "post:1")
		s.setCache("post:2", "posts")
		s.setCache("page:1", "pages")
		if n := s.mustPurge(seedLayout, Purge{Tags: []string{"posts", "posts", "unknown"}}); n != 2 {
			t.Errorf("%d keys, want 2", n)
		}
		s.left("page:1", "tag:pages", "tag:post:1")
	}},
	{"PathTakesTheSetNamedWithColons", func(t *testing.T, s site) {
		s.setCache("a", ":blog:hello")
		s.setCache("b", ":blog")
		s.setCache("c", ":blog:hello:more")
		s.setCache("d", ":blogs:x")
		s.mustPurge(seedLayout, Purge{Paths: []string{"/blog/hello"}})
		s.left("b", "c", "d", "tag::blog", "tag::blog:hello:more", "tag::blogs:x")
		s.mustPurge(seedLayout, Purge{Paths: []string{"/blog/*"}})
		s.left("d", "tag::blogs:x")
	}},
	{"BareKeysAndPatternsActWhenConfigured", func(t *testing.T, s site) {
		p := Purge{Keys: []string{"posts:all", "none", ""}, Patterns: []string{"products:*", "[a-c]?"}}
		for _, key := range []string{"posts:all", "products:1", "products:a/b", "product:1", "bz", "dz"} {
			s.setCache(key)
		}
		if n := s.mustPurge(ForeignConfig{TagSets: "tag:%s"}, p); n != 0 {
			t.Errorf("%d keys gone without keys: true, want none", n)
		}
		if n := s.mustPurge(seedLayout, p); n != 4 {
			t.Errorf("%d keys, want 4", n)
		}
		s.left("product:1", "dz")
	}},
	{"NothingConfiguredDeletesNothing", func(t *testing.T, s site) {
		s.setCache("k", "t")
		s.mustPurge(ForeignConfig{}, Purge{Tags: []string{"t"}, Keys: []string{"k"}, Patterns: []string{"*"}, Paths: []string{"/"}, All: true})
		s.left("k", "tag:t")
	}},
	{"OursAndTheQueuesKeysSurviveEveryPurge", func(t *testing.T, s site) {
		ours := []string{"fw:e:{k}", "fw:{fw}:ledger", "fw:i:{t:a#1}", "asynq:{fw}:pending", "asynq:queues"}
		for _, key := range ours {
			s.setCache(key, "evil")
		}
		s.setCache("theirs", "evil")
		s.setCache("fw2:k")
		s.mustPurge(seedLayout, Purge{Keys: ours})
		s.mustPurge(seedLayout, Purge{Tags: []string{"evil"}})
		s.left(append(ours, "fw2:k")...)
		s.mustPurge(seedLayout, Purge{Patterns: []string{"*", "fw:*", "asynq*"}, All: true})
		s.left(ours...)
		// A tag that makes a set's name one of ours.
		if err := s.rdb.SAdd(t.Context(), "fw:set", "x").Err(); err != nil {
			t.Fatal(err)
		}
		s.mustPurge(ForeignConfig{TagSets: "%s:set"}, Purge{Tags: []string{"fw"}})
		s.left(append(ours, "fw:set")...)
	}},
	{"AllTakesEveryTagSet", func(t *testing.T, s site) {
		s.setCache("a", "x")
		s.setCache("b", "y{1}", "x")
		s.setCache("untagged")
		if n := s.mustPurge(seedLayout, Purge{All: true}); n != 2 {
			t.Errorf("%d keys, want 2", n)
		}
		s.left("untagged")
	}},
	{"WrongTypeIsAComplaintAndTheRestIsDone", func(t *testing.T, s site) {
		s.rdb.Set(t.Context(), "tag:a", "a string", 0)
		s.rdb.HSet(t.Context(), "tag:b", "f", "v")
		s.setCache("k", "c")
		s.setCache("bare")
		n, complaints, err := s.purge(seedLayout, Purge{Tags: []string{"a", "b", "c"}, Keys: []string{"bare"}, Patterns: []string{"[", "zzz*"}})
		if n != 2 || err != nil {
			t.Errorf("%d keys, %v; want 2 and no error: trying again changes nothing", n, err)
		}
		for _, says := range []string{`"tag:a": is not a set`, `"tag:b": is not a set`, "[ without ]"} {
			if !strings.Contains(fmt.Sprint(complaints), says) {
				t.Errorf("complaints %q, want them to say %q", complaints, says)
			}
		}
		s.left("tag:a", "tag:b")
	}},
	{"KeysOfEveryTypeGo", func(t *testing.T, s site) {
		s.rdb.HSet(t.Context(), "h", "f", "v")
		s.rdb.RPush(t.Context(), "l", "v")
		s.rdb.SAdd(t.Context(), "tag:t", "h", "l", "gone before")
		s.mustPurge(seedLayout, Purge{Tags: []string{"t"}})
		s.left()
	}},
	{"UnfinishedRunIsFinishedByTheNext", func(t *testing.T, s site) {
		s.setCache("old", "posts")
		f := foreign{rdb: s.rdb, names: names{ns: "fw"}, cfg: seedLayout}
		if err := asideScript.Run(t.Context(), s.rdb, []string{"tag:posts", f.aside("tag:posts")}).Err(); err != nil {
			t.Fatal(err)
		}
		s.setCache("new", "posts")
		if n := s.mustPurge(seedLayout, Purge{Tags: []string{"posts"}}); n != 2 {
			t.Errorf("%d keys, want the old and the new one", n)
		}
		s.left()
	}},
	{"SetThatIsAsideDoesNotExpire", func(t *testing.T, s site) {
		s.setCache("k", "t")
		s.rdb.Expire(t.Context(), "tag:t", time.Hour)
		f := foreign{rdb: s.rdb, names: names{ns: "fw"}, cfg: seedLayout}
		if err := asideScript.Run(t.Context(), s.rdb, []string{"tag:t", f.aside("tag:t")}).Err(); err != nil {
			t.Fatal(err)
		}
		if ttl := s.rdb.TTL(t.Context(), f.aside("tag:t")).Val(); ttl != -1 {
			t.Errorf("TTL = %v, want none", ttl)
		}
		s.mustPurge(seedLayout, Purge{Tags: []string{"t"}})
		s.left()
	}},
	{"ManyComplaintsAreBounded", func(t *testing.T, s site) {
		var tags []string
		for i := range 40 {
			tags = append(tags, fmt.Sprint(i))
			s.rdb.Set(t.Context(), fmt.Sprint("tag:", i), "x", 0)
		}
		tags = append(tags, strings.Repeat("x", 500))
		s.rdb.Set(t.Context(), "tag:"+tags[40], "x", 0)
		_, complaints, err := s.purge(seedLayout, Purge{Tags: tags})
		if n := strings.Count(fmt.Sprint(complaints), "is not a set"); err != nil || n != maxComplaints || complaints[n] != "and 31 more" {
			t.Errorf("%d complaints in %q, %v; want %d and a number", n, complaints, err, maxComplaints)
		}
		_, complaints, err = s.purge(seedLayout, Purge{Tags: tags[40:]})
		if text := fmt.Sprint(complaints); err != nil || len(complaints) != 1 || len(text) > 3*maxQuoted {
			t.Errorf("complaints %q, %v; want one of at most %d bytes", text, err, 3*maxQuoted)
		}
	}},
}

func TestForeignKeysOnRedis(t *testing.T) {
	t.Parallel()
	keepForeignPromises(t, testkit.Redis(t))
}

func TestForeignKeysOnCluster(t *testing.T) {
	t.Parallel()
	keepForeignPromises(t, testkit.Cluster(t))
}

func TestForeignKeysOnEmbeddedStore(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { rdb.Close() })
	keepForeignPromises(t, rdb)
}

func keepForeignPromises(t *testing.T, rdb redis.UniversalClient) {
	for _, promise := range foreignPromises {
		t.Run(promise.name, func(t *testing.T) {
			err := eachMaster(t.Context(), rdb, func(ctx context.Context, node redis.Cmdable) error { return node.FlushAll(ctx).Err() })
			if err != nil {
				t.Fatal(err)
			}
			promise.check(t, site{t, rdb})
		})
	}
}

func TestHugeTagSetIsEmptiedInBatches(t *testing.T) {
	t.Parallel()
	s := site{t, testkit.Redis(t)}
	const size = 20_000
	for page := range slices.Chunk(numbered(size, 0, "post:"), 1000) {
		pipe := s.rdb.Pipeline()
		for _, e := range page {
			pipe.Set(t.Context(), e.key, "{}", 0)
			pipe.SAdd(t.Context(), "tag:posts", e.key)
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.mustPurge(seedLayout, Purge{Tags: []string{"posts"}}); n != size {
		t.Errorf("%d keys, want %d", n, size)
	}
	s.left()
	stats, err := s.rdb.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, blocking := range []string{"cmdstat_smembers", "cmdstat_del:", "cmdstat_flush"} {
		if strings.Contains(stats, blocking) {
			t.Errorf("%s was used", blocking)
		}
	}
}

// A program goes on filling keys of the tag while it is purged: a key that
// stays is listed, so the next purge finds it.
func TestKeyStoredWhileItsTagIsPurgedIsNeverOrphaned(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := site{t, rdb}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := range 1500 {
			s.setCache(fmt.Sprint("k", round%50), "t")
		}
	}()
	purges := 0
	for busy := true; busy; purges++ {
		select {
		case <-done:
			busy = false
		default:
			s.mustPurge(seedLayout, Purge{Tags: []string{"t"}})
		}
	}
	s.setCache("one more", "t")
	for _, key := range namesOn(t, rdb, "k") {
		if !rdb.SIsMember(t.Context(), "tag:t", key).Val() {
			t.Errorf("%q is in no set", key)
		}
	}
	if purges < 3 {
		t.Errorf("%d purges beside the writer: too few to prove anything", purges)
	}
	s.mustPurge(seedLayout, Purge{Tags: []string{"t"}})
	s.left()
}

func TestForeignDeletionEndsWhenRedisIsAway(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { rdb.Close() })
	server.Kill()
	if _, _, err := (site{t, rdb}).purge(seedLayout, Purge{Tags: []string{"a", "b"}, Keys: []string{"k"}, Patterns: []string{"*"}}); err == nil {
		t.Error("no error without Redis: the event would be told to browsers")
	}
}

// Our user may not touch one key. That key stays, is told each time, and holds
// up neither its tag nor what the tag lists later.
func TestKeyThatWeMayNotDeleteHoldsNothingUp(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	owner := site{t, server.Client(t)}
	err := owner.rdb.Do(t.Context(), "acl", "setuser", "ours", "on", ">pass", "~tag:*", "~fw:*", "~post:*", "+@all").Err()
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "ours", Password: "pass"})
	t.Cleanup(func() { rdb.Close() })
	ours := site{t, rdb}

	for round := range 3 {
		owner.setCache("theirs", "posts")
		owner.setCache("post:1", "posts")
		if round == 1 { // a run that ended too early left a set aside
			f := foreign{rdb: rdb, names: names{ns: "fw"}, cfg: seedLayout}
			if err := asideScript.Run(t.Context(), owner.rdb, []string{"tag:posts", f.aside("tag:posts")}).Err(); err != nil {
				t.Fatal(err)
			}
			owner.setCache("post:2", "posts")
		}
		n, complaints, err := ours.purge(seedLayout, Purge{Tags: []string{"posts"}, All: round == 2})
		if want := []int{1, 2, 1}[round]; n != want || err != nil {
			t.Fatalf("round %d: %d keys, %v; want %d", round, n, err, want)
		}
		text := fmt.Sprint(complaints)
		if !strings.Contains(text, `key "theirs": NOPERM`) || !strings.Contains(text, `tag set "tag:posts": `+errKept.Error()) {
			t.Errorf("complaints %q", complaints)
		}
		owner.left("tag:posts", "theirs")
	}
}

type replied string

func (r replied) Error() string { return string(r) }
func (r replied) RedisError()   {}

func TestServerThatCannotServeIsTriedAgain(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb := server.Client(t)
	s := site{t, rdb}
	s.setCache("k", "t")
	for _, reply := range []string{"LOADING Redis is loading the dataset in memory", "CLUSTERDOWN The cluster is down", "ERR max number of clients reached"} {
		if says, forGood := refusal(replied(reply)); forGood {
			t.Errorf("refusal of %q = %q, for good", reply, says)
		}
	}
	if err := rdb.ReplicaOf(t.Context(), "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, complaints, err := s.purge(seedLayout, Purge{Keys: []string{"k"}}); err == nil || len(complaints) > 0 {
		t.Errorf("on a replica: %q, %v; want an error, since a retry helps", complaints, err)
	}
}

func TestForeignConfigSaysWhatIsWrong(t *testing.T) {
	tests := []struct {
		sets string
		ok   bool
	}{
		{"", true}, {"tag:%s", true}, {"{%s}:keys", true},
		{"tag:", false}, {"%s:%s", false}, {"%s", false},
	}
	for _, tt := range tests {
		if err := (ForeignConfig{TagSets: tt.sets}).Validate(); (err == nil) != tt.ok {
			t.Errorf("Validate of tag_sets %q = %v", tt.sets, err)
		}
	}
}
