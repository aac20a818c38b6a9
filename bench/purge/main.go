// Command purge measures what a purge of one tag costs, ours beside the usual
// ones, in one run on a redis-server that it starts itself on a free loopback
// port:
//
//	go run ./bench/purge
//
// For each size it fills that many entries of 1 KiB under one tag and purges
// the tag, while another process asks the server all the time. It prints when
// the entries are void, after how many round trips; when no node serves them
// any more; when their memory is back; and how long the other client had to
// wait meanwhile: by the clock, and ("server busy") the longest that the server
// worked before it answered. A million entries take some minutes to fill.
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
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

func main() {
	if where := os.Getenv(askServer); where != "" {
		if err := ask(where, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	sizes := flag.String("sizes", "10,1000,1000000", "entries of the tag, separated by commas")
	rounds := flag.Int("rounds", 3, "runs of each, of large sizes fewer; what is printed is the median of them, of the worst waits too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, *sizes, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench/purge:", err)
		os.Exit(1)
	}
}

// result is what one purge cost. A usual purge is one phase: entries can be
// read until they are deleted.
type result struct {
	trips     atomic.Int64  // to the server, until void
	void      time.Duration // until the purge is in force where the server is asked
	invisible time.Duration // until no reader is served an entry of before
	back      time.Duration // until the memory is given back, from the beginning
	first     waits         // of the other client until invisible
	second    waits         // from there until back
}

// purge is one way to purge a tag.
type purge struct {
	name string
	fill func(ctx context.Context, size int) error
	run  func(ctx context.Context, size int) (*result, error)
}

func bench(ctx context.Context, list string, rounds int) error {
	var sizes []int
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 || n > largest {
			return fmt.Errorf("size %q: want a number from 1 to %d", s, largest)
		}
		sizes = append(sizes, n)
	}
	if rounds < 1 {
		return errors.New("rounds: at least 1")
	}
	srv, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer srv.Stop()
	rdb := client(srv)
	defer rdb.Close()
	version, err := realServer(ctx, rdb)
	if err != nil {
		return err
	}
	idle, err := during(ctx, srv, func() error { time.Sleep(2 * time.Second); return nil })
	if err != nil {
		return err
	}
	site, err := startSite(ctx, rdb, srv)
	if err != nil {
		return err
	}
	defer site.stop()
	fmt.Printf("redis-server %s, %s, %d cores, %s, %d rounds\nidle server for 2 s: another client waits %s at the median, %s at worst, of that %s for the server\n\n",
		version, runtime.Version(), runtime.NumCPU(), time.Now().Format(time.DateOnly), rounds, short(idle.P50), short(idle.Max), short(idle.Busy))

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "entries\tpurge\tround trips\tvoid after\tinvisible after\twait p50\tworst\tserver busy\tmemory back after\twait p50\tworst\tserver busy\t")
	var ratios []string
	var ours []measured // one a size
	for _, size := range sizes {
		for i, p := range []purge{site.purge(), seed(rdb, srv), pipelined(rdb, srv), script(rdb, srv)} {
			r, err := measure(ctx, p, size, rounds)
			if err != nil {
				return fmt.Errorf("%s, %d entries: %w", p.name, size, err)
			}
			fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", size, p.name, r.trips, short(r.void),
				short(r.invisible), short(r.first.P50), short(r.first.Max), short(r.first.Busy),
				short(r.back), short(r.second.P50), short(r.second.Max), short(r.second.Busy))
			if i == 0 {
				ours = append(ours, r)
				continue
			}
			own := ours[len(ours)-1]
			ratios = append(ratios, fmt.Sprintf("%7d  %-26s  invisible after %7.1f × our time, server busy at a time for %7.1f × ours",
				size, p.name, r.invisible.Seconds()/own.invisible.Seconds(),
				r.first.Busy.Seconds()/max(own.first.Busy, own.second.Busy).Seconds()))
		}
		fmt.Fprintln(w, strings.Repeat("\t", 12))
	}
	w.Flush()
	fmt.Println(strings.Join(ratios, "\n"))
	fmt.Println()
	fmt.Println(goals(sizes, ours))
	return nil
}

// largest is the most that one DEL takes arguments for.
const largest = 1_000_000

// longestPause is how long the reclaimer may make another client wait.
const longestPause = 10 * time.Millisecond

// goals says what was to be shown.
func goals(sizes []int, ours []measured) string {
	var trips int64
	var worst waits
	voids := make([]time.Duration, len(ours))
	for i, r := range ours {
		trips = max(trips, r.trips)
		voids[i] = r.void
		worst.Busy, worst.Max = max(worst.Busy, r.pause.Busy), max(worst.Max, r.pause.Max)
	}
	verdict := func(good bool) string {
		if good {
			return "reached"
		}
		return "MISSED"
	}
	return fmt.Sprintf("void after one round trip, %s to %s for %d to %d entries: %s\nno pause of another client above %s while memory is given back: %s of the server at worst in any round (%s by the clock): %s",
		short(slices.Min(voids)), short(slices.Max(voids)), slices.Min(sizes), slices.Max(sizes), verdict(trips == 1),
		short(longestPause), short(worst.Busy), short(worst.Max), verdict(worst.Busy <= longestPause))
}

// measured is the median of some rounds.
type measured struct {
	trips                 int64
	void, invisible, back time.Duration
	first, second         waits
	pause                 waits // the worst of all rounds while memory was given back
}

// measure fills and purges anew for each round, of which there are fewer when
// they would fill more than a million entries.
func measure(ctx context.Context, p purge, size, rounds int) (m measured, err error) {
	rounds = min(rounds, max(1, largest/size))
	var all []*result
	for range rounds {
		if err := p.fill(ctx, size); err != nil {
			return m, fmt.Errorf("filling: %w", err)
		}
		r, err := p.run(ctx, size)
		if err != nil {
			return m, err
		}
		all = append(all, r)
		m.trips = max(m.trips, r.trips.Load())
		m.pause.Max, m.pause.Busy = max(m.pause.Max, r.second.Max), max(m.pause.Busy, r.second.Busy)
	}
	median := func(of func(*result) time.Duration) time.Duration {
		var ds []time.Duration
		for _, r := range all {
			ds = append(ds, of(r))
		}
		slices.Sort(ds)
		return ds[rounds/2]
	}
	m.void = median(func(r *result) time.Duration { return r.void })
	m.invisible = median(func(r *result) time.Duration { return r.invisible })
	m.back = median(func(r *result) time.Duration { return r.back })
	m.first.P50 = median(func(r *result) time.Duration { return r.first.P50 })
	m.first.Max = median(func(r *result) time.Duration { return r.first.Max })
	m.first.Busy = median(func(r *result) time.Duration { return r.first.Busy })
	m.second.P50 = median(func(r *result) time.Duration { return r.second.P50 })
	m.second.Max = median(func(r *result) time.Duration { return r.second.Max })
	m.second.Busy = median(func(r *result) time.Duration { return r.second.Busy })
	return m, nil
}

// short prints three digits, and a dash for what was not measured.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "–"
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.0f ms", float64(d)/1e6)
}
