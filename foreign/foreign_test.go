package foreign

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
)

type message struct{ channel, data string }

// following starts a follower and returns what it hands on.
func following(t *testing.T, rdb redis.UniversalClient, channels ...string) (*Follower, <-chan message) {
	t.Helper()
	cfg := Config{Channels: channels}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	f, heard := New(rdb, testkit.Logger(t), cfg), make(chan message, 100)
	testkit.Go(t, func(ctx context.Context) error {
		return f.Run(ctx, func(channel string, data []byte) { heard <- message{channel, string(data)} })
	})
	testkit.Until(t, "subscribed", f.Subscribed)
	return f, heard
}

func publish(t *testing.T, rdb redis.UniversalClient, channel, data string) {
	t.Helper()
	if err := rdb.Publish(t.Context(), channel, data).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestMessagesAreHandedOnAsTheyAre(t *testing.T) {
	for name, start := range map[string]func() redis.UniversalClient{
		"redis":   func() redis.UniversalClient { return testkit.Redis(t) },
		"cluster": func() redis.UniversalClient { return testkit.Cluster(t) },
	} {
		t.Run(name, func(t *testing.T) {
			rdb := start()
			_, heard := following(t, rdb, "orders", "a b", "é") // of several masters in a cluster
			for _, m := range []message{{"orders", `{"id":1}`}, {"a b", "plain\ntext\r\n"}, {"é", ""}, {"orders", strings.Repeat("x", 64<<10)}} {
				publish(t, rdb, "others", "not asked for")
				publish(t, rdb, m.channel, m.data)
				if got := testkit.Wait(t, heard, "a message"); got != m {
					t.Errorf("published %.40q, heard %.40q", m, got)
				}
			}
		})
	}
}

func TestLargeAndBinaryMessagesAreDroppedAndCounted(t *testing.T) {
	rdb := testkit.Redis(t)
	f, heard := following(t, rdb, "orders")
	publish(t, rdb, "orders", strings.Repeat("x", 64<<10+1))
	publish(t, rdb, "orders", "\xff\xfe")
	publish(t, rdb, "orders", "good")
	if got := testkit.Wait(t, heard, "a message"); got.data != "good" {
		t.Errorf("heard %.40q", got.data)
	}
	if large, binary, all := testutil.ToFloat64(f.metrics.large), testutil.ToFloat64(f.metrics.binary), testutil.ToFloat64(f.metrics.received); large != 1 || binary != 1 || all != 1 {
		t.Errorf("counted %v large, %v binary, %v good, want one each", large, binary, all)
	}
}

func TestSubscriptionComesBackAfterRedis(t *testing.T) {
	server := testkit.StartServer(t)
	f, heard := following(t, server.Client(t), "orders")
	for range 2 {
		server.Kill()
		testkit.Until(t, "it knows that nothing is heard", func() bool { return !f.Subscribed() })
		server.Start(t)
		testkit.Until(t, "subscribed again", f.Subscribed)
		publish(t, server.Client(t), "orders", "again")
		if got := testkit.Wait(t, heard, "a message"); got.data != "again" {
			t.Errorf("heard %q", got)
		}
	}
}

// A line that holds everything back is no broken one: only a question tells.
func TestDeadLineIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("waits 15 s")
	}
	server := testkit.StartServer(t)
	line := testkit.StartProxy(t, server.Addr)
	rdb := redis.NewClient(&redis.Options{Addr: line.Addr})
	defer rdb.Close()
	f, heard := following(t, rdb, "orders")
	line.Hold()
	start := time.Now()
	testkit.Until(t, "the dead line is found", func() bool { return !f.Subscribed() })
	if took := time.Since(start); took > quietTime+pongTime+3*time.Second {
		t.Errorf("found after %v", took)
	}
	line.Release()
	testkit.Until(t, "subscribed again", f.Subscribed)
	publish(t, server.Client(t), "orders", "again")
	for testkit.Wait(t, heard, "a message").data != "again" {
	}
}

func TestFollowerEndsWithItsContext(t *testing.T) {
	rdb := testkit.Redis(t)
	for _, channels := range [][]string{nil, {"orders"}} {
		f := New(rdb, testkit.Logger(t), Config{Channels: channels})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx, func(string, []byte) {}) }()
		if len(channels) > 0 {
			testkit.Until(t, "subscribed", f.Subscribed)
		}
		cancel()
		if err := testkit.Wait(t, done, "its end"); err != nil {
			t.Error(err)
		}
	}
}

func TestNamesThatNobodyCanAskForAreMistakes(t *testing.T) {
	err := Config{Channels: []string{"orders", "", "a*", "a\nb", "\xff", strings.Repeat("x", 257), "orders"}}.Validate()
	var at []int
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var m *Mistake
		if errors.As(e, &m) {
			at = append(at, m.Index)
		}
	}
	if len(at) != 6 || at[0] != 1 || at[5] != 6 {
		t.Errorf("mistakes at %v: %v", at, err)
	}
	if err := (Config{Channels: make([]string, 1001)}).Validate(); err == nil || !strings.Contains(err.Error(), "1001 channels, at most 1000") {
		t.Errorf("1001 channels: %.100v", err)
	}
}
