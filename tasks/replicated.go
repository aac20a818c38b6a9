package tasks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const replicaPatience = 100 * time.Millisecond

// Replicated returns nil once a replica has everything that the queue's Redis
// held when it was called, and an error when none says so within 100 ms.
// Concurrent callers share the wait.
func (q *Queue) Replicated(ctx context.Context) error {
	if q.cfg.Embedded {
		return errors.New("the embedded store has no replicas")
	}
	return q.rounds.do(ctx, q.replicated)
}

func (q *Queue) replicated() error {
	ctx, cancel := context.WithTimeout(context.Background(), flightTimeout)
	defer cancel()
	rdb := q.rdb
	if cluster, ok := rdb.(interface {
		MasterForKey(ctx context.Context, key string) (*redis.Client, error)
	}); ok {
		master, err := cluster.MasterForKey(ctx, q.keys.confirm())
		if err != nil {
			return fmt.Errorf("looking for the queue's master: %w", err)
		}
		rdb = master
	}
	// WAIT is for the writes of its own connection. This one comes after all
	// that the caller knows of, so who has it has those.
	pipe := rdb.Pipeline()
	pipe.Set(ctx, q.keys.confirm(), 1, time.Hour)
	wait := pipe.Do(ctx, "wait", 1, replicaPatience.Milliseconds())
	_, err := pipe.Exec(ctx)
	if err != nil {
		return fmt.Errorf("waiting for a replica: %w", err)
	}
	if n, err := wait.Int64(); err != nil || n < 1 {
		return fmt.Errorf("no replica confirmed within %v", replicaPatience)
	}
	return nil
}

// rounds runs a function for many callers, one run at a time. A caller gets the
// result of a run that began after it had come.
type rounds struct {
	mu      sync.Mutex
	running bool
	next    *round
}

type round struct {
	done chan struct{}
	err  error
}

func (r *rounds) do(ctx context.Context, fn func() error) error {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	if !r.running {
		r.running = true
		go r.run(fn)
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run runs fn until nobody waits for another run.
func (r *rounds) run(fn func() error) {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		if now == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		now.err = fn()
		close(now.done)
	}
}
