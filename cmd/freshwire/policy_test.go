package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestEvictionIsJudgedByWhatTheServerTells(t *testing.T) {
	for _, tc := range []struct {
		name, info, danger, note string
	}{
		{"nothing is evicted", "# Memory\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\n", "", ""},
		{"what expires is evicted", "maxmemory:100\r\nmaxmemory_policy:volatile-lru\r\n", "", ""},
		{"everything is evicted", "maxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n", "allkeys-lru", ""},
		{"everything, limit unknown", "maxmemory_policy:allkeys-random\r\n", "allkeys-random", ""},
		{"everything, but there is no limit", "maxmemory:0\r\nmaxmemory_policy:allkeys-lfu\r\n", "", "allkeys-lfu"},
		{"a server that hides it", "used_memory:1\r\n", "", "does not tell"},
		{"a server that refuses", "", "", "does not tell"},
	} {
		danger, note := judgeEviction(tc.info)
		if (danger != "") != (tc.danger != "") || !strings.Contains(danger, tc.danger) || (note != "") != (tc.note != "") || !strings.Contains(note, tc.note) {
			t.Errorf("%s: danger %q, note %q; want %q, %q", tc.name, danger, note, tc.danger, tc.note)
		}
	}
}

func TestServerThatEvictsAnythingIsRefused(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	rdb := server.Client(t)
	e := &eviction{rdb: rdb, log: testkit.Logger(t)}
	err := e.refuse(t.Context())
	if !errors.Is(err, errEvicts) {
		t.Fatalf("refuse = %v, want errEvicts", err)
	}
	for _, word := range []string{"allkeys-lru", "noeviction", "CONFIG SET", server.Addr} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
	policy := func(value string) {
		t.Helper()
		if err := rdb.ConfigSet(t.Context(), "maxmemory-policy", value).Err(); err != nil {
			t.Fatal(err)
		}
		if err := e.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		policy string
		ok     bool
	}{{"noeviction", true}, {"allkeys-random", false}, {"volatile-ttl", true}} {
		if policy(tc.policy); (e.ready() == nil) != tc.ok {
			t.Errorf("while running, %s: ready = %v", tc.policy, e.ready())
		}
	}
}

func TestEveryMasterIsAskedForItsEviction(t *testing.T) {
	t.Parallel()
	rdb := testkit.Cluster(t)
	e := &eviction{rdb: rdb, log: testkit.Logger(t)}
	if err := e.refuse(t.Context()); err != nil {
		t.Fatal(err)
	}
	one, err := rdb.MasterForKey(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"} {
		if err := one.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.look(t.Context()); err != nil || !errors.Is(e.ready(), errEvicts) || !strings.Contains(e.ready().Error(), one.Options().Addr) {
		t.Errorf("one master of three evicts anything: %v, %v", err, e.ready())
	}
}

func TestServerThatIsAwayIsAskedLater(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { rdb.Close() })
	server.Kill()
	e := &eviction{rdb: rdb, log: testkit.Logger(t)}
	if err := e.refuse(t.Context()); err != nil || e.known {
		t.Fatalf("refuse = %v: Redis being away is no reason", err)
	}
	testkit.Go(t, e.run)
	server.Start(t)
	testkit.Until(t, "the danger is found", func() bool { return e.ready() != nil })
}

func TestServerThatRefusesToTellIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	if err := server.Client(t).Do(t.Context(), "ACL", "SETUSER", "default", "-info").Err(); err != nil {
		t.Fatal(err)
	}
	e := &eviction{rdb: server.Client(t), log: testkit.Logger(t)}
	if err := e.refuse(t.Context()); err != nil || !e.warned || !e.known {
		t.Errorf("refuse = %v, warned %v, known %v; want a warning", err, e.warned, e.known)
	}
}
