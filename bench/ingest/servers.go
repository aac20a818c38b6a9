package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// server is a process under load.
type server struct {
	name, addr string
	cmd        *exec.Cmd
	backlog    func(ctx context.Context) (float64, error) // nil: none
}

func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(20*time.Second, func() { s.cmd.Process.Kill() })
	defer kill.Stop()
	s.cmd.Wait()
}

// settle waits until the server has done what it acknowledged.
func (s *server) settle(ctx context.Context) error {
	if s.backlog == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		n, err := s.backlog(ctx)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %.0f deliveries are still waiting after 2 minutes", s.name, n)
		}
	}
}

// serveVariable tells a copy of this program which reference to serve.
const serveVariable = "FRESHWIRE_BENCH_SERVE"

// startReference runs a reference in a process of its own, as ours has one.
func startReference(ctx context.Context, which, redisAddr string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), serveVariable+"="+which, "REDIS_ADDR="+redisAddr)
	out, err := start(cmd)
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	return &server{addr: strings.TrimSpace(line), cmd: cmd}, err
}

func start(cmd *exec.Cmd) (io.Reader, error) {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return out, cmd.Start()
}

// serveReference serves one of the two references, and prints its address.
func serveReference(which string) error {
	accept := func(context.Context, string, []byte) error { return nil }
	if which == "asynq" {
		client := asynq.NewClientFromRedisClient(redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS_ADDR"), PoolSize: 64, MaxRetries: -1}))
		accept = func(ctx context.Context, id string, body []byte) error {
			_, err := client.EnqueueContext(ctx, asynq.NewTask("event", body), asynq.TaskID(id), asynq.MaxRetry(25), asynq.Timeout(30*time.Second))
			return err
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "body", http.StatusBadRequest)
			return
		}
		given, err := hex.DecodeString(strings.TrimPrefix(r.Header.Get("X-Webhook-Signature"), "sha256="))
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		if err != nil || !hmac.Equal(given, mac.Sum(nil)) {
			http.Error(w, "signature", http.StatusUnauthorized)
			return
		}
		id := r.Header.Get("X-Delivery-Id")
		if err := accept(r.Context(), id, body); err != nil {
			http.Error(w, "queue", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"id": id, "status": "queued"})
	}))
}

const config = `
sources:
  shop:
    cms: generic
    scheme: hmac
    header: X-Webhook-Signature
    prefix: "sha256="
    delivery_id_header: X-Delivery-Id
    secret: ` + secret + `
    rate: "0"
`

// startFreshwire builds the program and runs its web role with a journal.
func startFreshwire(ctx context.Context, dir, redisAddr string) (*server, error) {
	binary, file := filepath.Join(dir, "freshwire"), filepath.Join(dir, "freshwire.yaml")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/freshwire/freshwire/cmd/freshwire")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building freshwire: %w", err)
	}
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := free.Addr().String()
	free.Close()
	cmd := exec.CommandContext(ctx, binary, "web")
	cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+redisAddr, "FRESHWIRE_ADDR="+addr, "FRESHWIRE_CONFIG="+file,
		"FRESHWIRE_SPOOL_DIR="+filepath.Join(dir, "spool"), "FRESHWIRE_QUEUE_CAP=10000000", "LOG_LEVEL=error")
	if _, err := start(cmd); err != nil {
		return nil, err
	}
	s := &server{addr: addr, cmd: cmd, backlog: func(ctx context.Context) (float64, error) { return backlog(ctx, addr) }}
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := http.Get("http://" + addr + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		if time.Now().After(deadline) {
			s.stop()
			return nil, fmt.Errorf("not ready after 20 s: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// backlog asks our process how many deliveries its journal has not forwarded.
func backlog(ctx context.Context, addr string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), backlogMetric+" "); ok {
			var n float64
			_, err := fmt.Sscan(value, &n)
			return n, err
		}
	}
	return 0, fmt.Errorf("/metrics of freshwire (%s) has no %s", resp.Status, backlogMetric)
}

const backlogMetric = "freshwire_journal_backlog_records"

// redisServer is a redis-server of our own.
type redisServer struct {
	addr string
	args []string
	cmd  *exec.Cmd
}

func startRedis(ctx context.Context, dir, name string, args ...string) (*redisServer, error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := free.Addr().String()
	free.Close()
	home := filepath.Join(dir, name)
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	s := &redisServer{addr: addr, args: append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", home, "--loglevel", "warning"}, args...)}
	return s, s.start(ctx)
}

func (s *redisServer) start(ctx context.Context) error {
	s.cmd = exec.CommandContext(ctx, "redis-server", s.args...)
	if _, err := start(s.cmd); err != nil {
		return fmt.Errorf("redis-server: %w (apt-get install redis-server)", err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
	defer rdb.Close()
	for {
		err := rdb.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (s *redisServer) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// redisAway is how long Redis is away when it restarts.
const redisAway = 2 * time.Second

// restartAfter kills the server after a while, and starts it again, empty.
func (s *redisServer) restartAfter(ctx context.Context, d time.Duration) error {
	if err := pause(ctx, d); err != nil {
		return err
	}
	s.stop()
	if err := pause(ctx, redisAway); err != nil {
		return err
	}
	return s.start(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
