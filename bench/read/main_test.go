package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

var smoke = options{Rounds: 1, Connections: 8, Keys: 3, Seconds: 0.1}

// start starts a stand with a program that is built once.
func start(t *testing.T, o options) *stand {
	t.Helper()
	var err error
	if o.Binary, err = build(); err != nil {
		t.Fatal(err)
	}
	s, err := newStand(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

var build = sync.OnceValues(func() (string, error) { return buildFreshwire(context.Background(), home, "") })

var home string // of the program, until the tests end

// Each server proves by itself that it answers the same, and from its cache.
func TestEveryServerOfTheTableIsMeasured(t *testing.T) {
	s := start(t, smoke)
	for _, why := range s.leftOut {
		t.Log(why)
	}
	if len(s.servers)+len(s.leftOut) != len(names()) {
		t.Errorf("%d servers run and %d are left out, of %d", len(s.servers), len(s.leftOut), len(names()))
	}
	rep, err := measureAll(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range s.servers {
		m := rep.Measures[srv.name][0]
		if m.Requests == 0 || m.Total < m.Requests || m.P50 <= 0 || m.P99 < m.P50 || m.Worst < m.P99 || m.ServerTime <= 0 || m.LoadBusy <= 0 {
			t.Errorf("%s: %+v", srv.name, m)
		}
		if (m.Allocations > 0) != srv.countable || srv.askRedis && m.RedisReads < 0.9 {
			t.Errorf("%s: %.1f allocations, %.1f commands of Redis a request", srv.name, m.Allocations, m.RedisReads)
		}
	}

	var table strings.Builder
	rep.print(&table)
	for _, c := range comparisons {
		if len(rep.Measures[c.ref]) > 0 && !strings.Contains(table.String(), c.goal) {
			t.Errorf("the report does not tell of %q:\n%s", c.goal, table.String())
		}
	}
	file := filepath.Join(t.TempDir(), "read.json")
	if err := rep.write(file); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(raw, &again); err != nil || len(again.Measures) != len(s.servers) {
		t.Errorf("the file holds %d servers, want %d; %v", len(again.Measures), len(s.servers), err)
	}
}

func TestReadThatReachesTheOriginEndsTheRun(t *testing.T) {
	s := start(t, options{Rounds: 1, Connections: 2, Keys: 1, Seconds: 0.1, Only: []string{nameFreshwire}})
	s.paths = append(s.paths, "/api/posts/cold")
	if m, err := s.measure(t.Context(), s.servers[0]); err == nil {
		t.Errorf("a run with a miss is measured: %+v", m)
	}
}

func TestServersShareNoCoreWithTheLoad(t *testing.T) {
	cores, err := rig.Cores()
	if err != nil || len(cores) < 2 {
		t.Skipf("one core: %v", err)
	}
	s := &stand{options: smoke, core: cores[1], redis: &rig.Process{}, body: jsonBody()}
	srv, err := s.startReference(nameBare, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", srv.PID))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("Cpus_allowed_list:\t%d\n", cores[1]); !strings.Contains(string(status), want) {
		t.Errorf("want %q in:\n%s", want, status)
	}
}

func TestAnswerIsCheckedInFull(t *testing.T) {
	k := checker{body: []byte("body"), marker: []byte("X-Cache: HIT")}
	for _, test := range []struct {
		name, in string
		whole    bool
		err      string
	}{
		{"whole", "HTTP/1.1 200 OK\r\nX-Cache: HIT\r\nContent-Length: 4\r\n\r\nbody", true, ""},
		{"half a head", "HTTP/1.1 200 OK\r\nX-Cache: HIT\r\nConte", false, ""},
		{"half a body", "HTTP/1.1 200 OK\r\nX-Cache: HIT\r\nContent-Length: 4\r\n\r\nbo", false, ""},
		{"a miss", "HTTP/1.1 200 OK\r\nX-Cache: MISS\r\nContent-Length: 4\r\n\r\nbody", false, "X-Cache: HIT"},
		{"an error", "HTTP/1.1 503 Busy\r\nX-Cache: HIT\r\nContent-Length: 4\r\n\r\nbody", false, "want 200"},
		{"another length", "HTTP/1.1 200 OK\r\nX-Cache: HIT\r\nContent-Length: 3\r\n\r\nbod", false, "4 bytes"},
		{"no length", "HTTP/1.1 200 OK\r\nX-Cache: HIT\r\n\r\nbody", false, "Content-Length"},
		{"another body", "HTTP/1.1 200 OK\r\nX-Cache: HIT\r\nContent-Length: 4\r\n\r\nBODY", false, "differs"},
		{"two answers", "HTTP/1.1 200 OK\r\nX-Cache: HIT\r\nContent-Length: 4\r\n\r\nbodyHTTP", false, "differs"},
	} {
		whole, err := k.answer([]byte(test.in))
		if whole != test.whole || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: whole %t, %v; want %t, %q", test.name, whole, err, test.whole, test.err)
		}
	}
}

func TestQuantilesAreThoseOfAllTimes(t *testing.T) {
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	h.add(time.Second)
	if p50, p99 := h.quantile(0.5), h.quantile(0.99); p50 != 501*time.Microsecond || p99 != 991*time.Microsecond || h.quantile(1) != time.Second {
		t.Errorf("p50 %v, p99 %v, worst %v", p50, p99, h.quantile(1))
	}
}

func TestRatiosAreTakenWithinARound(t *testing.T) {
	r := &report{Measures: map[string][]measure{
		"ours": {{Rate: 90}, {Rate: 9}, {Rate: 80}}, // the machine was slow in the second round
		"ref":  {{Rate: 100}, {Rate: 10}, {Rate: 100}},
	}}
	if got := fmt.Sprintf("%.2f", r.ratios("ours", "ref", rate)); got != "[0.90 0.90 0.80]" {
		t.Errorf("ratios = %s, want [0.90 0.90 0.80]", got)
	}
}

func TestWhatIsNotInstalledIsLeftOutWithTheReason(t *testing.T) {
	t.Setenv("PATH", "")
	_, err := rig.Command("no-such-server")
	if err == nil || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("Command of a missing program: %v, want how to install it", err)
	}
	var out bytes.Buffer
	(&report{LeftOut: []string{"no row varnish: " + err.Error()}, Measures: map[string][]measure{}}).print(&out)
	if !strings.Contains(out.String(), "no row varnish") {
		t.Errorf("the report does not say what is left out:\n%s", out.String())
	}
}

// The load and the references are this program anew: the test binary, too.
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
