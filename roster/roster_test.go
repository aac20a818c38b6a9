package roster

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func words(t *testing.T, r *Roster) []string {
	t.Helper()
	list, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, w := range list {
		out = append(out, string(w))
	}
	slices.Sort(out)
	return out
}

func announce(t *testing.T, r *Roster, id, word string) {
	t.Helper()
	if err := r.Announce(t.Context(), id, []byte(word)); err != nil {
		t.Fatal(err)
	}
}

func TestListHasTheLastWordOfEach(t *testing.T) {
	for name, rdb := range map[string]redis.UniversalClient{"one Redis": testkit.Redis(t), "cluster": testkit.Cluster(t)} {
		a, b := New(rdb, Config{Name: "streams"}), New(rdb, Config{Name: "streams"})
		if got := words(t, a); got != nil {
			t.Errorf("%s: %q on an empty list", name, got)
		}
		announce(t, a, "a", "a1")
		announce(t, b, "b", "b1")
		announce(t, a, "a", "a2")
		announce(t, New(rdb, Config{Name: "streams", Namespace: "another"}), "c", "another site's")
		announce(t, New(rdb, Config{Name: "workers"}), "d", "another list's")
		if got, want := words(t, b), []string{"a2", "b1"}; !slices.Equal(got, want) {
			t.Errorf("%s: listed %q, want %q", name, got, want)
		}
		if err := a.Leave(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if got, want := words(t, b), []string{"b1"}; !slices.Equal(got, want) {
			t.Errorf("%s: listed %q after one has left, want %q", name, got, want)
		}
	}
}

func TestWhoIsSilentIsForgotten(t *testing.T) {
	rdb := testkit.Redis(t)
	short, long := New(rdb, Config{Name: "s", Silence: 30 * time.Millisecond}), New(rdb, Config{Name: "s"})
	announce(t, short, "killed", "gone soon")
	announce(t, long, "alive", "here")
	testkit.Until(t, "the killed one is off the list", func() bool { return len(words(t, long)) == 1 })
	if ids := rdb.ZRange(context.Background(), long.index(), 0, -1).Val(); !slices.Equal(ids, []string{"alive"}) {
		t.Errorf("the index holds %q, want the one that is alive", ids)
	}
	announce(t, long, "killed", "back")
	if got := words(t, long); len(got) != 2 {
		t.Errorf("listed %q, want the one that came back, too", got)
	}
	for _, key := range rdb.Keys(context.Background(), "*").Val() { // nothing of a site that is gone stays
		if ttl := rdb.TTL(context.Background(), key).Val(); ttl <= 0 {
			t.Errorf("%s ends in %v", key, ttl)
		}
	}
}

func TestListIsBounded(t *testing.T) {
	rdb := testkit.Redis(t)
	r := New(rdb, Config{Name: "s"})
	for i := range maxListed + 50 {
		announce(t, r, fmt.Sprint("node", i), "x")
	}
	if n := len(words(t, r)); n != maxListed {
		t.Errorf("%d listed, want %d", n, maxListed)
	}
}
