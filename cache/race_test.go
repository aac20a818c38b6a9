package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// The race: editors change content, invalidate, wait for the barrier and
// notify; readers note what they were told, read on any node, and complain
// when they see less. FRESHWIRE_RACE_SECONDS lengthens it, FRESHWIRE_RACE_SEED
// repeats the choices of a run.
func TestReaderNeverSeesOlderThanNotice(t *testing.T) {
	if testing.Short() {
		t.Skip("races take seconds")
	}
	seconds := 2.0
	if v, err := strconv.ParseFloat(os.Getenv("FRESHWIRE_RACE_SECONDS"), 64); err == nil {
		seconds = v
	}
	length := time.Duration(seconds * float64(time.Second))

	standalone := func(t *testing.T) func() redis.UniversalClient {
		server := testkit.StartServer(t)
		return func() redis.UniversalClient { return server.Client(t) }
	}
	cluster := func(t *testing.T) func() redis.UniversalClient {
		addrs := testkit.StartCluster(t)
		return func() redis.UniversalClient {
			rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
			t.Cleanup(func() { rdb.Close() })
			return rdb
		}
	}
	embedded := func(t *testing.T) func() redis.UniversalClient {
		server := miniredis.RunT(t)
		return func() redis.UniversalClient {
			rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
			t.Cleanup(func() { rdb.Close() })
			return rdb
		}
	}
	servers := []struct {
		name  string
		start func(*testing.T) func() redis.UniversalClient
	}{{"standalone", standalone}, {"cluster", cluster}, {"embedded", embedded}}
	for _, sv := range servers {
		t.Run("as built/"+sv.name, func(t *testing.T) {
			r := race{client: sv.start(t), length: length, lease: 400 * time.Millisecond, embedded: sv.name == "embedded"}
			r.run(t)
			if r.stale.Load() > 0 {
				t.Errorf("%d of %d reads were older than their notice", r.stale.Load(), r.reads.Load())
			}
			if r.reads.Load() < 100 || r.notices.Load() < 10 || r.hits.Load() == 0 {
				t.Errorf("the race did not take place: %d reads, %d notices", r.reads.Load(), r.notices.Load())
			}
		})
	}
	for name, r := range map[string]*race{"node cut off": {cut: true}, "few keys and a slow origin": {slow: true},
		"ledger lost now and then": {lose: true}} {
		t.Run("as built/"+name, func(t *testing.T) {
			r.client, r.length, r.lease = standalone(t), length, 200*time.Millisecond
			r.run(t)
			if r.stale.Load() > 0 {
				t.Errorf("%d of %d reads were older than their notice", r.stale.Load(), r.reads.Load())
			}
		})
	}

	broken := []struct {
		name string
		r    *race
	}{
		{"no barrier", &race{noBarrier: true}},
		{"joiners unchecked", &race{faults: faults{joinersUnchecked: true}, slow: true}},
		{"token taken late", &race{faults: faults{tokenLate: true}, slow: true}},
		{"lease unchecked", &race{faults: faults{leaseUnchecked: true}, cut: true}},
	}
	for _, b := range broken {
		t.Run("broken/"+b.name, func(t *testing.T) {
			clients := standalone(t)
			for round := range 10 {
				r := race{client: clients, faults: b.r.faults, noBarrier: b.r.noBarrier, cut: b.r.cut, slow: b.r.slow, round: round,
					length: 2 * time.Second, lease: 200 * time.Millisecond, stopAtStale: true}
				r.run(t)
				if r.stale.Load() > 0 {
					return
				}
			}
			t.Errorf("no stale read: the checker would not see this repair being taken out")
		})
	}
}

const (
	raceKeys    = 60
	raceTags    = 24
	raceReaders = 24
	raceEditors = 3
	raceNodes   = 3
)

type race struct {
	client      func() redis.UniversalClient
	length      time.Duration
	lease       time.Duration
	faults      faults
	noBarrier   bool
	cut         bool // node 0 cannot reach the ledger half of the time
	slow        bool // few keys, an origin of up to 50 ms
	lose        bool // about twice a second Redis forgets one of the ledger's keys, mostly the ledger; every node writes
	embedded    bool
	stopAtStale bool
	round       int

	reads, hits, stale, notices, fills atomic.Int64

	mu       sync.Mutex
	origin   [raceKeys]int // what the origin answers now
	notified [raceKeys]int // what readers were told of
	waits    []time.Duration
}

// tagsOf gives each key three tags; the fill learns the last one from the answer.
func tagsOf(key int) []int {
	return []int{key % raceTags, (key*7 + 3) % raceTags, (key*5 + 11) % raceTags}
}

func tagName(tag int) string { return "tag:" + strconv.Itoa(tag) }

func (r *race) run(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("FRESHWIRE_RACE_SEED"), 10, 64); err == nil {
		seed = v
	}
	ctx, cancel := context.WithTimeout(t.Context(), r.length)
	defer cancel()
	var part partition
	var nodes []*Store
	var wg sync.WaitGroup
	for i := range raceNodes {
		rdb := r.client()
		if i == 0 && r.cut {
			rdb.AddHook(&part)
		}
		s := newStore(rdb, testkit.Discard(), Config{Namespace: fmt.Sprint("race", r.round), Embedded: r.embedded},
			options{lease: r.lease, now: now, scripts: shipped, faults: r.faults})
		nodes = append(nodes, s)
		wg.Go(func() { s.Run(ctx) })
	}
	if r.cut {
		wg.Go(func() {
			for idle(ctx, 300*time.Millisecond); ctx.Err() == nil; idle(ctx, 300*time.Millisecond) {
				part.cut.Store(!part.cut.Load())
			}
			part.cut.Store(false)
		})
	}
	if r.lose {
		n, rdb, rng := nodes[0].names, r.client(), rand.New(rand.NewPCG(seed, 2000))
		keys := []string{n.ledger(), n.ledger(), n.ledger(), n.meta(), n.seqs(), n.ack(), n.live()}
		wg.Go(func() {
			for idle(ctx, 300*time.Millisecond); ctx.Err() == nil; idle(ctx, time.Duration(400+rng.IntN(300))*time.Millisecond) {
				rdb.Del(ctx, keys[rng.IntN(len(keys))])
			}
		})
	}
	for i := range raceEditors {
		wg.Go(func() { r.edit(ctx, cancel, t, nodes, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	for i := range raceReaders {
		wg.Go(func() { r.read(ctx, cancel, t, nodes, rand.New(rand.NewPCG(seed, uint64(1000+i)))) })
	}
	wg.Wait()
	t.Logf("seed %d: %d reads, %d hits, %d fetches, %d notices, change to notice p50 %v max %v, %d stale",
		seed, r.reads.Load(), r.hits.Load(), r.fills.Load(), r.notices.Load(), quantile(r.waits, .5), quantile(r.waits, 1), r.stale.Load())
}

func (r *race) edit(ctx context.Context, cancel func(), t *testing.T, nodes []*Store, rng *rand.Rand) {
	for ctx.Err() == nil {
		worker := nodes[raceNodes-1]
		if r.lose {
			worker = nodes[rng.IntN(len(nodes))]
		}
		tag := rng.IntN(raceTags)
		committed := map[int]int{}
		r.mu.Lock()
		for key := range raceKeys {
			if tags := tagsOf(key); tags[0] == tag || tags[1] == tag || tags[2] == tag {
				r.origin[key]++
				committed[key] = r.origin[key]
			}
		}
		r.mu.Unlock()
		began := time.Now()
		p := Purge{Tags: []string{tagName(tag)}}
		m, err := worker.Invalidate(ctx, p, Mark{})
		if err == nil && !r.noBarrier {
			_, _, err = worker.Barrier(ctx, p, m)
		}
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("editing: %v", err)
			}
			return
		}
		r.mu.Lock()
		for key, v := range committed {
			r.notified[key] = max(r.notified[key], v)
		}
		r.waits = append(r.waits, time.Since(began))
		r.mu.Unlock()
		r.notices.Add(1)
		for key := range committed { // whoever is told reads at once
			if key < r.keys() {
				node := nodes[rng.IntN(len(nodes))]
				if r.cut {
					node = nodes[0]
				}
				r.readOne(ctx, cancel, t, node, key, rng)
				break
			}
		}
		idle(ctx, time.Duration(rng.IntN(8))*time.Millisecond)
	}
}

func (r *race) read(ctx context.Context, cancel func(), t *testing.T, nodes []*Store, rng *rand.Rand) {
	for ctx.Err() == nil {
		r.readOne(ctx, cancel, t, nodes[rng.IntN(len(nodes))], rng.IntN(r.keys()), rng)
	}
}

// keys is how many keys readers ask for.
func (r *race) keys() int {
	if r.slow {
		return 4
	}
	return raceKeys
}

func (r *race) readOne(ctx context.Context, cancel func(), t *testing.T, node *Store, key int, rng *rand.Rand) {
	span := 4 * time.Millisecond
	if r.slow {
		span = 25 * time.Millisecond
	}
	before, after := time.Duration(rng.Int64N(int64(span))), time.Duration(rng.Int64N(int64(span)))
	tags := tagsOf(key)
	r.mu.Lock()
	told := r.notified[key]
	r.mu.Unlock()
	res, err := node.Fetch(ctx, Request{Key: fmt.Sprint("key:", key), Tags: []string{tagName(tags[0]), tagName(tags[1])}},
		func(ctx context.Context, _ *Entry) (Fill, error) {
			r.fills.Add(1)
			idle(ctx, before)
			r.mu.Lock()
			v := r.origin[key]
			r.mu.Unlock()
			idle(ctx, after)
			return Fill{Status: 200, Body: []byte(strconv.Itoa(v)), Tags: []string{tagName(tags[2])}, TTL: time.Minute}, nil
		})
	if err != nil {
		if ctx.Err() == nil {
			t.Errorf("reading: %v", err)
		}
		return
	}
	saw, _ := strconv.Atoi(text(res.Entry))
	r.reads.Add(1)
	if res.Verdict == Hit {
		r.hits.Add(1)
	}
	if saw < told {
		if r.stale.Add(1); r.stopAtStale {
			cancel()
		}
	}
}

// partition is a node that reaches the entries, but not the ledger.
type partition struct{ cut atomic.Bool }

var errCut = errors.New("cut off")

func (p *partition) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *partition) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		for _, arg := range cmd.Args() {
			if s, ok := arg.(string); ok && strings.HasSuffix(s, "}:ledger") && p.cut.Load() {
				cmd.SetErr(errCut)
				return errCut
			}
		}
		return next(ctx, cmd)
	}
}

func (p *partition) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
