// Package rig runs the servers of a benchmark: each is a process, pinned to a
// core where it should not share one, and ends with the benchmark.
//
//	redis, err := rig.Redis(ctx, rig.AnyCore)
//	defer redis.Stop()
//
// All listen on free loopback ports and keep nothing.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrMissing marks a program that is not installed.
var ErrMissing = errors.New("not installed")

// packages are Debian's, by program.
var packages = map[string]string{"redis-server": "redis-server", "varnishd": "varnish", "nginx": "nginx-light"}

// Command finds a program, also where daemons are that are not in everybody's
// PATH. Without it the error is ErrMissing and says how to install it.
func Command(program string, args ...string) (*exec.Cmd, error) {
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return exec.Command(path, args...), nil
		}
	}
	return nil, fmt.Errorf("%s is %w: apt-get install %s", program, ErrMissing, packages[program])
}

// Process is a running server.
type Process struct {
	Addr string // host:port
	PID  int

	cmd    *exec.Cmd
	stdout io.ReadCloser
	stderr *tail
	watch  sync.Once
	ended  chan struct{}
}

// AnyCore leaves the choice of cores to the system.
const AnyCore = -1

// Start runs cmd on one core, or on any. Ready or FirstLine must follow.
func Start(cmd *exec.Cmd, core int) (*Process, error) {
	p := &Process{cmd: cmd, stderr: &tail{}, ended: make(chan struct{})}
	cmd.Stderr = p.stderr
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := on(core, cmd.Start); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	p.PID, p.stdout = cmd.Process.Pid, stdout
	return p, nil
}

// on runs start with this thread on a core: the child inherits it, so that a
// Go program counts one processor from its first moment.
func on(core int, start func() error) error {
	if core == AnyCore {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	one.Set(core)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("choosing core %d: %w", core, err)
	}
	defer unix.SchedSetaffinity(0, &before)
	return start()
}

// Cores lists the cores that this process may run on.
func Cores() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	var cores []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cores = append(cores, i)
		}
	}
	return cores, nil
}

// FirstLine returns the first line of the program's output, and drops the rest.
func (p *Process) FirstLine() (string, error) {
	defer p.observe()
	var line []byte
	for one := make([]byte, 1); ; line = append(line, one[0]) {
		if _, err := io.ReadFull(p.stdout, one); err != nil {
			p.observe()
			select { // its last words may still be on their way
			case <-p.ended:
			case <-time.After(time.Second):
			}
			return "", fmt.Errorf("%s ended without a word: %s", p.cmd.Path, p.stderr)
		}
		if one[0] == '\n' {
			return string(line), nil
		}
	}
}

// observe drops what the program writes, and notes its end.
func (p *Process) observe() {
	p.watch.Do(func() {
		go func() {
			io.Copy(io.Discard, p.stdout)
			p.cmd.Wait()
			close(p.ended)
		}()
	})
}

// readyTime is how long a server may take to start.
const readyTime = 30 * time.Second

// Ready waits until ask succeeds, and ends a server that takes too long.
func (p *Process) Ready(ctx context.Context, ask func(context.Context) error) error {
	p.observe()
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-p.ended:
			return fmt.Errorf("%s ended: %s", p.cmd.Path, p.stderr)
		case <-ctx.Done():
			p.Stop()
			return fmt.Errorf("%s is not ready: %w: %s", p.cmd.Path, err, p.stderr)
		}
	}
}

// Accepts reports whether somebody listens.
func (p *Process) Accepts(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", p.Addr)
	if err == nil {
		conn.Close()
	}
	return err
}

// Stop ends the process, with force where a word does not help.
func (p *Process) Stop() {
	p.observe()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(time.Second):
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// Used returns the processor time of the process and its children.
func (p *Process) Used() (time.Duration, error) {
	total, err := ProcessorTime(p.PID)
	if err != nil {
		return 0, err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID, p.PID))
	if err != nil {
		return 0, err
	}
	for _, child := range strings.Fields(string(children)) {
		var pid int
		if _, err := fmt.Sscan(child, &pid); err != nil {
			return 0, err
		}
		used, err := ProcessorTime(pid)
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

// ProcessorTime returns what a process has used.
func ProcessorTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of a process's clock, see clock_getcpuclockid(3)
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// FreeAddr returns a loopback address that nobody listens on.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Redis starts a redis-server without persistence.
func Redis(ctx context.Context, core int, args ...string) (*Process, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	cmd, err := Command("redis-server", append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "",
		"--appendonly", "no", "--maxmemory-policy", "noeviction", "--loglevel", "warning"}, args...)...)
	if err != nil {
		return nil, err
	}
	p, err := Start(cmd, core)
	if err != nil {
		return nil, err
	}
	p.Addr = addr
	return p, p.Ready(ctx, p.Accepts)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-4096):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}
