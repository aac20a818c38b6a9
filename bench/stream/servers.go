//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// The servers, in the order of the tables.
const (
	nameFreshwire = "freshwire"
	namePlain     = "freshwire-plain"
	nameNchan     = "nchan"
	nameNchanRds  = "nchan-redis"
	nameNetHTTP   = "nethttp"
	nameHijack    = "hijack"
	nameLog       = "log"
)

func names() []string {
	return []string{nameFreshwire, namePlain, nameNchan, nameNchanRds, nameNetHTTP, nameHijack, nameLog}
}

// stand is where servers are started, each anew for every job.
type stand struct {
	options  options
	dir      string
	core     int // of the servers
	loadCore int
	binary   string            // ours
	leftOut  map[string]string // :: server → why it is not measured
}

func newStand(ctx context.Context, o options) (_ *stand, err error) {
	cores, err := rig.Cores()
	if err != nil {
		return nil, err
	}
	if len(cores) < 2 {
		return nil, errors.New("one core for the load and one for the servers: this machine gives us only one")
	}
	s := &stand{options: o, core: cores[0], loadCore: cores[1], binary: o.Binary, leftOut: map[string]string{}}
	if s.dir, err = os.MkdirTemp("", "freshwire-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.binary == "" && (o.wants(nameFreshwire) || o.wants(namePlain)) {
		if s.binary, err = buildFreshwire(ctx, s.dir); err != nil {
			return nil, err
		}
	} else if s.binary != "" {
		if s.binary, err = filepath.Abs(s.binary); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{nameNchan, nameNchanRds} {
		if _, err := nchanModule(); err != nil && o.wants(name) {
			s.leftOut[name] = fmt.Sprintf("no %s: %v", name, err)
		}
	}
	return s, nil
}

func (s *stand) close() { os.RemoveAll(s.dir) }

func buildFreshwire(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "freshwire")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/freshwire/freshwire/cmd/freshwire").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building freshwire: %w: %s", err, out)
	}
	return binary, nil
}

// server is one running server.
type server struct {
	*rig.Process
	target target
	redis  *rig.Process // its own; nil: it has none
}

// stop ends the server. Ours is killed: it would take its time to send its
// clients away, who are gone. nginx must end its workers.
func (s *server) stop() {
	if s.Process != nil {
		if s.target.ReadyEvent {
			syscall.Kill(s.PID, syscall.SIGKILL)
		}
		s.Stop()
	}
	if s.redis != nil {
		s.redis.Stop()
	}
}

// setting is what differs between jobs.
type setting struct {
	free    bool // no core of its own, for nobody
	trimmed bool // of what it keeps it remembers history messages, and no more anywhere
}

// start runs a server of its own for one job.
func (s *stand) start(ctx context.Context, name string, set setting) (srv *server, err error) {
	srv = &server{}
	defer func() {
		if err != nil {
			srv.stop()
			err = fmt.Errorf("starting %s: %w", name, err)
		}
	}()
	core, loadCore := s.core, s.loadCore
	if set.free {
		core, loadCore = rig.AnyCore, rig.AnyCore
	}
	if name == nameFreshwire || name == namePlain || name == nameNchanRds {
		if srv.redis, err = rig.Redis(ctx, loadCore); err != nil {
			return srv, err
		}
	}
	switch name {
	case nameFreshwire, namePlain:
		err = s.startFreshwire(ctx, srv, name, core, set)
	case nameNchan, nameNchanRds:
		err = s.startNchan(ctx, srv, core)
	default:
		err = s.startBare(srv, name, core)
	}
	return srv, err
}

// startFreshwire runs the stream role, without the bounds that a public server has.
func (s *stand) startFreshwire(ctx context.Context, srv *server, name string, core int, set setting) error {
	addr, err := rig.FreeAddr()
	if err != nil {
		return err
	}
	cmd := exec.Command(s.binary, "sse")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+srv.redis.Addr, "FRESHWIRE_ADDR="+addr, "FRESHWIRE_RATE_LIMIT=0",
		"FRESHWIRE_SSE_MAX_SUBSCRIBERS=1000000", "FRESHWIRE_MAX_CONNECTIONS_PER_ADDRESS=0", "LOG_LEVEL=warn")
	srv.target = target{Addr: addr, Path: "/api/events?channel=" + channel, ReadyEvent: true, Redis: srv.redis.Addr}
	if name == namePlain {
		cmd.Env = append(cmd.Env, "FRESHWIRE_SSE_MODE=plain")
	}
	if set.trimmed {
		srv.target.LogLen = history
		cmd.Env = append(cmd.Env, fmt.Sprintf("FRESHWIRE_SSE_RING_LEN=%d", history), fmt.Sprintf("FRESHWIRE_LOG_MAX_LEN=%d", history))
	}
	if srv.Process, err = rig.Start(cmd, core); err != nil {
		return err
	}
	srv.Addr = addr
	return srv.Ready(ctx, func(ctx context.Context) error {
		return answers(ctx, "http://"+addr+"/readyz", http.StatusOK)
	})
}

// answers asks url, and returns an error unless the status is one of these.
func answers(ctx context.Context, url string, statuses ...int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if !slices.Contains(statuses, res.StatusCode) {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}

// startBare runs a bare server: this program anew.
func (s *stand) startBare(srv *server, name string, core int) error {
	cmd, err := self(name, nil)
	if err != nil {
		return err
	}
	if srv.Process, err = rig.Start(cmd, core); err != nil {
		return err
	}
	if srv.Addr, err = srv.FirstLine(); err != nil {
		return err
	}
	srv.target = target{Addr: srv.Addr, Path: "/events", PublishPath: "/publish"}
	return nil
}

// roleVariable makes this program, started anew, a bare server or the load.
const roleVariable = "FRESHWIRE_BENCH_ROLE"

const roleLoad = "load"

// self is this program in another role.
func self(role string, stdin []byte) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd, nil
}

func play(role string) error {
	if role == roleLoad {
		return runJob()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return serveBare(role, l)
}

// measure starts a server, lets the load do a job on it, and stops it.
func (s *stand) measure(ctx context.Context, name string, j job, set setting) (r result, err error) {
	srv, err := s.start(ctx, name, set)
	if err != nil {
		return r, err
	}
	defer srv.stop()
	j.Target, j.PID = srv.target, srv.PID
	core := s.loadCore
	if set.free {
		core = rig.AnyCore
	}
	if srv.redis != nil {
		j.Redis = srv.redis.PID
	}
	told, err := json.Marshal(j)
	if err != nil {
		return r, err
	}
	cmd, err := self(roleLoad, told)
	if err != nil {
		return r, err
	}
	load, err := rig.Start(cmd, core)
	if err != nil {
		return r, err
	}
	defer load.Stop()
	line, err := within(ctx, j.Warm+j.Length+4*j.Settle+3*time.Minute, load)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(line), &r)
}

// within waits for what a process says, and ends it when that takes too long.
func within(ctx context.Context, bound time.Duration, p *rig.Process) (string, error) {
	kill := func() { syscall.Kill(p.PID, syscall.SIGKILL) }
	stop := context.AfterFunc(ctx, kill)
	defer stop()
	timer := time.AfterFunc(bound, kill)
	defer timer.Stop()
	line, err := p.FirstLine()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return line, err
}

var versionPattern = regexp.MustCompile(`\d+\.\d+\.\d+`)

// versions asks the programs which they are.
func (s *stand) versions() map[string]string {
	versions := map[string]string{}
	for _, p := range []struct{ name, program, flag string }{{"nginx", "nginx", "-v"}, {"Redis", "redis-server", "-v"}} {
		if cmd, err := rig.Command(p.program, p.flag); err == nil {
			out, _ := cmd.CombinedOutput()
			versions[p.name] = versionPattern.FindString(string(out))
		}
	}
	// The module tells its version to nobody but the package manager.
	if out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", nchanPackage).Output(); err == nil {
		versions["nchan"] = versionPattern.FindString(string(out))
	}
	if s.binary != "" {
		if out, err := exec.Command(s.binary, "version").Output(); err == nil {
			versions["freshwire"] = strings.Join(strings.Fields(string(out)), " ")
		}
	}
	return versions
}

// openFiles is how many a process may have.
func openFiles() (int, error) {
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok && len(strings.Fields(rest)) > 0 {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, errors.New("/proc/self/limits tells no open files")
}
