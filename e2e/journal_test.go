package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
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

const logKey = "fw:{fw}:log"

// spooled is web, worker and sse apart on one Redis without persistence; the
// web role keeps a journal.
type spooled struct {
	redis            *testkit.Server
	web, worker, sse *process
	spool            string
	log              *appliedLog
}

func startSpooled(t *testing.T, redisArgs ...string) *spooled {
	t.Helper()
	server := testkit.StartServer(t, redisArgs...)
	s := startSpooledOn(t, server.URL(), server.Client(t))
	s.redis = server
	return s
}

// startSpooledOn starts the three roles on the Redis at url, which rdb reaches, too.
func startSpooledOn(t *testing.T, url string, rdb *redis.Client) *spooled {
	t.Helper()
	config := configFile(t, fmt.Sprintf(`
sources:
  cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: "sha256=", delivery_id_header: X-Delivery-Id, secret: %s, rate: "0" }
rules:
  - on: ["post.*"]
    purge: { tags: ["post:{id}"] }
    channels: ["post"]
    fields: { n: payload.data.n }
`, secret))
	s := &spooled{spool: filepath.Join(t.TempDir(), "spool"), log: newAppliedLog(rdb)}
	env := []string{"REDIS_URL=" + url, "FRESHWIRE_CONFIG=" + config, "LOG_LEVEL=error", "FRESHWIRE_ADMIN_TOKEN=" + adminToken}
	s.web = start(t, "web", append(env, "FRESHWIRE_SPOOL_DIR="+s.spool)...)
	s.worker = start(t, "worker", env...)
	s.sse = start(t, "sse", env...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() { defer close(done); s.log.follow(ctx, s.sse.URL) }()
	testkit.Wait(t, s.log.ready, "the subscriber to be ready")
	return s
}

// appliedLog is what a subscriber was told, delivery by delivery. A reset
// begins a new life: the store had forgotten, and may tell again. It stands for
// everything that the log holds up to its position.
type appliedLog struct {
	rdb   *redis.Client
	ready chan struct{}

	mu      sync.Mutex
	ever    map[int64]bool
	life    map[int64]bool // told since the last reset
	lives   int
	doubled int // told twice within one life
	again   int // told again in a later life
}

func newAppliedLog(rdb *redis.Client) *appliedLog {
	return &appliedLog{rdb: rdb, ready: make(chan struct{}), ever: map[int64]bool{}, life: map[int64]bool{}}
}

func (l *appliedLog) follow(ctx context.Context, url string) {
	last, begun := "", false
	for ctx.Err() == nil {
		frames, done := make(chan frame, 1024), make(chan struct{})
		go func() { defer close(done); stream(ctx, url+"/api/events?channel=post", last, frames) }()
		for open := true; open; {
			select {
			case f := <-frames:
				if f.id != "" {
					last = f.id
				}
				l.take(f)
				if f.event == "ready" && !begun {
					begun = true
					close(l.ready)
				}
			case <-done:
				open = len(frames) > 0
			}
		}
	}
}

func (l *appliedLog) take(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f.event {
	case "":
		l.told(f.data)
	case "reset":
		l.life, l.lives = map[int64]bool{}, l.lives+1
		entries, _ := l.rdb.XRange(context.Background(), logKey, "-", f.id).Result() // away again: then they come again, too
		for _, e := range entries {
			data, _ := e.Values["d"].(string)
			l.told(data)
		}
	}
}

func (l *appliedLog) told(data string) {
	var change struct{ Fields struct{ N *int64 } }
	if json.Unmarshal([]byte(data), &change) != nil || change.Fields.N == nil {
		return // the marker of a life
	}
	n := *change.Fields.N
	switch {
	case l.life[n]:
		l.doubled++
	case l.ever[n]:
		l.again++
	}
	l.life[n], l.ever[n] = true, true
}

// missing returns those of 1 to n that were acknowledged and never told.
func (l *appliedLog) missing(acked []atomic.Bool) (missing []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range acked {
		if acked[n].Load() && !l.ever[int64(n)] {
			missing = append(missing, n)
		}
	}
	return missing
}

// post sends delivery n once. An answer other than 200 is no promise.
func (s *spooled) post(ctx context.Context, n int) (ok bool, took time.Duration) {
	body := fmt.Sprintf(`{"type":"post.updated","data":{"id":"%d","n":%d}}`, n%500, n)
	req, err := http.NewRequestWithContext(ctx, "POST", s.web.URL+"/webhooks/cms", strings.NewReader(body))
	if err != nil {
		return false, 0
	}
	req.Header.Set("X-Delivery-Id", strconv.Itoa(n))
	req.Header.Set("X-Webhook-Signature", sign(body))
	start := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return false, 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == 200, time.Since(start)
}

// settled waits until everything acknowledged was told, and returns what was not.
func (s *spooled) settled(acked []atomic.Bool, patience time.Duration) []int {
	deadline := time.Now().Add(patience)
	missing := s.log.missing(acked)
	for len(missing) > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // three processes settle; nothing signals that
		missing = s.log.missing(acked)
	}
	return missing
}

// TestNothingAcknowledgedIsLostWhenRedisForgets kills Redis, which keeps
// nothing on disk, and the receiver by turns, while deliveries come in. Every
// one that was answered 200 must reach the subscriber, and within one life of
// the store none may be applied twice.
func TestNothingAcknowledgedIsLostWhenRedisForgets(t *testing.T) {
	s := startSpooled(t)
	s.endure(t, fromEnv(t, "FRESHWIRE_TORTURE_DELIVERIES", 3_000), fromEnv(t, "FRESHWIRE_TORTURE_KILLS", 4), func(n int) {
		if n%2 == 0 {
			s.redis.Kill()
			s.redis.Start(t)
		} else {
			s.web.kill()
			s.web.run(t)
		}
	})
}

// TestNothingAcknowledgedIsLostWhenRedisRemembers does the same to a Redis that
// keeps nearly everything, and kills workers, too.
func TestNothingAcknowledgedIsLostWhenRedisRemembers(t *testing.T) {
	s := startSpooled(t, "--appendonly", "yes", "--appendfsync", "everysec")
	s.endure(t, 1_500, 3, func(n int) {
		switch n % 3 {
		case 0:
			s.redis.Kill()
			s.redis.Start(t)
		case 1:
			s.web.kill()
			s.web.run(t)
		case 2:
			s.worker.kill()
			s.worker.run(t)
		}
	})
}

// TestNothingAcknowledgedIsLostWhenAReplicaThatLagsTakesOver fails over to a
// replica that had stopped listening a moment before.
func TestNothingAcknowledgedIsLostWhenAReplicaThatLagsTakesOver(t *testing.T) {
	master := testkit.StartServer(t)
	door := newDoor(t, master.Addr)
	rdb := redis.NewClient(&redis.Options{Addr: door.addr})
	t.Cleanup(func() { rdb.Close() })
	follow := func() *testkit.Server {
		host, port, _ := strings.Cut(master.Addr, ":")
		replica := testkit.StartServer(t, "--replicaof", host+" "+port)
		testkit.Until(t, "the replica follows", func() bool {
			info, _ := replica.Client(t).Info(t.Context(), "replication").Result()
			return strings.Contains(info, "master_link_status:up")
		})
		return replica
	}
	replica := follow()
	s := startSpooledOn(t, "redis://"+door.addr, rdb)
	s.endure(t, 2_000, 2, func(int) {
		replica.Signal(syscall.SIGSTOP)
		time.Sleep(150 * time.Millisecond) // what comes now is lost with the master
		master.Kill()
		replica.Signal(syscall.SIGCONT)
		if err := replica.Client(t).Do(t.Context(), "replicaof", "no", "one").Err(); err != nil {
			t.Error(err)
		}
		master = replica
		door.lead(master.Addr)
		replica = follow()
	})
}

// door passes connections on to a server that may change.
type door struct {
	addr string

	mu    sync.Mutex
	to    string
	conns map[net.Conn]bool
}

func newDoor(t *testing.T, to string) *door {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{addr: l.Addr().String(), to: to, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); d.lead("") })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go d.pass(conn)
		}
	}()
	return d
}

// lead ends all connections and leads new ones to another server.
func (d *door) lead(to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to = to
	for conn := range d.conns {
		conn.Close()
	}
	clear(d.conns)
}

func (d *door) pass(in net.Conn) {
	defer in.Close()
	d.mu.Lock()
	to := d.to
	d.mu.Unlock()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	d.mu.Lock()
	current := d.to == to
	if current {
		d.conns[in], d.conns[out] = true, true
	}
	d.mu.Unlock()
	if !current {
		return
	}
	go func() {
		defer in.Close()
		io.Copy(in, out)
	}()
	io.Copy(out, in)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, in)
	delete(d.conns, out)
}

// endure sends deliveries, makes so many faults meanwhile, and judges.
func (s *spooled) endure(t *testing.T, deliveries, faults int, fault func(n int)) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	acked := make([]atomic.Bool, deliveries)
	var done, tries atomic.Int64
	progress := make(chan struct{}, 1)
	next := make(chan int)
	var senders sync.WaitGroup
	for i := range 16 {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		senders.Go(func() {
			for n := range next {
				for t.Context().Err() == nil { // as a CMS that repeats does
					tries.Add(1)
					if ok, _ := s.post(t.Context(), n); ok {
						break
					}
					time.Sleep(10 * time.Millisecond) // its pause before it sends again
				}
				acked[n].Store(true)
				if random.IntN(20) == 0 { // and as one that repeats what was answered
					tries.Add(1)
					s.post(t.Context(), n)
				}
				done.Add(1)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	go func() {
		defer close(next)
		for n := range deliveries {
			select {
			case next <- n:
			case <-t.Context().Done():
				return
			}
		}
	}()
	start := time.Now()
	made := 0
	for int(done.Load()) < deliveries {
		<-progress
		if made == faults || int(done.Load()) < (made+1)*deliveries/(faults+1) {
			continue
		}
		fault(made)
		made++
	}
	senders.Wait()
	took := time.Since(start)
	for ; made < faults; made++ { // also when nothing comes any more
		fault(made)
	}
	s.web.awaitReady(t)
	missing := s.settled(acked, time.Minute+time.Duration(deliveries)*5*time.Millisecond)
	ids, doubledInLog := s.logIDs(t)

	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	fmt.Printf("%s: %d deliveries acknowledged in %v (%d sent), %d faults; %d lost, %d applied twice; %d lives of the store, %d told again in a later one; %d in the last log, %d of them doubled\n",
		t.Name(), deliveries, took.Round(time.Second), tries.Load(), made, len(missing), s.log.doubled, s.log.lives+1, s.log.again, ids, doubledInLog)
	if len(missing) > 0 {
		t.Errorf("%d acknowledged deliveries were never applied, such as %v", len(missing), missing[:min(10, len(missing))])
	}
	if s.log.doubled > 0 || doubledInLog > 0 {
		t.Errorf("%d applied twice as told, %d in the log", s.log.doubled, doubledInLog)
	}
	if made != faults {
		t.Errorf("%d faults, want %d", made, faults)
	}
}

// logIDs reads the log of changes itself: how many there are, and how many of
// them have the id of an earlier one.
func (s *spooled) logIDs(t *testing.T) (ids, doubled int) {
	entries, err := s.log.rdb.XRange(t.Context(), logKey, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		var change struct{ ID string }
		data, _ := e.Values["d"].(string)
		if json.Unmarshal([]byte(data), &change) != nil || change.ID == "" {
			continue // the marker of a life
		}
		if seen[change.ID] {
			doubled++
		}
		seen[change.ID] = true
		ids++
	}
	return ids, doubled
}

func fromEnv(t *testing.T, name string, fallback int) int {
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// TestWebhooksAreAcknowledgedWhileRedisHangs stops Redis in the middle of a
// steady load. No sender may notice.
func TestWebhooksAreAcknowledgedWhileRedisHangs(t *testing.T) {
	frozen := time.Duration(fromEnv(t, "FRESHWIRE_TORTURE_FROZEN", 2)) * time.Second
	const every, senders = 5 * time.Millisecond, 8
	s := startSpooled(t)
	acked := make([]atomic.Bool, int((frozen+2*time.Second)/every))
	var mu sync.Mutex
	var took []time.Duration
	refused := 0
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range senders {
		wg.Go(func() {
			for n := i; n < len(acked); n += senders {
				time.Sleep(time.Until(begin.Add(time.Duration(n) * every))) // the load is steady, whatever the answers
				ok, d := s.post(t.Context(), n)
				acked[n].Store(ok)
				mu.Lock()
				took = append(took, d)
				if !ok {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	time.Sleep(time.Second)
	s.redis.Signal(syscall.SIGSTOP)
	time.Sleep(frozen)
	s.redis.Signal(syscall.SIGCONT)
	wg.Wait()
	missing := s.settled(acked, testkit.Patience)
	slices.Sort(took)
	fmt.Printf("%s: Redis stopped for %v; %d deliveries, %d refused, acknowledged after p50 %v, p99 %v, worst %v; %d lost\n", t.Name(), frozen, len(took), refused,
		took[len(took)/2].Round(10*time.Microsecond), took[len(took)*99/100].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond), len(missing))
	if refused > 0 || len(missing) > 0 {
		t.Errorf("%d refused, %d lost, want none", refused, len(missing))
	}
}

func TestDeliveryWaitsInTheJournalAcrossARestart(t *testing.T) {
	s := startSpooled(t)
	s.redis.Kill()
	acked := make([]atomic.Bool, 50)
	for n := range acked {
		ok, _ := s.post(t.Context(), n)
		if !ok {
			t.Fatalf("delivery %d is refused while Redis is away", n)
		}
		acked[n].Store(true)
	}
	s.web.kill()
	s.redis.Start(t)
	s.web.run(t)
	s.web.awaitReady(t)
	if missing := s.settled(acked, testkit.Patience); len(missing) > 0 {
		t.Errorf("lost %v", missing)
	}
	// A repeat is known across the restart.
	if status, _, answer := s.send(t, 7); status != 200 || !strings.Contains(answer, "duplicate") {
		t.Errorf("the repeat: %d %s, want 200 duplicate", status, answer)
	}
}

func (s *spooled) send(t *testing.T, n int) (int, http.Header, string) {
	body := fmt.Sprintf(`{"type":"post.updated","data":{"id":"%d","n":%d}}`, n%500, n)
	return call(t, "POST", s.web.URL+"/webhooks/cms", body, "X-Delivery-Id", strconv.Itoa(n), "X-Webhook-Signature", sign(body))
}

func TestSameDeliveryManyTimesAtOnceHasOneEffect(t *testing.T) {
	s := startSpooled(t)
	acked := make([]atomic.Bool, 40)
	for n := range acked {
		var queued atomic.Int64
		var wg sync.WaitGroup
		for range 1 + n%5 {
			wg.Go(func() {
				if status, _, answer := s.send(t, n); status == 200 && strings.Contains(answer, "queued") {
					queued.Add(1)
				}
			})
		}
		wg.Wait()
		acked[n].Store(true)
		if queued.Load() != 1 {
			t.Errorf("delivery %d was called queued %d times, want once", n, queued.Load())
		}
	}
	if missing := s.settled(acked, testkit.Patience); len(missing) > 0 {
		t.Errorf("lost %v", missing)
	}
	if ids, doubled := s.logIDs(t); ids != len(acked) || doubled > 0 {
		t.Errorf("%d in the log, %d doubled, want %d and 0", ids, doubled, len(acked))
	}
}

func TestTwoProcessesNeverShareAJournal(t *testing.T) {
	s := startSpooled(t)
	second := &process{role: "web", out: &logBuffer{}}
	second.env = append(slices.Clone(s.web.env), "FRESHWIRE_ADDR="+testkit.FreeAddr(t))
	second.run(t)
	if err := second.cmd.Wait(); second.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(second.out.String(), "FRESHWIRE_SPOOL_DIR") {
		t.Errorf("the second process: %v, %s; want exit 1 that names FRESHWIRE_SPOOL_DIR", err, second.out.tail(5))
	}
	second.cmd = nil
	if ok, _ := s.post(t.Context(), 1); !ok {
		t.Error("the first process does not take deliveries any more")
	}
}

func TestReplicatedAckNeedsAReplica(t *testing.T) {
	for name, extra := range map[string][]string{"with a journal": {"FRESHWIRE_SPOOL_DIR=" + t.TempDir()}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			p, server, _ := oneNode(t, append(extra, "FRESHWIRE_ACK=replicated")...)
			body := `{"type":"post.updated","data":{"id":"1"}}`
			if status, head, _ := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); status != 503 || head.Get("Retry-After") == "" {
				t.Errorf("without a replica: %d, want 503 with Retry-After", status)
			}
			host, port, _ := strings.Cut(server.Addr, ":")
			replica := testkit.StartServer(t, "--replicaof", host+" "+port)
			testkit.Until(t, "the replica follows", func() bool {
				rdb := redis.NewClient(&redis.Options{Addr: replica.Addr})
				defer rdb.Close()
				info, _ := rdb.Info(t.Context(), "replication").Result()
				return strings.Contains(info, "master_link_status:up")
			})
			testkit.Until(t, "a delivery is acknowledged", func() bool {
				status, _, _ := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body))
				return status == 200
			})
		})
	}
}
