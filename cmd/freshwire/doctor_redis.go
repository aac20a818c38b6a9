package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// master is what one server that holds keys tells of itself.
type master struct {
	addr   string
	ping   time.Duration     // the best of some
	skew   time.Duration     // its clock less ours
	info   string            // of INFO; empty where it refuses
	config map[string]string // some of CONFIG GET; empty where it refuses
	denied []string          // commands that our user may not run
	lua    error             // why scripts cannot run
	err    error             // it does not answer
}

// field returns a value of INFO.
func (m master) field(name string) string {
	for line := range strings.Lines(m.info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// number returns a number of INFO, and -1 where there is none.
func (m master) number(name string) int64 {
	n, err := strconv.ParseInt(m.field(name), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func (d *doctor) examineRedis(ctx context.Context) []finding {
	switch {
	case d.redisErr != nil:
		return []finding{fail("redis", "not looked at: REDIS_URL cannot be understood")}
	case d.env.RedisURL == "":
		return []finding{warn("redis", "REDIS_URL is not set: `freshwire dev` has an embedded store, of which nothing survives a restart; all else needs a Redis")}
	}
	s, err := newStore(d.env.RedisURL)
	if err != nil {
		return []finding{fail("redis", "%v", err)}
	}
	rdb := s.client(func(o *redis.UniversalOptions) {
		o.DialTimeout, o.ReadTimeout, o.MaxRetries = 3*time.Second, 3*time.Second, -1
		o.ContextTimeoutEnabled = true
	})
	defer rdb.Close()

	masters, err := askMasters(ctx, rdb, d.env.Namespace)
	if err != nil || len(masters) == 0 {
		return []finding{fail("redis", "%s does not answer: %v", s.describe(), cmp.Or(err, errors.New("no master is known")))}
	}
	var rows []finding
	if rows = append(rows, judgeAnswers(s.describe(), masters)); rows[0].Level == levelFail {
		return rows
	}
	down := s.downAfter(ctx, masters)
	for _, judge := range []func(master) finding{
		judgeVersion, judgeMemoryPolicy, judgeMemory, judgeClients,
		func(m master) finding { return judgePersistence(m, d.env.SpoolDir != "") },
		func(m master) finding { return judgeReplicas(m, down, d.env.Ack == "replicated") },
		judgeClock, judgePermissions,
	} {
		rows = append(rows, together(masters, judge))
	}
	if apart := clocksApart(masters); apart > largeSkew {
		rows = append(rows, warn("clock", "the clocks of the masters are up to %v apart: run NTP on their hosts", apart.Round(time.Millisecond)))
	}
	rows = append(rows, probeWrites(ctx, rdb, d.env.Namespace))
	if d.env.Replica != "" {
		rows = append(rows, examineReplica(ctx, d.env.Replica))
	}
	return rows
}

// describe names a store without its password.
func (s *store) describe() string {
	switch at := strings.Join(s.options.Addrs, ", "); {
	case s.options.IsClusterMode:
		return "the cluster at " + at
	case s.options.MasterName != "":
		return "the master " + s.options.MasterName + " of the sentinels at " + at
	default:
		return "the server at " + at
	}
}

// askMasters asks every master at once. An error says that nobody knows which there are.
func askMasters(ctx context.Context, rdb redis.UniversalClient, namespace string) ([]master, error) {
	var mu sync.Mutex
	var masters []master
	err := eachMaster(ctx, rdb, func(ctx context.Context, addr string, node redis.Cmdable) error {
		m := askMaster(ctx, addr, node, namespace)
		mu.Lock()
		defer mu.Unlock()
		masters = append(masters, m)
		return nil
	})
	slices.SortFunc(masters, func(a, b master) int { return strings.Compare(a.addr, b.addr) })
	return masters, err
}

func askMaster(ctx context.Context, addr string, node redis.Cmdable, namespace string) master {
	m := master{addr: addr, config: map[string]string{}}
	const tries = 5 // the first one also connects
	for i := range tries {
		start := time.Now()
		at, err := node.Time(ctx).Result()
		took := time.Since(start)
		if err == nil && (m.ping == 0 || took < m.ping) {
			m.ping, m.skew = took, at.Sub(start.Add(took/2))
		}
		if err != nil && (i == 0 || !isRefusal(err)) {
			if m.err = err; !isRefusal(err) || node.Ping(ctx).Err() != nil {
				return m
			}
			m.err = nil // TIME is refused; the row of permissions says so
			break
		}
	}
	m.info, _ = node.Info(ctx).Result() // a refusal leaves it empty, which is judged
	for _, name := range []string{"appendfsync", "min-replicas-to-write", "min-replicas-max-lag", "cluster-node-timeout"} {
		if got, err := node.ConfigGet(ctx, name).Result(); err == nil {
			m.config[name] = got[name]
		}
	}
	m.denied, m.lua = askPermissions(ctx, node, namespace)
	return m
}

// together makes one row of what is to say of each master: what matters most,
// and of which masters it is true when not of all.
func together(masters []master, judge func(master) finding) finding {
	var row finding
	var said []string
	about := map[string][]string{} // text → addresses
	for _, m := range masters {
		f := judge(m)
		if l := worst(row.Level, f.Level); l != row.Level || row.Check == "" {
			row, said, about = finding{Check: f.Check, Level: l}, nil, map[string][]string{}
		}
		if f.Level == row.Level {
			if about[f.Text] == nil {
				said = append(said, f.Text)
			}
			about[f.Text] = append(about[f.Text], m.addr)
		}
	}
	for i, text := range said {
		if len(about[text]) < len(masters) {
			said[i] = strings.Join(about[text], ", ") + ": " + text
		}
	}
	row.Text = strings.Join(said, "; ")
	return row
}

// slowPing is a round trip that readers and editors begin to feel: an event takes some of them.
const slowPing = 10 * time.Millisecond

func judgeAnswers(what string, masters []master) finding {
	var away []string
	var slowest time.Duration
	for _, m := range masters {
		if m.err != nil {
			away = append(away, fmt.Sprintf("%s: %v", m.addr, m.err))
			continue
		}
		slowest = max(slowest, m.ping)
	}
	if len(masters) > 1 {
		what += fmt.Sprintf(", %d masters,", len(masters))
	}
	switch {
	case len(away) > 0:
		return fail("redis", "%s does not answer: %s", what, strings.Join(away, "; "))
	case slowest > slowPing:
		return warn("redis", "%s answers in %s: every step of an event takes as long; put it nearer", what, inMS(slowest)).took(slowest)
	}
	for _, m := range masters {
		if m.field("role") == "slave" {
			return fail("redis", "%s is a replica: it takes no writes; REDIS_URL must name the master, or the sentinels that know it", m.addr)
		}
	}
	return fine("redis", "%s answers in %s", what, inMS(slowest)).took(slowest)
}

func judgeVersion(m master) finding {
	const check = "version"
	v := m.field("redis_version")
	major, _, _ := strings.Cut(v, ".")
	n, _ := strconv.Atoi(major)
	switch {
	case v == "":
		return warn(check, "it does not tell its version; Redis 7.0 or later, or Valkey, is needed")
	case m.field("server_name") == "valkey":
		return fine(check, "Valkey %s", m.field("valkey_version"))
	case m.field("dragonfly_version") != "":
		return warn(check, "Dragonfly: freshwire is tested with Redis and Valkey alone")
	case n < 7:
		return fail(check, "Redis %s is too old: 7.0 or later, or Valkey, is needed", v)
	}
	return fine(check, "Redis %s", v)
}

func judgeMemoryPolicy(m master) finding {
	const check = "eviction"
	danger, note := judgeEviction(m.info)
	switch {
	case danger != "":
		return fail(check, "%s: it may evict the queue and the ledger, and freshwire does not start; CONFIG SET maxmemory-policy noeviction, and the same in redis.conf", danger)
	case note != "":
		return warn(check, "%s", note)
	}
	return fine(check, "maxmemory-policy is %s", m.field("maxmemory_policy"))
}

func judgeMemory(m master) finding {
	const check = "memory"
	used, limit, what := m.number("used_memory"), m.number("maxmemory"), "maxmemory"
	if limit == 0 {
		limit, what = m.number("total_system_memory"), "its machine has, and maxmemory is not set"
	}
	if used < 0 || limit <= 0 {
		return warn(check, "it does not tell how much memory is used, and of how much")
	}
	share := fmt.Sprintf("%s of %s used (%d %%)", size(used), size(limit), 100*used/limit)
	switch {
	case used >= limit && what == "maxmemory":
		return fail(check, "%s: it is full and refuses writes; raise maxmemory", share)
	case used*10 >= limit*8 && what == "maxmemory":
		return warn(check, "%s: when it is full, writes are refused and the queue cannot drain; raise maxmemory", share)
	case used*10 >= limit*8:
		return warn(check, "%s: that is what %s", share, what)
	case what == "maxmemory":
		return fine(check, "%s", share)
	}
	return fine(check, "%s used; maxmemory is not set", size(used))
}

func judgeClients(m master) finding {
	const check = "clients"
	open, limit := m.number("connected_clients"), m.number("maxclients")
	switch {
	case open < 0 || limit <= 0:
		return fine(check, "it does not tell how many connections it takes")
	case open*10 >= limit*8:
		return warn(check, "%d of %d connections are open; raise maxclients", open, limit)
	}
	return fine(check, "%d of %d connections are open", open, limit)
}

// judgePersistence says what a restart of Redis costs. journal: what was
// acknowledged is on our own disk, too.
func judgePersistence(m master, journal bool) finding {
	const check = "persistence"
	switch {
	case m.field("loading") == "1":
		return fail(check, "it still loads its data; wait")
	case m.field("aof_enabled") == "1" && m.field("aof_last_write_status") == "err":
		return fail(check, "its append-only file cannot be written, and it refuses writes: look at its disk")
	case m.field("rdb_last_bgsave_status") == "err":
		return warn(check, "its last snapshot failed, after which it refuses writes unless stop-writes-on-bgsave-error is no: look at its disk and memory")
	case m.field("aof_enabled") == "1" && journal:
		return fine(check, "append-only file is on; FRESHWIRE_SPOOL_DIR keeps what was acknowledged, too")
	case m.field("aof_enabled") == "1":
		return fine(check, "append-only file is on (appendfsync %s): what was acknowledged is as safe as that; FRESHWIRE_SPOOL_DIR makes it independent of Redis",
			cmp.Or(m.config["appendfsync"], "not told"))
	case m.field("aof_enabled") == "" && !journal:
		return warn(check, "it does not tell whether it keeps an append-only file; without one and without FRESHWIRE_SPOOL_DIR a restart loses acknowledged webhooks")
	case journal:
		return fine(check, "append-only file is off; FRESHWIRE_SPOOL_DIR keeps what was acknowledged, so a restart costs a cold cache and a reset")
	}
	return warn(check, "append-only file is off and FRESHWIRE_SPOOL_DIR is not set: a restart of Redis loses acknowledged webhooks; set one of them")
}

// leaseTime is how long a node may be silent before the ledger goes on without it.
const leaseTime = 2 * time.Second

// judgeReplicas says what a failover costs. down is after how long a silent
// master is given up; 0: nobody does, or nobody tells.
func judgeReplicas(m master, down time.Duration, replicated bool) finding {
	const check = "replicas"
	n, least := m.number("connected_slaves"), m.config["min-replicas-to-write"]
	lag, _ := strconv.Atoi(m.config["min-replicas-max-lag"])
	isolated := time.Duration(lag)*time.Second + leaseTime
	good := m.number("min_slaves_good_slaves")
	need, _ := strconv.ParseInt(least, 10, 64)
	switch {
	case n < 0:
		return warn(check, "it does not tell its replicas")
	case replicated && n == 0:
		return fail(check, "FRESHWIRE_ACK=replicated, and there is no replica: no webhook is acknowledged")
	case need > 0 && good >= 0 && good < need:
		return fail(check, "min-replicas-to-write is %d, and %d are in step: writes are refused", need, good)
	case n == 0:
		return fine(check, "none: nobody takes over when this server is away")
	case least == "":
		return warn(check, "%d; it does not tell min-replicas-to-write, which should be 1 or more", n)
	case need == 0:
		return warn(check, "%d, but min-replicas-to-write is 0: a master that was left alone goes on taking writes, which are lost; set it to 1, min-replicas-max-lag to a few seconds", n)
	case down > 0 && isolated >= down:
		return warn(check, "%d; min-replicas-max-lag (%ds) and 2s are not below the %v after which another master takes over: for a moment there may be two; lower it", n, lag, down)
	}
	return fine(check, "%d, min-replicas-to-write %d", n, need)
}

// downAfter returns after how long a silent master is given up, as the
// sentinels or the cluster say; 0 when they do not.
func (s *store) downAfter(ctx context.Context, masters []master) time.Duration {
	if s.options.IsClusterMode {
		ms, _ := strconv.Atoi(masters[0].config["cluster-node-timeout"])
		return time.Duration(ms) * time.Millisecond
	}
	if s.options.MasterName == "" {
		return 0
	}
	for _, addr := range s.options.Addrs {
		sentinel := redis.NewSentinelClient(&redis.Options{Addr: addr, TLSConfig: s.options.TLSConfig, DialTimeout: time.Second, ReadTimeout: time.Second})
		got, err := sentinel.Master(ctx, s.options.MasterName).Result()
		sentinel.Close()
		if err == nil {
			ms, _ := strconv.Atoi(got["down-after-milliseconds"])
			return time.Duration(ms) * time.Millisecond
		}
	}
	return 0
}

// largeSkew is where clocks are not kept by NTP.
const largeSkew = time.Second

func judgeClock(m master) finding {
	const check = "clock"
	skew := m.skew.Abs()
	switch {
	case m.ping == 0:
		return warn(check, "it does not tell its time")
	case skew <= m.ping/2+time.Millisecond:
		return fine(check, "as this host's, within %s", inMS(m.ping/2+time.Millisecond))
	case skew <= largeSkew:
		return fine(check, "%v from this host's", skew.Round(time.Millisecond))
	}
	return warn(check, "%v from this host's: signed times of webhooks and the ages of answers are judged by them; run NTP on both", m.skew.Round(time.Millisecond))
}

// clocksApart returns how far the clocks of the masters are from each other.
func clocksApart(masters []master) time.Duration {
	least, most := masters[0].skew, masters[0].skew
	for _, m := range masters {
		least, most = min(least, m.skew), max(most, m.skew)
	}
	return most - least
}
