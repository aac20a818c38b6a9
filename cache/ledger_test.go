package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// A node holds an entry in its hands and does not hear of anything. Something
// happens to Redis, a worker invalidates and waits. After that the node must
// not serve what it holds.
func TestBarrierWaitsForLeasesThatRedisForgot(t *testing.T) {
	n := names{ns: "fw"}
	damages := map[string]func(t *testing.T, rdb redis.UniversalClient, before ledgerCopy){
		"flushed": func(t *testing.T, rdb redis.UniversalClient, _ ledgerCopy) {
			rdb.FlushAll(t.Context())
		},
		"registry of leases evicted": func(t *testing.T, rdb redis.UniversalClient, _ ledgerCopy) {
			rdb.Del(t.Context(), n.live())
		},
		"ledger evicted": func(t *testing.T, rdb redis.UniversalClient, _ ledgerCopy) {
			rdb.Del(t.Context(), n.ledger(), n.live())
		},
		"replica promoted that never heard of the node": func(t *testing.T, rdb redis.UniversalClient, before ledgerCopy) {
			before.restore(t, rdb)
			otherHost(t, rdb)
		},
	}
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		judge := func(t *testing.T, damage func(*testing.T, redis.UniversalClient, ledgerCopy), change ...func(*options)) (stale bool) {
			rdb.FlushAll(t.Context())
			worker := node(t, rdb, change...)
			settled(t, worker)
			worker.leave(t.Context()) // the reader alone is waited for
			before := copyLedger(t, rdb)
			reader := node(t, rdb, change...)
			syncNow(t, reader)
			held := hold(t, reader, "post:1", "posts")
			syncNow(t, reader)
			damage(t, rdb, before)
			p := tag("posts")
			barrier(t, worker, p, invalidate(t, worker, p))
			return reader.state("post:1", held, nil).servable()
		}
		for name, damage := range damages {
			if judge(t, damage) {
				t.Errorf("%s: the node serves what the event made void", name)
			}
			phantom := without(t, "clock", `redis.call('ZADD', KEYS[4], deadline, '?')`, "")
			if !caught(func() bool { return judge(t, damage, phantom) }) {
				t.Errorf("%s: without the phantom lease nothing goes wrong, so this test proves nothing", name)
			}
		}
	})
}

func TestEventLostBeforeTheBarrierIsWrittenAgain(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		judge := func(change ...func(*options)) (stale, again bool) {
			rdb.FlushAll(t.Context())
			worker, reader := node(t, rdb, change...), node(t, rdb, change...)
			settled(t, worker)
			worker.leave(t.Context()) // the reader alone is waited for
			syncNow(t, reader)
			held := hold(t, reader, "post:1", "posts")
			syncNow(t, reader)
			before := copyLedger(t, rdb)
			p := tag("posts")
			first := invalidate(t, worker, p)
			before.restore(t, rdb)
			syncNow(t, reader) // a token above the lost seq, without its scope
			syncNow(t, reader)
			second, _ := barrier(t, worker, p, first)
			return reader.state("post:1", held, nil).servable(), second != first
		}
		if stale, again := judge(); stale || !again {
			t.Errorf("stale = %v, written again = %v; want false, true", stale, again)
		}
		unasked := without(t, "barrier", `not redis.call('ZSCORE', KEYS[3], ARGV[2])`, "false")
		if !caught(func() bool { stale, _ := judge(unasked); return stale }) {
			t.Error("a barrier that does not ask for the event is not caught")
		}
	})
}

func TestEventLostWhileTheBarrierWaitsIsWrittenAgain(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker, reader := node(t, rdb), node(t, rdb)
		settled(t, worker)
		syncNow(t, reader)
		held := hold(t, reader, "post:1", "posts")
		syncNow(t, reader)
		before := copyLedger(t, rdb)
		p := tag("posts")
		first := invalidate(t, worker, p)

		var once sync.Once
		rdb.AddHook(hook{func(ctx context.Context, cmd redis.Cmder, send func() error) error {
			err := send()
			if sends(cmd, first.Member) {
				once.Do(func() { before.restore(t, rdb) }) // after the barrier's first look
			}
			return err
		}})
		second, _ := barrier(t, worker, p, first)
		if second == first {
			t.Error("the lost event was not written again")
		}
		if reader.state("post:1", held, nil).servable() {
			t.Error("the node serves what the event made void")
		}
	})
}

func TestWorkerGivesBackAnEventThatNobodyElseKnew(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker, reader := node(t, rdb), node(t, rdb)
		settled(t, worker)
		syncNow(t, reader)
		held := hold(t, reader, "post:1", "posts")
		before := copyLedger(t, rdb)
		p := tag("posts")
		mark := invalidate(t, worker, p)
		before.restore(t, rdb)
		syncNow(t, reader)
		if kind, _ := reader.mirror.judge("post:1", position{held.Epoch, held.Token}, held.scopes); kind != "" {
			t.Fatal("the event was not lost")
		}
		syncNow(t, worker, reader)
		if kind, _ := reader.mirror.judge("post:1", position{held.Epoch, held.Token}, held.scopes); kind != "tag" {
			t.Errorf("void by %q after the give-back, want tag", kind)
		}
		if n := events(t, rdb); n != len(before.sets[names{ns: "fw"}.seqs()])+1 {
			t.Errorf("%d events, want one more than before the loss", n)
		}
		if again, _ := barrier(t, worker, p, mark); again.Seq <= mark.Seq {
			t.Errorf("given back at %d, want above %d: nodes that read past that would skip it", again.Seq, mark.Seq)
		}
	})
}

func TestPurgeOfAllIsGivenBack(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	worker, reader := node(t, rdb), node(t, rdb)
	settled(t, worker)
	syncNow(t, reader)
	held := hold(t, reader, "post:1")
	before := copyLedger(t, rdb)
	invalidate(t, worker, Purge{All: true})
	before.restore(t, rdb)
	syncNow(t, worker, reader)
	if reader.state("post:1", held, nil).servable() {
		t.Error("the purge was forgotten")
	}
}

// Deadlines are times of the server's clock. A step ahead makes them all look
// passed.
func TestServerClockThatJumpsAheadEndsNoLease(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		judge := func(change func(*options)) (stale bool) {
			rdb.FlushAll(t.Context())
			worker, reader := node(t, rdb, change), node(t, rdb, change)
			settled(t, worker)
			syncNow(t, reader)
			held := hold(t, reader, "post:1", "posts")
			syncNow(t, reader)
			rdb.Set(t.Context(), "skew", "10", 0)
			p := tag("posts")
			barrier(t, worker, p, invalidate(t, worker, p))
			return reader.state("post:1", held, nil).servable()
		}
		if judge(skewed()) {
			t.Error("the node serves what the event made void")
		}
		believing := func(name, source string) string {
			if name == "barrier" {
				return strings.Replace(source, "now <= tonumber(ARGV[3])", "true", 1)
			}
			return source
		}
		if !caught(func() bool { return judge(skewed(believing)) }) {
			t.Error("a barrier that believes any clock is not caught")
		}
	})
}

func TestSeqsRiseWhenTheServerClockGoesBack(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker, reader := node(t, rdb, skewed()), node(t, rdb, skewed())
		rdb.Set(t.Context(), "skew", "7200", 0)
		syncNow(t, worker, reader)
		token := reader.mirror.position().token
		rdb.Set(t.Context(), "skew", "-7200", 0)
		if m := invalidate(t, worker, tag("posts")); m.Seq <= token {
			t.Errorf("seq %d is not above the token %d handed out before", m.Seq, token)
		}
	})
}

// The heir's clock is behind, and it never saw the tokens that were handed out last.
func TestSeqsOfAnHeirAreAboveTokensItNeverSaw(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker, reader := node(t, rdb, skewed()), node(t, rdb, skewed())
		syncNow(t, worker, reader)
		before := copyLedger(t, rdb)
		rdb.Set(t.Context(), "skew", "30", 0)
		syncNow(t, reader)
		token := reader.mirror.position().token
		before.restore(t, rdb)
		otherHost(t, rdb)
		rdb.Set(t.Context(), "skew", "-5", 0)
		if m := invalidate(t, worker, tag("posts")); m.Seq <= token {
			t.Errorf("seq %d is not above the token %d: who holds that would skip the event", m.Seq, token)
		}
	})
}

func TestLeaseIsOneConstantAndEveryProcessHasItsOwnName(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	a, b := New(rdb, testkit.Logger(t), Config{}), New(rdb, testkit.Logger(t), Config{Retain: time.Hour, FillTimeout: time.Second})
	if a.lease != leaseTime || b.lease != leaseTime {
		t.Errorf("leases %v and %v, want %v whatever the Config", a.lease, b.lease, leaseTime)
	}
	if a.node == b.node || len(a.node) != 16 {
		t.Errorf("nodes %q and %q: one would acknowledge for the other", a.node, b.node)
	}
}

func TestNodeThatJoinsDuringTheBarrierKnowsTheEvent(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker := node(t, rdb)
		settled(t, worker)
		held := hold(t, worker, "post:1", "posts")
		invalidate(t, worker, tag("posts"))
		late := node(t, rdb)
		if err := late.turnAfter().wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if kind, usable := late.mirror.judge("post:1", position{held.Epoch, held.Token}, held.scopes); kind != "tag" || !usable {
			t.Errorf("judge = %q, %v; want tag, true", kind, usable)
		}
	})
}

func TestNobodyIsWaitedForWhenEveryNodeAcknowledged(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	long := func(o *options) { o.lease = time.Minute } // any wait for a lease would fail the test
	worker, reader := node(t, rdb, long), node(t, rdb, long)
	syncNow(t, worker, reader)
	rdb.ZRem(t.Context(), worker.names.live(), "?") // of the new ledger; a minute is long
	p := tag("posts")
	m := invalidate(t, worker, p)
	syncNow(t, worker, reader)
	if _, r := barrier(t, worker, p, m); r.Nodes != 2 || r.Waited > 10*time.Second {
		t.Errorf("Barrier = %+v, want 2 nodes and no wait", r)
	}
}

func TestDeadNodeIsForgottenAfterItsLease(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	worker, dead := node(t, rdb), node(t, rdb)
	settled(t, worker)
	syncNow(t, dead)
	p := tag("posts")
	steady(t, worker)
	_, r := barrier(t, worker, p, invalidate(t, worker, p))
	if r.Waited > shortLease*10 {
		t.Errorf("waited %v for a node whose lease is %v", r.Waited, shortLease)
	}
	testkit.Until(t, "the dead node is forgotten", func() bool {
		syncNow(t, worker)
		m := invalidate(t, worker, p)
		syncNow(t, worker)
		_, r := barrier(t, worker, p, m)
		return r.Nodes == 1
	})
}

func TestNodeThatLeftIsNotWaitedForAndReadsNoMore(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	worker, leaver := node(t, rdb), node(t, rdb)
	settled(t, worker)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- leaver.Run(ctx) }()
	testkit.Until(t, "the node is ready", func() bool { return leaver.Ready() == nil })
	held := hold(t, leaver, "post:1", "posts")
	cancel()
	if err := testkit.Wait(t, done, "Run to end"); err != nil {
		t.Fatal(err)
	}
	if _, err := rdb.ZScore(t.Context(), worker.names.live(), leaver.node).Result(); !errors.Is(err, redis.Nil) {
		t.Errorf("the node is still registered: %v", err)
	}
	if leaver.state("post:1", held, nil).servable() || leaver.Ready() == nil {
		t.Error("a node that left still trusts its mirror")
	}
	if got, want := saw(fetch(t, leaver, Request{Key: "post:1"}, answers("new"))), "new bypass"; got != want {
		t.Errorf("read = %q, want %q", got, want)
	}
}

// Redis answers the reclaimer no more; the process still ends soon, and no
// barrier waits for it.
func TestReclaimerHoldsUpNoEnd(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb, other := server.Client(t), server.Client(t)
	s := node(t, rdb)
	stuck, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	defer close(release)
	rdb.AddHook(pipelineHook(func(cmds []redis.Cmder) {
		if sends(cmds[0], s.names.entry("k")) {
			once.Do(func() { close(stuck) })
			<-release
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	testkit.Until(t, "the node is registered", func() bool { return other.ZScore(t.Context(), s.names.live(), s.node).Err() == nil })
	s.ReclaimLater(Purge{Keys: []string{"k"}}, after(10))
	testkit.Wait(t, stuck, "the reclaimer's batch")
	began := time.Now()
	cancel()
	if err := testkit.Wait(t, ended, "Run"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the end took %v", took)
	}
	if err := other.ZScore(t.Context(), s.names.live(), s.node).Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("the node is still registered: %v", err)
	}
}

// pipelineHook is called before every pipeline.
type pipelineHook func([]redis.Cmder)

func (h pipelineHook) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h pipelineHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h pipelineHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h(cmds)
		return next(ctx, cmds)
	}
}

func TestLostAnswerRenewsNoLease(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := newClocks()
	lost := false
	rdb.AddHook(hook{func(_ context.Context, cmd redis.Cmder, send func() error) error {
		err := send()
		if lost {
			cmd.SetErr(context.DeadlineExceeded)
			return context.DeadlineExceeded
		}
		return err
	}})
	s := node(t, rdb, c.set)
	syncNow(t, s)
	lost = true
	for range 5 {
		c.move(shortLease/4, shortLease/4)
		s.turnAfter().wait(t.Context())
	}
	if s.mirror.usable() {
		t.Error("the lease outlived its last answer")
	}
}

func TestLeaseCountsFromBeforeTheQuestion(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := newClocks()
	slow := time.Duration(0)
	rdb.AddHook(hook{func(_ context.Context, _ redis.Cmder, send func() error) error {
		c.move(slow, slow) // the client tried again and again
		return send()
	}})
	s := node(t, rdb, c.set)
	syncNow(t, s)
	slow = shortLease * 9 / 10
	syncNow(t, s)
	c.move(shortLease/5, shortLease/5)
	if s.mirror.usable() {
		t.Error("the lease runs from a time after the question was first sent")
	}
}

func TestLeaseRunsOnlyWhileBothClocksSaySo(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	tests := []struct {
		name       string
		mono, wall time.Duration
		usable     bool
	}{
		{"both within", shortLease / 2, shortLease / 2, true},
		{"machine was suspended, monotonic stood still", 0, time.Hour, false},
		{"wall clock stood still", time.Hour, 0, false},
		{"wall clock was set back", shortLease / 2, -time.Hour, false},
		{"both over", shortLease, shortLease, false},
	}
	for _, tc := range tests {
		c := newClocks()
		s := node(t, rdb, c.set)
		syncNow(t, s)
		if c.move(tc.mono, tc.wall); s.mirror.usable() != tc.usable {
			t.Errorf("%s: usable = %v, want %v", tc.name, !tc.usable, tc.usable)
		}
	}
}

func TestLedgerIsNeverReadFromAReplica(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	var mu sync.Mutex
	used := map[string]bool{}
	rdb.AddHook(hook{func(_ context.Context, cmd redis.Cmder, send func() error) error {
		for _, a := range cmd.Args() {
			if s, ok := a.(string); ok && strings.HasPrefix(s, "fw:{fw}:") && !strings.HasSuffix(s, ":bell") {
				mu.Lock()
				used[cmd.Name()] = true
				mu.Unlock()
			}
		}
		return send()
	}})
	s := node(t, rdb)
	settled(t, s)
	s.rdb.ZRem(t.Context(), "unrelated", "x")
	p := tag("posts")
	barrier(t, s, p, invalidate(t, s, p))
	if err := s.giveBack(t.Context(), s.mirror.question(), answer{epoch: s.mirror.position().epoch, now: 1}); err != nil {
		t.Fatal(err)
	}
	for name := range used {
		if name != "evalsha" && name != "eval" {
			t.Errorf("%s asks for the ledger: it follows ReadOnly and RouteByLatency", name)
		}
	}
}

// A seq of a master that lost it can be handed out again by its heir.
func TestSameSeqOfAnotherMasterIsAnotherEvent(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker, reader := node(t, rdb), node(t, rdb)
		settled(t, worker)
		syncNow(t, reader)
		held := hold(t, reader, "post:1", "posts")
		before := copyLedger(t, rdb)
		lost := invalidate(t, worker, tag("posts"))
		before.restore(t, rdb)
		n := worker.names
		rdb.ZAdd(t.Context(), n.seqs(), redis.Z{Score: float64(lost.Seq), Member: fmt.Sprintf("%d:%s", lost.Seq, "of the heir")})
		rdb.ZAdd(t.Context(), n.ledger(), redis.Z{Score: float64(lost.Seq), Member: "t:others"})
		syncNow(t, worker, reader)
		if reader.state("post:1", held, nil).servable() {
			t.Error("the lost event was taken for the other one")
		}
	})
}

// The ledger is lost, and the entries survive with tokens of a faster clock.
func TestEntriesOfALostLedgerAreVoid(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb, skewed())
		rdb.Set(t.Context(), "skew", "3600", 0)
		syncNow(t, s)
		held := hold(t, s, "post:1")
		rdb.Set(t.Context(), "skew", "0", 0)
		n := s.names
		rdb.Del(t.Context(), n.ledger(), n.seqs(), n.ack(), n.live(), n.meta())
		other := node(t, rdb, skewed())
		syncNow(t, other)
		if at := other.mirror.position(); at.token >= held.Token {
			t.Fatalf("token %d, want one below the entry's %d", at.token, held.Token)
		}
		if got, want := saw(fetch(t, other, Request{Key: "post:1"}, answers("new"))), "new miss"; got != want {
			t.Errorf("read = %q, want %q", got, want)
		}
	})
}

// A node invalidates; the answer is on its way while the ledger is lost, and
// comes while the node asks the new one.
func TestLateAnswerOfALostLedgerTakesNothingFromTheMirror(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	plain, slow := server.Client(t), server.Client(t)
	long := func(o *options) { o.lease = time.Minute }
	reader, worker := node(t, slow, long), node(t, plain, long)
	syncNow(t, reader, worker)

	type held struct{ sent, release chan struct{} }
	holds := map[string]held{
		"t:unrelated": {make(chan struct{}), make(chan struct{})},
		"sync":        {make(chan struct{}), make(chan struct{})},
	}
	var mu sync.Mutex
	armed := map[string]bool{"t:unrelated": true}
	slow.AddHook(hook{func(_ context.Context, cmd redis.Cmder, send func() error) error {
		err := send()
		mu.Lock()
		word := ""
		switch {
		case err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT"):
		case armed["t:unrelated"] && sends(cmd, "t:unrelated"):
			word = "t:unrelated"
		case armed["sync"] && sends(cmd, reader.node):
			word = "sync"
		}
		delete(armed, word)
		mu.Unlock()
		if h, ok := holds[word]; ok {
			close(h.sent)
			<-h.release
		}
		return err
	}})
	late := make(chan error, 1)
	go func() {
		_, err := reader.Invalidate(context.Background(), tag("unrelated"), Mark{})
		late <- err
	}()
	testkit.Wait(t, holds["t:unrelated"].sent, "the answer of the old ledger")
	plain.FlushAll(t.Context())
	syncNow(t, reader, worker)
	was := fetch(t, worker, Request{Key: "post:1", Tags: []string{"posts"}}, answers("old")).Entry
	invalidate(t, worker, tag("posts"))
	syncNow(t, reader)
	if reader.state("post:1", was, nil) != voided {
		t.Fatal("the node does not know the event")
	}

	mu.Lock()
	armed["sync"] = true
	mu.Unlock()
	turn := reader.turnAfter()
	testkit.Wait(t, holds["sync"].sent, "the answer of the new ledger")
	close(holds["t:unrelated"].release)
	if err := testkit.Wait(t, late, "Invalidate"); err != nil {
		t.Fatal(err)
	}
	close(holds["sync"].release)
	if err := turn.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	syncNow(t, reader)
	if st := reader.state("post:1", was, nil); st != voided {
		t.Errorf("state = %v, want void: the node has acknowledged the event", st)
	}
}

// A node writes an event to a server that has already lost the one before.
func TestOwnNewEventDoesNotHideALostOne(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker, reader := node(t, rdb), node(t, rdb)
		settled(t, worker)
		syncNow(t, reader)
		held := hold(t, reader, "post:1", "posts")
		before := copyLedger(t, rdb)
		invalidate(t, worker, tag("posts"))
		syncNow(t, worker)
		before.restore(t, rdb)
		invalidate(t, worker, tag("others"))
		syncNow(t, worker, reader)
		if reader.state("post:1", held, nil).servable() {
			t.Error("the lost event was not given back")
		}
	})
}

// A server comes back from a snapshot while no process is there that knows
// what it lacks.
func TestEntriesOfAnOldSnapshotAreVoid(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		tests := []struct {
			name    string
			age     time.Duration
			started bool // another server process
			void    bool
		}{
			{"restarted from a snapshot of 11 minutes", 11 * time.Minute, true, true},
			{"restarted from a snapshot of a day", 24 * time.Hour, true, true},
			{"restarted from its log", time.Second, true, false},
			{"idle for a day", 24 * time.Hour, false, false},
		}
		for _, tt := range tests {
			judge := func(change ...func(*options)) (void bool) {
				rdb.FlushAll(t.Context())
				before := node(t, rdb, change...)
				settled(t, before)
				e := fetch(t, before, Request{Key: "post:1", Tags: []string{"posts"}}, answers("old")).Entry
				snapshot := copyLedger(t, rdb).aged(tt.age)
				e.Token -= uint64(tt.age.Microseconds())
				snapshot.restore(t, rdb)
				if tt.started {
					otherHost(t, rdb)
				}
				after := node(t, rdb, change...)
				testkit.Until(t, "the new node is usable", func() bool {
					syncNow(t, after)
					return after.mirror.usable()
				})
				kind, _ := after.mirror.judge("post:1", position{e.Epoch, e.Token}, e.scopes)
				return kind != ""
			}
			if void := judge(); void != tt.void {
				t.Errorf("%s: void = %v, want %v", tt.name, void, tt.void)
			}
			if trusting := without(t, "clock", " or meta[2] ~= host and top < now - 600000000", ""); tt.void && judge(trusting) {
				t.Errorf("%s: void without the repair, so this test proves nothing", tt.name)
			}
		}
	})
}

// The heir lacks an event of eleven minutes ago, and was told a new one.
func TestGiveBackReachesBackToWhatIsLeft(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		judge := func(change ...func(*options)) (void bool) {
			rdb.FlushAll(t.Context())
			first := node(t, rdb, change...)
			settled(t, first)
			e := fetch(t, first, Request{Key: "post:1", Tags: []string{"posts"}}, answers("old")).Entry
			kept := copyLedger(t, rdb).aged(11 * time.Minute)
			invalidate(t, first, tag("posts"))
			full := copyLedger(t, rdb).aged(11 * time.Minute)
			e.Token -= uint64((11 * time.Minute).Microseconds())
			full.restore(t, rdb)
			worker, other := node(t, rdb, change...), node(t, rdb, change...)
			syncNow(t, worker)
			kept.restore(t, rdb)
			invalidate(t, other, tag("others"))
			syncNow(t, worker, other)
			kind, _ := other.mirror.judge("post:1", position{e.Epoch, e.Token}, e.scopes)
			return kind == "tag"
		}
		if !judge() {
			t.Error("the lost event was not given back")
		}
		if judge(without(t, "sync", "if tonumber(before) < tonumber(kept) then kept = before end", "")) {
			t.Error("given back without the repair, so this test proves nothing")
		}
	})
}

func TestColdNodeWaitsForWhatMayBeGivenBack(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		judge := func(change ...func(*options)) (stale bool) {
			rdb.FlushAll(t.Context())
			warm := node(t, rdb, change...)
			settled(t, warm)
			held := hold(t, warm, "post:1", "posts")
			before := copyLedger(t, rdb)
			invalidate(t, warm, tag("posts"))
			before.restore(t, rdb)
			otherHost(t, rdb)
			cold := node(t, rdb, change...)
			syncNow(t, cold)
			stale = cold.state("post:1", held, nil).servable()
			syncNow(t, warm)
			testkit.Until(t, "the cold node is usable", func() bool {
				syncNow(t, cold)
				return cold.mirror.usable()
			})
			if cold.state("post:1", held, nil).servable() {
				t.Error("stale even after the give-back")
			}
			return stale
		}
		if judge() {
			t.Error("a node that never had a lease serves what the failover forgot")
		}
		hasty := without(t, "clock", `if not lost then redis.call('HSET', KEYS[5], 'until', deadline) end`, "")
		if !caught(func() bool { return judge(hasty) }) {
			t.Error("a cold node that does not wait is not caught")
		}
	})
}

func TestNodeWithARunningLeaseServesThroughAFailover(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := newClocks()
	s := node(t, rdb, c.set)
	syncNow(t, s)
	otherHost(t, rdb)
	c.move(shortLease/2, shortLease/2)
	syncNow(t, s)
	if !s.mirror.usable() {
		t.Error("a node that lost nothing stopped serving")
	}
}

func TestNothingLostIsNoEvent(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		worker := node(t, rdb)
		settled(t, worker)
		invalidate(t, worker, tag("posts"))
		n := events(t, rdb)
		fresh := node(t, rdb)
		for range 10 {
			syncNow(t, fresh)
		}
		if got := events(t, rdb); got != n {
			t.Errorf("%d events after ten idle syncs, want %d", got, n)
		}
		// The event's proof is gone, its scopes are not.
		newest := worker.mirror.question().newest
		rdb.ZRem(t.Context(), worker.names.seqs(), newest)
		for range 5 {
			syncNow(t, worker)
		}
		if got := events(t, rdb); got != n-1 {
			t.Errorf("%d events, want %d: nothing was lost, and each event rings for all", got, n-1)
		}
	})
}

func TestGiveBackThatFailedIsTriedAgain(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	worker, reader := node(t, rdb), node(t, rdb)
	settled(t, worker)
	held := hold(t, reader, "post:1", "posts")
	before := copyLedger(t, rdb)
	invalidate(t, worker, tag("posts"))
	before.restore(t, rdb)
	fail := true
	rdb.AddHook(hook{func(_ context.Context, cmd redis.Cmder, send func() error) error {
		if sends(cmd, worker.names.bell()) && fail {
			fail = false
			cmd.SetErr(errCut)
			return errCut
		}
		return send()
	}})
	if err := worker.turnAfter().wait(t.Context()); !errors.Is(err, errCut) {
		t.Fatalf("sync = %v, want the failure of the give-back", err)
	}
	syncNow(t, worker, reader)
	if reader.state("post:1", held, nil).servable() {
		t.Error("the event was forgotten")
	}
}

func TestManyNodesGiveBackOnce(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	nodes := []*Store{node(t, rdb), node(t, rdb), node(t, rdb), node(t, rdb)}
	settled(t, nodes[0])
	before := copyLedger(t, rdb)
	invalidate(t, nodes[0], tag("posts"))
	syncNow(t, nodes...)
	before.restore(t, rdb)
	var wg sync.WaitGroup
	for _, s := range nodes {
		wg.Go(func() { s.turnAfter().wait(t.Context()) })
	}
	wg.Wait()
	syncNow(t, nodes...)
	if got, want := events(t, rdb), len(before.sets[nodes[0].names.seqs()])+1; got != want {
		t.Errorf("%d events, want %d", got, want)
	}
}

func TestLedgerForgetsBelowItsFloorAndNeverMore(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := newStore(rdb, testkit.Logger(t), Config{Retain: 10 * time.Minute}, options{lease: shortLease, now: now, scripts: skewed2()})
		syncNow(t, s)
		old := invalidate(t, s, tag("old"))
		held := hold(t, s, "post:1", "posts")
		rdb.Set(t.Context(), "skew", "601", 0)
		invalidate(t, s, tag("new"))
		syncNow(t, s)
		floor, err := rdb.ZScore(t.Context(), s.names.ledger(), everyone).Result()
		if err != nil || uint64(floor) <= old.Seq {
			t.Fatalf("floor = %.0f, %v; want above %d", floor, err, old.Seq)
		}
		if err := rdb.ZScore(t.Context(), s.names.ledger(), "t:old").Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("the old scope is still there: %v", err)
		}
		if s.state("post:1", held, nil).servable() {
			t.Error("an entry older than the ledger's memory is served")
		}
	})
}

func skewed2() scripts {
	var o options
	skewed()(&o)
	return o.scripts
}

func TestNoEntryOutlivesTheLedgersMemory(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := node(t, rdb)
	syncNow(t, s)
	fetch(t, s, Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 200, TTL: 1000 * time.Hour}, nil
	})
	if ttl := rdb.PTTL(t.Context(), s.names.entry("k")).Val(); ttl <= 0 || ttl > s.cfg.Retain {
		t.Errorf("entry lives %v, want at most %v", ttl, s.cfg.Retain)
	}
}

func TestLedgerOfTooManyScopesIsCutAtItsFloor(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := node(t, rdb)
	syncNow(t, s)
	base := s.mirror.position().token
	for i := 0; i < 200_050; i += 10_001 {
		var page []redis.Z
		for j := i; j < min(i+10_001, 200_050); j++ {
			page = append(page, redis.Z{Score: float64(base) + float64(j+1), Member: "t:" + strconv.Itoa(j+1)})
		}
		if err := rdb.ZAdd(t.Context(), s.names.ledger(), page...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	invalidate(t, s, tag("posts"))
	if n := rdb.ZCard(t.Context(), s.names.ledger()).Val(); n > 200_000 {
		t.Errorf("%d scopes, want at most 200,000", n)
	}
	syncNow(t, s)
	at := s.mirror.position()
	if kind, _ := s.mirror.judge("x", position{at.epoch, base + 10}, []string{"t:11"}); kind == "" {
		t.Error("an entry that a forgotten scope voids is served")
	}
	if kind, _ := s.mirror.judge("x", position{at.epoch, base + 200_050}, []string{"t:11"}); kind != "" {
		t.Errorf("a newer entry is void by %q", kind)
	}
}

func TestScopesOfOneEventShareOneSeq(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		syncNow(t, s)
		var p Purge
		for i := range 1200 {
			p.Tags = append(p.Tags, strconv.Itoa(i))
		}
		m := invalidate(t, s, p)
		n, err := rdb.ZCount(t.Context(), s.names.ledger(), strconv.FormatUint(m.Seq, 10), strconv.FormatUint(m.Seq, 10)).Result()
		if err != nil || n != 1201 { // and "n:"
			t.Errorf("%d scopes at seq %d, %v; want 1201", n, m.Seq, err)
		}
	})
}

func TestEventOfTooManyScopesVoidsAll(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := node(t, rdb)
	syncNow(t, s)
	held := hold(t, s, "post:1", "unrelated")
	var p Purge
	for i := range maxScopes + 1 {
		p.Tags = append(p.Tags, strconv.Itoa(i))
	}
	invalidate(t, s, p)
	if s.state("post:1", held, nil) != voided {
		t.Error("not void")
	}
	if n := rdb.ZCard(t.Context(), s.names.ledger()).Val(); n > 5 {
		t.Errorf("%d scopes in the ledger", n)
	}
}

func TestRetryReusesItsEventWhileTheLedgerKnowsIt(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := node(t, rdb)
		syncNow(t, s)
		p := tag("posts")
		first := invalidate(t, s, p)
		again := func() Mark {
			m, err := s.Invalidate(t.Context(), p, first)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		if m := again(); m != first {
			t.Errorf("retry = %+v, want %+v again", m, first)
		}
		rdb.ZRem(t.Context(), s.names.seqs(), first.Member)
		if m := again(); m.Seq <= first.Seq {
			t.Errorf("retry of a lost event = %+v, want a new one", m)
		}
		rdb.FlushAll(t.Context())
		if m := again(); m.Epoch == first.Epoch || m.Member == first.Member {
			t.Errorf("retry after a flush = %+v, want a new epoch", m)
		}
	})
}

func TestBadPatternIsRefused(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t))
	if _, err := s.Invalidate(t.Context(), Purge{Patterns: []string{"a*", "b["}}, Mark{}); !errors.Is(err, ErrPurge) {
		t.Errorf("Invalidate = %v, want ErrPurge", err)
	}
}
