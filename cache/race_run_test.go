package cache

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

const (
	raceKeys    = 60
	raceTags    = 24
	raceReaders = 24
	raceEditors = 3
	raceNodes   = 3
	raceBurst   = 30  // reads of one reader on one node before it lets others on
	raceHurry   = 400 // reads of one in a hurry
)

type race struct {
	*backend
	mix    mix
	length time.Duration
	lease  time.Duration
	change func(*options) // nil: as built

	stopWhenCaught bool
	round          int

	things []thing
	nodes  []*Store
	stop   context.CancelFunc

	reads, hits, expired, notices, fills atomic.Int64
	older                                atomic.Int64 // reads that saw less than their reader was told
	blind                                atomic.Int64 // answers of an origin that lags, by a node that is cut off
	moves                                atomic.Int64 // of the ledger, to another master
	fell                                 atomic.Int64 // times a stored entry's token went down

	log   atomic.Int64          // position of the change log
	event atomic.Pointer[event] // the newest that was written, and perhaps not yet heeded
	told  [raceKeys]atomic.Int64

	mu      sync.Mutex
	origin  [raceKeys][]commit   // what the origin has, oldest first
	history [raceKeys][]told     // by position
	waits   []time.Duration      // change to notice
	tokens  map[string]watermark // of stored entries
}

// thing is one piece of content and how to ask for it.
type thing struct {
	id   int
	name string // its key, or of the key that it is a variant of
	path string
	tags [3]string // the fill learns the last one from the answer
	req  Request
}

// commit is when the origin got a version; its number is its place in the list.
type commit time.Time

// told is a version that all readers knew of from a position on.
type told struct{ position, version int64 }

// event is an invalidation, and what it was about.
type event struct {
	seq      uint64
	versions map[int]int64
}

type watermark struct {
	epoch string
	token uint64
}

// tag is the thing's own, of which events announce versions.
func (at thing) tag() string { return "of-" + at.name }

func makeThings() []thing {
	things := make([]thing, raceKeys)
	for i := range things {
		name := fmt.Sprint("key:", i)
		at := thing{id: i, name: name, path: fmt.Sprintf("/d%d/%d", i%5, i)}
		for j, tag := range []int{i % raceTags, (i*7 + 3) % raceTags, (i*5 + 11) % raceTags} {
			at.tags[j] = "tag:" + strconv.Itoa(tag)
		}
		at.req = Request{Key: name, Path: at.path, Tags: at.tags[:2]}
		if i%3 == 1 {
			at.req.Key, at.req.Base = name+"?page=2", name
		}
		at.req = at.req.Prepare()
		things[i] = at
	}
	return things
}

func (r *race) run(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("FRESHWIRE_RACE_SEED"), 10, 64); err == nil {
		seed = v
	}
	random := func(who int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(who))) }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.stop, r.things, r.tokens = cancel, makeThings(), map[string]watermark{}

	var wg sync.WaitGroup
	part := &partition{}
	for i := range raceNodes {
		rdb := r.client()
		if i == 0 && r.mix.cut {
			rdb.AddHook(part)
		}
		if r.mix.replicaLedger && i < raceNodes-1 {
			rdb.AddHook(scopesOf(r.replica, fmt.Sprint("race", r.round)))
		}
		o := options{lease: r.lease, now: now, scripts: shipped}
		if r.change != nil {
			r.change(&o)
		}
		cfg := Config{Namespace: fmt.Sprint("race", r.round), Embedded: r.embedded}
		if r.mix.noMemory || i == 1 && !r.mix.peekOnly {
			cfg.Memory = -1
		}
		if r.mix.replica && !r.mix.replicaLedger {
			cfg.Replica = r.replica
		}
		s := newStore(rdb, testkit.Discard(), cfg, o)
		r.nodes = append(r.nodes, s)
		wg.Go(func() { s.Run(ctx) })
	}
	if r.mix.cut {
		wg.Go(func() { part.flap(ctx) })
	}
	if r.mix.lose {
		wg.Go(func() { r.loseKeys(ctx, r.client(), random(2000)) })
	}
	if r.mix.move {
		wg.Go(func() { r.moveLedger(ctx, t, r.client().(*redis.ClusterClient)) })
	}
	if r.mix.replica {
		wg.Go(func() { r.lag(ctx, random(2001)) })
	}
	if r.mix.soft {
		wg.Go(func() { r.purgeSoftly(ctx, random(2002)) })
	}
	if !r.mix.lose && !r.mix.expire {
		wg.Go(func() { r.watch(ctx, r.client()) })
	}
	for i := range raceEditors {
		wg.Go(func() { r.edit(ctx, t, random(i)) })
	}
	for i := range raceReaders {
		wg.Go(func() { r.read(ctx, t, random(1000+i)) })
	}
	for i := range r.hurried() {
		wg.Go(func() { r.readInAHurry(ctx, t, random(3000+i)) })
	}
	idle(ctx, r.length)
	for patience := 50; !r.tookPlace() && patience > 0; patience-- { // the machine is busy
		idle(ctx, r.length/5)
	}
	cancel()
	wg.Wait()
	t.Logf("seed %d: %d reads, %d hits, %d served expired, %d fetches, %d notices, change to notice p50 %v max %v, %d that nobody could judge, %d older than told",
		seed, r.reads.Load(), r.hits.Load(), r.expired.Load(), r.fills.Load(), r.notices.Load(),
		quantile(r.waits, .5).Round(time.Microsecond), quantile(r.waits, 1).Round(time.Microsecond), r.blind.Load(), r.older.Load())
}

// tookPlace reports whether there was enough of what the race is about.
func (r *race) tookPlace() bool {
	enough := int64(100)
	if r.mix.calm {
		enough = int64(25_000 * r.length.Seconds())
	}
	return r.reads.Load() > enough && r.notices.Load() > 10 && r.hits.Load() > 0 &&
		(r.expired.Load() > 0 || !r.mix.soft && !r.mix.expire) && (r.moves.Load() > 1 || !r.mix.move)
}

// purge returns what an editor declares void, and whether it covers a thing.
func (r *race) purge(rng *rand.Rand) (Purge, func(thing) bool) {
	switch n := rng.IntN(100); {
	case n < 8:
		name := r.things[rng.IntN(raceKeys)].name
		return Purge{Keys: []string{name}}, func(at thing) bool { return at.name == name }
	case n < 14:
		path := r.things[rng.IntN(raceKeys)].path
		return Purge{Paths: []string{path}}, func(at thing) bool { return at.path == path }
	case n < 18:
		dir := fmt.Sprintf("/d%d/", rng.IntN(5))
		return Purge{Paths: []string{dir + "*"}}, func(at thing) bool { return strings.HasPrefix(at.path, dir) }
	case n < 22:
		pattern := fmt.Sprintf("k?y:%d*", 1+rng.IntN(9))
		return Purge{Patterns: []string{pattern}}, func(at thing) bool { return matchGlob(pattern, at.name) }
	case n < 23:
		return Purge{All: true}, func(thing) bool { return true }
	}
	tags := []string{"tag:" + strconv.Itoa(rng.IntN(raceTags))}
	if rng.IntN(10) == 0 {
		tags = append(tags, "tag:"+strconv.Itoa(rng.IntN(raceTags)))
	}
	return Purge{Tags: tags}, func(at thing) bool {
		return slices.ContainsFunc(at.tags[:], func(tag string) bool { return slices.Contains(tags, tag) })
	}
}

func (r *race) edit(ctx context.Context, t *testing.T, rng *rand.Rand) {
	pause := 8
	if r.mix.calm {
		pause = 20
	}
	for ; ctx.Err() == nil; idle(ctx, time.Duration(rng.IntN(pause))*time.Millisecond) {
		worker := r.nodes[raceNodes-1]
		if r.mix.lose {
			worker = r.nodes[rng.IntN(raceNodes)]
		}
		if worker == r.nodes[0] && r.mix.cut {
			worker = r.nodes[1]
		}
		p, covers := r.purge(rng)
		versions := map[int]int64{}
		r.mu.Lock()
		for i, at := range r.things {
			if covers(at) {
				r.origin[i] = append(r.origin[i], commit(time.Now()))
				versions[i] = int64(len(r.origin[i]))
			}
		}
		r.mu.Unlock()

		began := time.Now()
		p.Soft = r.mix.softEvents
		if r.mix.lag {
			for i, v := range versions {
				p.Announced = append(p.Announced, Announcement{Tag: r.things[i].tag(), Version: strconv.FormatInt(v, 10)})
			}
		}
		m, err := r.declare(ctx, worker, p, Mark{}, versions)
		for err != nil && r.mix.move && ctx.Err() == nil { // as a task is tried again
			idle(ctx, 10*time.Millisecond)
			m, err = r.declare(ctx, worker, p, m, versions)
		}
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("editing: %v", err)
			}
			return
		}
		r.notify(versions, time.Since(began))
		// Whoever is told reads at once.
		asked := 0
		for _, i := range slices.Sorted(maps.Keys(versions)) {
			if i < r.keys() && asked < raceNodes {
				node := r.nodes[asked]
				if r.mix.cut {
					node = r.nodes[0]
				}
				r.readOne(ctx, t, node, i, rng)
				asked++
			}
		}
	}
}

// declare makes void what p names, and waits until every node heeds it.
func (r *race) declare(ctx context.Context, worker *Store, p Purge, prior Mark, versions map[int]int64) (Mark, error) {
	m, err := worker.Invalidate(ctx, p, prior)
	if err != nil {
		return prior, err
	}
	if !r.mix.noBarrier {
		r.event.Store(&event{m.Seq, versions})
		if m, _, err = worker.Barrier(ctx, p, m); err != nil {
			return m, err
		}
	}
	return m, worker.Told(ctx, p, m)
}

func (r *race) notify(versions map[int]int64, took time.Duration) {
	r.mu.Lock()
	position := r.log.Load() + 1
	for i, v := range versions {
		if v > r.told[i].Load() {
			r.told[i].Store(v)
			r.history[i] = append(r.history[i], told{position, v})
		}
	}
	r.log.Store(position)
	r.waits = append(r.waits, took)
	r.mu.Unlock()
	r.notices.Add(1)
}

// toldAt is what readers knew of a thing at a position of the log.
func (r *race) toldAt(id int, position int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.history[id]
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].position <= position {
			return h[i].version
		}
	}
	return 0
}
