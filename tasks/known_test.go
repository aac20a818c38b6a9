package tasks

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func knownAndOverTellWhereAnEventIs(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	ctx := t.Context()
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	state := func(s string) func(id string) {
		return func(id string) { rdb.HSet(ctx, q.keys.task(id), "state", s) }
	}
	status := func(s Status) func(id string) {
		return func(id string) { rdb.HSet(ctx, q.keys.record(id), "status", string(s)) }
	}
	var ids []string
	var known, over []bool
	rows := []struct {
		name        string
		prepare     func(id string)
		known, over bool
	}{
		{"never heard of", func(string) {}, false, false},
		{"waits", state("pending"), true, false},
		{"runs", state("active"), true, false},
		{"will be tried again", state("retry"), true, false},
		{"runs later", state("scheduled"), true, false},
		{"failed for good", state("archived"), false, false},
		{"published", func(id string) { rdb.Set(ctx, q.keys.seen(id), "1-0", 0) }, true, true},
		{"ignored", status(Ignored), true, true},
		{"failed, its task is gone", status(Failed), false, false},
	}
	for n, row := range rows {
		id := news(n).ID
		row.prepare(id)
		ids, known, over = append(ids, id), append(known, row.known), append(over, row.over)
	}
	gotKnown, err := q.Known(ctx, ids)
	if err != nil {
		t.Fatal(err)
	}
	gotOver, err := q.Over(ctx, ids)
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range rows {
		if gotKnown[i] != known[i] || gotOver[i] != over[i] {
			t.Errorf("an event that %q: Known = %v, Over = %v, want %v, %v", row.name, gotKnown[i], gotOver[i], known[i], over[i])
		}
	}
	if none, err := q.Known(ctx, nil); err != nil || len(none) != 0 {
		t.Errorf("Known of nothing = %v, %v", none, err)
	}
	if none, err := q.Over(ctx, nil); err != nil || len(none) != 0 {
		t.Errorf("Over of nothing = %v, %v", none, err)
	}
	many := slices.Repeat(ids, 111)
	if all, err := q.Over(ctx, many); err != nil || !slices.Equal(all, slices.Repeat(over, 111)) {
		t.Errorf("Over of %d ids: %d answers, %v, or wrong ones", len(many), len(all), err)
	}
}

func TestKnownLeavesAHangingRedisAlone(t *testing.T) {
	t.Parallel()
	s := testkit.StartServer(t)
	q := NewQueue(redisAs(t, s, IngestOptions), testkit.Logger(t), Config{})
	ids := []string{news(1).ID}
	if _, err := q.Known(t.Context(), ids); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := q.Known(t.Context(), ids); err == nil {
		t.Fatal("Known on a hanging Redis = nil, want an error")
	}
	if took := time.Since(start); took > knownPatience+200*time.Millisecond {
		t.Errorf("Known on a hanging Redis took %v, want about %v", took, knownPatience)
	}
	start = time.Now()
	for range 10_000 {
		if _, err := q.Known(t.Context(), ids); !errors.Is(err, errUnasked) {
			if time.Since(start) > breakerPause {
				break // a slow machine: it may ask again by now
			}
			t.Fatalf("Known right after a failure = %v, want it not to ask", err)
		}
	}
	if took := time.Since(start); took > breakerPause {
		t.Errorf("10 000 questions that are not asked took %v", took)
	}
	s.Signal(syscall.SIGCONT)
	testkit.Until(t, "it asks again", func() bool {
		_, err := q.Known(t.Context(), ids)
		return err == nil
	})
	if q.breaker.until.Load() != 0 {
		t.Error("the breaker stays open after an answer")
	}
}

func TestCallerWhoLeavesDoesNotTripTheBreaker(t *testing.T) {
	t.Parallel()
	q := NewQueue(testkit.Redis(t), testkit.Logger(t), Config{})
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := q.Known(gone, []string{"x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Known for a caller who left = %v", err)
	}
	if _, err := q.Known(t.Context(), []string{"x"}); err != nil {
		t.Errorf("Known for the next caller = %v", err)
	}
}

func TestBreakerLetsOneCallerTry(t *testing.T) {
	var b breaker
	now := time.Now()
	b.opened(now)
	after := now.Add(breakerPause)
	for _, tc := range []struct {
		name string
		at   time.Time
		want bool
	}{
		{"at once", now, false},
		{"just before the second is over", after.Add(-1), false},
		{"after it", after, true},
		{"a second caller then", after, false},
	} {
		if got := b.allow(tc.at); got != tc.want {
			t.Errorf("allow %s = %v, want %v", tc.name, got, tc.want)
		}
	}
	if b.closed(); !b.allow(now) {
		t.Error("a closed breaker does not allow")
	}
}
