package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
)

// checker is a browser that keeps account of what it was told. It reconnects
// as EventSource does: with its last id, after the pause that the stream asked
// for, and never again after an answer other than 200.
type checker struct {
	book     *book
	nodes    func() []string // host:port, as a balancer knows them
	dial     dialer
	http2    *http.Client // nil: HTTP/1.1 by dial
	channels uint64
	query    string

	mu       sync.Mutex
	account  account
	last     string // id of the last event that had one
	begun    bool   // it was told where it starts
	open     bool
	opened   time.Time // of the newest stream, once it is ready
	opens    int
	goaways  int
	faults   []error // what no client may see
	latency  []time.Duration
	measures bool // keep latency
}

// crowd is many checkers of one book.
type crowd struct {
	book   *book
	all    []*checker
	cancel context.CancelFunc
	done   sync.WaitGroup

	patience time.Duration // with clients that settle

	mu    sync.Mutex
	nodes []string
}

// newCrowd makes n checkers, which listen to channels (of the i-th) on nodes,
// until the test ends.
func newCrowd(t testing.TB, b *book, n int, nodes []*process, channels func(i int) []int) *crowd {
	t.Helper()
	return newCrowdOf(t, b, n, nodes, channels, func(int, *checker) {})
}

// newCrowdOf is newCrowd with clients that are made special first.
func newCrowdOf(t testing.TB, b *book, n int, nodes []*process, channels func(i int) []int, special func(i int, k *checker)) *crowd {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{book: b, cancel: cancel, patience: time.Minute} // the machine may be busy
	c.meet(nodes...)
	for i := range n {
		set := channels(i)
		query := url.Values{}
		for _, ch := range set {
			query.Add("channel", channelName(ch))
		}
		k := &checker{book: b, nodes: c.balanced, dial: dialTCP, channels: bits(set...), query: query.Encode()}
		special(i, k)
		c.all = append(c.all, k)
	}
	t.Cleanup(c.leave)
	for _, k := range c.all {
		c.done.Go(func() { k.run(ctx) })
	}
	c.await(t, "all clients listen", func(k *checker) bool { return k.begun })
	return c
}

// from makes the first stream of k begin at a position.
func (k *checker) from(at event.Position) {
	k.last, k.begun = at.String(), true
	k.account.start, k.account.channels = at, k.channels
}

// meet sets the nodes that the crowd's balancer knows.
func (c *crowd) meet(nodes ...*process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = nil
	for _, p := range nodes {
		c.nodes = append(c.nodes, p.addr())
	}
}

func (c *crowd) balanced() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes
}

// leave ends all clients.
func (c *crowd) leave() {
	c.cancel()
	c.done.Wait()
}

// await waits until cond, which may look at what mu guards, holds for every client.
func (c *crowd) await(t testing.TB, what string, cond func(*checker) bool) {
	t.Helper()
	if n := c.waitFor(t.Context(), cond); n > 0 {
		t.Errorf("waited in vain until %s: not so for %d of %d", what, n, len(c.all))
		c.complain(t)
		t.FailNow()
	}
}

// waitFor returns for how many clients cond did not come to hold in time.
func (c *crowd) waitFor(ctx context.Context, cond func(*checker) bool) (without int) {
	deadline := time.Now().Add(c.patience)
	left := slices.Clone(c.all)
	for {
		left = slices.DeleteFunc(left, func(k *checker) bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return cond(k)
		})
		if len(left) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			return len(left)
		}
		rest(ctx, 10*time.Millisecond) // thousands of clients settle; nothing signals that
	}
}

// complain prints what no client may see, or the first of it.
func (c *crowd) complain(t testing.TB) {
	t.Helper()
	n := 0
	for i, k := range c.all {
		k.mu.Lock()
		for _, err := range k.faults {
			if n++; n <= 5 {
				t.Errorf("client %d: %v", i, err)
			}
		}
		k.mu.Unlock()
	}
	if n > 5 {
		t.Errorf("and %d more", n-5)
	}
}

// total is what all clients of a crowd were told.
type total struct {
	verdict
	clients, opens, goaways, wrong int
	latency                        spread
}

func (v total) String() string {
	return fmt.Sprintf("%d clients, %d streams, %d changes told, %d missed, %d repeated, %d resets (%d changes excused), %d goaways",
		v.clients, v.opens, v.told, v.wrong, v.repeats, v.resets, v.excused, v.goaways)
}

// verdict waits until everything has been told, ends the clients and judges
// what each was told. Whatever is wrong with one fails the test.
func (c *crowd) verdict(t testing.TB) total {
	t.Helper()
	v, errs := c.judge(t)
	for i, err := range errs {
		if i == 5 {
			t.Errorf("and %d more", len(errs)-i)
			break
		}
		t.Error(err)
	}
	c.complain(t)
	return v
}

// judge returns what is wrong with what clients were told, and v.wrong of them.
func (c *crowd) judge(t testing.TB) (v total, errs []error) {
	c.waitFor(t.Context(), func(k *checker) bool {
		at, err := event.ParsePosition(k.last)
		return err == nil && at.Compare(c.book.last(k.channels)) >= 0
	})
	c.leave()
	for i, k := range c.all {
		one, err := c.book.judge(k.account)
		v.told, v.repeats, v.resets, v.excused = v.told+one.told, v.repeats+one.repeats, v.resets+one.resets, v.excused+one.excused
		v.clients, v.opens, v.goaways = v.clients+1, v.opens+k.opens, v.goaways+k.goaways
		v.latency = append(v.latency, k.latency...)
		if err != nil {
			v.wrong++
			errs = append(errs, fmt.Errorf("client %d: %w", i, err))
		}
	}
	return v, errs
}

// firstRetry is a browser's own pause, before a stream asks for another.
const firstRetry = time.Second

func (k *checker) run(ctx context.Context) {
	pause := firstRetry
	for ctx.Err() == nil {
		err := k.follow(ctx, &pause)
		if ctx.Err() != nil {
			return
		}
		k.mu.Lock()
		k.open = false
		if !ended(err) {
			k.faults = append(k.faults, fmt.Errorf("after %s: %w", k.last, err))
		}
		k.mu.Unlock()
		if errors.As(err, new(statusError)) {
			return // EventSource gives up for good
		}
		rest(ctx, pause)
	}
}

var errNoNode = errors.New("the balancer knows no node")

// follow opens one stream on any node and follows it to its end.
func (k *checker) follow(ctx context.Context, pause *time.Duration) error {
	var w *wire
	var err error
	nodes := k.nodes()
	for _, i := range rand.Perm(len(nodes)) { // a balancer asks another when one is down
		if w, err = k.ask(ctx, nodes[i]); err == nil || errors.As(err, new(statusError)) {
			break
		}
	}
	if w == nil {
		return cmp.Or(err, errNoNode)
	}
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer stop()
	defer w.Close()
	for {
		e, err := w.next()
		if err != nil {
			return err
		}
		if e.retry > 0 {
			*pause = e.retry
		}
		if e.hasData {
			if err := k.take(e); err != nil {
				return err
			}
		}
	}
}

func (k *checker) ask(ctx context.Context, node string) (*wire, error) {
	switch {
	case k.http2 != nil:
		return openOverHTTP2(ctx, k.http2, node, k.query, k.last)
	case k.last != "":
		return openWire(ctx, k.dial, node, k.query, "Last-Event-ID: "+k.last+"\r\n")
	}
	return openWire(ctx, k.dial, node, k.query, "")
}

// take notes what one event says.
func (k *checker) take(e told) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.name == "ping" {
		return nil
	}
	if e.name == "goaway" {
		k.goaways++
		return nil
	}
	at, err := event.ParsePosition(e.id)
	if err != nil {
		return err
	}
	if !k.begun {
		k.begun, k.account.start, k.account.channels = true, at, k.channels
	}
	switch e.name {
	case "ready":
		k.open, k.opened = true, time.Now()
		k.opens++
		k.account.notes = append(k.account.notes, note{pos: at, kind: noteReady})
	case "reset":
		k.account.notes = append(k.account.notes, note{pos: at, kind: noteReset})
	default:
		if !k.open {
			return protocolError("a change before ready")
		}
		numbers, err := changeNumbers(e.data)
		if err != nil {
			return err
		}
		for _, n := range numbers {
			k.account.notes = append(k.account.notes, note{pos: at, n: n})
		}
		if k.measures {
			k.latency = append(k.latency, time.Since(k.book.sent(numbers[0])))
		}
	}
	k.last = e.id
	return nil
}

// changeNumbers returns the numbers of the changes that one notification
// stands for, as book.publish made them.
func changeNumbers(data []byte) (numbers []int32, err error) {
	ids := []byte{}
	if _, after, merged := bytes.Cut(data, []byte(`"ids":[`)); merged {
		ids, _, _ = bytes.Cut(after, []byte("]"))
	} else if after, ok := bytes.CutPrefix(data, []byte(`{"id":`)); ok {
		ids, _, _ = bytes.Cut(after, []byte(","))
	}
	for id := range bytes.SplitSeq(ids, []byte(",")) {
		n, err := strconv.Atoi(string(bytes.TrimSuffix(bytes.TrimPrefix(id, []byte(`"e`)), []byte(`"`))))
		if err != nil {
			return nil, protocolError(fmt.Sprintf("a change that says %.100q", data))
		}
		numbers = append(numbers, int32(n))
	}
	return numbers, nil
}

// rest waits for a pause, or for the end of ctx.
func rest(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// spread is how long things took.
type spread []time.Duration

// at returns the duration that a part p of all did not exceed.
func (s spread) at(p float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	slices.Sort(s)
	return s[min(len(s)-1, int(p*float64(len(s))))].Round(10 * time.Microsecond)
}

func (s spread) String() string {
	return fmt.Sprintf("p50 %v, p99 %v, max %v", s.at(.5), s.at(.99), s.at(1))
}
