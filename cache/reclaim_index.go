package cache

import (
	"context"
	_ "embed"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/zeebo/xxh3"
)

//go:embed reclaim_index.lua
var indexSource string

var indexScript = redis.NewScript(indexSource)

// indexShards is how many sorted sets list the keys of one scope. The shard is
// in the hash tag, so a wide tag is spread over the masters of a cluster.
const indexShards = 8

// shard names one sorted set, entry key → when its entry expires, ms.
func (n names) shard(scope string, i int) string {
	return n.ns + ":i:{" + esc(scope) + "#" + strconv.Itoa(i) + "}"
}

func (n names) shards(scope string) []string {
	out := make([]string, indexShards)
	for i := range out {
		out[i] = n.shard(scope, i)
	}
	return out
}

func (n names) indexPattern() string { return n.ns + ":i:{*}" }
func (n names) entryPrefix() string  { return n.ns + ":e:{" }

// indexed reports whether the keys under a scope are listed: tags, and paths
// themselves. A directory would list whole sites; its entries expire.
func indexed(scope string) bool {
	return strings.HasPrefix(scope, tagScope) ||
		strings.HasPrefix(scope, pathScope) && !strings.HasSuffix(scope, "/")
}

// indexAdd notes in pipe that the entry of key carries the scopes, until it
// expires. The index only finds memory to give back: it may lack entries.
func (s *Store) indexAdd(ctx context.Context, pipe redis.Pipeliner, key string, scopes []string, expiry time.Time) {
	shard := int(xxh3.HashString(key) % indexShards)
	for _, scope := range scopes {
		if indexed(scope) {
			indexScript.Eval(ctx, pipe, []string{s.names.shard(scope, shard)}, key, expiry.UnixMilli())
		}
	}
}
