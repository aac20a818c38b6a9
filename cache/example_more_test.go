package cache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/cache"
)

// start runs a Store on an embedded server. A program of yours connects to its
// Redis instead.
func start() (store *cache.Store, stop func()) {
	server, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	store = cache.New(rdb, slog.New(slog.DiscardHandler), cache.Config{Embedded: true})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	if _, _, err := store.Get(ctx, "any"); err != nil { // it asks the ledger first
		panic(err)
	}
	return store, func() {
		cancel()
		<-done
		rdb.Close()
		server.Close()
	}
}

func ExampleRemember() {
	store, stop := start()
	defer stop()
	ctx := context.Background()

	type product struct{ Name string }
	name := "Lamp" // in the database
	products := func() []product {
		list, err := cache.Remember(ctx, store, "products:all", cache.RememberOptions{TTL: 10 * time.Minute, Tags: []string{"products"}},
			func(ctx context.Context) ([]product, error) {
				fmt.Println("asking the database")
				cache.AddTags(ctx, "category:7") // what the answer itself tells
				return []product{{name}}, nil
			})
		if err != nil {
			panic(err)
		}
		return list
	}
	fmt.Println(products())
	fmt.Println(products())

	name = "Desk lamp"
	if _, err := store.PurgeTags(ctx, "category:7"); err != nil {
		panic(err)
	}
	fmt.Println(products())

	// Output:
	// asking the database
	// [{Lamp}]
	// [{Lamp}]
	// asking the database
	// [{Desk lamp}]
}

func ExampleRemember_missing() {
	store, stop := start()
	defer stop()

	for range 2 {
		_, err := cache.Remember(context.Background(), store, "product:9", cache.RememberOptions{Missing: 10 * time.Second},
			func(context.Context) (string, error) {
				fmt.Println("asking the database")
				return "", fmt.Errorf("product 9: %w", cache.ErrNotFound)
			})
		fmt.Println(errors.Is(err, cache.ErrNotFound))
	}

	// Output:
	// asking the database
	// true
	// true
}

func ExampleStore_PurgeTags() {
	store, stop := start()
	defer stop()

	receipt, err := store.PurgeTags(context.Background(), "posts", "post:42")
	if err != nil {
		panic(err)
	}
	// No process serves anything of them any more: the time to tell browsers.
	fmt.Println(receipt.Settled, receipt.Nodes)

	// Output: true 1
}

func ExampleStore_GetMany() {
	store, stop := start()
	defer stop()
	ctx := context.Background()

	for _, key := range []string{"post:1", "post:2"} {
		if _, err := store.Fetch(ctx, cache.Request{Key: key}, func(context.Context, *cache.Entry) (cache.Fill, error) {
			return cache.Fill{Status: 200, Body: []byte("content of " + key), TTL: time.Minute}, nil
		}); err != nil {
			panic(err)
		}
	}
	entries, err := store.GetMany(ctx, []string{"post:1", "post:3", "post:2"})
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		if e == nil {
			fmt.Println("not there")
			continue
		}
		body, err := e.Body()
		if err != nil {
			panic(err)
		}
		fmt.Println(string(body))
	}

	// Output:
	// content of post:1
	// not there
	// content of post:2
}

// A value that another program fetches is kept under the position from before
// its fetch, so that an event in between is not lost on it.
func ExampleStore_Put() {
	store, stop := start()
	defer stop()
	ctx := context.Background()
	put := func(token cache.Token, content string) {
		stored, err := store.Put(ctx, cache.Request{Key: "post:1", Tags: []string{"posts"}},
			cache.Fill{Status: 200, Body: []byte(content), TTL: time.Minute}, token)
		if err != nil {
			panic(err)
		}
		fmt.Println(content, stored)
	}

	token := store.Begin() // before the fetch
	put(token, "one")

	token = store.Begin()
	if _, err := store.PurgeTags(ctx, "posts"); err != nil { // an editor saves while we fetch
		panic(err)
	}
	put(token, "two, maybe too old")
	put(store.Begin(), "three")

	// Output:
	// one true
	// two, maybe too old false
	// three true
}

func ExampleStore_Why() {
	store, stop := start()
	defer stop()
	ctx := context.Background()

	if _, err := store.Fetch(ctx, cache.Request{Key: "post:1", Tags: []string{"posts"}}, func(context.Context, *cache.Entry) (cache.Fill, error) {
		return cache.Fill{Status: 200, Body: []byte("hello"), TTL: time.Minute}, nil
	}); err != nil {
		panic(err)
	}
	if _, err := store.Purge(ctx, cache.Purge{Tags: []string{"posts"}, By: "deploy-17"}); err != nil {
		panic(err)
	}
	why, err := store.Why(ctx, "post:1")
	if err != nil {
		panic(err)
	}
	cause := why.By[0]
	fmt.Println(why.Standing, "by", cause.Kind, cause.Name+",", cause.By)

	// Output: void by tag posts, deploy-17
}

func ExampleStore_Preview() {
	store, stop := start()
	defer stop()
	ctx := context.Background()

	for _, key := range []string{"post:1", "post:2"} {
		if _, err := store.Fetch(ctx, cache.Request{Key: key, Tags: []string{"posts"}}, func(context.Context, *cache.Entry) (cache.Fill, error) {
			return cache.Fill{Status: 200, Body: []byte("hello"), TTL: time.Minute}, nil
		}); err != nil {
			panic(err)
		}
	}
	preview, err := store.Preview(ctx, cache.Purge{Tags: []string{"posts"}})
	if err != nil {
		panic(err)
	}
	fmt.Println(preview.Entries, preview.Exact, preview.Samples)

	// Output: 2 true [post:1 post:2]
}
