package feed

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/redis/go-redis/v9"
)

func TestEndOfASessionReachesEveryTailInItsPlace(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		l := testLog(t, rdb, Config{})
		early := newRecorder()
		testkit.Go(t, func(ctx context.Context) error { return l.Tail(ctx, early) })
		early.await(t, "reset:history_lost")

		at := appendAll(t, l, "a")
		for range 2 { // who does not know whether it was heard says it again
			if err := l.EndSession(t.Context(), "5f3a"); err != nil {
				t.Fatal(err)
			}
		}
		at = append(at, appendAll(t, l, "b")...)
		want := []string{"a", "ended:5f3a", "ended:5f3a", "b"}
		early.await(t, want...)
		late := newRecorder()
		testkit.Go(t, func(ctx context.Context) error { return testLog(t, rdb, Config{}).Tail(ctx, late) })
		late.await(t, want...)

		recs, whole, err := l.Range(t.Context(), at[0], 10)
		if err != nil || !whole || len(recs) != 3 || recs[0].EndsSession != "5f3a" || recs[2].Position != at[1] {
			t.Errorf("Range over the ends = %+v, %v, %v", recs, whole, err)
		}
		for _, rec := range append(recs[:2:2], early.recs[1:3]...) {
			if len(rec.Channels) > 0 || len(rec.Data) > 0 {
				t.Errorf("the end of a session is on channels %q with data %q, want neither", rec.Channels, rec.Data)
			}
		}
		if err := l.EndSession(t.Context(), ""); err == nil {
			t.Error("a session without a name was ended")
		}
	}, "redis", "embedded")
}

func TestEndOfASessionMakesALogWhereThereIsNone(t *testing.T) {
	onEachStore(t, func(t *testing.T, rdb redis.UniversalClient) {
		l := testLog(t, rdb, Config{})
		if err := l.EndSession(t.Context(), "5f3a"); err != nil {
			t.Fatal(err)
		}
		origin, err := event.ParsePosition(rdb.HGet(t.Context(), "fw:{fw}:log:meta", "origin").Val())
		if err != nil {
			t.Fatalf("the log has no life: %v", err)
		}
		if recs, whole, err := l.Range(t.Context(), origin, 10); err != nil || !whole || len(recs) != 1 {
			t.Errorf("Range from the beginning = %v, %v, %v, want the end alone", recs, whole, err)
		}
	}, "redis", "embedded")
}

func TestEndsOfSessionsStayWithinTheLogsBound(t *testing.T) {
	rdb := testkit.Redis(t)
	l := testLog(t, rdb, Config{MaxLen: 100})
	for i := range 500 {
		if err := l.EndSession(t.Context(), fmt.Sprint(i, strings.Repeat("x", 60))); err != nil {
			t.Fatal(err)
		}
	}
	if n := rdb.XLen(t.Context(), "fw:{fw}:log").Val(); n > 300 { // whole nodes of a stream are dropped
		t.Errorf("the log holds %d entries, want about 100", n)
	}
}
