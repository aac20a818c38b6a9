package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// The servers, in the order of the table.
const (
	nameRaw            = "raw"
	nameBare           = "bare"
	nameMux            = "mux"
	nameFreshwire      = "freshwire"
	nameVarnish        = "varnish"
	nameNginx          = "nginx"
	nameGet            = "get"
	nameFreshwireRedis = "freshwire-redis"
)

func names() []string {
	return []string{nameRaw, nameBare, nameMux, nameFreshwire, nameVarnish, nameNginx, nameGet, nameFreshwireRedis}
}

const (
	pattern  = "/api/posts/{id}"
	bodySize = 4096
)

// server is one row of the table.
type server struct {
	name string
	*rig.Process
	marker    string // part of each answer's head
	askRedis  bool   // for each read
	countable bool   // a Go program that tells its allocations
}

// stand is everything that is measured, running.
type stand struct {
	options  options
	dir      string
	loadCore int
	core     int // of the servers
	paths    []string
	body     []byte
	origin   *origin
	redis    *rig.Process
	rdb      *redis.Client
	binary   string // ours
	servers  []*server
	leftOut  []string // why a row is missing
	closers  []func()
}

func newStand(ctx context.Context, o options) (_ *stand, err error) {
	s := &stand{options: o, body: jsonBody()}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	cores, err := rig.Cores()
	if err != nil {
		return nil, err
	}
	if len(cores) < 2 {
		return nil, errors.New("one core for the load and one for the servers: this machine gives us only one")
	}
	s.loadCore, s.core = cores[0], cores[1]
	for i := range o.Keys {
		s.paths = append(s.paths, fmt.Sprintf("/api/posts/%d", i+1))
	}
	if s.dir, err = os.MkdirTemp("", "freshwire-bench-"); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() { os.RemoveAll(s.dir) })
	if s.origin, err = startOrigin(s.body); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.origin.stop)
	if s.redis, err = rig.Redis(ctx, s.core); err != nil {
		return nil, err
	}
	s.rdb = redis.NewClient(&redis.Options{Addr: s.redis.Addr})
	s.closers = append(s.closers, s.redis.Stop, func() { s.rdb.Close() })
	if err := fillGet(ctx, s.redis.Addr, s.paths, s.body); err != nil {
		return nil, err
	}
	if s.binary = o.Binary; s.binary == "" {
		if s.binary, err = buildFreshwire(ctx, s.dir, ""); err != nil {
			return nil, err
		}
	}
	return s, s.startServers(ctx)
}

// startServers starts ours first: the references send its header.
func (s *stand) startServers(ctx context.Context) error {
	ours, err := s.startFreshwire(ctx, nameFreshwire, nil)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, ours.Stop)
	header, err := s.prove(ctx, ours)
	if err != nil {
		return fmt.Errorf("%s: %w", nameFreshwire, err)
	}
	header.Del("Date")
	for _, name := range names() {
		if !s.options.wants(name) {
			continue
		}
		srv := ours
		switch name {
		case nameFreshwire:
		case nameFreshwireRedis:
			srv, err = s.startFreshwire(ctx, name, []string{"FRESHWIRE_CACHE_MEMORY=-1"})
		case nameVarnish:
			srv, err = s.startVarnish(ctx)
		case nameNginx:
			srv, err = s.startNginx(ctx)
		default:
			srv, err = s.startReference(name, header)
		}
		if errors.Is(err, rig.ErrMissing) {
			s.leftOut = append(s.leftOut, fmt.Sprintf("no row %s: %v", name, err))
			continue
		}
		if err != nil {
			return fmt.Errorf("starting %s: %w", name, err)
		}
		if srv != ours {
			s.closers = append(s.closers, srv.Stop)
		}
		s.servers = append(s.servers, srv)
		if _, err := s.prove(ctx, srv); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (s *stand) stop() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// startReference runs a reference in a process of its own, as ours has one.
func (s *stand) startReference(name string, header http.Header) (*server, error) {
	told, err := json.Marshal(reference{Header: header, Body: s.body, Redis: s.redis.Addr})
	if err != nil {
		return nil, err
	}
	cmd, err := self(name, told)
	if err != nil {
		return nil, err
	}
	p, err := rig.Start(cmd, s.core)
	if err != nil {
		return nil, err
	}
	p.Addr, err = p.FirstLine()
	return &server{name: name, Process: p, askRedis: name == nameGet, countable: name != nameRaw}, err
}

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

// prove reads each address twice, and checks that the second read is a hit
// with the right body. It returns the head of the last answer.
func (s *stand) prove(ctx context.Context, srv *server) (http.Header, error) {
	var header http.Header
	for _, path := range append(s.paths, s.paths...) {
		res, body, err := fetch(ctx, srv.Addr, path)
		if err != nil {
			return nil, err
		}
		if res.StatusCode != http.StatusOK || !bytes.Equal(body, s.body) || res.ContentLength != int64(len(body)) {
			return nil, fmt.Errorf("%s answers %d with %d bytes (Content-Length %d), want 200 with ours", path, res.StatusCode, len(body), res.ContentLength)
		}
		header = res.Header
	}
	if name, value, found := strings.Cut(srv.marker, ": "); found && header.Get(name) != value {
		return nil, fmt.Errorf("the second read is no hit: %s: %q", name, header.Get(name))
	}
	// Of a hit Varnish tells two requests: this one, and the one that fetched.
	if srv.name == nameVarnish && len(strings.Fields(header.Get("X-Varnish"))) != 2 {
		return nil, fmt.Errorf("the second read is no hit: X-Varnish: %q", header.Get("X-Varnish"))
	}
	return header, nil
}

func fetch(ctx context.Context, addr, path string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, body, err
}

// client asks for no coding: all answers are compared as they are.
var client = &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: 10 * time.Second}

// counters are read before and after a load.
type counters struct {
	server      time.Duration // processor time, with that of Redis where it is asked
	redis       float64       // commands
	allocations float64
	origin      int64
}

func (s *stand) count(ctx context.Context, srv *server) (c counters, err error) {
	if srv.countable {
		if c.allocations, err = allocations(ctx, srv.Addr); err != nil {
			return c, err
		}
	}
	info, err := s.rdb.Info(ctx, "stats").Result()
	if err != nil {
		return c, err
	}
	for line := range strings.Lines(info) {
		if n, ok := strings.CutPrefix(line, "total_commands_processed:"); ok {
			if c.redis, err = strconv.ParseFloat(strings.TrimSpace(n), 64); err != nil {
				return c, err
			}
		}
	}
	if c.server, err = srv.Used(); err != nil {
		return c, err
	}
	if srv.askRedis {
		used, err := s.redis.Used()
		if err != nil {
			return c, err
		}
		c.server += used
	}
	c.origin = s.origin.asked.Load()
	return c, nil
}

// allocations asks a Go program how much it has allocated.
func allocations(ctx context.Context, addr string) (float64, error) {
	_, body, err := fetch(ctx, addr, "/metrics")
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(body))
	for lines.Scan() {
		if n, ok := strings.CutPrefix(lines.Text(), mallocsMetric+" "); ok {
			return strconv.ParseFloat(n, 64)
		}
	}
	return 0, fmt.Errorf("/metrics has no %s", mallocsMetric)
}

// warm is how long a server is loaded before it is measured.
func (o options) warm() time.Duration { return o.length() / 5 }

// measure loads one server once. The processor time and allocations are those
// of the whole load, its beginning included.
func (s *stand) measure(ctx context.Context, srv *server) (m measure, err error) {
	told, err := json.Marshal(plan{Addr: srv.Addr, Connections: s.options.Connections, Paths: s.paths,
		Warm: s.options.warm(), Length: s.options.length(), Body: s.body, Marker: srv.marker})
	if err != nil {
		return m, err
	}
	cmd, err := self(roleLoad, told)
	if err != nil {
		return m, err
	}
	before, err := s.count(ctx, srv)
	if err != nil {
		return m, err
	}
	load, err := rig.Start(cmd, s.loadCore)
	if err != nil {
		return m, err
	}
	defer load.Stop()
	line, err := load.FirstLine()
	if err != nil {
		return m, err
	}
	after, err := s.count(ctx, srv)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		return m, err
	}
	if n := after.origin - before.origin; n > 0 {
		return m, fmt.Errorf("%d reads reached the origin: not all were hits", n)
	}
	all := float64(m.Total)
	m.ServerTime = time.Duration(float64(after.server-before.server) / all)
	m.RedisReads = (after.redis - before.redis) / all
	m.Allocations = (after.allocations - before.allocations) / all
	return m, nil
}

// origin counts who asks it.
type origin struct {
	addr  string
	asked atomic.Int64
	stop  func()
}

func startOrigin(body []byte) (*origin, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{addr: l.Addr().String()}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		o.asked.Add(1)
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "public, max-age=86400")
		h.Set("ETag", `"1"`)
		h.Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})}
	o.stop = func() { srv.Close() }
	go srv.Serve(l)
	return o, nil
}

// jsonBody is a list of posts, bodySize bytes long.
func jsonBody() []byte {
	body := []byte(`{"data":{"id":"1","updatedAt":"2026-11-23T12:00:00Z","author":{"id":"7"},"text":"`)
	for i := 0; len(body) < bodySize-3; i++ {
		body = append(body, "Lorem ipsum dolor sit amet, consectetur adipiscing elit. "[i%57])
	}
	return append(body, `"}}`...)
}

var versionPattern = regexp.MustCompile(`\d+\.\d+\.\d+`)

// versions asks the programs which they are.
func (s *stand) versions() map[string]string {
	versions := map[string]string{}
	for _, p := range []struct{ name, program, flag string }{{"Varnish", "varnishd", "-V"}, {"nginx", "nginx", "-v"}, {"Redis", "redis-server", "-v"}} {
		cmd, err := rig.Command(p.program, p.flag)
		if err != nil {
			continue
		}
		out, _ := cmd.CombinedOutput()
		versions[p.name] = versionPattern.FindString(string(out))
	}
	if out, err := exec.Command(s.binary, "version").Output(); err == nil {
		versions["freshwire"] = strings.Join(strings.Fields(string(out)), " ")
	}
	return versions
}
