package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// startServer starts a redis-server whose memory is bounded.
func startServer(ctx context.Context) (*rig.Process, error) {
	return rig.Redis(ctx, rig.AnyCore, "--maxmemory", "4gb")
}

// client is patient: what it asks for can hold the server up for seconds.
func client(srv *rig.Process) *redis.Client {
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr, PoolSize: 64, ReadTimeout: time.Minute, WriteTimeout: time.Minute})
	rdb.AddHook(trips{})
	return rdb
}

// realServer returns the version of a real Redis. The embedded store shares
// our process and has no event loop to block: its figures would say nothing.
func realServer(ctx context.Context, rdb *redis.Client) (version string, err error) {
	info, err := rdb.Info(ctx, "server").Result()
	if err == nil && strings.Contains(info, "run_id:") {
		for line := range strings.Lines(info) {
			if v, ok := strings.CutPrefix(line, "redis_version:"); ok {
				return strings.TrimSpace(v), nil
			}
		}
	}
	return "", fmt.Errorf("this is no real redis-server: %w", err)
}

// askServer is the environment variable that makes this program the other
// client: a process of its own, which our work cannot delay but through the
// server. It holds the server's address and process id.
const askServer = "FRESHWIRE_BENCH_ASK"

// waits are the other client's for an answer.
type waits struct {
	P50  time.Duration
	Max  time.Duration // by the clock: on a busy machine mostly waits for a core
	Busy time.Duration // most that the server worked, in time of its core, between question and answer
}

// during runs fn while another process asks the server all the time.
func during(ctx context.Context, srv *rig.Process, fn func() error) (waits, error) {
	self, err := os.Executable()
	if err != nil {
		return waits{}, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", askServer, srv.Addr, srv.PID))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return waits{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return waits{}, err
	}
	if err := cmd.Start(); err != nil {
		return waits{}, err
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil { // it has begun
		return waits{}, fmt.Errorf("starting the other client: %w", err)
	}
	failed := fn()
	in.Close()
	var w waits
	err = json.NewDecoder(lines).Decode(&w)
	cmd.Wait()
	if failed != nil {
		err = failed
	}
	return w, err
}

// ask is the other client: it asks until stop ends, says when it has begun,
// and in the end how long it waited.
//
// The question is how much processor time the server has used. With the same
// number read from the system before the question, the answer tells how long
// the server worked for others while we waited, whatever else the machine did.
func ask(where string, stop io.Reader, out io.Writer) error {
	addr, id, _ := strings.Cut(where, " ")
	pid, err := strconv.Atoi(id)
	if err != nil {
		return fmt.Errorf("process id %q: %w", id, err)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stopped := make(chan struct{})
	go func() {
		io.Copy(io.Discard, stop)
		close(stopped)
	}()
	answers := bufio.NewReader(conn)
	var took []time.Duration
	var busy time.Duration
	for begun := false; ; {
		used, err := rig.ProcessorTime(pid)
		if err != nil {
			return err
		}
		start := time.Now()
		if _, err := io.WriteString(conn, "INFO cpu\r\n"); err != nil {
			return err
		}
		then, err := readProcessorTime(answers)
		if err != nil {
			return err
		}
		if begun {
			took = append(took, time.Since(start))
			busy = max(busy, then-used)
		} else {
			begun = true
			fmt.Fprintln(out, "begun")
		}
		select {
		case <-stopped:
			if len(took) == 0 {
				continue
			}
			slices.Sort(took)
			return json.NewEncoder(out).Encode(waits{P50: took[len(took)/2], Max: took[len(took)-1], Busy: busy})
		case <-time.After(50 * time.Microsecond):
		}
	}
}

// readProcessorTime reads the answer to INFO cpu.
func readProcessorTime(r *bufio.Reader) (time.Duration, error) {
	head, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "$")))
	if err != nil {
		return 0, fmt.Errorf("answer %q: %w", head, err)
	}
	text := make([]byte, n+len("\r\n"))
	if _, err := io.ReadFull(r, text); err != nil {
		return 0, err
	}
	var total time.Duration
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_sys" || name == "used_cpu_user" {
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, err
			}
			total += time.Duration(seconds * 1e9)
		}
	}
	return total, nil
}
