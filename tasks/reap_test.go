package tasks

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// held returns a worker that is no part of a running server, and the ids of n
// tasks that another worker, alive until the test ends, holds.
func held(t *testing.T, n int) (w *Worker, q *Queue, ids []string) {
	t.Helper()
	rdb := testkit.Redis(t)
	q = NewQueue(rdb, testkit.Logger(t), Config{})
	release := make(chan struct{})
	entered := make(chan struct{}, n)
	steps := with(newSite(rdb, "fw"), func(st *Steps) {
		st.Invalidate = func(context.Context, Subject, Mark) (Mark, error) {
			entered <- struct{}{}
			<-release
			return Mark{}, context.Canceled
		}
	})
	holder := NewWorker(rdb, steps, testkit.Discard(), Config{Concurrency: n}) // full: it takes nothing back
	holder.reapEvery = time.Hour
	testkit.Go(t, holder.Run)
	t.Cleanup(func() { close(release) })
	for i := range n {
		mustEnqueue(t, q, news(i))
		testkit.Wait(t, entered, "the task is held")
		ids = append(ids, news(i).ID)
	}
	return NewWorker(rdb, Steps{}, testkit.Logger(t), Config{}), q, ids
}

func (w *Worker) expire(t *testing.T, id string) {
	t.Helper()
	if err := w.rdb.ZAdd(t.Context(), w.keys.lease(), redis.Z{Score: float64(time.Now().Unix() - 3), Member: id}).Err(); err != nil {
		t.Fatal(err)
	}
}

func mustReap(t *testing.T, w *Worker, bare ...string) (given, found, dropped []string) {
	t.Helper()
	given, found, dropped, err := w.reapOnce(t.Context(), bare)
	if err != nil {
		t.Fatal(err)
	}
	return given, found, dropped
}

// It writes into Asynq's keys: whoever updates Asynq must see this pass, and
// read internal/rdb/rdb.go (dequeueCmd, requeueCmd, listLeaseExpiredCmd) again.
func TestReaperKnowsAsynqsKeys(t *testing.T) {
	t.Parallel()
	w, q, ids := held(t, 1)
	ctx, id := t.Context(), ids[0]

	for key, want := range map[string]string{w.keys.task(id): "hash", w.keys.active(): "list", w.keys.lease(): "zset"} {
		if got := w.rdb.Type(ctx, key).Val(); got != want {
			t.Errorf("TYPE %s = %s, want %s", key, got, want)
		}
	}
	if got := w.rdb.LRange(ctx, w.keys.active(), 0, -1).Val(); !slices.Equal(got, ids) {
		t.Errorf("active = %q, want the plain id %q", got, id)
	}
	if got := w.rdb.HGet(ctx, w.keys.task(id), "state").Val(); got != "active" {
		t.Errorf("state = %q, want active", got)
	}
	if n := w.rdb.HExists(ctx, w.keys.task(id), "msg").Val(); !n {
		t.Error("task has no field msg")
	}
	lease := w.rdb.ZScore(ctx, w.keys.lease(), id).Val() - float64(time.Now().Unix())
	if lease < 20 || lease > 31 {
		t.Errorf("lease ends in %v s, want unix seconds about 30 s ahead", lease)
	}

	if given, _, _ := mustReap(t, w); len(given) != 0 {
		t.Errorf("reaped %q from a living worker", given)
	}
	mustEnqueue(t, q, news(7)) // waits
	w.expire(t, id)
	if given, _, _ := mustReap(t, w); !slices.Equal(given, ids) {
		t.Errorf("reaped %q, want %q", given, ids)
	}
	info, err := q.inspect.GetTaskInfo("fw", id)
	if err != nil || info.State != asynq.TaskStatePending || info.Retried != 0 {
		t.Errorf("task = %+v, %v, want pending without a retry spent", info, err)
	}
	if next := w.rdb.LIndex(ctx, w.keys.pending(), -1).Val(); next != id {
		t.Errorf("next in the queue = %s, want the reaped one", next)
	}
	if n := w.rdb.Exists(ctx, w.keys.active(), w.keys.lease()).Val(); n != 0 {
		t.Error("the reaped task is still active, or has a lease")
	}
}

func TestTaskThatKillsItsWorkersIsLeftToAsynq(t *testing.T) {
	t.Parallel()
	w, _, ids := held(t, 1)
	ctx, id := t.Context(), ids[0]
	hold := func() { // as dequeue does
		w.rdb.LRem(ctx, w.keys.pending(), 0, id)
		w.rdb.LPush(ctx, w.keys.active(), id)
		w.rdb.HSet(ctx, w.keys.task(id), "state", "active")
	}
	for n := range reapLimit {
		if n > 0 {
			hold()
		}
		w.expire(t, id)
		given, _, _ := mustReap(t, w)
		if !slices.Equal(given, ids) {
			t.Fatalf("crash %d: reaped %q, want %q", n+1, given, ids)
		}
	}
	hold()
	w.expire(t, id)
	if given, _, _ := mustReap(t, w); len(given) != 0 {
		t.Errorf("crash %d: reaped %q, want it left to Asynq, which counts", reapLimit+1, given)
	}
	if err := w.rdb.ZScore(ctx, w.keys.lease(), id).Err(); err != nil {
		t.Errorf("its lease: %v, want it kept for Asynq's recoverer", err)
	}
}

func TestActiveTaskWithoutLeaseIsAdoptedAtSecondSight(t *testing.T) {
	t.Parallel()
	w, _, ids := held(t, 2)
	ctx := t.Context()
	w.rdb.ZRem(ctx, w.keys.lease(), ids[0])
	given, bare, _ := mustReap(t, w)
	if len(given) != 0 || !slices.Equal(bare, ids[:1]) {
		t.Fatalf("first sight: reaped %q, bare %q, want none and %q", given, bare, ids[:1])
	}
	if given, _, _ = mustReap(t, w, bare...); !slices.Equal(given, ids[:1]) {
		t.Errorf("second sight: reaped %q, want %q", given, ids[:1])
	}
	if got := w.rdb.HGet(ctx, w.keys.task(ids[1]), "state").Val(); got != "active" {
		t.Errorf("the other task is %q, want active", got)
	}
}

func TestSpentTaskWithoutLeaseGetsOneForAsynq(t *testing.T) {
	t.Parallel()
	w, _, ids := held(t, 1)
	ctx := t.Context()
	w.rdb.ZRem(ctx, w.keys.lease(), ids[0])
	w.rdb.HSet(ctx, w.keys.task(ids[0]), "fw_reaps", reapLimit)
	if given, bare, _ := mustReap(t, w, ids[0]); len(given)+len(bare) != 0 {
		t.Errorf("reaped %q, bare %q, want neither", given, bare)
	}
	if score := w.rdb.ZScore(ctx, w.keys.lease(), ids[0]).Val(); score <= 0 || score > float64(time.Now().Unix()) {
		t.Errorf("its lease ends at %v, want one that has run out", score)
	}
}

func TestTaskWithoutBodyIsDropped(t *testing.T) {
	t.Parallel()
	w, _, ids := held(t, 2)
	ctx := t.Context()
	w.rdb.Del(ctx, w.keys.task(ids[0]))
	w.rdb.HDel(ctx, w.keys.task(ids[1]), "msg") // what a dequeue of an evicted body leaves
	w.expire(t, ids[0])
	w.expire(t, ids[1])
	given, _, dropped := mustReap(t, w)
	slices.Sort(dropped)
	slices.Sort(ids)
	if len(given) != 0 || !slices.Equal(dropped, ids) {
		t.Errorf("reaped %q, dropped %q, want %q dropped", given, dropped, ids)
	}
	if n := w.rdb.Exists(ctx, w.keys.active(), w.keys.lease(), w.keys.task(ids[1])).Val(); n != 0 {
		t.Errorf("%d keys are left of them, want none", n)
	}
}

func TestLeaseOfATaskThatRestsIsRemoved(t *testing.T) {
	t.Parallel()
	w, _, ids := held(t, 1)
	ctx := t.Context()
	w.rdb.HSet(ctx, w.keys.task(ids[0]), "state", "archived")
	w.expire(t, ids[0])
	if given, _, dropped := mustReap(t, w); len(given)+len(dropped) != 0 {
		t.Errorf("reaped %q, dropped %q, want neither: it is in the archive", given, dropped)
	}
	if n := w.rdb.LLen(ctx, w.keys.pending()).Val(); n != 0 {
		t.Errorf("%s tasks wait, want none", strconv.FormatInt(n, 10))
	}
}
