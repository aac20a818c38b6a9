//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	Rounds          []map[string]map[string]result // :: measure → server → what was found
	LeftOut         map[string]string              // :: server → why
}

func newReport(s *stand) *report {
	return &report{Go: runtime.Version(), Kernel: rig.Kernel(), CPU: rig.Processor(), Cores: runtime.NumCPU(), At: time.Now().UTC().Truncate(time.Second),
		Options: s.options, Versions: s.versions(), LeftOut: s.leftOut}
}

// order lists the servers that are measured.
func (r *report) order() []string {
	return slices.DeleteFunc(slices.Clone(r.Options.Servers), func(name string) bool { return r.LeftOut[name] != "" })
}

// of returns a figure of one server, one a round.
func (r *report) of(measure, server string, figure func(result) float64) []float64 {
	var all []float64
	for _, round := range r.Rounds {
		if res, ok := round[measure][server]; ok && res.Failed == "" {
			all = append(all, figure(res))
		}
	}
	return all
}

// median returns the lower middle of an even number.
func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)/2]
}

// column is one figure of a measure.
type column struct {
	title string
	of    func(result) float64
	show  func(float64) string
}

// table is what is printed of one measure.
type table struct {
	measure string
	title   func(options) string
	columns []column
}

func duration(of func(result) time.Duration) func(result) float64 {
	return func(r result) float64 { return float64(of(r)) }
}

func count(of func(result) int) func(result) float64 {
	return func(r result) float64 { return float64(of(r)) }
}

func size(of func(result) int64) func(result) float64 {
	return func(r result) float64 { return float64(of(r)) }
}

func showTime(f float64) string  { return short(time.Duration(f)) }
func showCount(f float64) string { return fmt.Sprintf("%.0f", f) }
func showRate(f float64) string  { return thousands(f) }
func showMiB(f float64) string   { return mib(int64(f)) }

func deliveries(r result) float64 { return r.Deliveries }

var fanOutColumns = []column{
	{"deliveries/s", deliveries, showRate},
	{"p50", duration(func(r result) time.Duration { return r.P50 }), showTime},
	{"p99", duration(p99), showTime},
	{"worst", duration(func(r result) time.Duration { return r.Worst }), showTime},
	{"server's time a delivery", duration(func(r result) time.Duration { return r.CPU }), showTime},
	{"publish reply p50", duration(func(r result) time.Duration { return r.Reply }), showTime},
	{"Redis' time a message", duration(func(r result) time.Duration { return r.RedisCPU }), showTime},
	{"load busy", func(r result) float64 { return r.LoadBusy }, func(f float64) string { return fmt.Sprintf("%.0f %%", 100*f) }},
	{"peak MiB", size(func(r result) int64 { return r.PeakPSS }), showMiB},
}

func p99(r result) time.Duration { return r.P99 }

var tables = []table{
	{measureIdle, func(o options) string {
		return fmt.Sprintf("Idle connections, proportional memory of the server, %v after they came", o.Settle)
	}, []column{
		{"KB a connection, few", func(r result) float64 { return r.BytesFew }, kb},
		{"KB a connection, many", bytesMany, kb},
		{"MiB empty", size(func(r result) int64 { return r.EmptyPSS }), showMiB},
		{"MiB with many", size(func(r result) int64 { return r.ManyPSS }), showMiB},
		{"set up/s", setup, showRate},
		{"server's time each", duration(func(r result) time.Duration { return r.SetupCPU }), showTime},
		{"one message to all", duration(func(r result) time.Duration { return r.ToAll }), showTime},
	}},
	{measureMax, func(o options) string {
		return fmt.Sprintf("Most deliveries to %d subscribers: %d publishers, %d messages on their way", o.Few, maxPublishers, inFlight)
	}, fanOutColumns},
	{measureFew, func(o options) string { return fmt.Sprintf("%d subscribers, 20 messages a second", o.Few) }, fanOutColumns},
	{measureMany, func(o options) string { return fmt.Sprintf("%d subscribers, 10 messages a second", o.Many) }, fanOutColumns},
	{measureReplay, func(o options) string {
		return fmt.Sprintf("%d clients that come back at once and missed %d messages", o.Clients, o.Missed)
	}, []column{
		{"median client", duration(func(r result) time.Duration { return r.Client }), showTime},
		{"all", duration(all), showTime},
	}},
	{measureGap, func(o options) string {
		return fmt.Sprintf("%d clients that missed %d messages, of which the server keeps %d", o.Clients, history+1000, history)
	}, []column{
		{"told of it", told, showCount},
		{"got everything", count(func(r result) int { return r.Whole }), showCount},
		{"silently less", count(func(r result) int { return r.Silent }), showCount},
	}},
	{measureTwo, func(o options) string {
		return fmt.Sprintf("Most deliveries to %d subscribers, server and load share all cores", o.Few)
	}, fanOutColumns},
	{measureTwoMany, func(o options) string {
		return fmt.Sprintf("%d subscribers, 10 messages a second, server and load share all cores", o.Many)
	}, fanOutColumns},
}

func bytesMany(r result) float64 { return r.BytesMany }
func setup(r result) float64     { return r.Setup }
func all(r result) time.Duration { return r.All }
func told(r result) float64      { return float64(r.Told) }

// goal is what a figure of ours is held against: a bound, or a share of
// another server's within the round.
type goal struct {
	text    string
	measure string
	of      func(result) float64
	ref     string // empty: the bound is the figure's own
	bound   float64
	most    bool // it is the most, and not the least
	show    func(float64) string
}

func showRatio(f float64) string { return fmt.Sprintf("%.2f", f) }

var goals = []goal{
	{"KB a connection, many idle: at most 4", measureIdle, bytesMany, "", 4096, true, kb},
	{"connections set up a second: at least 15,000", measureIdle, setup, "", 15_000, false, showRate},
	{"most deliveries, one core: at least 1.2 of nchan", measureMax, deliveries, nameNchan, 1.2, false, showRatio},
	{"most deliveries, two cores: at least 1,000,000/s", measureTwo, deliveries, "", 1e6, false, showRate},
	{"10 messages a second to many, p99: at most nchan's", measureMany, duration(p99), nameNchan, 1, true, showRatio},
	{"replay to all: at most a quarter of nchan's time", measureReplay, duration(all), nameNchan, 0.25, true, showRatio},
}

// reached compares ours with a goal, round by round.
func (r *report) reached(g goal) (values []float64, ok bool) {
	for _, round := range r.Rounds {
		ours, have := round[g.measure][nameFreshwire]
		if !have || ours.Failed != "" {
			continue
		}
		v := g.of(ours)
		if g.ref != "" {
			ref, have := round[g.measure][g.ref]
			if !have || ref.Failed != "" || g.of(ref) == 0 {
				continue
			}
			v /= g.of(ref)
		}
		values = append(values, v)
	}
	if len(values) == 0 {
		return nil, false
	}
	if g.most {
		return values, median(values) <= g.bound
	}
	return values, median(values) >= g.bound
}

func (r *report) print(w io.Writer) {
	o := r.Options
	fmt.Fprintf(w, "%s, %d cores of %s, Linux %s, %s\n", r.Go, r.Cores, r.CPU, r.Kernel, r.At.Format(time.DateOnly))
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		versions = append(versions, name+" "+r.Versions[name])
	}
	fmt.Fprintln(w, strings.Join(versions, ", "))
	fmt.Fprintf(w, "messages of %d bytes, HTTP/1.1 without TLS; medians of %s (least – most), each measurement %v on a fresh server\n", messageSize, rounds(len(r.Rounds)), o.Length)
	for _, t := range tables {
		if !slices.Contains(o.Measures, t.measure) {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", t.title(o))
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		for _, c := range t.columns {
			fmt.Fprintf(tw, "\t%s", c.title)
		}
		fmt.Fprintln(tw, "\t")
		for _, name := range r.order() {
			fmt.Fprint(tw, name)
			for i, c := range t.columns {
				fmt.Fprintf(tw, "\t%s", cell(r.of(t.measure, name, c.of), c.show, i < 3 || t.measure == measureIdle && i == 4))
			}
			fmt.Fprintln(tw, "\t")
		}
		tw.Flush()
	}
	fmt.Fprintln(w)
	for _, g := range goals {
		values, ok := r.reached(g)
		if values == nil {
			continue
		}
		verdict := "reached"
		if !ok {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%-52s %s  %s\n", g.text, cell(values, g.show, true), verdict)
	}
	for _, name := range slices.Sorted(maps.Keys(r.LeftOut)) {
		fmt.Fprintln(w, r.LeftOut[name])
	}
}

func rounds(n int) string {
	if n == 1 {
		return "one round"
	}
	return fmt.Sprintf("%d rounds", n)
}

// cell shows the median, and the spread where there is room and one.
func cell(values []float64, show func(float64) string, spread bool) string {
	if len(values) == 0 {
		return "–"
	}
	text := show(median(values))
	if spread && len(values) > 1 {
		text += fmt.Sprintf(" (%s – %s)", show(slices.Min(values)), show(slices.Max(values)))
	}
	return text
}

// damage is what servers of this tree did wrong, all of it; nil: nothing. What
// nchan did wrong was told when it happened, and is no failure of ours.
func (r *report) damage() error {
	var errs []error
	for i, round := range r.Rounds {
		for _, m := range measurements {
			for _, name := range r.order() {
				if text := round[m.name][name].damage(); text != "" && name != nameNchan && name != nameNchanRds {
					errs = append(errs, fmt.Errorf("round %d, %s, %s: %s", i+1, m.told, name, text))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (r *report) json() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "\t")
	return append(b, '\n'), err
}

// redraw prints and draws what an earlier run has measured.
func redraw(file string, out outputs) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	r.print(os.Stdout)
	out.json = ""
	return out.write(&r)
}

// short prints three digits or so.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "–"
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.1f µs", float64(d)/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.0f ms", float64(d)/1e6)
}

func kb(bytes float64) string { return fmt.Sprintf("%.1f", bytes/1024) }

func mib(bytes int64) string { return fmt.Sprintf("%.0f", float64(bytes)/(1<<20)) }

// thousands prints a count in groups of three digits.
func thousands(f float64) string {
	digits := fmt.Sprintf("%.0f", f)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
