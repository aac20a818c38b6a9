package tasks

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/internal/testkit"
)

func markMovesOnlyFromWhereItStands(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	const great = math.MaxUint64
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	for _, step := range []struct {
		node            string
		from, to, found uint64
		stands          uint64 // after it
	}{
		{"a", 0, 0, 0, 0},
		{"a", 5, 9, 0, 0}, // nothing stands there: Redis forgot
		{"a", 0, 5, 0, 5},
		{"a", 0, 7, 5, 5},
		{"a", 5, 9, 5, 9},
		{"a", 5, 9, 9, 9}, // said again
		{"a", 4, 4, 9, 9},
		{"a", 9, 9, 9, 9},
		{"b", 0, 1, 0, 1},
		{"a", 9, great - 1, 9, great - 1},
		{"a", great, 1, great - 1, great - 1}, // one apart, equal as doubles
		{"a", great - 1, great, great - 1, great},
		{"a", great, 3, great, 3}, // back, since the caller says so
	} {
		found, err := q.Advance(t.Context(), step.node, step.from, step.to)
		if err != nil || found != step.found {
			t.Errorf("Advance(%s, %d, %d) = %d, %v, want %d", step.node, step.from, step.to, found, err, step.found)
		}
		if stands, err := q.Advance(t.Context(), step.node, 1, 1); err != nil || stands != step.stands {
			t.Errorf("after Advance(%s, %d, %d) the mark is %d, %v, want %d", step.node, step.from, step.to, stands, err, step.stands)
		}
	}
}

func TestOneOfManyMovesTheMark(t *testing.T) {
	t.Parallel()
	q := NewQueue(testkit.Redis(t), testkit.Logger(t), Config{})
	var moved atomic.Int32
	var g errgroup.Group
	for n := range 20 {
		g.Go(func() error {
			found, err := q.Advance(context.Background(), "a", 0, uint64(n+1))
			if found == 0 {
				moved.Add(1)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil || moved.Load() != 1 {
		t.Errorf("%d callers moved it, %v, want one", moved.Load(), err)
	}
}

func marksOfNodesThatAreGoneAreDropped(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	ctx := t.Context()
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	for _, node := range []string{"gone", "idle", "back", "busy"} {
		if _, err := q.Advance(ctx, node, 0, 7); err != nil {
			t.Fatal(err)
		}
	}
	ago := func(d time.Duration) float64 { return float64(time.Now().Add(-d).Unix()) }
	rdb.ZAdd(ctx, q.keys.markUses(), redis.Z{Member: "gone", Score: ago(markUnused + time.Hour)},
		redis.Z{Member: "back", Score: ago(markUnused + time.Hour)}, redis.Z{Member: "idle", Score: ago(markUnused - time.Hour)})
	if found, err := q.Advance(ctx, "back", 7, 7); err != nil || found != 7 {
		t.Errorf("a node that comes back finds %d, %v, want 7", found, err)
	}
	q.Advance(ctx, "busy", 7, 8)
	for node, want := range map[string]string{"gone": "", "idle": "7", "back": "7", "busy": "8"} {
		if got := rdb.HGet(ctx, q.keys.marks(), node).Val(); got != want {
			t.Errorf("mark of node %q = %q, want %q", node, got, want)
		}
	}
	if n := rdb.ZCard(ctx, q.keys.markUses()).Val(); n != 3 {
		t.Errorf("%d nodes are remembered, want 3", n)
	}
}
