// Command read measures how fast cached content is read, ours beside what
// people know, in one run on servers that it starts itself on loopback:
//
//	go run ./bench/read
//
// All answer the same 4 KiB of JSON on kept connections. The load has one core
// and the server under test another, which it shares with redis-server where
// it asks that for every read. Rounds are interleaved, so that a neighbour of
// this machine disturbs all alike; ratios are taken within a round.
//
//	raw              writes a ready answer to whatever it reads: what the load can do
//	bare             net/http, the same bytes and headers as ours
//	mux              the same behind gorilla/mux
//	freshwire        an entry in the memory of the process
//	varnish, nginx   Debian's, with their cache in memory and in the page cache
//	get              net/http, one GET of the body from Redis
//	freshwire-redis  ours without the memory tier: an entry in Redis
//
// The load reads each answer in full and compares its body; an answer of ours
// that is no hit ends the run, and so does a read that reaches the origin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, "bench/read:", role, err)
			os.Exit(1)
		}
		return
	}
	o := defaults
	var only, file, profile string
	var short bool
	flag.IntVar(&o.Rounds, "rounds", o.Rounds, "measurements of each server, by turns")
	flag.Float64Var(&o.Seconds, "seconds", o.Seconds, "length of each measurement")
	flag.IntVar(&o.Connections, "connections", o.Connections, "each with one request under way")
	flag.IntVar(&o.Keys, "keys", o.Keys, "addresses asked for, by turns")
	flag.StringVar(&only, "only", "", "servers to measure, with commas between: "+strings.Join(names(), ", "))
	flag.StringVar(&file, "json", "", "`file` for all measurements")
	flag.StringVar(&profile, "cpuprofile", "", "measure nothing but freshwire (-only freshwire-redis: that), once, and write its processor profile to this `file`, its allocations beside it")
	flag.StringVar(&o.Binary, "binary", "", "a freshwire to measure instead of one built from here")
	flag.BoolVar(&short, "short", false, "a smoke run: everything once and briefly; its figures mean nothing")
	flag.Parse()
	if short {
		o.Rounds, o.Seconds, o.Keys = 1, 0.3, 10
	}
	if only != "" {
		o.Only = strings.Split(only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := o.validate()
	switch {
	case err != nil:
	case profile != "":
		err = profileTo(ctx, o, profile)
	default:
		err = bench(ctx, o, file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/read:", err)
		os.Exit(1)
	}
}

type options struct {
	Rounds, Connections, Keys int
	Seconds                   float64
	Only                      []string // nil: all
	Binary                    string   `json:",omitempty"`
	profile                   string   // address at which profiles are asked for
}

var defaults = options{Rounds: 5, Connections: 64, Keys: 100, Seconds: 2}

func (o options) validate() error {
	var errs []error
	if o.Rounds < 1 || o.Connections < 1 || o.Connections > 1024 || o.Keys < 1 || o.Keys > 100_000 || o.Seconds < 0.1 {
		errs = append(errs, errors.New("rounds: at least 1; connections: 1 to 1024; keys: 1 to 100000; seconds: at least 0.1"))
	}
	for _, name := range o.Only {
		if !slices.Contains(names(), name) {
			errs = append(errs, fmt.Errorf("only: %q is none of %s", name, strings.Join(names(), ", ")))
		}
	}
	return errors.Join(errs...)
}

func (o options) length() time.Duration { return time.Duration(o.Seconds * float64(time.Second)) }

func (o options) wants(name string) bool { return o.Only == nil || slices.Contains(o.Only, name) }

// bench measures, prints the table, and writes the measurements to a file.
func bench(ctx context.Context, o options, file string) error {
	s, err := newStand(ctx, o)
	if err != nil {
		return err
	}
	defer s.stop()
	rep, err := measureAll(ctx, s)
	if err != nil {
		return err
	}
	rep.print(os.Stdout)
	if file != "" {
		return rep.write(file)
	}
	return nil
}

// measureAll runs the rounds.
func measureAll(ctx context.Context, s *stand) (*report, error) {
	rep := newReport(s)
	for round := range s.options.Rounds {
		for _, srv := range s.servers {
			fmt.Fprintf(os.Stderr, "\rround %d of %d: %-16s", round+1, s.options.Rounds, srv.name)
			m, err := s.measure(ctx, srv)
			if err != nil {
				fmt.Fprintln(os.Stderr)
				return nil, fmt.Errorf("%s: %w", srv.name, err)
			}
			rep.Measures[srv.name] = append(rep.Measures[srv.name], m)
		}
	}
	fmt.Fprintf(os.Stderr, "\r%40s\r", "")
	return rep, nil
}
