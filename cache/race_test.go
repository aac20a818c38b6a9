package cache

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// The race: editors change content, invalidate, wait for the barrier and
// notify; readers note what they were told, read on any node in every way that
// there is, and complain when they see less. FRESHWIRE_RACE_SECONDS lengthens
// it, FRESHWIRE_RACE_SEED repeats the choices of a run.
func TestReaderNeverSeesOlderThanNotice(t *testing.T) {
	if testing.Short() {
		t.Skip("races take seconds")
	}
	seconds := 1.0
	if v, err := strconv.ParseFloat(os.Getenv("FRESHWIRE_RACE_SECONDS"), 64); err == nil {
		seconds = v
	}
	length := time.Duration(seconds * float64(time.Second))

	var addrs []string
	cluster := func(sub *testing.T) *backend { // one for all
		if addrs == nil {
			addrs = testkit.StartCluster(t)
		}
		return onCluster(sub, addrs)
	}
	everything := mix{expire: true, soft: true, puts: true, heads: true, fails: true, calm: true, cut: true}
	lost, lagging := everything, everything
	lost.lose = true
	lagging.replica, lagging.lag = true, true
	designs := []struct {
		name  string
		start func(*testing.T) *backend
		mix   mix
	}{
		{"standalone", standalone, mix{}},
		{"cluster", cluster, mix{long: true}},
		{"ledger moves between masters", cluster, mix{move: true}},
		{"embedded", embedded, mix{}},
		{"entries in Redis only", standalone, mix{noMemory: true, long: true}},
		{"node cut off", standalone, mix{cut: true}},
		{"few keys and a slow origin", standalone, mix{slow: true, puts: true}},
		{"ledger lost now and then", standalone, mix{lose: true}},
		{"entries from a replica that lags", replicated, mix{replica: true, noMemory: true, heads: true}},
		{"expired and softly purged is served", standalone, mix{expire: true, soft: true, fails: true}},
		{"origin that lags behind its events", standalone, mix{lag: true}},
		{"everything", replicated, lagging},
		{"everything, and the ledger lost", standalone, lost},
		{"everything on a cluster", cluster, everything},
	}
	for i, d := range designs {
		if d.mix.long && length < 5*time.Second {
			continue
		}
		t.Run("as built/"+d.name, func(t *testing.T) {
			r := race{backend: d.start(t), mix: d.mix, round: i, length: length, lease: 400 * time.Millisecond}
			if d.mix.cut || d.mix.lose {
				r.lease = 200 * time.Millisecond
			}
			r.run(t)
			if r.older.Load() > 0 {
				t.Errorf("%d of %d reads were older than their notice", r.older.Load(), r.reads.Load())
			}
			if n := r.fell.Load(); n > 0 {
				t.Errorf("%d times an older fetch took the place of a newer one in Redis", n)
			}
			if !r.tookPlace() {
				t.Errorf("the race did not take place: %d reads, %d hits, %d expired, %d notices", r.reads.Load(), r.hits.Load(), r.expired.Load(), r.notices.Load())
			}
		})
	}

	broken := []struct {
		name string
		mix  mix
		take func(t *testing.T, o *options) // takes the repair out
	}{
		{"no barrier", mix{noBarrier: true}, nil},
		{"joiners unchecked", mix{slow: true, noMemory: true}, func(_ *testing.T, o *options) { o.faults.joinersUnchecked = true }},
		{"token taken late", mix{slow: true, noMemory: true}, func(_ *testing.T, o *options) { o.faults.tokenLate = true }},
		{"lease unchecked", mix{cut: true, noMemory: true}, func(_ *testing.T, o *options) { o.faults.leaseUnchecked = true }},
		{"memory trusted without a lease", mix{cut: true, peekOnly: true}, func(_ *testing.T, o *options) { o.faults.leaseUnchecked = true }},
		{"memory judged once for all", mix{}, func(_ *testing.T, o *options) { o.faults.generationFixed = true }},
		{"expired is served though void", mix{expire: true, serveVoid: true}, nil},
		{"events purge softly", mix{expire: true, softEvents: true}, nil},
		{"ledger read from a replica", mix{replica: true, replicaLedger: true}, nil},
		{"leases that a lost ledger forgot are not waited for", mix{lose: true, loseLeases: true, cut: true}, func(t *testing.T, o *options) {
			without(t, "clock", `redis.call('ZADD', KEYS[4], deadline, '?')`, "")(o)
		}},
		{"old views are kept", mix{lag: true}, func(_ *testing.T, o *options) { o.faults.oldViewsStored = true }},
		{"old views are served whoever was told", mix{lag: true}, func(_ *testing.T, o *options) { o.faults.toldUnchecked = true }},
		{"an older fetch wins", mix{slow: true, puts: true}, func(t *testing.T, o *options) {
			without(t, "store", `tonumber(string.sub(head, 3, 18)) > tonumber(ARGV[4])`, "false")(o)
		}},
	}
	for _, b := range broken {
		t.Run("broken/"+b.name, func(t *testing.T) {
			start := standalone
			if b.mix.replica {
				start = replicated
			}
			on := start(t)
			for round := range 10 {
				r := race{backend: on, mix: b.mix, round: round, length: 2 * time.Second, lease: 200 * time.Millisecond, stopWhenCaught: true}
				if b.take != nil {
					r.change = func(o *options) { b.take(t, o) }
				}
				r.run(t)
				if r.older.Load()+r.fell.Load() > 0 {
					return
				}
			}
			t.Errorf("nothing seen: the checker would not notice this repair being taken out")
		})
	}
}

// backend is where a race takes place.
type backend struct {
	client   func() redis.UniversalClient
	embedded bool

	replica       *redis.Client // of entries; it lags while line holds
	replicaServer *testkit.Server
	line          *testkit.Proxy
}

func standalone(t *testing.T) *backend {
	server := testkit.StartServer(t)
	return &backend{client: func() redis.UniversalClient { return server.Client(t) }}
}

func replicated(t *testing.T) *backend {
	server := testkit.StartServer(t)
	replica, line := testkit.StartReplica(t, server)
	rdb := redis.NewClient(&redis.Options{Addr: replica.Addr, MaxRetries: -1, ReadTimeout: 50 * time.Millisecond})
	t.Cleanup(func() { rdb.Close() })
	return &backend{client: func() redis.UniversalClient { return server.Client(t) }, replica: rdb, replicaServer: replica, line: line}
}

func onCluster(t *testing.T, addrs []string) *backend {
	return &backend{client: func() redis.UniversalClient {
		rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
		t.Cleanup(func() { rdb.Close() })
		return rdb
	}}
}

func embedded(t *testing.T) *backend {
	server := miniredis.RunT(t)
	return &backend{embedded: true, client: func() redis.UniversalClient {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
		t.Cleanup(func() { rdb.Close() })
		return rdb
	}}
}

// mix is what happens in a race.
type mix struct {
	long     bool // left out of short runs, where others cover it
	noMemory bool // no node keeps entries in memory; else all but one do
	expire   bool // entries live for some 100 ms, and are served stale for as long
	soft     bool // an operator purges softly beside
	puts     bool // some fill whatever is cached
	heads    bool // some need no body
	fails    bool // the origin fails now and then
	replica  bool // entries are read from a replica, which lags half of the time
	cut      bool // node 0 cannot reach the ledger half of the time
	lag      bool // each answer of the origin is up to 100 ms old; events announce versions
	lose     bool // about twice a second Redis forgets one of the ledger's keys, mostly the ledger; every node writes
	move     bool // the ledger moves from master to master of a cluster
	slow     bool // few keys, an origin of up to 50 ms
	calm     bool // fewer edits, so that most reads are hits

	// Mistakes.
	noBarrier     bool
	peekOnly      bool // only reads from memory count
	serveVoid     bool // what is stale is served without asking whether it is void
	softEvents    bool // events make stale, not void
	loseLeases    bool // what Redis forgets is who has a lease, and often
	replicaLedger bool // scopes are read from a replica, tokens from the master
}
