//go:build linux

package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// panel is one group of bars: a figure of every server.
type panel struct {
	title   string // {few} and {many} stand for numbers
	better  string
	measure string
	of      func(result) float64
	show    func(float64) string
	goal    func(r *report) float64 // where the mark stands; 0: none
}

// shareOf marks a share of a server's median.
func shareOf(share float64, server, measure string, of func(result) float64) func(*report) float64 {
	return func(r *report) float64 {
		if values := r.of(measure, server, of); len(values) > 0 {
			return share * median(values)
		}
		return 0
	}
}

func fixed(f float64) func(*report) float64 { return func(*report) float64 { return f } }

func showKB(f float64) string { return kb(f) + " KB" }

var panels = []panel{
	{"Memory of an idle connection, of {many}", "less is better", measureIdle, bytesMany, showKB, fixed(4096)},
	{"Connections set up a second", "more is better", measureIdle, setup, showRate, fixed(15_000)},
	{"Most deliveries a second, one core", "more is better", measureMax, deliveries, showRate, shareOf(1.2, nameNchan, measureMax, deliveries)},
	{"Most deliveries a second, two cores with the load", "more is better", measureTwo, deliveries, showRate, fixed(1e6)},
	{"{many} subscribers, 10 messages a second: p99", "less is better", measureMany, duration(p99), showTime, shareOf(1, nameNchan, measureMany, duration(p99))},
	{"Replay to all that came back at once", "less is better", measureReplay, duration(all), showTime, shareOf(0.25, nameNchan, measureReplay, duration(all))},
	{"{few} subscribers, 20 messages a second: p99", "less is better", measureFew, duration(p99), showTime, nil},
	{"Server's time a delivery, {many} subscribers", "less is better", measureMany, duration(func(r result) time.Duration { return r.CPU }), showTime, nil},
}

// Sizes of the plot, in its own units.
const (
	plotWidth  = 940
	panelWidth = plotWidth / 2
	labelWidth = 112
	valueWidth = 82
	barHeight  = 14
	rowHeight  = 20
	titleSpace = 42
)

// plot draws the medians as bars, two panels beside each other. A thin line
// spans the rounds; a dashed one is the goal.
func (r *report) plot() ([]byte, error) {
	servers := r.order()
	height := titleSpace + rowHeight*len(servers) + 22
	shown := slices.DeleteFunc(slices.Clone(panels), func(p panel) bool {
		return !slices.ContainsFunc(servers, func(name string) bool { return len(r.of(p.measure, name, p.of)) > 0 })
	})
	var b bytes.Buffer
	total := 24 + (len(shown)+1)/2*height
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">`+"\n", plotWidth, total)
	fmt.Fprintf(&b, `<title>Stream servers beside each other</title><rect width="%d" height="%d" fill="#fff"/>`+"\n", plotWidth, total)
	for i, p := range shown {
		r.panel(&b, p, servers, i%2*panelWidth, i/2*height)
	}
	fmt.Fprintf(&b, `<text x="8" y="%d" fill="#777" font-size="11">%s, %d cores, %s; medians of %s, the thin line spans them; dashed: the goal</text>`+"\n",
		total-8, html.EscapeString(r.CPU), r.Cores, r.At.Format(time.DateOnly), rounds(len(r.Rounds)))
	b.WriteString("</svg>\n")
	return b.Bytes(), nil
}

func (r *report) panel(b *bytes.Buffer, p panel, servers []string, x, y int) {
	title := strings.NewReplacer("{few}", thousands(float64(r.Options.Few)), "{many}", thousands(float64(r.Options.Many))).Replace(p.title)
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="#111" font-weight="600">%s</text><text x="%d" y="%d" fill="#777" text-anchor="end" font-size="11">%s</text>`+"\n",
		x+8, y+26, html.EscapeString(title), x+panelWidth-12, y+26, p.better)
	goal := 0.0
	if p.goal != nil {
		goal = p.goal(r)
	}
	most := goal
	for _, name := range servers {
		if values := r.of(p.measure, name, p.of); len(values) > 0 {
			most = math.Max(most, slices.Max(values))
		}
	}
	if most == 0 {
		most = 1
	}
	left := x + labelWidth
	width := float64(panelWidth - labelWidth - valueWidth)
	at := func(f float64) float64 { return float64(left) + width*f/most }
	if goal > 0 {
		fmt.Fprintf(b, `<path d="M%.1f %dv%d" stroke="#c33" stroke-width="1.5" stroke-dasharray="4 3"/>`+"\n", at(goal), y+titleSpace-5, rowHeight*len(servers)+4)
	}
	for i, name := range servers {
		top := y + titleSpace + i*rowHeight
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="#333" text-anchor="end">%s</text>`, left-8, top+11, html.EscapeString(name))
		values := r.of(p.measure, name, p.of)
		if len(values) == 0 {
			fmt.Fprintf(b, `<text x="%d" y="%d" fill="#999">–</text>`+"\n", left+4, top+11)
			continue
		}
		m, middle := median(values), float64(top)+barHeight/2
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, top, at(m)-float64(left), barHeight, colour(name))
		if len(values) > 1 {
			fmt.Fprintf(b, `<path d="M%.1f %.1fH%.1f" stroke="#111"/>`, at(slices.Min(values)), middle, at(slices.Max(values)))
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#111" stroke="#fff" stroke-width="3" paint-order="stroke">%s</text>`+"\n", at(math.Max(m, slices.Max(values)))+6, top+11, html.EscapeString(p.show(m)))
	}
}

func colour(name string) string {
	switch name {
	case nameFreshwire, namePlain:
		return "#1f77b4"
	case nameNchan, nameNchanRds:
		return "#5a9e3f"
	}
	return "#b8b8b8"
}
