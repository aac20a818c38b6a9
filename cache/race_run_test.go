package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

func (r *race) read(ctx context.Context, t *testing.T, rng *rand.Rand) {
	for ; ctx.Err() == nil; idle(ctx, time.Duration(rng.IntN(2000))*time.Microsecond) {
		node, burst := r.nodes[rng.IntN(raceNodes)], raceBurst
		if node.memory == nil {
			burst = raceBurst / 10
		}
		for ; burst > 0 && ctx.Err() == nil; burst-- {
			r.readOne(ctx, t, node, rng.IntN(r.keys()), rng)
		}
	}
}

// readInAHurry reads what is in memory, and leaves the rest to others.
func (r *race) readInAHurry(ctx context.Context, t *testing.T, rng *rand.Rand) {
	for ; ctx.Err() == nil; idle(ctx, time.Duration(rng.IntN(2000))*time.Microsecond) {
		node := r.nodes[rng.IntN(raceNodes)]
		for range raceHurry {
			id := rng.IntN(r.keys())
			req, position, want := r.ask(id)
			if res, ok := node.Peek(req); ok {
				r.check(t, id, res, want, position)
			}
		}
	}
}

// ask is what a reader asks for a thing, where the change log stands, and what
// it was told of the thing: both of before the look-up.
func (r *race) ask(id int) (req Request, position, want int64) {
	req, position = r.things[id].req, r.log.Load()
	req.Position = strconv.FormatInt(position, 10)
	return req, position, r.told[id].Load()
}

func (r *race) hurried() int {
	if r.mix.calm {
		return 8
	}
	return 0
}

// keys is how many keys readers ask for.
func (r *race) keys() int {
	if r.mix.slow {
		return 4
	}
	return raceKeys
}

var errOrigin = errors.New("the origin fails")

// readOne reads as package read does, and holds the answer against what its
// reader was told.
func (r *race) readOne(ctx context.Context, t *testing.T, node *Store, id int, rng *rand.Rand) {
	req, position, want := r.ask(id)
	how := rng.IntN(100)
	if r.mix.heads && how < 20 {
		req.NoBody = func(*Entry) bool { return true }
	}
	if e := r.event.Load(); e != nil && !r.mix.lose && !r.mix.lag && !r.mix.softEvents && how >= 95 {
		req.After, want = e.seq, max(want, e.versions[id]) // who knows the event before its notice
	}
	if res, ok := node.Peek(req); ok {
		r.check(t, id, res, want, position)
		return
	}
	if r.mix.peekOnly {
		node.Fetch(ctx, req, r.fill(id, rng))
		return
	}
	if r.mix.serveVoid {
		if e, st := node.look(ctx, req, req.wanted()); st == voided && time.Now().Before(e.StaleUntil) {
			r.check(t, id, node.result(req, e, Stale, ""), want, position)
		}
	}
	var res Result
	var err error
	if r.mix.puts && (how == 90 || how > 75 && r.mix.slow) {
		res, err = node.Fill(ctx, req, r.fill(id, rng))
	} else {
		res, err = node.Fetch(ctx, req, r.fill(id, rng))
	}
	switch {
	case err == nil:
		r.check(t, id, res, want, position)
	case !errors.Is(err, errOrigin) && ctx.Err() == nil:
		t.Errorf("reading: %v", err)
	}
}

func (r *race) fill(id int, rng *rand.Rand) FillFunc {
	span := 4 * time.Millisecond
	if r.mix.slow {
		span = 25 * time.Millisecond
	}
	before, after := time.Duration(rng.Int64N(int64(span))), time.Duration(rng.Int64N(int64(span)))
	fails := r.mix.fails && rng.IntN(30) == 0
	f := Fill{Status: 200, Tags: r.things[id].tags[2:], TTL: time.Minute}
	if id%20 == 19 && !r.mix.lag {
		f.Status = 404
	}
	lag := time.Duration(0) // of the edge that answers
	if r.mix.lag {
		lag = time.Duration(rng.IntN(100)) * time.Millisecond
	}
	if r.mix.expire {
		span := 400
		if r.mix.calm {
			span = 2000
		}
		ms := func() time.Duration { return time.Duration(20+rng.IntN(span)) * time.Millisecond }
		f.TTL, f.SWR, f.SIE = ms(), ms(), ms()
	}
	return func(ctx context.Context, _ *Entry) (Fill, error) {
		r.fills.Add(1)
		idle(ctx, before)
		v := r.shown(id, time.Now().Add(-lag))
		idle(ctx, after)
		if fails {
			return Fill{}, errOrigin
		}
		f.ETag = strconv.FormatInt(v, 10)
		if r.mix.lag {
			f.Versions = map[string]string{r.things[id].tag(): f.ETag}
		}
		f.Body = []byte(f.ETag + "\n")
		if id%4 == 0 {
			f.Body, f.Packable = append(f.Body, strings.Repeat("as large as content is\n", 100)...), true
		}
		return f, nil
	}
}

// shown is the version that the origin had at a time.
func (r *race) shown(id int, at time.Time) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.origin[id])
	for n > 0 && time.Time(r.origin[id][n-1]).After(at) {
		n--
	}
	return int64(n)
}

// check holds an answer against the newest version that its reader knew of.
func (r *race) check(t *testing.T, id int, res Result, want, position int64) {
	saw, err := strconv.ParseInt(res.Entry.ETag, 10, 64)
	if body, berr := res.Entry.Body(); err == nil && berr != ErrNoBody {
		text, _, _ := strings.Cut(string(body), "\n")
		if text != res.Entry.ETag || berr != nil {
			t.Errorf("head of version %d, body %q, %v", saw, text, berr)
		}
	}
	r.reads.Add(1)
	switch res.Verdict {
	case Hit:
		r.hits.Add(1)
	case Stale:
		r.expired.Add(1)
	}
	// What is not current says where it stood, and is at least as new as that.
	if stood, perr := strconv.ParseInt(res.Position, 10, 64); err != nil || perr != nil {
		t.Errorf("entry %+v at position %q, asked at %d", res.Entry, res.Position, position)
	} else if stood != position {
		want = max(want, r.toldAt(id, stood))
	}
	if r.mix.lag && res.Verdict == Bypass && res.Detail == DetailAway {
		r.blind.Add(1) // from an origin that lags, by a node that cannot know what was announced: it says so
		return
	}
	if saw < want {
		n := r.older.Add(1)
		if r.stopWhenCaught {
			r.stop()
		} else if n <= 5 {
			t.Logf("%s: version %d, told of %d: %s %q, token %d, stored %v before, position %s of %d",
				r.things[id].req.Key, saw, want, res.Verdict, res.Detail, res.Token, res.Age, res.Position, position)
		}
	}
}

// purgeSoftly is an operator who makes things stale.
func (r *race) purgeSoftly(ctx context.Context, rng *rand.Rand) {
	for ; ctx.Err() == nil; idle(ctx, time.Duration(rng.IntN(40))*time.Millisecond) {
		p, _ := r.purge(rng)
		p.Soft = true
		r.nodes[1+rng.IntN(raceNodes-1)].Invalidate(ctx, p, Mark{})
	}
}

// loseKeys makes Redis forget a key of the ledger about twice a second.
func (r *race) loseKeys(ctx context.Context, rdb redis.UniversalClient, rng *rand.Rand) {
	n := r.nodes[0].names
	keys := []string{n.ledger(), n.ledger(), n.ledger(), n.meta(), n.seqs(), n.ack(), n.live()}
	pause := 400
	if r.mix.loseLeases {
		keys, pause = []string{n.live()}, 50
	}
	for idle(ctx, 300*time.Millisecond); ctx.Err() == nil; idle(ctx, time.Duration(pause+rng.IntN(300))*time.Millisecond) {
		rdb.Del(ctx, keys[rng.IntN(len(keys))])
	}
}

// moveLedger moves the ledger's slot from master to master, slowly.
func (r *race) moveLedger(ctx context.Context, t *testing.T, rdb *redis.ClusterClient) {
	for ; ctx.Err() == nil; idle(ctx, 300*time.Millisecond) {
		rdb.ReloadState(ctx)
		err := testkit.MoveSlot(ctx, rdb, r.nodes[0].names.ledger(), func() { idle(ctx, 20*time.Millisecond) })
		if err != nil && ctx.Err() == nil {
			t.Errorf("moving the ledger: %v", err)
			return
		}
		r.moves.Add(1)
	}
}

// lag holds the replica's line half of the time, and now and then the whole replica.
func (r *race) lag(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		r.line.Hold()
		idle(ctx, time.Duration(50+rng.IntN(250))*time.Millisecond)
		r.line.Release()
		idle(ctx, time.Duration(50+rng.IntN(250))*time.Millisecond)
		if rng.IntN(5) == 0 {
			r.replicaServer.Signal(syscall.SIGSTOP)
			idle(ctx, 100*time.Millisecond)
			r.replicaServer.Signal(syscall.SIGCONT)
		}
	}
}

// watch sees to it that no stored entry is replaced by one of an older fetch.
func (r *race) watch(ctx context.Context, rdb redis.UniversalClient) {
	for ; ctx.Err() == nil; idle(ctx, time.Millisecond) {
		for _, at := range r.things[:r.keys()] {
			head, err := rdb.GetRange(ctx, r.nodes[0].names.entry(at.req.Key), 0, prefixLen-1).Bytes()
			token, epoch, _, bad := decodePrefix(head)
			if err != nil || bad != nil {
				continue
			}
			was := r.tokens[at.req.Key]
			if was.epoch == epoch && token < was.token {
				if r.fell.Add(1); r.stopWhenCaught {
					r.stop()
				}
			}
			r.tokens[at.req.Key] = watermark{epoch, token}
		}
	}
}

// partition is a node that reaches the entries, but not the ledger.
type partition struct{ cut atomic.Bool }

var errCut = errors.New("cut off")

func (p *partition) flap(ctx context.Context) {
	for idle(ctx, 300*time.Millisecond); ctx.Err() == nil; idle(ctx, 300*time.Millisecond) {
		p.cut.Store(!p.cut.Load())
	}
	p.cut.Store(false)
}

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

// scopesOf makes a node read the scopes of the ledger from a replica, and all
// else from the master: what a client would do that sends reads to replicas,
// had the ledger been read by plain commands.
func scopesOf(replica *redis.Client, ns string) redis.Hook {
	return hook{func(ctx context.Context, cmd redis.Cmder, send func() error) error {
		err := send()
		answer, ok := cmd.(*redis.Cmd)
		if !ok || err != nil {
			return err
		}
		if list, ok := answer.Val().([]any); ok && len(list) == 10 {
			token := fmt.Sprint(cmd.Args()[9])
			scopes, _ := replica.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{
				Key: names{ns: ns}.ledger(), Start: "(" + token, Stop: "+inf", ByScore: true}).Result()
			flat := []any{}
			for _, z := range scopes {
				flat = append(flat, z.Member, strconv.FormatFloat(z.Score, 'f', 0, 64))
			}
			list[8] = flat
			answer.SetVal(list)
		}
		return err
	}}
}
