package tasks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

// news returns an event of its own for each n.
func news(n int) event.Event {
	return event.Event{ID: event.NewID("blog", strconv.Itoa(n)), Source: "blog", Name: "post.updated", Type: "post", Action: event.Update,
		Entity: strconv.Itoa(n), Slug: "hello", Locale: "en", DeliveryID: strconv.Itoa(n), Payload: []byte(`{"id":"1"}`),
		ReceivedAt: time.Now().UTC()}
}

// site is the rest of the program, in small: a ledger and a log that live in
// Redis and therefore outlive a worker, and hooks to break things.
type site struct {
	rdb redis.UniversalClient
	ns  keys

	mu    sync.Mutex
	calls []string
	marks []Mark // prior marks as Invalidate got them
}

func newSite(rdb redis.UniversalClient, ns string) *site { return &site{rdb: rdb, ns: keys(ns)} }

var appendOnce = redis.NewScript(`
local seen = redis.call('GET', KEYS[1])
if seen then return {seen, 0} end
local pos = redis.call('RPUSH', KEYS[2], ARGV[1]) .. '-0'
redis.call('SET', KEYS[1], pos, 'EX', 259200)
return {pos, 1}`)

func (s *site) called(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, name)
}

func (s *site) steps() Steps {
	return Steps{
		Plan: func(ev event.Event) rules.Plan {
			s.called("plan")
			return rules.Plan{Purge: event.Purge{Tags: []string{"posts", "post:" + ev.Entity}, Paths: []string{"/blog"}},
				Channels: []string{"posts"}, Rules: []int{0}, Fields: map[string]any{"title": "t"}}
		},
		Invalidate: func(ctx context.Context, _ Subject, prior Mark) (Mark, error) {
			s.called("invalidate")
			s.mu.Lock()
			s.marks = append(s.marks, prior)
			s.mu.Unlock()
			if prior.Seq != 0 {
				if known, err := s.rdb.SIsMember(ctx, s.ns.own("test:marks"), prior.Member).Result(); err != nil || known {
					return prior, err
				}
			}
			seq, err := s.rdb.Incr(ctx, s.ns.own("test:seq")).Result()
			if err != nil {
				return Mark{}, err
			}
			m := Mark{Seq: uint64(seq), Member: fmt.Sprintf("%d:x", seq), Epoch: "e"}
			return m, s.rdb.SAdd(ctx, s.ns.own("test:marks"), m.Member).Err()
		},
		Barrier: func(_ context.Context, _ Subject, m Mark) (Mark, Report, error) {
			s.called("barrier")
			return m, Report{Nodes: 2, Waited: time.Millisecond, Settled: true}, nil
		},
		Reclaim: func(context.Context, event.Purge, Mark) (int, []string, error) {
			s.called("reclaim")
			return 3, nil, nil
		},
		Tell: func(_ context.Context, target string, _ Notice) error { s.called("tell " + target); return nil },
		Append: func(ctx context.Context, c event.Change) (string, bool, error) {
			s.called("append")
			reply, err := appendOnce.Run(ctx, s.rdb, []string{s.ns.seen(c.ID), s.ns.own("test:log")}, c.ID).Slice()
			if err != nil {
				return "", false, err
			}
			return reply[0].(string), reply[1].(int64) == 1, nil
		},
	}
}

// log returns the ids in the log.
func (s *site) log(t testing.TB) []string {
	t.Helper()
	ids, err := s.rdb.LRange(context.Background(), s.ns.own("test:log"), 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func (s *site) heard() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// embedded returns a client on an embedded store; fit for a synctest bubble,
// where the caller must call the returned function before the bubble ends.
func embedded() (*redis.Client, func()) {
	m := miniredis.NewMiniRedis()
	o := redis.UniversalOptions{Addrs: []string{"127.0.0.1:1"}, Dialer: EmbeddedDialer(m.Dial)}
	WorkerOptions(&o)
	o.ReadTimeout = testkit.Patience // it shares two cores with everything else
	rdb := redis.NewClient(o.Simple())
	return rdb, func() { rdb.Close(); m.Close() }
}

// finished waits for the final record of an event.
func finished(t testing.TB, r *Records, id string) Record {
	t.Helper()
	return having(t, r, id, Done, Failed, Ignored)
}

func having(t testing.TB, r *Records, id string, want ...Status) Record {
	t.Helper()
	var rec Record
	testkit.Until(t, fmt.Sprintf("event %s is one of %v", id, want), func() bool {
		var err error
		if rec, err = r.Get(context.Background(), id); err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		for _, s := range want {
			if rec.Status == s {
				return true
			}
		}
		return false
	})
	return rec
}

func mustEnqueue(t testing.TB, q *Queue, ev event.Event) bool {
	t.Helper()
	added, err := q.Enqueue(context.Background(), ev)
	if err != nil {
		t.Fatalf("Enqueue(%s) = %v", ev.ID, err)
	}
	return added
}

// redisAs returns a client of the test's own server, set up by options.
func redisAs(t testing.TB, s *testkit.Server, options func(*redis.UniversalOptions)) *redis.Client {
	o := redis.UniversalOptions{Addrs: []string{s.Addr}}
	options(&o)
	rdb := redis.NewClient(o.Simple())
	t.Cleanup(func() { rdb.Close() })
	return rdb
}
