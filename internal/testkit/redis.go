// Package testkit gives tests what is real: a redis-server or a cluster of
// three masters, started by the test run itself on free loopback ports, and
// helpers that wait for a moment instead of for a while.
//
// Only tests import it.
package testkit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A server that starts or was killed refuses connections, which go-redis would
// print for each try.
func init() { redis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// Server is one redis-server of a test's own.
type Server struct {
	Addr string // 127.0.0.1:port

	dir  string
	args []string
	cmd  *exec.Cmd
}

// StartServer starts a redis-server on a free loopback port, without
// persistence unless args say otherwise, and stops it when the test ends.
func StartServer(t testing.TB, args ...string) *Server {
	t.Helper()
	s := &Server{Addr: FreeAddr(t), dir: t.TempDir(), args: args}
	s.Start(t)
	t.Cleanup(func() { s.Kill() })
	return s
}

// Start starts the server (again), and waits until it answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("redis-server is not installed: `apt-get install redis-server`, or `make deps`")
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--dir", s.dir, "--loglevel", "warning"}, s.args...)
	s.cmd = exec.Command(bin, args...)
	var out bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	// A test that is killed must not leave its servers behind.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("starting redis-server: %v", err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DialerRetries: 1})
	defer rdb.Close()
	deadline := time.Now().Add(20 * time.Second)
	for rdb.Ping(t.Context()).Err() != nil {
		if time.Now().After(deadline) || t.Context().Err() != nil {
			t.Fatalf("redis-server on %s does not answer:\n%s", s.Addr, out.String())
		}
		time.Sleep(5 * time.Millisecond) // a process that starts has no signal to wait for
	}
}

// Kill ends the server at once, as kill -9 does.
func (s *Server) Kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// Signal sends a signal, such as SIGSTOP.
func (s *Server) Signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

// URL returns the server's address as REDIS_URL wants it.
func (s *Server) URL() string { return "redis://" + s.Addr + "/0" }

// Client returns a client that is closed when the test ends.
func (s *Server) Client(t testing.TB) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr})
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// Redis returns a client on an empty redis-server that belongs to this test.
func Redis(t testing.TB) *redis.Client {
	t.Helper()
	return StartServer(t).Client(t)
}

// Cluster returns a client on an empty cluster of three masters that belongs
// to this test.
func Cluster(t testing.TB) *redis.ClusterClient {
	t.Helper()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: StartCluster(t)})
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// StartCluster starts a cluster of three masters and returns their addresses.
func StartCluster(t testing.TB) []string {
	t.Helper()
	var addrs []string
	var wg sync.WaitGroup
	servers := make([]*Server, 3)
	for i := range servers {
		servers[i] = &Server{Addr: FreeAddr(t), dir: t.TempDir()}
		addrs = append(addrs, servers[i].Addr)
		busPort := freePort(t)
		servers[i].args = []string{"--cluster-enabled", "yes", "--cluster-config-file", filepath.Join(servers[i].dir, "nodes.conf"),
			"--cluster-port", strconv.Itoa(busPort), "--cluster-node-timeout", "5000"}
	}
	for _, s := range servers {
		wg.Go(func() { s.Start(t) })
		t.Cleanup(s.Kill)
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	args := append([]string{"--cluster", "create"}, addrs...)
	out, err := exec.Command("redis-cli", append(args, "--cluster-replicas", "0", "--cluster-yes")...).CombinedOutput()
	if err != nil {
		t.Fatalf("making the cluster: %v\n%s", err, out)
	}
	deadline := time.Now().Add(30 * time.Second)
	for _, s := range servers {
		rdb := s.Client(t)
		for {
			info, err := rdb.ClusterInfo(t.Context()).Result()
			if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("cluster node %s is not ready: %v\n%s", s.Addr, err, info)
			}
			time.Sleep(10 * time.Millisecond) // the cluster has no signal to wait for
		}
	}
	return addrs
}

// FreeAddr returns a loopback address whose port is free, for a server that is
// about to be started.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", freePort(t))
}

var (
	portMu   sync.Mutex
	portUsed = map[int]bool{}
)

// freePort returns a port that is free and was not given out before. It is
// below those that the system gives to outgoing connections: one of these
// could be taken between the look and the start.
func freePort(t testing.TB) int {
	t.Helper()
	portMu.Lock()
	defer portMu.Unlock()
	for range 1000 {
		port := 11000 + rand.IntN(20000)
		if portUsed[port] {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			portUsed[port] = true
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// Logger returns a logger that writes to the test's log, and stays silent
// after the test has ended.
func Logger(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.stop)
	level := slog.LevelInfo
	if os.Getenv("FRESHWIRE_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

type testWriter struct {
	mu   sync.Mutex
	t    testing.TB
	done bool
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.t.Logf("%s", bytes.TrimRight(p, "\n"))
	}
	return len(p), nil
}

func (w *testWriter) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
}

// Discard returns a logger that writes nowhere, for benchmarks.
func Discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// Patience is how long Wait waits before it fails the test. It is a bound on
// a broken test, not a measure of speed.
const Patience = 30 * time.Second

// Wait receives from ch, or fails the test when nothing comes.
func Wait[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(Patience):
		t.Fatalf("waited %v for %s", Patience, what)
		panic("unreachable")
	}
}

// Until polls cond, for states that no signal announces (another process, a
// server's counters), or fails the test.
func Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v until %s", Patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// Go runs fn until the test ends: its context is cancelled then, and the test
// waits for it. An error other than the cancellation fails the test.
func Go(t testing.TB, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				t.Errorf("background: %v", err)
			}
		case <-time.After(Patience):
			t.Errorf("background work did not end within %v of its context", Patience)
		}
	})
}
