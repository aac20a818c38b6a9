// Package cache keeps what an origin answered, and never serves it after it
// was declared void.
//
// Deleting keys is not the invalidation. The invalidation is one number in a
// small sorted set, the ledger: "everything under this tag older than seq is
// void". Every entry carries the ledger position that was known before its
// fetch began, its token; every read compares the entry's scopes with the
// process's own mirror of the ledger. So a purge costs the same for one entry
// and for a million, a late fill is harmless, and hits never ask the ledger.
//
// Hold one Store a process. Run keeps its mirror in step; Fetch reads through
// it; Invalidate, then Barrier, then whatever tells browsers; Reclaim gives the
// memory back when there is time.
//
//	store := cache.New(rdb, log, cache.Config{Namespace: "fw"})
//	go store.Run(ctx)
//	res, err := store.Fetch(ctx, cache.Request{Key: "post:42", Tags: []string{"post:42"}}, fill)
//
// It promises: when Barrier has returned for an event, no Fetch that starts
// afterwards, in any process of the namespace, returns content that the origin
// gave before that event and that carries one of its scopes. It holds when
// Redis loses the ledger, when a failover or a snapshot forgets an event that
// some process remembers, when a server starts from a ledger that is older
// than ten minutes, and when a node is cut off; then reads go to the origin.
//
// Outside of the promise are a machine whose clocks both stand still while
// others go on, and a server that starts from a snapshot younger than ten
// minutes while every process of the namespace is gone: keep an append-only
// file, or flush. A server that refuses INFO to scripts hides that it started.
//
// The Redis client should fail fast: ContextTimeoutEnabled, timeouts below a
// second. Entries may be read from replicas; scripts always go to masters.
package cache
