//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// target is how a server is reached.
type target struct {
	Addr        string
	Path        string // of the subscription
	ReadyEvent  bool   // it says when a client is subscribed
	PublishPath string // of a POST; or
	Redis       string // address of the Redis whose log is appended to
	LogLen      int64  `json:",omitempty"` // messages that the log keeps; 0: its default
}

// job is one measurement of one server. It runs in a process of its own, on
// the core of the load.
type job struct {
	Kind   string
	Target target
	PID    int // of the server
	Redis  int // pid of its Redis; 0: it has none

	Few, Many int           // connections of idle
	N         int           // subscribers, or clients that resume
	Missed    int           // messages before they do
	Rate      float64       // messages a second; 0: as many as are delivered
	Warm      time.Duration // not measured
	Length    time.Duration
	Settle    time.Duration // before memory is looked at
}

// The kinds of jobs.
const (
	jobIdle   = "idle"
	jobFanOut = "fan-out"
	jobReplay = "replay"
	jobGap    = "gap"
)

// result is what a job found, each kind its own part.
type result struct {
	// idle
	EmptyPSS, FewPSS, ManyPSS int64         `json:",omitempty"` // bytes
	BytesFew, BytesMany       float64       `json:",omitempty"` // a connection, beyond the empty server
	Setup                     float64       `json:",omitempty"` // connections a second
	SetupCPU                  time.Duration `json:",omitempty"` // of the server, a connection
	ToAll                     time.Duration `json:",omitempty"` // one message to all of Many

	// fan-out
	Deliveries      float64       `json:",omitempty"` // a second
	Published       int           `json:",omitempty"`
	CPU             time.Duration `json:",omitempty"` // of the server, a delivery
	RedisCPU        time.Duration `json:",omitempty"` // of its Redis, a message, publishing included
	P50, P99, Worst time.Duration `json:",omitempty"` // from before publishing to arrival
	Reply           time.Duration `json:",omitempty"` // median until the publisher has its reply
	LoadBusy        float64       `json:",omitempty"` // share of one core that the load used
	PeakPSS         int64         `json:",omitempty"`

	// replay, gap
	Client, All time.Duration `json:",omitempty"` // until the median client, and the last, had everything
	Told        int           `json:",omitempty"` // clients that were told of a gap
	Whole       int           `json:",omitempty"` // that got everything
	Silent      int           `json:",omitempty"` // that missed something, and were told nothing

	// what must not be
	Failed   string `json:",omitempty"` // why there is nothing else
	Lost     int    `json:",omitempty"` // messages, over all subscribers
	Repeated int    `json:",omitempty"`
	Resets   int    `json:",omitempty"` // subscribers that fell behind
	Closed   int    `json:",omitempty"`
}

// damage says in words what a server did wrong; empty: nothing.
func (r result) damage() string {
	if r.Failed != "" {
		return r.Failed
	}
	if r.Lost+r.Repeated+r.Resets+r.Closed == 0 {
		return ""
	}
	return fmt.Sprintf("%d deliveries lost, %d repeated, %d subscribers reset, %d closed", r.Lost, r.Repeated, r.Resets, r.Closed)
}

// runJob does what stdin says, and writes the result to stdout.
func runJob() error {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	// The loop of the crowd does not tell the scheduler where it is: publishers
	// need threads of their own, even on one core.
	runtime.GOMAXPROCS(4)
	runtime.LockOSThread()
	r, err := j.run()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (j job) run() (r result, err error) {
	c, err := newCrowd(j.Target)
	if err != nil {
		return r, err
	}
	switch j.Kind {
	case jobIdle:
		r, err = j.idle(c)
	case jobFanOut:
		r, err = j.fanOut(c)
	case jobReplay, jobGap:
		r, err = j.resume(c)
	default:
		err = fmt.Errorf("no job %q", j.Kind)
	}
	return r, err
}

// The last messages may take so long, and nothing may come for so long before
// the rest counts as lost.
const (
	drainTime = 30 * time.Second
	quietTime = 3 * time.Second
)

// idle fills the server with connections that are told nothing, and at last
// one message.
func (j job) idle(c *crowd) (r result, err error) {
	// What code and tables the first connections touch is no part of a connection.
	if err := j.touch(c); err != nil {
		return r, err
	}
	look := func(into *int64) error {
		if err := c.during(j.Settle); err != nil {
			return err
		}
		*into, err = memory(j.PID)
		return err
	}
	var used time.Duration
	join := func(n int) (time.Duration, error) {
		before, err := processorTime(j.PID)
		if err != nil {
			return 0, err
		}
		took, err := c.join(n, "", expectNext)
		if err != nil {
			return 0, err
		}
		after, err := processorTime(j.PID)
		used += after - before
		return took, err
	}
	if err := look(&r.EmptyPSS); err != nil {
		return r, err
	}
	first, err := join(j.Few)
	if err != nil {
		return r, err
	}
	if err := look(&r.FewPSS); err != nil {
		return r, err
	}
	second, err := join(j.Many - j.Few)
	if err != nil {
		return r, err
	}
	if err := look(&r.ManyPSS); err != nil {
		return r, err
	}
	r.BytesFew = float64(r.FewPSS-r.EmptyPSS) / float64(j.Few)
	r.BytesMany = float64(r.ManyPSS-r.EmptyPSS) / float64(j.Many)
	r.Setup = float64(j.Many) / (first + second).Seconds()
	r.SetupCPU = used / time.Duration(j.Many)

	before := c.delivered.Load()
	publish, closeIt, err := j.Target.publisher()
	if err != nil {
		return r, err
	}
	defer closeIt()
	sent := time.Now()
	failed := make(chan error, 1)
	go func() { failed <- publish(context.Background(), message{0, 1, sent}.encode()) }()
	err = c.until(sent.Add(drainTime), func() bool { return c.delivered.Load()-before == int64(j.Many) })
	r.ToAll = time.Since(sent)
	c.judge(&r, [maxPublishers]int{2})
	if err == nil {
		err = <-failed
	}
	return r, err
}

// expectNext is what subscribers await who came after the first message.
var expectNext = [maxPublishers]int{1}

// touch opens some connections, publishes the first message to them, and closes them.
func (j job) touch(c *crowd) error {
	if _, err := c.join(20, "", [maxPublishers]int{}); err != nil {
		return err
	}
	if _, err := j.first(c); err != nil {
		return err
	}
	c.leave()
	return nil
}

// first publishes the first message to those who listen, and returns its id.
func (j job) first(c *crowd) (id string, err error) {
	publish, closeIt, err := j.Target.publisher()
	if err != nil {
		return "", err
	}
	defer closeIt()
	failed := make(chan error, 1)
	go func() { failed <- publish(context.Background(), message{0, 0, time.Now()}.encode()) }()
	want := c.delivered.Load() + int64(len(c.subs))
	if err := c.until(time.Now().Add(drainTime), func() bool { return c.delivered.Load() == want }); err != nil {
		return "", err
	}
	if got := c.delivered.Load(); got != want {
		return "", fmt.Errorf("the first message reached %d of %d", got, want)
	}
	return c.subs[0].lastID, <-failed
}

// judge counts what each subscriber should have got and did not.
func (c *crowd) judge(r *result, published [maxPublishers]int) {
	r.Lost, r.Repeated, r.Closed = c.lost, c.repeated, c.closed
	for _, s := range c.subs {
		for p, n := range published {
			r.Lost += max(0, n-s.next[p])
		}
		if s.reset {
			r.Resets++
		}
	}
}

// inFlight is how many messages may be published and not delivered to all,
// where the rate is the server's.
const inFlight = 64

// fanOut publishes to N subscribers at a rate, or as fast as the server
// delivers, and checks that each of them gets everything.
func (j job) fanOut(c *crowd) (r result, err error) {
	if _, err := c.join(j.N, "", [maxPublishers]int{}); err != nil {
		return r, err
	}
	next := j.pace()
	if j.Rate == 0 {
		next = c.window(j.N)
	}
	start := time.Now().Add(j.Warm)
	c.latency, c.from = new(histogram), start.UnixNano()
	p, err := startPress(j.Target, next, start)
	if err != nil {
		return r, err
	}
	defer p.end()
	if err := c.until(start, func() bool { return false }); err != nil {
		return r, err
	}
	peak := watchMemory(j.PID)
	before, err := j.count(c, p)
	if err != nil {
		return r, err
	}
	if err := c.during(j.Length); err != nil {
		return r, err
	}
	after, err := j.count(c, p)
	if err != nil {
		return r, err
	}
	r.PeakPSS = peak()

	// The publishers' last replies may need us to read.
	ended := make(chan error, 1)
	go func() { ended <- p.end() }()
	over, last, moved := false, int64(0), time.Now()
	var failed error
	err = c.until(time.Now().Add(drainTime), func() bool {
		if !over {
			select {
			case failed = <-ended:
				over = true
			default:
				return false
			}
		}
		if n := c.delivered.Load(); n > last {
			last, moved = n, time.Now()
		}
		return failed != nil || last >= p.published.Load()*int64(j.N) || time.Since(moved) > quietTime
	})
	if err := errors.Join(err, failed); err != nil {
		return r, err
	}
	if !over {
		return r, fmt.Errorf("a publisher waits for its reply since %v", drainTime)
	}
	c.judge(&r, p.counts)
	took, deliveries, messages := after.at.Sub(before.at), float64(after.delivered-before.delivered), float64(after.published-before.published)
	r.Published = int(messages)
	r.Deliveries = deliveries / took.Seconds()
	r.CPU = time.Duration(float64(after.server-before.server) / max(1, deliveries))
	r.RedisCPU = time.Duration(float64(after.redis-before.redis) / max(1, messages))
	r.LoadBusy = (after.load - before.load).Seconds() / took.Seconds()
	r.P50, r.P99, r.Worst = c.latency.quantile(0.5), c.latency.quantile(0.99), time.Duration(c.latency.worst)
	r.Reply = p.replies.quantile(0.5)
	return r, nil
}

// pace allows a message whenever one is due.
func (j job) pace() func(context.Context) bool {
	begun, due := time.Now(), atomic.Int64{}
	every := time.Duration(float64(time.Second) / max(j.Rate, 1e-3))
	last := int64((j.Warm + j.Length) / every)
	return func(ctx context.Context) bool {
		n := due.Add(1) - 1
		if n >= last {
			return false
		}
		select {
		case <-time.After(time.Until(begun.Add(time.Duration(n) * every))):
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		}
	}
}

// window allows a message while fewer than inFlight are on their way to n subscribers.
func (c *crowd) window(n int) func(context.Context) bool {
	free := make(chan struct{}, inFlight)
	for range inFlight {
		free <- struct{}{}
	}
	released := int64(0)
	c.onFresh = func(delivered int64) {
		for ; released < delivered/int64(n); released++ {
			select {
			case free <- struct{}{}:
			default:
			}
		}
	}
	return func(ctx context.Context) bool {
		select {
		case <-free:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		}
	}
}

// counters are read before and after a load.
type counters struct {
	at                   time.Time
	delivered, published int64
	server, redis, load  time.Duration
}

func (j job) count(c *crowd, p *press) (n counters, err error) {
	n = counters{at: time.Now(), delivered: c.delivered.Load(), published: p.published.Load()}
	if n.server, err = processorTime(j.PID); err != nil {
		return n, err
	}
	if j.Redis != 0 {
		if n.redis, err = rig.ProcessorTime(j.Redis); err != nil {
			return n, err
		}
	}
	n.load, err = rig.ProcessorTime(os.Getpid())
	return n, err
}

// resume lets N clients come back at once after they missed messages. For a
// gap, more than the server keeps.
func (j job) resume(c *crowd) (r result, err error) {
	c.keepIDs = true
	if _, err := c.join(1, "", [maxPublishers]int{}); err != nil {
		return r, err
	}
	id, err := j.first(c)
	if err != nil || id == "" {
		return r, fmt.Errorf("the first message has the id %q: %w", id, err)
	}
	c.leave()
	c.keepIDs = false

	publish, closeIt, err := j.Target.publisher()
	if err != nil {
		return r, err
	}
	defer closeIt()
	for n := range j.Missed {
		if err := publish(context.Background(), message{0, n + 1, time.Now()}.encode()); err != nil {
			return r, err
		}
	}
	if err := c.during(j.Settle); err != nil { // the server's own reader may lag
		return r, err
	}

	var took []time.Duration
	c.onMessage = func(s *subscriber) {
		if s.next[0] == 1+j.Missed {
			took = append(took, time.Since(s.opened))
		}
	}
	begun := time.Now()
	if _, err := c.join(j.N, id, expectNext); err != nil {
		return r, err
	}
	deadline := begun.Add(drainTime)
	if j.Kind == jobGap {
		// Whoever has the last message got before it all that they will ever get.
		if err := c.during(j.Settle); err != nil {
			return r, err
		}
		failed := make(chan error, 1)
		go func() { failed <- publish(context.Background(), message{0, j.Missed + 1, time.Now()}.encode()) }()
		at := j.Missed + 2
		if err := c.until(deadline, func() bool {
			return !slices.ContainsFunc(c.subs, func(s *subscriber) bool { return s.next[0] < at })
		}); err != nil {
			return r, err
		}
		for _, s := range c.subs {
			switch {
			case s.reset:
				r.Told++
			case s.got == j.Missed+1:
				r.Whole++
			default:
				r.Silent++
			}
		}
		r.Closed = c.closed
		return r, <-failed
	}
	if err := c.until(deadline, func() bool { return len(took) == j.N }); err != nil {
		return r, err
	}
	r.All = time.Since(begun)
	c.judge(&r, [maxPublishers]int{1 + j.Missed})
	if len(took) > 0 {
		slices.Sort(took)
		r.Client = took[(len(took)-1)/2]
	}
	return r, nil
}
