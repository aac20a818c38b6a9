package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

type product struct {
	ID   int      `json:"id"`
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// shop is a database that counts how often it is asked.
type shop struct {
	mu    sync.Mutex
	asked int
	name  string
	err   error
}

func (s *shop) product(ctx context.Context) (product, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	AddTags(ctx, "category:7")
	return product{ID: 1, Name: s.name, Tags: []string{"a"}}, s.err
}

func (s *shop) becomes(name string, err error) { s.mu.Lock(); s.name, s.err = name, err; s.mu.Unlock() }

func (s *shop) count() int { s.mu.Lock(); defer s.mu.Unlock(); return s.asked }

// running starts a node and waits until it may serve what it keeps.
func running(t testing.TB, rdb redis.UniversalClient) *Store {
	t.Helper()
	s := node(t, rdb)
	testkit.Go(t, s.Run)
	testkit.Until(t, "ready", func() bool { return s.Ready() == nil })
	return s
}

func TestRememberedUntilPurged(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, other := running(t, rdb), running(t, rdb)
	db := &shop{name: "old"}
	get := func(s *Store) string {
		t.Helper()
		p, err := Remember(t.Context(), s, "product:1", RememberOptions{TTL: time.Minute, Tags: []string{"products"}}, db.product)
		if err != nil {
			t.Fatal(err)
		}
		return p.Name
	}
	for _, purge := range []func() (Receipt, error){
		func() (Receipt, error) { return s.PurgeTags(t.Context(), "products") },
		func() (Receipt, error) { return other.PurgeTags(t.Context(), "category:7") }, // which only the making told
		func() (Receipt, error) { return s.Purge(t.Context(), Purge{Keys: []string{"product:1"}}) },
	} {
		before := db.count()
		first := get(s)
		if got := get(other); got != first || db.count() > before+1 {
			t.Errorf("%q, then %q in another process, made %d times; want it made once", first, got, db.count()-before)
		}
		db.becomes(first+"!", nil)
		if got := get(s); got != first {
			t.Errorf("before the purge: %q, want what is remembered", got)
		}
		receipt, err := purge()
		if err != nil || !receipt.Settled || receipt.Seq == 0 || receipt.Nodes == 0 {
			t.Fatalf("purge = %+v, %v", receipt, err)
		}
		for _, node := range []*Store{s, other} {
			if got := get(node); got != first+"!" {
				t.Errorf("after the purge: %q, want %q", got, first+"!")
			}
		}
	}
}

func TestOneOfManyMakesTheValue(t *testing.T) {
	t.Parallel()
	s := running(t, testkit.Redis(t))
	var asked atomic.Int32
	begun, finish := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	got := make([][]string, 20)
	for i := range got {
		wg.Go(func() {
			v, err := Remember(t.Context(), s, "k", RememberOptions{}, func(context.Context) ([]string, error) {
				if asked.Add(1) == 1 {
					close(begun)
				}
				<-finish
				return []string{"a", "b"}, nil
			})
			if err != nil {
				t.Error(err)
			}
			got[i] = v
		})
	}
	testkit.Wait(t, begun, "the first to ask")
	close(finish)
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("made %d times, want once", n)
	}
	got[0][0] = "changed by its owner"
	for i, v := range got[1:] {
		if !slices.Equal(v, []string{"a", "b"}) {
			t.Errorf("caller %d got %v: a value of somebody else's", i+1, v)
		}
	}
}

func TestErrorsAreNotRemembered(t *testing.T) {
	t.Parallel()
	s := running(t, testkit.Redis(t))
	down := errors.New("database is down")
	db := &shop{err: down}
	for n := range 3 {
		if _, err := Remember(t.Context(), s, "k", RememberOptions{Missing: time.Minute}, db.product); !errors.Is(err, down) || db.count() != n+1 {
			t.Fatalf("try %d: %v, asked %d times; want the error of fn each time", n+1, err, db.count())
		}
	}
	db.becomes("well", nil)
	if p, err := Remember(t.Context(), s, "k", RememberOptions{}, db.product); err != nil || p.Name != "well" {
		t.Errorf("then %+v, %v", p, err)
	}
}

func TestNothingIsRememberedWhenAskedTo(t *testing.T) {
	t.Parallel()
	s := running(t, testkit.Redis(t))
	db := &shop{err: fmt.Errorf("product 1: %w", ErrNotFound)}
	ask := func(missing time.Duration) error {
		_, err := Remember(t.Context(), s, "product:1", RememberOptions{Missing: missing}, db.product)
		return err
	}
	if err := errors.Join(ask(0), ask(0)); !errors.Is(err, ErrNotFound) || db.count() != 2 {
		t.Errorf("without Missing: %v, asked %d times, want twice", err, db.count())
	}
	for range 3 {
		if err := ask(time.Minute); !errors.Is(err, ErrNotFound) || db.count() != 3 {
			t.Errorf("with Missing: %v, asked %d times, want once more", err, db.count())
		}
	}
	db.becomes("made", nil)
	if _, err := s.PurgeTags(t.Context(), "anything"); err != nil { // any event may be the one that made it
		t.Fatal(err)
	}
	if err := ask(time.Minute); err != nil {
		t.Errorf("after an event: %v, want the product", err)
	}
}

func TestRememberedOfAnotherShapeIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := running(t, testkit.Redis(t))
	if _, err := Remember(t.Context(), s, "k", RememberOptions{}, func(context.Context) (string, error) { return "text", nil }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n, err := Remember(t.Context(), s, "k", RememberOptions{}, func(context.Context) (int, error) { return 7, nil })
		if n != 7 || err != nil {
			t.Errorf("as a number: %d, %v", n, err)
		}
	}
	_, err := Remember(t.Context(), s, "f", RememberOptions{}, func(context.Context) (func(), error) { return func() {}, nil })
	if err == nil {
		t.Error("a function was remembered as JSON")
	}
}

func TestRememberWorksWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { rdb.Close() })
	s := running(t, rdb)
	server.Kill()
	db := &shop{name: "x"}
	testkit.Until(t, "the lease is over", func() bool { return s.Ready() != nil })
	for n := range 3 {
		if p, err := Remember(t.Context(), s, "k", RememberOptions{}, db.product); err != nil || p.Name != "x" || db.count() != n+1 {
			t.Errorf("Redis away: %+v, %v, asked %d times", p, err, db.count())
		}
	}
}
