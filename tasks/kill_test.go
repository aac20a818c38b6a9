package tasks

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

// childEnv makes this test binary a worker that stops for ever at one point of
// an event: "<address> <namespace> before|after <step>". With "gathering <n>" it
// holds n events in groups that stay open.
const childEnv = "FRESHWIRE_TASKS_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		child(spec)
	}
	os.Exit(m.Run())
}

func child(spec string) {
	var addr, ns, when, step string
	if _, err := fmt.Sscan(spec, &addr, &ns, &when, &step); err != nil {
		fmt.Println("child:", err)
		os.Exit(1)
	}
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	stop := func(at string) func(string) {
		return func(name string) {
			if at == when && name == step {
				fmt.Println("holding")
				select {}
			}
		}
	}
	s := newSite(rdb, ns)
	steps := s.steps()
	targets("site")(&steps)
	if strings.HasPrefix(ns, "settle-") || strings.HasPrefix(ns, "unsettled-") {
		settling(&steps, func(Subject) bool { return ns[0] == 's' })
	}
	if ns == "tags" {
		steps.Plan = categoryRules().Plan
	}
	if when == "gathering" {
		plan := steps.Plan
		var planned atomic.Int32
		steps.Plan = func(ev event.Event) rules.Plan {
			p := plan(ev)
			p.Coalesce = time.Hour
			if fmt.Sprint(planned.Add(1)) == step {
				fmt.Println("holding")
			}
			return p
		}
	}
	w := NewWorker(rdb, hooked(steps, stop("before"), stop("after")), testkit.Discard(), Config{Namespace: ns, Coalesce: when == "gathering"})
	fmt.Println("worker:", w.Run(context.Background()))
	os.Exit(1)
}

// killHolder starts a worker process, waits until it holds an event at the
// given point, and kills it.
func killHolder(t *testing.T, server *testkit.Server, ns, when, step string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{server.Addr, ns, when, step}, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		lines <- line
	}()
	if line := testkit.Wait(t, lines, "the worker to hold the event"); line != "holding\n" {
		t.Fatalf("worker said %q, want holding", line)
	}
}

func TestEventOfAKilledWorkerIsPublishedOnce(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts twelve processes")
	}
	server := testkit.StartServer(t)
	for _, step := range []string{"plan", "invalidate", "barrier", "reclaim", "tell", "append"} {
		for _, when := range []string{"before", "after"} {
			t.Run(when+" "+step, func(t *testing.T) {
				rdb := server.Client(t)
				ns := when + "-" + step
				s, cfg := newSite(rdb, ns), Config{Namespace: ns}
				q := NewQueue(rdb, testkit.Logger(t), cfg)
				mustEnqueue(t, q, news(1))

				killHolder(t, server, ns, when, step)
				// Half a minute passes.
				if err := rdb.ZAddXX(t.Context(), q.keys.lease(), redis.Z{Score: float64(time.Now().Unix() - 5), Member: news(1).ID}).Err(); err != nil {
					t.Fatal(err)
				}
				steps := s.steps()
				targets("site")(&steps)
				w := NewWorker(rdb, steps, testkit.Logger(t), cfg)
				w.reapEvery = 50 * time.Millisecond
				testkit.Go(t, w.Run)
				rec := finished(t, q.records, news(1).ID)
				if rec.Status != Done || rec.Attempts != 2 {
					t.Errorf("record = %s after %d attempts: %s, want done after 2", rec.Status, rec.Attempts, rec.Error)
				}
				assertOnceIn(t, s, news(1).ID)
				made := rdb.Get(t.Context(), s.ns.own("test:seq")).Val()
				// A mark that was remembered is reused; one that died with the worker cannot be.
				if want := map[bool]string{true: "2", false: "1"}[ns == "after-invalidate"]; made != want {
					t.Errorf("made void %s times, want %s", made, want)
				}
				testkit.Until(t, "the queue is empty", func() bool {
					return rdb.Exists(t.Context(), q.keys.task(news(1).ID), q.keys.active(), q.keys.lease(), q.keys.pending()).Val() == 0
				})
			})
		}
	}
}

func TestOpenGroupsOfAKilledWorkerAreRunByAnother(t *testing.T) {
	t.Parallel()
	server := testkit.StartServer(t)
	rdb := server.Client(t)
	c := newCrowd(rdb, "fw")
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	var evs []event.Event
	for n := range 60 {
		evs = append(evs, edit(strconv.Itoa(n%3), n))
		mustEnqueue(t, q, evs[n])
	}
	killHolder(t, server, "fw", "gathering", strconv.Itoa(len(evs)))
	if n := rdb.LLen(t.Context(), q.keys.active()).Val(); n != int64(len(evs)) {
		t.Fatalf("%d tasks are active after the kill, want all %d: nothing is over before its run", n, len(evs))
	}
	for _, ev := range evs { // half a minute passes
		if err := rdb.ZAddXX(t.Context(), q.keys.lease(), redis.Z{Score: float64(time.Now().Unix() - 5), Member: ev.ID}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	w := NewWorker(rdb, c.steps(window), testkit.Logger(t), Config{Coalesce: true})
	w.reapEvery = 50 * time.Millisecond
	testkit.Go(t, w.Run)
	for _, ev := range evs {
		finished(t, q.records, ev.ID)
	}
	changes, _ := c.told()
	assertEachOnce(t, q, changes, evs)
	testkit.Until(t, "the queue is empty", func() bool {
		return rdb.Exists(t.Context(), q.keys.active(), q.keys.lease(), q.keys.pending(), q.keys.retry()).Val() == 0
	})
}

// The same with nobody touching the lease: `FRESHWIRE_TORTURE=1 go test -run Within35 ./tasks`.
func TestEventOfAKilledWorkerIsPublishedWithin35Seconds(t *testing.T) {
	if os.Getenv("FRESHWIRE_TORTURE") == "" {
		t.Skip("takes half a minute; set FRESHWIRE_TORTURE")
	}
	server := testkit.StartServer(t)
	rdb := server.Client(t)
	s := newSite(rdb, "fw")
	q := NewQueue(rdb, testkit.Logger(t), Config{})
	mustEnqueue(t, q, news(1))
	killHolder(t, server, "fw", "before", "append")
	killed := time.Now()
	published := make(chan struct{})
	steps := s.steps()
	targets("site")(&steps)
	testkit.Go(t, NewWorker(rdb, hooked(steps, nil, func(step string) {
		if step == "append" {
			close(published)
		}
	}), testkit.Logger(t), Config{}).Run)
	select {
	case <-published:
		t.Logf("published %v after the kill", time.Since(killed))
	case <-time.After(35 * time.Second):
		t.Fatal("not published 35s after the kill")
	}
	assertOnceIn(t, s, news(1).ID)
}
