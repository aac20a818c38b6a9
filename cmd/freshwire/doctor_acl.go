package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// permissionsLua asks for permissions; it runs none of what it asks for.
//
//go:embed permissions.lua
var permissionsLua string

// Commands that freshwire sends to Redis, Asynq's among them, by what their
// first argument is. %s stands for a key.
const (
	readCommands = "GET %s|MGET %s|GETRANGE %s 0 1|EXISTS %s|TYPE %s|PTTL %s|HGET %s f|HMGET %s f|HEXISTS %s f|" +
		"ZRANGE %s 0 1|ZRANGEBYLEX %s - +|ZREVRANGEBYLEX %s + -|ZRANGEBYSCORE %s 0 1|ZREVRANGE %s 0 1|ZSCORE %s m|ZCARD %s|ZCOUNT %s 0 1|" +
		"LLEN %s|LRANGE %s 0 1|LINDEX %s 0|LPOS %s m|SMEMBERS %s|SSCAN %s 0|SISMEMBER %s m|MEMORY USAGE %s|" +
		"XRANGE %s - +|XREVRANGE %s + -|XREAD STREAMS %s $"
	writeCommands = "SET %s v|SETEX %s 1 v|APPEND %s v|INCR %s|DEL %s|UNLINK %s|EXPIRE %s 1|EXPIREAT %s 1|PEXPIRE %s 1|PEXPIREAT %s 1|PERSIST %s|RENAME %s %s|" +
		"HSET %s f v|HDEL %s f|HINCRBY %s f 1|ZADD %s 1 m|ZREM %s m|ZPOPMIN %s|ZREMRANGEBYRANK %s 0 1|ZREMRANGEBYSCORE %s 0 1|" +
		"LPUSH %s v|RPUSH %s v|LREM %s 0 v|RPOPLPUSH %s %s|SADD %s m|SREM %s m|SMOVE %s %s m|XADD %s * f v|XTRIM %s MAXLEN 1"
	otherCommands   = "PING|TIME|INFO|SCAN 0|EVAL s 0|EVALSHA s 0|SCRIPT LOAD s"
	channelCommands = "PUBLISH %s m|SUBSCRIBE %s"
)

// permissionsToAsk returns the commands that freshwire needs in a namespace.
// Each command is asked for once, each kind of key for reading and writing.
func permissionsToAsk(namespace string) [][]string {
	own := namespace + ":{" + namespace + "}:doctor"
	var out [][]string
	ask := func(commands, key string) {
		for command := range strings.SplitSeq(commands, "|") {
			out = append(out, strings.Fields(strings.ReplaceAll(command, "%s", key)))
		}
	}
	ask(otherCommands, "")
	ask(readCommands, own)
	ask(writeCommands, own)
	for _, key := range []string{namespace + ":e:{doctor}", "asynq:{" + namespace + "}:doctor", "asynq:queues"} {
		ask("GET %s|SET %s v", key)
	}
	for _, channel := range []string{namespace + ":doctor", own, "asynq:cancel"} {
		ask(channelCommands, channel)
	}
	return out
}

// askPermissions returns the commands that our user may not run. An error says
// that scripts cannot, or not as Redis 7 runs them.
func askPermissions(ctx context.Context, node redis.Cmdable, namespace string) (denied []string, err error) {
	asked := permissionsToAsk(namespace)
	args := make([]any, len(asked))
	for i, command := range asked {
		args[i] = strings.Join(command, "\x1f")
	}
	places, err := node.Eval(ctx, permissionsLua, nil, args...).Int64Slice()
	if err != nil {
		return nil, err
	}
	for _, i := range places {
		denied = append(denied, strings.Join(asked[i-1], " "))
	}
	return denied, nil
}

func judgePermissions(m master) finding {
	const check = "permissions"
	switch {
	case m.lua != nil && strings.Contains(m.lua.Error(), "acl_check_cmd"):
		return warn(check, "not looked at: this server does not tell what our user may do")
	case m.lua != nil:
		return fail(check, "Lua scripts are refused: %v; without them there is no queue, no ledger, no stream", m.lua)
	case len(m.denied) > 0:
		shown := slices.Clone(m.denied[:min(4, len(m.denied))])
		if more := len(m.denied) - len(shown); more > 0 {
			shown = append(shown, fmt.Sprintf("%d more", more))
		}
		return fail(check, "our user may not: %s; grant it these commands, the keys <namespace>:* and asynq:*, and the channels of these names", strings.Join(shown, ", "))
	}
	return fine(check, "scripts run, and all %d commands that freshwire uses are allowed", len(permissionsToAsk("x")))
}

// probeWrites writes a stream of one entry in our own namespace and deletes it:
// whatever else keeps Redis from taking writes shows here.
func probeWrites(ctx context.Context, rdb redis.UniversalClient, namespace string) finding {
	const check = "writes"
	key := namespace + ":{" + namespace + "}:doctor:" + rand.Text()
	start := time.Now()
	err := rdb.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"by", "doctor"}}).Err()
	if err == nil {
		rdb.PExpire(ctx, key, time.Minute) // whatever becomes of us
		var kept []redis.XMessage
		if kept, err = rdb.XRange(ctx, key, "-", "+").Result(); err == nil && len(kept) != 1 {
			err = fmt.Errorf("of 1 entry it keeps %d", len(kept))
		}
		err = errors.Join(err, rdb.Unlink(ctx, key).Err())
	}
	took := time.Since(start)
	if err == nil {
		return fine(check, "a stream was written, read and deleted in %s", inMS(took)).took(took)
	}
	for prefix, remedy := range map[string]string{
		"OOM":         "it is full; raise maxmemory",
		"READONLY":    "it is a replica; REDIS_URL must name the master",
		"MISCONF":     "its last snapshot failed; look at its disk",
		"NOREPLICAS":  "too few replicas are in step for min-replicas-to-write",
		"NOPERM":      "our user may not; see permissions",
		"CLUSTERDOWN": "the cluster lacks masters",
	} {
		if strings.HasPrefix(err.Error(), prefix) {
			return fail(check, "refused: %s (%v)", remedy, err)
		}
	}
	return fail(check, "refused: %v", err)
}

// examineReplica looks at what FRESHWIRE_REPLICA_URL names.
func examineReplica(ctx context.Context, url string) finding {
	const check = "replica"
	rdb, err := newReplica(url, func(o *redis.UniversalOptions) { o.MaxRetries, o.ContextTimeoutEnabled = -1, true })
	if err != nil {
		return fail(check, "%v", err)
	}
	defer rdb.Close()
	start := time.Now()
	info, err := rdb.Info(ctx, "replication").Result()
	took, m := time.Since(start), master{info: info}
	switch {
	case err != nil && !isRefusal(err):
		return warn(check, "FRESHWIRE_REPLICA_URL does not answer: %v; REDIS_URL is asked in its place", err)
	case m.field("role") == "slave" && m.field("master_link_status") != "up":
		return warn(check, "it has lost its master: what it answers grows old, and costs misses")
	case m.field("role") == "master" && !strings.Contains(url, "+"):
		return warn(check, "FRESHWIRE_REPLICA_URL names a master; is it another store than REDIS_URL's? Then nothing is found there")
	}
	return fine(check, "answers in %s", inMS(took)).took(took)
}
