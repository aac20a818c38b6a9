package cache_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/cache"
)

func Example() {
	server, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()

	store := cache.New(rdb, slog.New(slog.DiscardHandler), cache.Config{Embedded: true})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()

	title := "Hello"
	read := func() {
		res, err := store.Fetch(ctx, cache.Request{Key: "post:1", Path: "/blog/hello"},
			func(context.Context, *cache.Entry) (cache.Fill, error) {
				return cache.Fill{Status: 200, Body: []byte(title), Tags: []string{"posts"}, TTL: time.Minute}, nil
			})
		if err != nil {
			panic(err)
		}
		body, err := res.Entry.Body()
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s (%s)\n", body, res.Verdict)
	}
	read()
	read()

	title = "Hello, world" // an editor saves
	purge := cache.Purge{Tags: []string{"posts"}}
	mark, err := store.Invalidate(ctx, purge, cache.Mark{})
	if err != nil {
		panic(err)
	}
	if _, report, err := store.Barrier(ctx, purge, mark); err != nil || !report.Settled {
		panic(err)
	}
	read() // no node serves the old title any more
	stop()
	<-done

	// Output:
	// Hello (miss)
	// Hello (hit)
	// Hello, world (miss)
}
