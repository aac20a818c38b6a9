package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

const (
	secret = "e2e-secret-of-32-characters-long"
	posts  = 20
)

// TestPromiseHolds runs two of each role on one real Redis and on a cluster of
// three masters, edits, reads and listens from outside, and kills processes
// with -9 meanwhile. Nobody may read older content than a subscriber had been
// told of, and every acknowledged edit must reach every subscriber.
func TestPromiseHolds(t *testing.T) {
	t.Run("standalone", func(t *testing.T) { testPromise(t, testkit.StartServer(t).URL(), true) })
	t.Run("cluster", func(t *testing.T) {
		testPromise(t, "redis+cluster://"+strings.Join(testkit.StartCluster(t), ","), true)
	})
}

// site is the outside world: a CMS with its API, and what everybody saw.
type site struct {
	origin *httptest.Server
	webs   []*process
	listen []*process // who serves streams

	version [posts]atomic.Int64 // committed in the CMS
	told    [posts]atomic.Int64 // the newest that any subscriber was told of

	mu    sync.Mutex
	acked map[string]bool // "post:version" of acknowledged deliveries

	reads, stale, failedReads, refused atomic.Int64
}

func testPromise(t *testing.T, redisURL string, kills bool) {
	length := 6 * time.Second
	if s := os.Getenv("FRESHWIRE_TORTURE_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("FRESHWIRE_TORTURE_SECONDS=%q is no number", s)
		}
		length = time.Duration(n) * time.Second
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	s := &site{acked: map[string]bool{}}
	s.origin = httptest.NewServer(http.HandlerFunc(s.serveAPI))
	t.Cleanup(s.origin.Close)
	config := configFile(t, fmt.Sprintf(`
sources:
  cms:
    cms: generic
    scheme: hmac
    header: X-Webhook-Signature
    prefix: "sha256="
    delivery_id_header: X-Delivery-Id
    secret: %s
rules:
  - on: ["post.*"]
    fields: { version: payload.data.version }
routes:
  - path: /api/posts/{id}
    origin: %s/posts/{id}
    key: post:{id}
    tags: ["posts", "post:{id}"]
    ttl: 5m
`, secret, s.origin.URL))

	var all []*process
	for _, role := range []string{"web", "web", "worker", "worker", "sse", "sse"} {
		p := start(t, role, "REDIS_URL="+redisURL, "FRESHWIRE_CONFIG="+config, "LOG_LEVEL=warn")
		all = append(all, p)
		switch role {
		case "web":
			s.webs = append(s.webs, p)
			s.listen = append(s.listen, p)
		case "sse":
			s.listen = append(s.listen, p)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	subscribers := make([]*subscriber, 6)
	var listeners sync.WaitGroup
	for i := range subscribers {
		sub := &subscriber{site: s, nodes: s.listen, random: rand.New(rand.NewPCG(seed, uint64(100+i))), seen: map[string]bool{}, started: make(chan struct{})}
		subscribers[i] = sub
		listeners.Go(func() { sub.run(ctx) })
	}
	for _, sub := range subscribers {
		testkit.Wait(t, sub.started, "a subscriber to be ready")
	}

	editing, stop := context.WithTimeout(ctx, length)
	defer stop()
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() { s.edit(editing, ctx, rand.New(rand.NewPCG(seed, uint64(200+i)))) })
	}
	for i := range 8 {
		work.Go(func() { s.read(editing, rand.New(rand.NewPCG(seed, uint64(300+i)))) })
	}
	killed := 0
	for kills && editing.Err() == nil {
		select {
		case <-time.After(time.Duration(500+random.IntN(1000)) * time.Millisecond):
			victim := all[random.IntN(len(all))]
			victim.kill()
			killed++
			victim.run(t)
			victim.awaitReady(t)
		case <-editing.Done():
		}
	}
	work.Wait()

	// A task whose worker was killed is found again when its lease ends (30 s).
	deadline := time.Now().Add(75 * time.Second)
	missing := s.missing(subscribers)
	for len(missing) > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // six processes settle; nothing signals that
		missing = s.missing(subscribers)
	}
	cancel()
	listeners.Wait()

	resets, doubled := 0, 0
	for _, sub := range subscribers {
		resets += sub.resets
		doubled += sub.repeats
	}
	fmt.Printf("%s: %d edits acknowledged, %d lost; %d reads, %d stale, %d refused or failed; %d kills, %d resets, %d repeated notifications, %d deliveries sent again\n",
		t.Name(), len(s.acked), len(missing), s.reads.Load(), s.stale.Load(), s.failedReads.Load(), killed, resets, doubled, s.refused.Load())
	if len(s.acked) == 0 || s.reads.Load() == 0 {
		t.Fatal("nothing happened, so nothing was tested")
	}
	if n := s.stale.Load(); n > 0 {
		t.Errorf("%d reads were older than what a subscriber had been told", n)
	}
	if len(missing) > 0 {
		t.Errorf("%d acknowledged edits did not reach every subscriber: %.10q", len(missing), missing)
	}
	order := subscribers[0].order
	for i, sub := range subscribers[1:] {
		if resets == 0 && !slices.Equal(order, sub.order) {
			t.Errorf("subscriber %d saw another order than subscriber 0: %d and %d changes", i+1, len(sub.order), len(order))
		}
	}
}

// serveAPI is the CMS's API. It reads the content at once and answers later,
// so that old content is often on its way while an edit happens.
func (s *site) serveAPI(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/posts/"))
	if err != nil || id < 0 || id >= posts {
		http.NotFound(w, r)
		return
	}
	v := s.version[id].Load()
	time.Sleep(rand.N(8 * time.Millisecond)) // the work of an origin
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"id":"%d","version":%d}`, id, v)
}

// edit changes content, and delivers the webhook until it is acknowledged, as
// a CMS that repeats does.
func (s *site) edit(ctx, whole context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		id := random.IntN(posts)
		v := s.version[id].Add(1)
		body := fmt.Sprintf(`{"type":"post.updated","data":{"id":"%d","slug":"post-%d","version":%d}}`, id, id, v)
		for whole.Err() == nil {
			if s.deliver(whole, s.webs[random.IntN(len(s.webs))], body, fmt.Sprintf("%d-%d", id, v)) {
				s.mu.Lock()
				s.acked[fmt.Sprintf("%d:%d", id, v)] = true
				s.mu.Unlock()
				break
			}
			s.refused.Add(1)
			time.Sleep(20 * time.Millisecond) // the CMS's pause before it sends again
		}
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond) // an editor thinks
	}
}

func (s *site) deliver(ctx context.Context, web *process, body, delivery string) bool {
	req, err := http.NewRequestWithContext(ctx, "POST", web.URL+"/webhooks/cms", strings.NewReader(body))
	if err != nil {
		return false
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Delivery-Id", delivery)
	req.Header.Set("X-Webhook-Signature", sign(body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == 200
}

// read judges: no answer may be older than what had been told before it was asked for.
func (s *site) read(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		id := random.IntN(posts)
		atLeast := s.told[id].Load()
		resp, err := http.Get(s.webs[random.IntN(len(s.webs))].URL + "/api/posts/" + strconv.Itoa(id))
		if err != nil {
			s.failedReads.Add(1)
			time.Sleep(10 * time.Millisecond) // the node is being restarted
			continue
		}
		var post struct{ Version int64 }
		err = json.NewDecoder(resp.Body).Decode(&post)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			s.failedReads.Add(1)
			continue
		}
		s.reads.Add(1)
		if post.Version < atLeast {
			s.stale.Add(1)
		}
	}
}

// missing returns acknowledged edits that some subscriber has not been told of.
func (s *site) missing(subscribers []*subscriber) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []string
	for edit := range s.acked {
		for _, sub := range subscribers {
			if !sub.knows(edit) {
				missing = append(missing, edit)
				break
			}
		}
	}
	return missing
}

// subscriber is a browser: it listens, reconnects to any node and resumes.
type subscriber struct {
	site    *site
	nodes   []*process
	random  *rand.Rand
	started chan struct{}

	mu      sync.Mutex
	seen    map[string]bool
	order   []string // each edit once, in the order told
	repeats int
	resets  int
}

func (s *subscriber) knows(edit string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[edit]
}

func (s *subscriber) run(ctx context.Context) {
	last, begun := "", false
	for ctx.Err() == nil {
		frames := make(chan frame)
		done := make(chan struct{})
		node := s.nodes[s.random.IntN(len(s.nodes))]
		go func() {
			defer close(done)
			stream(ctx, node.URL+"/api/events?channel=post", last, frames) // an error means: reconnect
		}()
	connected:
		for {
			select {
			case f := <-frames:
				if f.id != "" {
					last = f.id
				}
				s.take(f)
				if f.event == "ready" && !begun {
					begun = true
					close(s.started)
				}
			case <-done:
				break connected
			}
		}
		select {
		case <-time.After(20 * time.Millisecond): // a browser's pause before it reconnects
		case <-ctx.Done():
		}
	}
}

func (s *subscriber) take(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.event == "reset" {
		s.resets++
	}
	if f.event != "" {
		return
	}
	var change struct {
		Entity string
		Fields struct{ Version int64 }
	}
	if json.Unmarshal([]byte(f.data), &change) != nil {
		return
	}
	id, err := strconv.Atoi(change.Entity)
	if err != nil {
		return
	}
	edit := fmt.Sprintf("%d:%d", id, change.Fields.Version)
	if s.seen[edit] {
		s.repeats++
		return
	}
	s.seen[edit] = true
	s.order = append(s.order, edit)
	raise(&s.site.told[id], change.Fields.Version)
}

func raise(v *atomic.Int64, to int64) {
	for {
		old := v.Load()
		if to <= old || v.CompareAndSwap(old, to) {
			return
		}
	}
}

// A judge that cannot find fault proves nothing: here is a node that serves
// old content, and a subscriber that was told too little.
func TestJudgeFindsStaleReadsAndLostEdits(t *testing.T) {
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version":6}`) }))
	defer old.Close()
	s := &site{webs: []*process{{URL: old.URL}}, acked: map[string]bool{"3:7": true, "3:8": true}}
	for i := range posts {
		s.told[i].Store(7)
	}
	sub := &subscriber{site: s, seen: map[string]bool{}}
	sub.take(frame{data: `{"entity":"3","fields":{"version":7}}`})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s.read(ctx, rand.New(rand.NewPCG(1, 1)))
	if s.reads.Load() == 0 || s.stale.Load() != s.reads.Load() {
		t.Errorf("of %d old answers %d were called stale", s.reads.Load(), s.stale.Load())
	}
	if got := s.missing([]*subscriber{sub}); !slices.Equal(got, []string{"3:8"}) {
		t.Errorf("missing = %q, want 3:8 alone", got)
	}
	if s.told[3].Load() != 7 {
		t.Errorf("told of post 3 = %d, want 7", s.told[3].Load())
	}
}
