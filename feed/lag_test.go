package feed

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

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
		testkit.Until(t, "the lag grows", func() bool { return lag() >= 50*time.Millisecond })
		close(blocked.leave)
		blocked.await(t, "b")
		testkit.Until(t, "it has caught up again", func() bool { return lag() == 0 })
	})
}
