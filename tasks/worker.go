package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// Worker runs events. Any number of them, in any number of processes, share a queue.
type Worker struct {
	cfg       Config
	keys      keys
	rdb       redis.UniversalClient
	steps     Steps
	log       *slog.Logger
	records   *Records
	metrics   *metrics
	server    *asynq.Server
	reapEvery time.Duration

	slots   chan struct{}   // one taken by each event that does something
	waits   chan struct{}   // one taken by each event that waits for its origin
	queue   *Queue          // of follow-ups
	pauses  []time.Duration // before each follow-up
	groups  *coalescer
	desks   map[string]*desk // by target
	desksMu sync.Mutex

	tagsScript *redis.Script // fixed; tests break it

	base     context.Context // of all attempts; ends with errDrain
	drain    context.CancelCauseFunc
	draining atomic.Bool
	stopping chan struct{}  // closed when draining begins
	running  sync.WaitGroup // attempts, and calls of targets
}

// errDrain ends the context of attempts that a stopping worker hands back.
var errDrain = errors.New("tasks: this worker stops, another one goes on")

// errBudget ends the context of an attempt that took too long.
var errBudget = errors.New("tasks: not done in time")

// NewWorker returns a Worker on rdb, which should have WorkerOptions and stays
// the caller's to close, after Run has returned.
func NewWorker(rdb redis.UniversalClient, steps Steps, log *slog.Logger, cfg Config) *Worker {
	cfg = cfg.withDefaults()
	cfg.Coalesce = cfg.Coalesce || steps.Settle != nil // events wait in it
	w := &Worker{
		cfg:       cfg,
		keys:      keys(cfg.Namespace),
		rdb:       rdb,
		steps:     steps,
		log:       log,
		records:   NewRecords(rdb, log, cfg),
		metrics:   newMetrics(rdb, cfg),
		reapEvery: reapInterval,
		slots:     make(chan struct{}, cfg.Concurrency),
		waits:     make(chan struct{}, max(1, cfg.taken()-2*cfg.Concurrency)), // the rest go on
		queue:     NewQueue(rdb, log, cfg),
		pauses:    followUpAfter,
		desks:     map[string]*desk{},
		stopping:  make(chan struct{}),

		tagsScript: tagsScript,
	}
	w.groups = newCoalescer(w)
	w.base, w.drain = context.WithCancelCause(context.Background())
	w.server = asynq.NewServerFromRedisClient(guard{rdb}, asynq.Config{
		Concurrency:              cfg.taken(),
		Queues:                   map[string]int{cfg.Namespace: 1},
		TaskCheckInterval:        cfg.checkInterval(),
		DelayedTaskCheckInterval: forwardInterval,
		ShutdownTimeout:          shutdownTimeout,
		BaseContext:              func() context.Context { return w.base },
		RetryDelayFunc:           w.retryDelay,
		IsFailure:                w.isFailure,
		Logger:                   asynqLog{log},
		LogLevel:                 asynq.InfoLevel,
	})
	return w
}

// Run works until ctx ends, then takes no new events, gives the running ones
// seven seconds, and hands the rest back to the queue. It may be called once.
//
// An error after ctx has ended means that something still uses the client, which
// must then stay open until the process ends: Asynq panics without it.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.server.Start(asynq.HandlerFunc(w.process)); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	w.log.InfoContext(ctx, "worker started", "namespace", w.cfg.Namespace, "concurrency", w.cfg.Concurrency)
	var reaper sync.WaitGroup
	reaper.Go(func() { w.reap(ctx) })
	<-ctx.Done()

	start := time.Now()
	w.draining.Store(true)
	close(w.stopping)
	late := time.AfterFunc(drainAfter, func() { w.drain(errDrain) })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.server.Stop()
		w.server.Shutdown()
		late.Stop()
		w.drain(errDrain) // what Asynq gave up on must end, too
		w.running.Wait()
		reaper.Wait()
	}()
	// Asynq waits for connections without a bound when Redis hangs.
	bound := time.NewTimer(shutdownTimeout + 3*time.Second)
	defer bound.Stop()
	select {
	case <-stopped:
		w.log.Info("worker stopped", "took", time.Since(start))
		return nil
	case <-bound.C:
		return fmt.Errorf("worker: still busy %v after it was told to stop; its events run again elsewhere", time.Since(start).Round(time.Second))
	}
}

// taken is how many events a worker takes from the queue at a time. Those that
// wait for company, or for a target, are many more than those that run.
func (c Config) taken() int {
	if c.Coalesce {
		return min(32*c.Concurrency, max(4096, c.Concurrency))
	}
	return c.Concurrency
}

var retryDelays = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute}

// retryDelay is the pause before retry n+1. Delays are spread by a fifth, so
// that events which failed together do not come back together.
func (w *Worker) retryDelay(n int, err error, _ *asynq.Task) time.Duration {
	if errors.Is(err, asynq.ErrLeaseExpired) || w.handedBack(err) {
		return 0
	}
	d := retryDelays[min(max(n, 0), len(retryDelays)-1)]
	return d - d/5 + rand.N(2*d/5)
}

// isFailure reports whether err costs one of the attempts of an event.
func (w *Worker) isFailure(err error) bool {
	return !w.handedBack(err) && !isRedisError(err) && !errors.Is(err, ErrPaused)
}

// handedBack reports whether the event ended only because the worker stops.
func (w *Worker) handedBack(err error) bool {
	return errors.Is(err, errDrain) || errors.Is(err, context.Canceled) && w.draining.Load()
}
