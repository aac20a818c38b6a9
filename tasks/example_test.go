package tasks_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
	"github.com/freshwire/freshwire/tasks"
)

func Example() {
	store := miniredis.NewMiniRedis() // the embedded store of `freshwire dev`
	defer store.Close()
	o := redis.UniversalOptions{Addrs: []string{"127.0.0.1:1"}, Dialer: tasks.EmbeddedDialer(store.Dial)}
	tasks.WorkerOptions(&o)
	rdb := redis.NewUniversalClient(&o)
	defer rdb.Close()

	published := make(chan event.Change)
	steps := tasks.Steps{
		Plan: func(ev event.Event) rules.Plan {
			return rules.Plan{Rules: []int{0}, Purge: event.Purge{Tags: []string{"post:" + ev.Entity}}, Channels: []string{"posts"}}
		},
		Invalidate: func(context.Context, tasks.Subject, tasks.Mark) (tasks.Mark, error) { return tasks.Mark{Seq: 1}, nil },
		Barrier: func(_ context.Context, _ tasks.Subject, m tasks.Mark) (tasks.Mark, tasks.Report, error) {
			return m, tasks.Report{Settled: true}, nil
		},
		Reclaim: func(context.Context, event.Purge, tasks.Mark) (int, []string, error) { return 0, nil, nil },
		Append: func(_ context.Context, c event.Change) (string, bool, error) {
			published <- c
			return "1795176000123-0", true, nil
		},
	}
	cfg := tasks.Config{Embedded: true}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- tasks.NewWorker(rdb, steps, testkit.Discard(), cfg).Run(ctx) }()
	defer func() { stop(); <-stopped }() // the client must outlive the worker

	queue := tasks.NewQueue(rdb, testkit.Discard(), cfg)
	ev := event.Event{ID: event.NewID("blog", "delivery-1"), Source: "blog", Type: "post", Action: event.Update, Entity: "42", ReceivedAt: time.Now()}
	added, err := queue.Enqueue(ctx, ev)
	fmt.Println(added, err)
	c := <-published
	fmt.Println(c.Event, c.Entity, c.Tags, c.Channels)
	// Output:
	// true <nil>
	// post.update 42 [post:42] [posts]
}
