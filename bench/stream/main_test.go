//go:build linux

package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// start makes a stand with a program that is built once.
func start(t *testing.T, servers ...string) *stand {
	t.Helper()
	o := defaults
	o.small()
	o.only(strings.Join(servers, ","), "", false)
	if o.wants(nameFreshwire) {
		var err error
		if o.Binary, err = build(); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.validate(); err != nil {
		t.Fatal(err)
	}
	s, err := newStand(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

var build = sync.OnceValues(func() (string, error) { return buildFreshwire(context.Background(), home) })

var home string // of the program, until the tests end

func TestEveryServerIsMeasured(t *testing.T) {
	s := start(t, nameFreshwire, nameNchan, nameNetHTTP, nameHijack, nameLog)
	for _, why := range s.leftOut {
		t.Log(why)
	}
	s.options.Measures = []string{measureIdle, measureMax, measureMany, measureReplay, measureGap}
	rep, err := measureAll(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.damage(); err != nil {
		t.Error(err)
	}
	o := s.options
	for _, name := range rep.order() {
		found := rep.Rounds[0]
		if r := found[measureIdle][name]; r.EmptyPSS <= 0 || r.ManyPSS <= 0 || r.Setup <= 0 || r.SetupCPU <= 0 || r.ToAll <= 0 {
			t.Errorf("%s, idle: %+v", name, r)
		}
		for _, measure := range []string{measureMax, measureMany} {
			r := found[measure][name]
			if r.Deliveries <= 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Worst < r.P99 || r.CPU <= 0 || r.Reply <= 0 || r.LoadBusy <= 0 || r.PeakPSS <= 0 {
				t.Errorf("%s, %s: %+v", name, measure, r)
			}
			if (r.RedisCPU > 0) != (name == nameFreshwire) {
				t.Errorf("%s, %s: %v of Redis a message", name, measure, r.RedisCPU)
			}
		}
		if r := found[measureReplay][name]; r.Client <= 0 || r.All < r.Client {
			t.Errorf("%s, replay: %+v", name, r)
		}
		wantTold := 0
		if name == nameFreshwire {
			wantTold = o.Clients
		}
		if r := found[measureGap][name]; r.Told != wantTold || r.Whole != 0 || r.Silent != o.Clients-wantTold {
			t.Errorf("%s, gap: %+v, want %d of %d told, the rest left in the dark", name, r, wantTold, o.Clients)
		}
	}

	var text strings.Builder
	rep.print(&text)
	for _, want := range append(rep.order(), "told of it", "at least 15,000") {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report does not tell of %q:\n%s", want, text.String())
		}
	}
	files := outputs{json: filepath.Join(t.TempDir(), "a.json"), plot: filepath.Join(t.TempDir(), "a.svg")}
	if err := files.write(rep); err != nil {
		t.Fatal(err)
	}
	drawn, err := os.ReadFile(files.plot)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(files.plot); err != nil {
		t.Fatal(err)
	}
	if err := redraw(files.json, outputs{plot: files.plot}); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(files.plot); err != nil || string(again) != string(drawn) {
		t.Errorf("the plot drawn from the file differs: %v", err)
	}
}

func TestServerThatDropsAMessageIsCaught(t *testing.T) {
	t.Setenv(dropVariable, "3")
	s := start(t, nameHijack)
	for _, j := range []job{
		{Kind: jobFanOut, N: 20, Rate: 20, Length: 500 * time.Millisecond},
		{Kind: jobFanOut, N: 20, Length: 300 * time.Millisecond},
	} {
		r, err := s.measure(t.Context(), nameHijack, j, setting{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Lost != 1 || !strings.Contains(r.damage(), "1 deliveries lost") {
			t.Errorf("at rate %v: %d deliveries lost, want 1", j.Rate, r.Lost)
		}
		rep := &report{Options: s.options, Rounds: []map[string]map[string]result{{measureMax: {nameHijack: r}}}}
		if rep.damage() == nil {
			t.Error("the run does not fail")
		}
	}
}

func TestSubscribersCountWhatTheyMissed(t *testing.T) {
	published := [maxPublishers]int{5, 2}
	whole := []message{{publisher: 0}, {publisher: 1}, {publisher: 0, seq: 1}, {publisher: 0, seq: 2}, {publisher: 1, seq: 1}, {publisher: 0, seq: 3}, {publisher: 0, seq: 4}}
	for _, test := range []struct {
		name           string
		got            []message
		lost, repeated int
	}{
		{"all", whole, 0, 0},
		{"without the first", whole[1:], 1, 0},
		{"without one between", slices.Concat(whole[:3], whole[4:]), 1, 0},
		{"without the last two", whole[:5], 2, 0},
		{"nothing", nil, 7, 0},
		{"one twice", slices.Concat(whole[:3], whole[2:]), 0, 1},
		{"one late", slices.Concat(whole[:2], whole[3:4], whole[2:3], whole[4:]), 1 + 1, 1}, // out of order is no delivery
	} {
		c, s := new(crowd), &subscriber{}
		c.subs = []*subscriber{s}
		in := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
		for _, m := range test.got {
			m.sent = time.Unix(1, 0)
			in += fmt.Sprintf("id: 1\ndata: %s\n\n", m.encode())
		}
		if err := c.take(s, []byte(in), 0); err != nil {
			t.Fatal(err)
		}
		var r result
		if c.judge(&r, published); r.Lost != test.lost || r.Repeated != test.repeated {
			t.Errorf("%s: %d lost, %d repeated; want %d, %d", test.name, r.Lost, r.Repeated, test.lost, test.repeated)
		}
	}
}

func TestStreamIsReadInAllSplits(t *testing.T) {
	var events strings.Builder
	events.WriteString("retry: 2000\n\nid: 7-0\nevent: ready\ndata: {\"position\":\"7-0\"}\n\n: hi\n\n")
	for n := range 3 {
		fmt.Fprintf(&events, "id: 7-%d\ndata: %s\n\n", n+1, message{2, n, time.Unix(0, int64(n))}.encode())
	}
	events.WriteString("event: ping\ndata: {}\n\nid: 9-0\nevent: reset\ndata: {\"reason\":\"history_lost\"}\r\n\r\n")
	body := events.String()
	plain := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n" + body
	chunks := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	for rest := body; rest != ""; {
		n := min(1+rand.IntN(60), len(rest))
		chunks += fmt.Sprintf("%x\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	read := func(parts ...string) (*crowd, *subscriber) {
		c, s := &crowd{readyEvent: true, keepIDs: true, latency: new(histogram)}, &subscriber{}
		for _, p := range parts {
			if err := c.take(s, []byte(p), 100); err != nil {
				t.Fatal(err)
			}
		}
		return c, s
	}
	for _, in := range []string{plain, chunks} {
		for at := range in {
			c, s := read(in[:at], in[at:])
			if !s.ready || c.readyCount != 1 || s.got != 3 || s.next[2] != 3 || !s.reset || s.lastID != "9-0" || c.lost+c.repeated != 0 || c.latency.worst != 100 {
				t.Fatalf("cut at %d: %+v", at, s)
			}
		}
		if c, s := read(strings.Split(in, "")...); s.got != 3 || c.lost != 0 {
			t.Errorf("byte by byte: %+v", s)
		}
	}
	for _, bad := range []string{
		"HTTP/1.1 503 Busy\r\nContent-Type: text/event-stream\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: hello\n\n",
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: goaway\ndata: {}\n\n",
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		if err := new(crowd).take(&subscriber{}, []byte(bad), 0); err == nil {
			t.Errorf("no complaint about %q", bad)
		}
	}
}

func TestMessageIsReadAsItWasWritten(t *testing.T) {
	m := message{3, 1<<32 - 1, time.Unix(0, 1<<62)}
	b := m.encode()
	if p, n, sent, ok := decodeMessage(b); !ok || p != m.publisher || n != m.seq || sent != m.sent.UnixNano() || len(b) != messageSize || !json.Valid(b) {
		t.Errorf("decodeMessage(%s) = %d, %d, %d, %t", b, p, n, sent, ok)
	}
	b[len(messagePrefix)] = 'g'
	if _, _, _, ok := decodeMessage(b); ok {
		t.Errorf("%s passes as a message", b)
	}
}

func TestQuantilesAreWithinA64th(t *testing.T) {
	var h histogram
	for i := range int64(1000) {
		h.add((i + 1) * int64(time.Millisecond))
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := h.quantile(q); got < want || got > want+want/32 {
			t.Errorf("quantile(%v) = %v, want %v", q, got, want)
		}
	}
	for n := int64(0); n < 1<<40; n = n*9/8 + 1 {
		if b := bucket(n); value(b) > n || value(b+1) <= n {
			t.Fatalf("%d is in the bucket from %d to %d", n, value(b), value(b+1))
		}
	}
}

func TestGoalsAreJudgedWithinARound(t *testing.T) {
	round := func(ours, theirs float64) map[string]map[string]result {
		return map[string]map[string]result{measureMax: {nameFreshwire: {Deliveries: ours}, nameNchan: {Deliveries: theirs}}}
	}
	g := goals[slices.IndexFunc(goals, func(g goal) bool { return g.measure == measureMax })]
	for _, test := range []struct {
		name   string
		rounds []map[string]map[string]result
		want   string
	}{
		{"the machine was slow in the second round", []map[string]map[string]result{round(130, 100), round(13, 10), round(110, 100)}, "[1.3 1.3 1.1] true"},
		{"missed", []map[string]map[string]result{round(110, 100)}, "[1.1] false"},
		{"nobody to compare with", []map[string]map[string]result{{measureMax: {nameFreshwire: {Deliveries: 1}}}}, "[] false"},
	} {
		values, ok := (&report{Rounds: test.rounds}).reached(g)
		if got := fmt.Sprint(values, ok); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestPlotIsWellFormed(t *testing.T) {
	rep := &report{CPU: "A & B <fast>", Options: options{Servers: names()}, LeftOut: map[string]string{nameNchan: "no nchan"}}
	for n := range 3 {
		rep.Rounds = append(rep.Rounds, map[string]map[string]result{
			measureIdle: {nameFreshwire: {BytesMany: 4000 + float64(n), Setup: 15_000}, nameHijack: {BytesMany: 0}},
		})
	}
	b, err := rep.plot()
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(strings.NewReader(string(b))); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, b)
		}
	}
	for want, present := range map[string]bool{"Memory of an idle connection": true, "3.9 KB": true, "stroke-dasharray": true, "Replay": false, "NaN": false, ">nchan<": false} {
		if strings.Contains(string(b), want) != present {
			t.Errorf("%q in the plot: want %t", want, present)
		}
	}
}

func TestWhatIsNotInstalledIsLeftOutWithTheReason(t *testing.T) {
	rep := &report{LeftOut: map[string]string{nameNchan: "no nchan: nchan is not installed: apt-get install libnginx-mod-nchan"}, Options: options{Servers: names()}}
	var out strings.Builder
	rep.print(&out)
	if slices.Contains(rep.order(), nameNchan) || !strings.Contains(out.String(), "apt-get install libnginx-mod-nchan") {
		t.Errorf("the report does not say what is left out:\n%s", out.String())
	}
}

// The load and the bare servers are this program anew: the test binary, too.
func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		main()
		return
	}
	var err error
	if home, err = os.MkdirTemp("", "freshwire-bench-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}
