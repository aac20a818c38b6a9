package feed

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
)

func TestLagIsTheAgeOfWhatIsNotHandedOn(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		l, writer := testLog(t, rdb, Config{}), testLog(t, rdb, Config{})
		lag := func() time.Duration {
			t.Helper()
			d, err := l.Lag(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		if d := lag(); d != 0 {
			t.Errorf("lag of %v before the tail has begun", d)
		}
		blocked := &gate{recorder: newRecorder(), enter: make(chan struct{}), leave: make(chan struct{})}
		testkit.Go(t, func(ctx context.Context) error { return l.Tail(ctx, blocked) })
		blocked.await(t, "reset:history_lost")
		testkit.Until(t, "it has caught up", func() bool { return l.Ready() && lag() == 0 })

		appendAll(t, writer, "a")
		testkit.Wait(t, blocked.enter, "the tail to hand on a")
		appendAll(t, writer, "b") // while the tail stands still
		if lag() <= 0 {
			t.Error("no lag while the tail stands still")
		}
		close(blocked.leave)
		blocked.await(t, "b")
		testkit.Until(t, "it has caught up again", func() bool { return lag() == 0 })
	})
}

func TestLagIsTheAgeOfTheOldest(t *testing.T) {
	rdb := testkit.Redis(t)
	l := testLog(t, rdb, Config{})
	now := uint64(time.Now().UnixMilli())
	for _, ms := range []uint64{now - 5000, now - 3000, now} {
		if err := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: l.logKey(), ID: event.Position{Ms: ms}.String(), Values: []string{"d", "{}"}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		at   uint64
		want time.Duration
	}{{now - 6000, 5 * time.Second}, {now - 5000, 3 * time.Second}, {now, 0}} {
		l.position.Store(&event.Position{Ms: tc.at})
		if d, err := l.Lag(t.Context()); err != nil || d < tc.want || d > tc.want+testkit.Patience || tc.want == 0 && d != 0 {
			t.Errorf("lag at %d ms ago = %v, %v, want %v", now-tc.at, d, err, tc.want)
		}
	}
}
