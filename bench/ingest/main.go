// Command ingest measures how fast webhooks are acknowledged, ours beside two
// references, in one run on servers that it starts itself on loopback:
//
//	go run ./bench/ingest
//
// The bare one is a net/http handler that reads the body, verifies the same
// HMAC and answers; it keeps nothing. The other also enqueues each delivery
// with Asynq, on a Redis that syncs every write to disk (appendfsync always):
// the usual way to be durable. Ours is `freshwire web` with its journal, beside
// a Redis without persistence.
//
// Each caller keeps one connection and sends its next delivery when the last
// one is answered; bodies of 1 KiB, each with an id and a signature of its own.
// Then freshwire alone, at a steady rate, while its Redis is killed and started
// again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

func main() {
	if which := os.Getenv(serveVariable); which != "" {
		if err := serveReference(which); err != nil {
			fmt.Fprintln(os.Stderr, "bench/ingest:", which, err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.IntVar(&o.callers, "callers", 64, "connections, each with one delivery under way")
	flag.DurationVar(&o.length, "length", 3*time.Second, "of each measurement")
	flag.IntVar(&o.rounds, "rounds", 5, "measurements of each server, one after the other; what is printed is the median of them")
	flag.IntVar(&o.size, "size", 1024, "bytes of a body")
	flag.IntVar(&o.rate, "rate", 2000, "deliveries per second while Redis restarts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/ingest:", err)
		os.Exit(1)
	}
}

type options struct {
	callers, rounds, size, rate int
	length                      time.Duration
}

func (o options) validate() error {
	if o.callers < 1 || o.callers > 1024 || o.rounds < 1 || o.size < 128 || o.size > 512<<10 || o.rate < 1 || o.length < 100*time.Millisecond {
		return errors.New("callers: 1 to 1024; rounds: at least 1; size: 128 bytes to 512 KiB; rate: at least 1; length: at least 100ms")
	}
	return nil
}

func bench(ctx context.Context, o options) error {
	if err := o.validate(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "freshwire-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("%s, %d cores; %d callers, bodies of %d bytes, %d rounds of %v\n\n", runtime.Version(), runtime.NumCPU(), o.callers, o.size, o.rounds, o.length)

	memory, err := startRedis(ctx, dir, "memory", "--appendonly", "no")
	if err != nil {
		return err
	}
	defer memory.stop()
	synced, err := startRedis(ctx, dir, "synced", "--appendonly", "yes", "--appendfsync", "always")
	if err != nil {
		return err
	}
	defer synced.stop()

	var servers []*server
	for _, s := range []struct {
		name  string
		start func() (*server, error)
	}{
		{"bare", func() (*server, error) { return startReference(ctx, "bare", "") }},
		{"asynq", func() (*server, error) { return startReference(ctx, "asynq", synced.addr) }},
		{"freshwire", func() (*server, error) { return startFreshwire(ctx, dir, memory.addr) }},
	} {
		srv, err := s.start()
		if err != nil {
			return fmt.Errorf("starting %s: %w", s.name, err)
		}
		defer srv.stop()
		srv.name = s.name
		servers = append(servers, srv)
	}

	runs := map[string][]measure{}
	for round := range o.rounds {
		for _, srv := range servers {
			fmt.Fprintf(os.Stderr, "\rround %d of %d: %-10s", round+1, o.rounds, srv.name)
			m, err := load(ctx, srv.addr, o, 0)
			if err != nil {
				return fmt.Errorf("%s: %w", srv.name, err)
			}
			runs[srv.name] = append(runs[srv.name], m)
			if err := srv.settle(ctx); err != nil { // what it still has to do must not count against the next one
				return err
			}
		}
	}
	fmt.Fprint(os.Stderr, "\r                              \r")

	bare, asynq := median(runs["bare"]).rate, median(runs["asynq"]).rate
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tacknowledged/s\tp50\tp99\tof bare\tof asynq\t")
	for _, srv := range servers {
		m := median(runs[srv.name])
		fmt.Fprintf(table, "%s\t%.0f\t%s\t%s\t%.2f\t%.2f\t\n", srv.name, m.rate, short(m.p50), short(m.p99), m.rate/bare, m.rate/asynq)
	}
	table.Flush()

	ours := servers[2]
	fmt.Fprintf(os.Stderr, "Redis restarts under %d deliveries a second\r", o.rate)
	restart := make(chan error, 1)
	go func() { restart <- memory.restartAfter(ctx, o.length) }()
	long := o
	long.length *= 3
	m, err := load(ctx, ours.addr, long, o.rate)
	if err := errors.Join(err, <-restart); err != nil {
		return err
	}
	settling := time.Now()
	if err := ours.settle(ctx); err != nil {
		return err
	}
	fmt.Printf("\nfreshwire at %d/s for %v, its Redis killed in the middle and started again %v later: %.0f acknowledged/s, p50 %s, p99 %s, worst %s, %d refused; all forwarded %v after the load\n",
		o.rate, long.length, redisAway, m.rate, short(m.p50), short(m.p99), short(m.worst), m.refused, time.Since(settling).Round(10*time.Millisecond))
	return nil
}

// median is the run of the median rate.
func median(runs []measure) measure {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b measure) int {
		switch {
		case a.rate < b.rate:
			return -1
		case a.rate > b.rate:
			return 1
		}
		return 0
	})
	return sorted[len(sorted)/2]
}

func short(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
}
