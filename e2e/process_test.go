// Package e2e tests the whole program from outside: real processes, a real
// Redis, a real browser, judged by what comes out.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "freshwire-e2e-")
	if err == nil {
		binary = filepath.Join(dir, "freshwire")
		build := exec.Command("go", append(append([]string{"build"}, buildFlags...), "-o", binary, "../cmd/freshwire")...)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "building freshwire:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// process is one running freshwire.
type process struct {
	role string
	env  []string
	URL  string // http://127.0.0.1:port, the same after a restart

	mu  sync.Mutex
	cmd *exec.Cmd
	out *logBuffer
}

// start runs `freshwire role` on a free port and waits until it is ready.
func start(t testing.TB, role string, env ...string) *process {
	t.Helper()
	return startAt(t, testkit.FreeAddr(t), role, env...)
}

// startAt is start on an address of the caller's choice.
func startAt(t testing.TB, addr, role string, env ...string) *process {
	t.Helper()
	p := &process{role: role, URL: "http://" + addr, out: &logBuffer{}}
	p.env = append(cleanEnviron(), "FRESHWIRE_ADDR="+addr, "LOG_FORMAT=json", "FRESHWIRE_RATE_LIMIT=0") // all tests have one address
	p.env = append(p.env, env...)
	p.run(t)
	t.Cleanup(func() {
		p.kill()
		if strings.Contains(p.out.String(), "DATA RACE") {
			t.Errorf("freshwire %s has a data race", role)
		}
		if t.Failed() {
			t.Logf("log of %s %s:\n%s", role, addr, p.out.tail(60))
		}
	})
	p.awaitReady(t)
	return p
}

// cleanEnviron is our environment without settings for freshwire.
func cleanEnviron() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "FRESHWIRE_") && !strings.HasPrefix(kv, "REDIS_URL") && !strings.HasPrefix(kv, "PORT=") {
			env = append(env, kv)
		}
	}
	return env
}

func (p *process) run(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd = exec.Command(binary, p.role)
	p.cmd.Env, p.cmd.Dir = p.env, os.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting freshwire %s: %v", p.role, err)
	}
}

func (p *process) awaitReady(t testing.TB) {
	t.Helper()
	testkit.Until(t, "freshwire "+p.role+" is ready", func() bool { return p.ready() })
}

func (p *process) ready() bool {
	resp, err := http.Get(p.URL + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == 200
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.cmd = nil
}

// terminate sends SIGTERM and returns the exit code.
func (p *process) terminate(t testing.TB) int {
	t.Helper()
	p.mu.Lock()
	cmd := p.cmd
	p.cmd = nil
	p.mu.Unlock()
	cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		t.Fatalf("freshwire %s did not end within 20 s of SIGTERM; its log:\n%s", p.role, p.out.tail(40))
	}
	return cmd.ProcessState.ExitCode()
}

// logBuffer keeps what a process printed.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len() > 8<<20 {
		b.buf.Reset()
	}
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) tail(lines int) string {
	all := strings.Split(strings.TrimSpace(b.String()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// configFile writes a freshwire.yaml and returns its path.
func configFile(t testing.TB, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "freshwire.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// frame is one server-sent event, as a browser would understand it. The tests
// read the stream with a parser of their own, so that an error in ours shows.
type frame struct{ id, event, data string }

// stream opens a subscription and sends its frames until ctx ends or the
// server closes. The error is nil when the server closed it.
func stream(ctx context.Context, url, lastID string, frames chan<- frame) error {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("stream: %s %s", resp.Status, body)
	}
	return readFrames(ctx, resp.Body, frames)
}

// readFrames sends the frames of an open stream until it ends or ctx does.
func readFrames(ctx context.Context, body io.Reader, frames chan<- frame) error {
	var f frame
	var data []string
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			f.id = value
		case "event":
			f.event = value
		case "data":
			data = append(data, value)
		case "":
			if lines.Text() != "" || data == nil {
				continue // a comment, or a block without data
			}
			f.data, data = strings.Join(data, "\n"), nil
			select {
			case frames <- f:
			case <-ctx.Done():
				return ctx.Err()
			}
			f = frame{}
		}
	}
	return lines.Err()
}

// getJSON fetches url into v and returns the answer.
func getJSON(t testing.TB, url string, v any, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	if v != nil {
		if err := json.Unmarshal(body, v); err != nil {
			t.Fatalf("GET %s = %s %q: %v", url, resp.Status, body, err)
		}
	}
	return resp
}
