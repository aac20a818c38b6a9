package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// report is all that was measured.
type report struct {
	Go, Kernel, CPU string
	Cores           int
	At              time.Time
	Options         options
	Versions        map[string]string
	Measures        map[string][]measure // :: server → one a round
	LeftOut         []string

	order []string
}

func newReport(s *stand) *report {
	r := &report{Go: runtime.Version(), Kernel: rig.Kernel(), CPU: rig.Processor(), Cores: runtime.NumCPU(), At: time.Now().UTC().Truncate(time.Second), Options: s.options,
		Versions: s.versions(), Measures: map[string][]measure{}, LeftOut: s.leftOut}
	for _, srv := range s.servers {
		r.order = append(r.order, srv.name)
	}
	return r
}

// comparison is what one server is measured by.
type comparison struct {
	goal      string
	ours, ref string
	of        func(measure) float64
	good      func(ratio float64) bool
}

func rate(m measure) float64 { return m.Rate }
func p99(m measure) float64  { return float64(m.P99) }

func atLeast(least float64) func(float64) bool { return func(r float64) bool { return r >= least } }
func atMost(most float64) func(float64) bool   { return func(r float64) bool { return r <= most } }

var comparisons = []comparison{
	{"a hit in memory: at least 0.85 of bare net/http", nameFreshwire, nameBare, rate, atLeast(0.85)},
	{"a hit in memory: at least 1.0 of Varnish", nameFreshwire, nameVarnish, rate, atLeast(1)},
	{"a hit in Redis: at least 0.8 of a bare GET", nameFreshwireRedis, nameGet, rate, atLeast(0.8)},
	{"a hit in memory: p99 at most 1.5 of bare net/http", nameFreshwire, nameBare, p99, atMost(1.5)},
}

// ratios compares two servers round by round.
func (r *report) ratios(ours, ref string, of func(measure) float64) []float64 {
	a, b := r.Measures[ours], r.Measures[ref]
	var out []float64
	for i := range min(len(a), len(b)) {
		out = append(out, of(a[i])/of(b[i]))
	}
	return out
}

// median of what of says; the lower middle of an even number.
func median[T any, N float64 | time.Duration](all []T, of func(T) N) N {
	var ns []N
	for _, m := range all {
		ns = append(ns, of(m))
	}
	slices.Sort(ns)
	return ns[(len(ns)-1)/2]
}

func itself(f float64) float64 { return f }

func (r *report) print(w io.Writer) {
	o := r.Options
	fmt.Fprintf(w, "%s, %d cores of %s, Linux %s, %s\n", r.Go, r.Cores, r.CPU, r.Kernel, r.At.Format(time.DateOnly))
	fmt.Fprintf(w, "%s\n", strings.Join(r.versionList(), ", "))
	fmt.Fprintf(w, "%d bytes of JSON at %d addresses, %d connections, medians of %d rounds of %v; the load on one core, each server on another, with redis-server where it asks that\n\n",
		bodySize, o.Keys, o.Connections, o.Rounds, o.length())

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\trequests/s\tlowest – highest\tof bare\tp50\tp99\tserver's time a request\tallocations\tRedis commands\tload busy\t")
	for _, name := range r.order {
		all := r.Measures[name]
		rates := make([]float64, len(all))
		for i, m := range all {
			rates[i] = m.Rate
		}
		ofBare := "–"
		if ratios := r.ratios(name, nameBare, rate); len(ratios) > 0 {
			ofBare = fmt.Sprintf("%.2f", median(ratios, itself))
		}
		allocated := "–"
		if n := median(all, func(m measure) float64 { return m.Allocations }); n > 0 {
			allocated = fmt.Sprintf("%.1f", n)
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f – %.0f\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.0f %%\t\n", name,
			median(all, rate), slices.Min(rates), slices.Max(rates), ofBare,
			short(median(all, func(m measure) time.Duration { return m.P50 })),
			short(median(all, func(m measure) time.Duration { return m.P99 })),
			short(median(all, func(m measure) time.Duration { return m.ServerTime })),
			allocated,
			median(all, func(m measure) float64 { return m.RedisReads }),
			100*median(all, func(m measure) float64 { return m.LoadBusy }))
	}
	t.Flush()
	fmt.Fprintln(w)
	for _, c := range comparisons {
		ratios := r.ratios(c.ours, c.ref, c.of)
		if len(ratios) == 0 {
			continue
		}
		verdict := "reached"
		if !c.good(median(ratios, itself)) {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%-52s %.2f (%.2f – %.2f)  %s\n", c.goal, median(ratios, itself), slices.Min(ratios), slices.Max(ratios), verdict)
	}
	if all := r.Measures[nameFreshwire]; len(all) > 0 && median(all, func(m measure) float64 { return m.RedisReads }) > 0.5 {
		fmt.Fprintln(w, "\nthis freshwire has no memory tier: each of its hits asked Redis")
	}
	for _, why := range r.LeftOut {
		fmt.Fprintln(w, why)
	}
}

func (r *report) versionList() []string {
	var list []string
	for _, name := range []string{"freshwire", "Varnish", "nginx", "Redis"} {
		if v := r.Versions[name]; v != "" {
			list = append(list, name+" "+v)
		}
	}
	return list
}

func (r *report) write(file string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// short prints three digits or so.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.1f µs", float64(d)/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	}
	return fmt.Sprintf("%.2f ms", float64(d)/1e6)
}
