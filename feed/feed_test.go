package feed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/redis/go-redis/v9"
)

// stores are the Redis kinds that the log must run on.
var stores = map[string]func(testing.TB) redis.UniversalClient{
	"redis":   func(t testing.TB) redis.UniversalClient { return testkit.Redis(t) },
	"cluster": func(t testing.TB) redis.UniversalClient { return testkit.Cluster(t) },
	"embedded": func(t testing.TB) redis.UniversalClient {
		m := miniredis.RunT(t)
		rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
		t.Cleanup(func() { rdb.Close() })
		return rdb
	},
}

// onEachStore runs test on the stores named, all when none is. A cluster costs seconds.
func onEachStore(t *testing.T, test func(*testing.T, redis.UniversalClient), names ...string) {
	for name, start := range stores {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, start(t)) })
	}
}

func change(id string, channels ...string) event.Change {
	return event.Change{ID: id, Seq: 1, Event: "post.update", Source: "blog", Type: "post", Action: event.Update, Entity: id, Channels: channels, At: time.Now()}
}

// recorder is a Sink that remembers.
type recorder struct {
	mu     sync.Mutex
	ids    []string // "reset:<reason>", or the data
	recs   []event.Record
	resets []event.Position
	grew   chan struct{}
}

func newRecorder() *recorder { return &recorder{grew: make(chan struct{}, 1)} }

func (r *recorder) Broadcast(recs []event.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recs = append(r.recs, recs...)
	for _, rec := range recs {
		_, rest, _ := strings.Cut(string(rec.Data), `"id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		if rec.EndsSession != "" {
			id = "ended:" + rec.EndsSession
		}
		r.ids = append(r.ids, id)
	}
	r.signal()
}

func (r *recorder) Reset(reason string, at event.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, "reset:"+reason)
	r.resets = append(r.resets, at)
	r.signal()
}

func (r *recorder) signal() {
	select {
	case r.grew <- struct{}{}:
	default:
	}
}

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids)
}

// await waits until the sink's last words are want.
func (r *recorder) await(t *testing.T, want ...string) {
	t.Helper()
	deadline := time.After(testkit.Patience)
	for {
		got := r.seen()
		if len(got) >= len(want) && slices.Equal(got[len(got)-len(want):], want) {
			return
		}
		select {
		case <-r.grew:
		case <-deadline:
			t.Fatalf("the sink got %v, want it to end in %v", got, want)
		}
	}
}

func testLog(t testing.TB, rdb redis.UniversalClient, cfg Config) *Log {
	if cfg.Block == 0 {
		cfg.Block = 50 * time.Millisecond
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return New(rdb, testkit.Logger(t), cfg)
}

func appendAll(t testing.TB, l *Log, ids ...string) (at []event.Position) {
	t.Helper()
	for _, id := range ids {
		p, added, err := l.Append(context.Background(), change(id, "posts", "post:"+id))
		if err != nil || !added {
			t.Fatalf("Append(%q) = %v, %v, %v", id, p, added, err)
		}
		at = append(at, p)
	}
	return at
}

func TestEventIsAppendedOnce(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		l := testLog(t, rdb, Config{Namespace: "site"})
		p, added, err := l.Append(t.Context(), change("a", "posts"))
		if err != nil || !added || p.IsZero() {
			t.Fatalf("Append = %v, %v, %v", p, added, err)
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if q, added, err := l.Append(context.Background(), change("a", "posts")); err != nil || added || q != p {
					t.Errorf("Append again = %v, %v, %v, want %v, false, nil", q, added, err, p)
				}
			})
		}
		wg.Wait()
		if n := rdb.XLen(t.Context(), "site:{site}:log").Val(); n != 2 {
			t.Errorf("the log has %d entries, want the marker and one", n)
		}
		if d := rdb.TTL(t.Context(), "site:{site}:seen:a").Val(); d < 71*time.Hour {
			t.Errorf("seen expires in %v, want 72h", d)
		}
		if _, _, err := l.Append(t.Context(), event.Change{}); err == nil {
			t.Error("Append of a change without an id succeeded")
		}
	}, "redis", "embedded")
}

func TestChangeThatStandsForManyEventsIsAppendedOnceForAllOfThem(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		log := New(rdb, testkit.Discard(), Config{})
		ctx := t.Context()
		first, _, err := log.Append(ctx, change("before"))
		if err != nil {
			t.Fatal(err)
		}
		merged := change("m999")
		for i := range 999 {
			merged.IDs = append(merged.IDs, fmt.Sprint("m", i))
		}
		merged.IDs = append(merged.IDs, "before", "m999")
		if _, _, err := log.Append(ctx, merged); err == nil {
			t.Errorf("Append of %d events = nil, want an error", len(merged.IDs))
		}
		merged.IDs = merged.IDs[1:]
		at, added, err := log.Append(ctx, merged)
		if err != nil || !added {
			t.Fatalf("Append = %v, %v, %v, want it added", at, added, err)
		}
		for id, want := range map[string]event.Position{"m1": at, "m500": at, "m999": at, "before": first} {
			if got, added, err := log.Append(ctx, change(id)); err != nil || added || got != want {
				t.Errorf("Append(%s) = %v, %v, %v, want the position %v that it has", id, got, added, err, want)
			}
			if ttl := rdb.TTL(ctx, log.seenKey(id)).Val(); ttl < 71*time.Hour {
				t.Errorf("%s is remembered for %v, want 72h", id, ttl)
			}
		}
		known := change("m1")
		known.IDs = []string{"fresh", "m1"}
		if got, added, err := log.Append(ctx, known); err != nil || added || got != at {
			t.Errorf("Append(m1 for fresh, m1) = %v, %v, %v, want m1 where it is", got, added, err)
		}
		if _, added, err := log.Append(ctx, change("fresh")); err != nil || !added {
			t.Errorf("Append(fresh) = %v, %v, want it added: nobody was told of it", added, err)
		}
	})
}

func TestOutsidersHearChangesByPublish(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		l := testLog(t, rdb, Config{})
		sub := rdb.Subscribe(t.Context(), "fw:posts", "fw:post:a")
		defer sub.Close()
		for range 2 {
			if _, err := sub.Receive(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		appendAll(t, l, "a")
		got := []string{}
		for range 2 {
			m := testkit.Wait(t, sub.Channel(), "a message")
			got = append(got, m.Channel)
			if !strings.Contains(m.Payload, `"id":"a"`) {
				t.Errorf("published %q", m.Payload)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{"fw:post:a", "fw:posts"}) {
			t.Errorf("published to %v", got)
		}
	})
}

func TestManyChannelsAllReachTheStream(t *testing.T) {
	rdb := testkit.Redis(t)
	l := testLog(t, rdb, Config{})
	start := appendAll(t, l, "0")[0]
	var channels []string
	for i := range 200 {
		channels = append(channels, fmt.Sprint("c", i))
	}
	c := change("a", append(channels, "bad\nname", "", "c1", "star*", strings.Repeat("x", 257))...)
	if _, _, err := l.Append(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	recs, whole, err := l.Range(t.Context(), start, 10)
	if err != nil || !whole || len(recs) != 1 || !slices.Equal(recs[0].Channels, channels) {
		t.Errorf("Range = %v, %v, %v, want the 200 channels that can be named, once each", recs, whole, err)
	}
}

func TestNewsOfAnApplicationIsCheckedAndKeptAsItIs(t *testing.T) {
	l := testLog(t, testkit.Redis(t), Config{})
	start := appendAll(t, l, "0")[0]
	data := "{ \"a\":\n 1 }"
	p, err := l.AppendRaw(t.Context(), []string{"orders"}, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	recs, whole, err := l.Range(t.Context(), start, 10)
	if err != nil || !whole || len(recs) != 1 || recs[0].Position != p || string(recs[0].Data) != data {
		t.Errorf("Range = %v, %v, %v", recs, whole, err)
	}
	for name, tc := range map[string]struct {
		channels []string
		data     string
		want     error
	}{
		"no channel":     {nil, "{}", ErrChannels},
		"empty name":     {[]string{""}, "{}", ErrChannels},
		"a star":         {[]string{"*"}, "{}", ErrChannels},
		"a line end":     {[]string{"a\nb"}, "{}", ErrChannels},
		"65 channels":    {make([]string, 65), "{}", ErrChannels},
		"not JSON":       {[]string{"a"}, "{", ErrData},
		"no object":      {[]string{"a"}, "[1]", ErrData},
		"two objects":    {[]string{"a"}, "{}{}", ErrData},
		"64 KiB and one": {[]string{"a"}, `{"a":"` + strings.Repeat("x", 1<<16) + `"}`, ErrData},
	} {
		if _, err := l.AppendRaw(t.Context(), tc.channels, []byte(tc.data)); !errors.Is(err, tc.want) {
			t.Errorf("%s: AppendRaw = %v, want %v", name, err, tc.want)
		}
	}
}

func TestRangeIsWholeOrSaysSo(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		l := testLog(t, rdb, Config{})
		if recs, whole, err := l.Range(t.Context(), event.Position{Ms: 5}, 10); err != nil || whole || recs != nil {
			t.Errorf("Range of no log = %v, %v, %v, want not whole", recs, whole, err)
		}
		at := appendAll(t, l, "a", "b", "c")
		origin, _ := event.ParsePosition(rdb.HGet(t.Context(), "fw:{fw}:log:meta", "origin").Val())
		check := func(name string, after event.Position, wantWhole bool, want int) {
			t.Helper()
			recs, whole, err := l.Range(t.Context(), after, 10)
			if err != nil || whole != wantWhole || len(recs) != want {
				t.Errorf("%s: Range(%v) = %d records, %v, %v, want %d, %v", name, after, len(recs), whole, err, want, wantWhole)
			}
		}
		before := func(p event.Position) event.Position {
			if p.N > 0 {
				return event.Position{Ms: p.Ms, N: p.N - 1}
			}
			return event.Position{Ms: p.Ms - 1, N: 1 << 63}
		}
		check("from the marker", origin, true, 3)
		check("before the marker", before(origin), false, 0)
		check("from the first", at[0], true, 2)
		check("between", before(at[1]), true, 2)
		check("at the newest", at[2], true, 0)
		check("ahead by one", event.Position{Ms: at[2].Ms, N: at[2].N + 1}, false, 0)
		check("ahead for ever", event.Position{Ms: 1<<64 - 1, N: 1<<64 - 1}, false, 0)
		check("ahead, nearly for ever", event.Position{Ms: 1<<64 - 1, N: 1<<64 - 2}, false, 0)
		check("zero", event.Position{}, false, 0)

		if recs, whole, err := l.Range(t.Context(), origin, 2); err != nil || !whole || len(recs) != 2 || recs[1].Position != at[1] {
			t.Errorf("Range of 2 = %v, %v, %v", recs, whole, err)
		}
		// Trimmed up to b: what is not known to be whole is not called whole.
		if err := rdb.XTrimMinID(t.Context(), "fw:{fw}:log", at[1].String()).Err(); err != nil {
			t.Fatal(err)
		}
		check("trimmed away", at[0], false, 0)
		check("marker trimmed away", origin, false, 0)
		check("first kept", at[1], true, 1)
		flush(t, rdb)
		check("flushed", at[1], false, 0)
		appendAll(t, l, "d")
		check("of another life", at[2], false, 0)
	})
}

func TestRangesOfOneProcessAreFew(t *testing.T) {
	l := testLog(t, testkit.Redis(t), Config{})
	l.ranges <- struct{}{}
	l.ranges <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.Range(ctx, event.Position{}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("third Range = %v, want to wait until its context ends", err)
	}
}

func TestValidateJoinsAllComplaints(t *testing.T) {
	err := Config{MaxLen: -1, MaxAge: 1, SeenFor: 1, History: -1, Block: time.Hour}.Validate()
	for _, word := range []string{"-1 changes", "kept for", "remembered", "history", "block"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("Validate() = %v, want it to complain of %q", err, word)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("zero Config: %v", err)
	}
}
