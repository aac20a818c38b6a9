package tasks

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestReplicatedWaitsForAReplica(t *testing.T) {
	t.Parallel()
	master := testkit.StartServer(t, "--repl-diskless-sync-delay", "0")
	q := NewQueue(redisAs(t, master, IngestOptions), testkit.Logger(t), Config{})
	if err := q.Replicated(t.Context()); err == nil {
		t.Error("Replicated without a replica = nil")
	}
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := testkit.StartServer(t, "--replicaof", host+" "+port)
	testkit.Until(t, "the replica follows", func() bool {
		return strings.Contains(master.Client(t).Info(t.Context(), "replication").Val(), "state=online")
	})
	mustEnqueue(t, q, news(1))
	testkit.Until(t, "it confirms", func() bool { return q.Replicated(t.Context()) == nil })
	if n := replica.Client(t).Exists(t.Context(), q.keys.task(news(1).ID)).Val(); n != 1 {
		t.Error("the replica confirmed, and does not have the event")
	}
	var g errgroup.Group
	for range 50 {
		g.Go(func() error { return q.Replicated(t.Context()) })
	}
	if err := g.Wait(); err != nil {
		t.Errorf("50 callers at once: %v", err)
	}

	if err := replica.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := q.Replicated(t.Context()); err == nil {
		t.Error("Replicated with a replica that hangs = nil")
	}
	if took := time.Since(start); took > replicaPatience+200*time.Millisecond {
		t.Errorf("it took %v, want about %v", took, replicaPatience)
	}
	replica.Signal(syscall.SIGCONT)
	testkit.Until(t, "it confirms again", func() bool { return q.Replicated(t.Context()) == nil })
}

func asksTheMaster(t *testing.T, rdb *redis.ClusterClient) {
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	if err := q.Replicated(t.Context()); err == nil || !strings.Contains(err.Error(), "no replica") {
		t.Errorf("Replicated in a cluster without replicas = %v, want it to say so", err)
	}
	master, err := rdb.MasterForKey(t.Context(), q.keys.pending())
	if err != nil {
		t.Fatal(err)
	}
	if n := master.Exists(t.Context(), q.keys.confirm()).Val(); n != 1 {
		t.Error("the write that a replica would confirm is not where the queue is")
	}
}

func TestReplicatedIsNothingForTheEmbeddedStore(t *testing.T) {
	rdb, closeAll := embedded()
	defer closeAll()
	q := NewQueue(rdb, testkit.Logger(t), Config{Embedded: true})
	if err := q.Replicated(t.Context()); err == nil || !strings.Contains(err.Error(), "embedded") {
		t.Errorf("Replicated = %v, want it to name the embedded store", err)
	}
}

// A run that has begun may have missed what a later caller wrote.
func TestRoundServesThoseWhoCameBeforeItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		var runs atomic.Int32
		fn := func() error {
			time.Sleep(time.Second) // virtual
			if runs.Add(1) == 1 {
				return errors.New("the first run")
			}
			return nil
		}
		first := make(chan error, 1)
		go func() { first <- r.do(t.Context(), fn) }()
		synctest.Wait()
		var g errgroup.Group
		for range 10 {
			g.Go(func() error { return r.do(t.Context(), fn) })
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := r.do(ctx, fn); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an impatient caller gets %v", err)
		}
		if err := <-first; err == nil {
			t.Error("the first caller got the result of another run")
		}
		if err := g.Wait(); err != nil {
			t.Errorf("a caller who came during the first run got its result: %v", err)
		}
		if runs.Load() != 2 {
			t.Errorf("%d runs, want 2", runs.Load())
		}
	})
}
