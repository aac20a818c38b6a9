//go:build linux

// Command stream measures what a stream server takes for its connections and
// how fast it tells them, ours beside others, in one run on servers that it
// starts itself on loopback:
//
//	go run ./bench/stream
//
// Each server has one core for itself. The subscribers, who publishes, and the
// redis-server of those that have one share another. Every measurement has a
// fresh server; rounds are interleaved, so that a neighbour of this machine
// disturbs all alike, and ratios are taken within a round.
//
//	freshwire                the sse role on a redis-server; publishing appends to the log, as a worker does
//	freshwire-plain          the same with FRESHWIRE_SSE_MODE=plain
//	nchan, nchan-redis       Debian's nginx with nchan: one worker, its memory or a Redis
//	nethttp                  a bare net/http handler, a goroutine and a queue a connection
//	hijack                   taken-over connections without goroutines, one write each
//	log                      the same, one write for all that is pending
//
// All send the same 100 bytes a message. Each subscriber counts what each
// publisher numbered: a delivery that is lost or repeated is told, and makes
// the run fail. The servers of bench/stream are started by hand with -serve.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		exit(play(role))
	}
	o := defaults
	var servers, measures, serve, from string
	var quick, idle bool
	var files outputs
	flag.IntVar(&o.Rounds, "rounds", o.Rounds, "measurements of each server, by turns")
	flag.DurationVar(&o.Length, "length", o.Length, "of each measurement of deliveries")
	flag.DurationVar(&o.Settle, "settle", o.Settle, "before memory is looked at")
	flag.IntVar(&o.Few, "few", o.Few, "subscribers of the measurements with few")
	flag.IntVar(&o.Many, "many", o.Many, "connections of those with many")
	flag.StringVar(&servers, "servers", "", "with commas between: "+strings.Join(names(), ", ")+" (default all)")
	flag.StringVar(&measures, "measures", "", "with commas between: "+strings.Join(measureNames(), ", ")+" (default all)")
	flag.StringVar(&o.Binary, "binary", "", "a freshwire to measure instead of one built from here")
	flag.StringVar(&files.json, "json", "", "`file` for all measurements (default bench/stream/results/<date>.json)")
	flag.StringVar(&files.plot, "plot", "", "`file` for the plot, SVG (default beside the other)")
	flag.StringVar(&from, "from", "", "draw table and plot of the measurements in this `file`; measure nothing")
	flag.BoolVar(&idle, "idle", false, "measure nothing but as many idle connections as open files allow, of freshwire or -servers")
	flag.BoolVar(&quick, "short", false, "a smoke run: few connections, briefly; its figures mean nothing")
	flag.StringVar(&serve, "serve", "", "be a bare server, nethttp, hijack or log, and say where")
	flag.Parse()
	if quick {
		o.small()
	}
	o.only(servers, measures, idle)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if !quick && !idle && from == "" {
		files.byDate(time.Now())
	}
	switch {
	case serve != "":
		exit(play(serve))
	case from != "":
		exit(redraw(from, files))
	}
	err := o.validate()
	switch {
	case err != nil:
	case idle:
		err = benchIdle(ctx, o, os.Stdout)
	default:
		err = bench(ctx, o, files)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/stream:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// options are what a run is asked for.
type options struct {
	Rounds    int
	Length    time.Duration
	Settle    time.Duration
	Few, Many int // connections
	Clients   int // that come back at once
	Missed    int // messages that they missed
	Servers   []string
	Measures  []string
	Binary    string `json:",omitempty"`
}

var defaults = options{Rounds: 3, Length: 8 * time.Second, Settle: 3 * time.Second, Few: 1000, Many: 10_000, Clients: 100, Missed: 1000}

// small makes a run quick.
func (o *options) small() {
	o.Rounds, o.Length, o.Settle, o.Few, o.Many, o.Clients, o.Missed = 1, 300*time.Millisecond, 50*time.Millisecond, 20, 100, 10, 100
}

// only chooses servers and measures from lists with commas; an empty list is all.
func (o *options) only(servers, measures string, idle bool) {
	o.Servers, o.Measures = names(), measureNames()
	if idle {
		o.Servers = []string{nameFreshwire}
	}
	if servers != "" {
		o.Servers = strings.Split(servers, ",")
	}
	if measures != "" {
		o.Measures = strings.Split(measures, ",")
	}
}

func (o options) wants(server string) bool { return slices.Contains(o.Servers, server) }

func (o options) validate() error {
	var errs []error
	if o.Rounds < 1 || o.Length < 100*time.Millisecond || o.Settle < 0 || o.Few < 1 || o.Many <= o.Few || o.Clients < 1 || o.Missed < 1 || o.Missed >= history {
		errs = append(errs, errors.New("rounds: at least 1; length: at least 100ms; few: at least 1; many: more than few"))
	}
	files, err := openFiles()
	if err != nil {
		errs = append(errs, err)
	} else if o.Many > mostConnections(files) {
		errs = append(errs, fmt.Errorf("many: %d open files a process allow %d connections", files, mostConnections(files)))
	}
	for _, name := range o.Servers {
		if !slices.Contains(names(), name) {
			errs = append(errs, fmt.Errorf("servers: %q is none of %s", name, strings.Join(names(), ", ")))
		}
	}
	for _, name := range o.Measures {
		if !slices.Contains(measureNames(), name) {
			errs = append(errs, fmt.Errorf("measures: %q is none of %s", name, strings.Join(measureNames(), ", ")))
		}
	}
	return errors.Join(errs...)
}

// mostConnections leaves a tenth of the open files to whatever else is open.
func mostConnections(files int) int { return files / 10 * 9 }

// outputs are the files that a run writes; empty: none.
type outputs struct{ json, plot string }

// byDate fills in where results are kept.
func (f *outputs) byDate(now time.Time) {
	if f.json == "" {
		f.json = filepath.Join("bench", "stream", "results", now.Format(time.DateOnly)+".json")
	}
	if f.plot == "" {
		f.plot = strings.TrimSuffix(f.json, ".json") + ".svg"
	}
}

func (f outputs) write(r *report) error {
	for _, out := range []struct {
		file string
		make func() ([]byte, error)
	}{{f.json, r.json}, {f.plot, r.plot}} {
		if out.file == "" {
			continue
		}
		b, err := out.make()
		if err == nil {
			err = os.MkdirAll(filepath.Dir(out.file), 0o755)
		}
		if err == nil {
			err = os.WriteFile(out.file, b, 0o644)
		}
		if err != nil {
			return err
		}
		fmt.Println("written:", out.file)
	}
	return nil
}

// measurement is a job that every server is given in every round.
type measurement struct {
	name string
	told string // what it is, for the progress line
	job  func(options) job
	set  setting
}

// The measurements, in the order in which they are made.
const (
	measureIdle    = "idle"
	measureMax     = "max"
	measureFew     = "few"
	measureMany    = "many"
	measureReplay  = "replay"
	measureGap     = "gap"
	measureTwo     = "two-cores"
	measureTwoMany = "two-cores-many"
)

var measurements = []measurement{
	{name: measureIdle, told: "idle connections", job: func(o options) job {
		return job{Kind: jobIdle, Few: o.Few, Many: o.Many, Settle: o.Settle}
	}},
	{name: measureMax, told: "most deliveries to few", job: func(o options) job {
		return job{Kind: jobFanOut, N: o.Few, Warm: o.Length / 5, Length: o.Length}
	}},
	{name: measureFew, told: "20 messages/s to few", job: func(o options) job {
		return job{Kind: jobFanOut, N: o.Few, Rate: 20, Warm: o.Length / 5, Length: o.Length}
	}},
	{name: measureMany, told: "10 messages/s to many", job: func(o options) job {
		return job{Kind: jobFanOut, N: o.Many, Rate: 10, Warm: o.Length / 5, Length: o.Length}
	}},
	{name: measureReplay, told: "replay", job: func(o options) job {
		return job{Kind: jobReplay, N: o.Clients, Missed: o.Missed, Settle: o.Settle / 10}
	}},
	{name: measureGap, told: "a gap", set: setting{trimmed: true}, job: func(o options) job {
		return job{Kind: jobGap, N: o.Clients, Missed: history + 1000, Settle: o.Settle / 10}
	}},
	{name: measureTwo, told: "most deliveries, two cores", set: setting{free: true}, job: func(o options) job {
		return job{Kind: jobFanOut, N: o.Few, Warm: o.Length / 5, Length: o.Length}
	}},
	{name: measureTwoMany, told: "10 messages/s to many, two cores", set: setting{free: true}, job: func(o options) job {
		return job{Kind: jobFanOut, N: o.Many, Rate: 10, Warm: o.Length / 5, Length: o.Length}
	}},
}

func measureNames() []string {
	var list []string
	for _, m := range measurements {
		list = append(list, m.name)
	}
	return list
}

// bench measures, prints the tables, and writes the files.
func bench(ctx context.Context, o options, files outputs) error {
	s, err := newStand(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	rep, err := measureAll(ctx, s)
	if err != nil {
		return err
	}
	rep.print(os.Stdout)
	return errors.Join(files.write(rep), rep.damage())
}

// measureAll runs the rounds: of each measurement every server, one after the other.
func measureAll(ctx context.Context, s *stand) (*report, error) {
	rep := newReport(s)
	begun := time.Now()
	steps, done := s.options.Rounds*len(s.options.Measures)*(len(s.options.Servers)-len(s.leftOut)), 0
	for round := range s.options.Rounds {
		rep.Rounds = append(rep.Rounds, map[string]map[string]result{})
		for _, m := range measurements {
			if !slices.Contains(s.options.Measures, m.name) {
				continue
			}
			rep.Rounds[round][m.name] = map[string]result{}
			for _, name := range rep.order() {
				done++
				fmt.Fprintf(os.Stderr, "\r%-78s", fmt.Sprintf("round %d of %d, %s: %s (%d of %d, %v)",
					round+1, s.options.Rounds, m.told, name, done, steps, time.Since(begun).Round(time.Second)))
				r, err := s.measure(ctx, name, m.job(s.options), m.set)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				if err != nil { // the others go on
					r = result{Failed: err.Error()}
					fmt.Fprintf(os.Stderr, "\n%s, %s: %v\n", m.told, name, err)
				}
				rep.Rounds[round][m.name][name] = r
			}
		}
	}
	fmt.Fprintf(os.Stderr, "\r%78s\r", "")
	return rep, nil
}

// benchIdle fills servers with as many connections as open files allow.
func benchIdle(ctx context.Context, o options, out *os.File) error {
	files, err := openFiles()
	if err != nil {
		return err
	}
	o.Many = mostConnections(files)
	s, err := newStand(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	for _, name := range o.Servers {
		if why := s.leftOut[name]; why != "" {
			fmt.Fprintln(out, why)
			continue
		}
		r, err := s.measure(ctx, name, job{Kind: jobIdle, Few: o.Few, Many: o.Many, Settle: o.Settle}, setting{})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(out, "%s: %d idle connections (%d open files a process), %s MiB empty, %s MiB with them: %s KB a connection; set up at %.0f/s; one message to all in %s\n",
			name, o.Many, files, mib(r.EmptyPSS), mib(r.ManyPSS), kb(r.BytesMany), r.Setup, short(r.ToAll))
		if damage := r.damage(); damage != "" {
			return fmt.Errorf("%s: %s", name, damage)
		}
	}
	return nil
}
