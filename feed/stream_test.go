package feed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/sse"
	"github.com/redis/go-redis/v9"
)

// node is one stream node: a tail, a hub, and a server.
type node struct {
	log *feed.Log
	hub *sse.Hub
	url string
}

func startNode(t *testing.T, rdb redis.UniversalClient, cfg sse.Config, tail func(context.Context, *feed.Log, feed.Sink) error) *node {
	cfg.ResetSpread = 1
	n := &node{log: feed.New(rdb, testkit.Logger(t), feed.Config{Block: 50 * time.Millisecond}), hub: sse.NewHub(testkit.Logger(t), cfg)}
	if tail == nil {
		tail = func(ctx context.Context, l *feed.Log, s feed.Sink) error { return l.Tail(ctx, s) }
	}
	s := httptest.NewServer(sse.NewHandler(n.hub, n.log.Range, testkit.Logger(t), cfg))
	n.url = s.URL
	testkit.Go(t, func(ctx context.Context) error { return tail(ctx, n.log, n.hub) })
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return n
}

// browser is an EventSource that is cut at random and resumes by its last id,
// on any node. It remembers what it was told since its last reset.
type browser struct {
	channel string
	nodes   []*node
	lastID  string

	mu     sync.Mutex
	told   []string // event ids, in order, over all connections
	resets []string
}

// listen follows the stream until ctx ends, cutting each connection when cut says so.
func (b *browser) listen(ctx context.Context, cut func() time.Duration) {
	for ctx.Err() == nil {
		conn, cancel := context.WithTimeout(ctx, cut())
		b.connect(conn)
		cancel()
	}
}

func (b *browser) connect(ctx context.Context) {
	n := b.nodes[rand.IntN(len(b.nodes))]
	req, _ := http.NewRequestWithContext(ctx, "GET", n.url+"/api/events?channel="+b.channel, nil)
	if b.lastID != "" {
		req.Header.Set("Last-Event-ID", b.lastID)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	for events := sse.NewReader(res.Body); ; {
		m, err := events.Next()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.lastID = events.LastEventID()
		switch m.Name {
		case "reset":
			b.resets = append(b.resets, m.Data)
			b.told = nil
		case "":
			var c event.Change
			if json.Unmarshal([]byte(m.Data), &c) == nil {
				ids := c.IDs
				if len(ids) == 0 {
					ids = []string{c.ID}
				}
				b.told = append(b.told, ids...)
			}
		}
		b.mu.Unlock()
	}
}

func (b *browser) state() (told, resets []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.told), slices.Clone(b.resets)
}

func (b *browser) position() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lastID
}

func publish(t *testing.T, l *feed.Log, id string, channels ...string) event.Position {
	t.Helper()
	at, _, err := l.Append(context.Background(), event.Change{ID: id, Seq: 1, Event: "post.update", Source: "blog", Type: "post", Action: event.Update, Channels: channels, At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func ready(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		testkit.Until(t, "the node is ready", n.log.Ready)
	}
}

// reconnecting runs clients that are cut at random while changes are appended,
// and returns what is wrong with what they were told.
func reconnecting(t *testing.T, rdb func() redis.UniversalClient, clients, changes int, cfg sse.Config, tail func(context.Context, *feed.Log, feed.Sink) error) error {
	nodes := []*node{startNode(t, rdb(), cfg, tail), startNode(t, rdb(), cfg, tail)}
	for _, n := range nodes {
		testkit.Until(t, "the node has a position", func() bool { return !n.hub.Position().IsZero() && !n.log.Position().IsZero() })
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var browsers []*browser
	var calm atomic.Bool // nobody is cut any more
	for i := range clients {
		b := &browser{channel: []string{"posts", "others"}[i%2], nodes: nodes, lastID: nodes[0].log.Position().String()}
		browsers = append(browsers, b)
		wg.Go(func() {
			b.listen(ctx, func() time.Duration {
				if calm.Load() {
					return time.Hour
				}
				return time.Duration(1+rand.IntN(500)) * time.Millisecond
			})
		})
	}
	writer := feed.New(rdb(), testkit.Logger(t), feed.Config{})
	want := map[string][]string{}
	pace := time.NewTicker(3 * time.Millisecond) // so that cuts fall between changes
	defer pace.Stop()
	for i := range changes {
		<-pace.C
		ch := []string{"posts", "others"}[rand.IntN(2)]
		id := fmt.Sprint("e", i)
		publish(t, writer, id, ch)
		want[ch] = append(want[ch], id)
	}
	for _, ch := range []string{"posts", "others"} {
		publish(t, writer, "end-"+ch, ch)
		want[ch] = append(want[ch], "end-"+ch)
	}
	calm.Store(true)
	defer func() { cancel(); wg.Wait() }()
	deadline := time.Now().Add(testkit.Patience)
	for _, b := range browsers {
		for {
			told, resets := b.state()
			if len(resets) > 0 {
				return fmt.Errorf("a client was reset: %v", resets)
			}
			if len(told) > 0 && told[len(told)-1] == "end-"+b.channel {
				if !slices.Equal(told, want[b.channel]) {
					return fmt.Errorf("a client was told of %d changes, want the %d of its channel, each once, in order", len(told), len(want[b.channel]))
				}
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("a client was never told of the last change: %d of %d, it stands at %s", len(told), len(want[b.channel]), b.position())
			}
			<-pace.C
		}
	}
	return nil
}

func TestTwoHundredClientsCutAtRandomMissNothing(t *testing.T) {
	s := testkit.StartServer(t)
	rdb := func() redis.UniversalClient { return s.Client(t) }
	// A ring of 20 sends many of them to the log.
	if err := reconnecting(t, rdb, 200, 300, sse.Config{RingLen: 20, MergeOver: 10}, nil); err != nil {
		t.Error(err)
	}
}

// The checker must catch a tail that, as many do, goes on with "$" after a break.
func TestCheckerCatchesATailThatSkips(t *testing.T) {
	s := testkit.StartServer(t)
	rdb := func() redis.UniversalClient { return s.Client(t) }
	broken := func(ctx context.Context, l *feed.Log, sink feed.Sink) error {
		rdb := s.Client(t)
		short, cancel := context.WithCancel(ctx)
		go func() {
			defer cancel()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for !l.Ready() && ctx.Err() == nil {
				<-tick.C
			}
		}()
		l.Tail(short, sink)
		from, n := "$", 0
		for ctx.Err() == nil {
			res, err := rdb.XRead(ctx, &redis.XReadArgs{Streams: []string{"fw:{fw}:log", from}, Block: 20 * time.Millisecond, Count: 1}).Result()
			if err != nil {
				continue
			}
			m := res[0].Messages[0]
			at, _ := event.ParsePosition(m.ID)
			sink.Broadcast([]event.Record{{Position: at, Channels: strings.Split(m.Values["c"].(string), "\n"), Data: []byte(m.Values["d"].(string))}})
			from = m.ID
			if n++; n < 200 && n%10 == 0 {
				from = "$" // the link broke
				<-time.After(10 * time.Millisecond)
			}
		}
		return nil
	}
	if err := reconnecting(t, rdb, 10, 300, sse.Config{}, broken); err == nil {
		t.Error("a tail that skips passed the check")
	}
}

func TestClusterServesTheStream(t *testing.T) {
	addrs := testkit.StartCluster(t)
	rdb := func() redis.UniversalClient {
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
		t.Cleanup(func() { c.Close() })
		return c
	}
	if err := reconnecting(t, rdb, 20, 200, sse.Config{RingLen: 20, MergeOver: 10}, nil); err != nil {
		t.Error(err)
	}
}

// Whatever a page read last, Freshwire-Position was captured before: a
// subscriber from there is told of everything that the page may lack.
func TestSubscriberFromACapturedPositionMissesNothing(t *testing.T) {
	s := testkit.StartServer(t)
	web, stream := startNode(t, s.Client(t), sse.Config{}, nil), startNode(t, s.Client(t), sse.Config{RingLen: 5}, nil)
	ready(t, web, stream)
	writer := feed.New(s.Client(t), testkit.Logger(t), feed.Config{})
	for i := range 30 {
		publish(t, writer, fmt.Sprint("before", i), "posts")
		captured := web.log.Position()
		id := fmt.Sprint("after", i)
		if at := publish(t, writer, id, "posts"); captured.Compare(at) >= 0 {
			t.Fatalf("position %v was captured before %v was in the log", captured, at)
		}
		ctx, cancel := context.WithCancel(t.Context())
		b := &browser{channel: "posts", nodes: []*node{stream}, lastID: captured.String()}
		done := make(chan struct{})
		go func() { defer close(done); b.connect(ctx) }()
		testkit.Until(t, "the change is told", func() bool {
			told, _ := b.state()
			return slices.Contains(told, id)
		})
		if _, resets := b.state(); len(resets) > 0 {
			t.Errorf("the subscriber was reset: %v", resets)
		}
		cancel()
		<-done
	}
}

func TestKilledRedisIsToldAndTheStreamGoesOn(t *testing.T) {
	s := testkit.StartServer(t)
	n := startNode(t, s.Client(t), sse.Config{}, nil)
	ready(t, n)
	writer := feed.New(s.Client(t), testkit.Logger(t), feed.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	live := &browser{channel: "posts", nodes: []*node{n}}
	wg.Go(func() { live.connect(ctx) })
	testkit.Until(t, "a subscriber", func() bool { return n.hub.Subscribers() == 1 })
	away := &browser{channel: "posts", nodes: []*node{n}, lastID: publish(t, writer, "a", "posts").String()}
	testkit.Until(t, "a is told", func() bool { told, _ := live.state(); return slices.Contains(told, "a") })

	s.Kill()
	testkit.Until(t, "the node is not ready", func() bool { return !n.log.Ready() })
	s.Start(t)
	ready(t, n)
	testkit.Until(t, "the reset is told", func() bool { _, resets := live.state(); return len(resets) == 1 })
	if _, resets := live.state(); resets[0] != `{"reason":"store_changed"}` {
		t.Errorf("reset with %v", resets)
	}
	publish(t, writer, "b", "posts")
	wg.Go(func() { away.connect(ctx) })
	testkit.Until(t, "b is told to who stayed", func() bool { told, _ := live.state(); return slices.Equal(told, []string{"b"}) })
	testkit.Until(t, "who was away is reset", func() bool { _, resets := away.state(); return len(resets) == 1 })
}

func TestClientThatStayedAwayTooLongIsReset(t *testing.T) {
	s := testkit.StartServer(t, "--stream-node-max-entries", "1")
	n := startNode(t, s.Client(t), sse.Config{RingLen: 3}, nil)
	ready(t, n)
	writer := feed.New(s.Client(t), testkit.Logger(t), feed.Config{MaxLen: 10})
	b := &browser{channel: "posts", nodes: []*node{n}, lastID: publish(t, writer, "a", "posts").String()}
	var last event.Position
	for i := range 50 {
		last = publish(t, writer, fmt.Sprint(i), "posts")
	}
	testkit.Until(t, "the node has all", func() bool { return n.log.Position() == last })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.connect(ctx) }()
	testkit.Until(t, "the client is reset", func() bool {
		_, resets := b.state()
		return slices.Equal(resets, []string{`{"reason":"history_lost"}`})
	})
	cancel()
	<-done
	if told, _ := b.state(); b.lastID != last.String() || len(told) > 0 {
		t.Errorf("the client stands at %s with %v, want %v: the next reconnect must not reset again", b.lastID, told, last)
	}
}

func TestTailEndsWithItsContext(t *testing.T) {
	l := feed.New(testkit.Redis(t), testkit.Logger(t), feed.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Tail(ctx, sse.NewHub(testkit.Discard(), sse.Config{})) }()
	testkit.Until(t, "Ready", l.Ready)
	cancel()
	if err := testkit.Wait(t, done, "Tail to return"); err != nil || l.Ready() {
		t.Errorf("Tail = %v, Ready = %v", err, l.Ready())
	}
}
