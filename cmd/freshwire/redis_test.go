package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestRedisURLsAreUnderstood(t *testing.T) {
	for _, tc := range []struct {
		url     string
		addrs   string
		cluster bool
		master  string
		db      int
		tls     bool
		user    string
		pass    string
	}{
		{url: "redis://127.0.0.1:6379/0", addrs: "127.0.0.1:6379"},
		{url: "redis://localhost", addrs: "localhost:6379"},
		{url: "redis://localhost/", addrs: "localhost:6379"},
		{url: "redis://:p%40ss@h:1/3", addrs: "h:1", db: 3, pass: "p@ss"},
		{url: "rediss://u:p@h", addrs: "h:6379", tls: true, user: "u", pass: "p"},
		{url: "redis+cluster://h1,h2:7000,h3", addrs: "h1:6379 h2:7000 h3:6379", cluster: true},
		{url: "rediss+cluster://u:p@h1,h2", addrs: "h1:6379 h2:6379", cluster: true, tls: true, user: "u", pass: "p"},
		{url: "redis+sentinel://h1,h2:26380/mymaster", addrs: "h1:26379 h2:26380", master: "mymaster"},
		{url: "redis+sentinel://h1/mymaster/2", addrs: "h1:26379", master: "mymaster", db: 2},
		{url: "redis://[::1]:6380", addrs: "[::1]:6380"},
		{url: "redis://[::1]", addrs: "[::1]:6379"},
	} {
		o, err := parseRedisURL(tc.url)
		if err != nil {
			t.Errorf("parseRedisURL(%q): %v", tc.url, err)
			continue
		}
		if !slices.Equal(o.Addrs, strings.Fields(tc.addrs)) || o.IsClusterMode != tc.cluster || o.MasterName != tc.master || o.DB != tc.db ||
			(o.TLSConfig != nil) != tc.tls || o.Username != tc.user || o.Password != tc.pass {
			t.Errorf("parseRedisURL(%q) = %v cluster=%v master=%q db=%d tls=%v", tc.url, o.Addrs, o.IsClusterMode, o.MasterName, o.DB, o.TLSConfig != nil)
		}
	}
}

func TestBadRedisURLsAreExplainedWithoutThePassword(t *testing.T) {
	for _, url := range []string{"", "localhost:6379", "http://u:hunter2@h", "redis+sentinel://u:hunter2@h", "redis://u:hunter2@h/x", "redis://u:hunter2@h1,h2",
		"redis://u:hunter2@h?db=1", "redis+cluster://u:hunter2@h/1", "redis://u:hunter2@", "redis://u:hunter2@h:99999", "redis+odd://h", "redis://u:hunter2%zz@h"} {
		_, err := parseRedisURL(url)
		if err == nil {
			t.Errorf("parseRedisURL(%q) is accepted", url)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error for %q shows the password: %v", url, err)
		}
	}
}

func TestReplicasOfAClusterAreRead(t *testing.T) {
	for url, routed := range map[string]bool{"redis://h": false, "redis+cluster://h1,h2": true, "redis+sentinel://h/m": true} {
		rdb, err := newReplica(url, cacheOptions)
		if err != nil {
			t.Fatal(err)
		}
		defer rdb.Close()
		cluster, ok := rdb.(*redis.ClusterClient)
		if ok != routed || ok && (!cluster.Options().RouteByLatency || !cluster.Options().ReadOnly) {
			t.Errorf("%s opens a %T, want one that reads from replicas", url, rdb)
		}
	}
}

func FuzzRedisURL(f *testing.F) {
	for _, s := range []string{"redis://u:p@h:1/3", "redis+cluster://a,b", "rediss+sentinel://a/m/1", "redis://[::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if o, err := parseRedisURL(s); err == nil && len(o.Addrs) == 0 {
			t.Errorf("parseRedisURL(%q) names no host and no mistake", s)
		}
	})
}

func TestEmbeddedStoreForgetsWhatExpires(t *testing.T) {
	s, err := newStore("")
	if err != nil {
		t.Fatal(err)
	}
	rdb := s.client(nil)
	defer rdb.Close()
	if err := rdb.Set(t.Context(), "k", "v", time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	s.embedded.FastForward(time.Second) // what run does each second
	if n := rdb.Exists(t.Context(), "k").Val(); n != 0 {
		t.Error("a key lives on after its time")
	}
}
