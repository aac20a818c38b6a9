package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// plan is what the load does. It runs in a process of its own, on its core: one
// thread, system calls as bare as can be, since net/http's client costs more
// than the servers it would measure.
type plan struct {
	Addr        string
	Connections int
	Paths       []string
	Warm        time.Duration // not measured
	Length      time.Duration
	Body        []byte
	Marker      string // part of each answer's head
}

// measure is what one load found.
type measure struct {
	Requests, Total int           // measured, and with those before
	Rate            float64       // per second
	P50, P99, Worst time.Duration // from before the request is written to the last byte of the answer
	LoadBusy        float64       // share of its core that the load used
	ServerTime      time.Duration // processor time of the server and of the Redis that it asks, per request
	RedisReads      float64       // commands that Redis ran, per request
	Allocations     float64       // per request, of Go programs
}

// loadPlan does what stdin says, and writes the measure to stdout.
func loadPlan() error {
	var p plan
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		return err
	}
	runtime.LockOSThread()
	m, err := p.run()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

// connection has one request under way.
type connection struct {
	fd   int
	next int // index of its next path
	sent time.Time
	in   []byte // what has come of the answer
	buf  [32 << 10]byte
}

func (p plan) run() (measure, error) {
	addr, err := netip.ParseAddrPort(p.Addr)
	if err != nil {
		return measure{}, err
	}
	var requests [][]byte
	for _, path := range p.Paths {
		requests = append(requests, fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: application/json\r\n\r\n", path, p.Addr))
	}
	poll, err := newPoll()
	if err != nil {
		return measure{}, err
	}
	defer poll.close()
	byFD := map[int32]*connection{}
	send := func(c *connection) error {
		request := requests[c.next]
		if c.next++; c.next == len(requests) {
			c.next = 0
		}
		c.in, c.sent = c.buf[:0], time.Now()
		return writeAll(c.fd, request)
	}
	for i := range p.Connections {
		c := &connection{next: i % len(requests)}
		if c.fd, err = dial(addr); err != nil {
			return measure{}, err
		}
		defer unix.Close(c.fd)
		byFD[int32(c.fd)] = c
		if err := errors.Join(poll.add(c.fd), send(c)); err != nil {
			return measure{}, err
		}
	}
	conns := make([]*connection, slices.Max(keysOf(byFD))+1) // by descriptor: quicker than a map
	for fd, c := range byFD {
		conns[fd] = c
	}

	check := checker{body: p.Body, marker: []byte(p.Marker)}
	var h histogram
	start := time.Now().Add(p.Warm)
	end := start.Add(p.Length)
	var before time.Duration
	total := 0
	for measuring := false; ; {
		ready, err := poll.wait()
		if err != nil {
			return measure{}, err
		}
		now := time.Now()
		if !measuring && !now.Before(start) {
			measuring, start, before = true, now, ownTime()
		}
		if !now.Before(end) {
			if h.n == 0 {
				return measure{}, errors.New("nothing was answered")
			}
			m := h.measure(now.Sub(start))
			m.Total = total
			m.LoadBusy = (ownTime() - before).Seconds() / now.Sub(start).Seconds()
			return m, nil
		}
		for _, ev := range ready {
			c := conns[ev.Fd]
			n, err := read(c.fd, c.buf[len(c.in):])
			switch {
			case err == unix.EAGAIN:
				continue
			case err != nil:
				return measure{}, fmt.Errorf("reading an answer: %w", err)
			case n == 0:
				return measure{}, errors.New("the server closed a connection")
			}
			c.in = c.buf[:len(c.in)+n]
			whole, err := check.answer(c.in)
			if err != nil {
				return measure{}, err
			}
			if !whole {
				continue
			}
			if total++; measuring {
				h.add(time.Since(c.sent))
			}
			if err := send(c); err != nil {
				return measure{}, fmt.Errorf("writing a request: %w", err)
			}
		}
	}
}

func keysOf(m map[int32]*connection) []int32 {
	var keys []int32
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// checker checks answers in full: status, length, marker and body.
type checker struct{ body, marker []byte }

var (
	statusOK = []byte("HTTP/1.1 200")
	headEnd  = []byte("\r\n\r\n")
	length   = []byte("\r\nContent-Length: ")
)

// answer reports whether in holds a whole answer.
func (k checker) answer(in []byte) (whole bool, err error) {
	at := bytes.Index(in, headEnd)
	if at < 0 {
		return false, nil
	}
	head, body := in[:at+len(headEnd)], in[at+len(headEnd):]
	i := bytes.Index(head, length)
	if !bytes.HasPrefix(head, statusOK) || i < 0 {
		return false, fmt.Errorf("want 200 with a Content-Length, got: %s", head)
	}
	digits, _, _ := bytes.Cut(head[i+len(length):], headEnd[:2])
	if n, err := strconv.Atoi(string(digits)); err != nil || n != len(k.body) {
		return false, fmt.Errorf("want a body of %d bytes, got: %s", len(k.body), head)
	}
	if !bytes.Contains(head, k.marker) {
		return false, fmt.Errorf("want %q in: %s", k.marker, head)
	}
	if len(body) < len(k.body) {
		return false, nil
	}
	if !bytes.Equal(body, k.body) {
		return false, errors.New("the body of an answer differs")
	}
	return true, nil
}

// histogram counts times by the microsecond.
type histogram struct {
	counts [100_000]uint32 // the last one: all above
	n      int
	worst  time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.counts[min(max(0, int(d/time.Microsecond)), len(h.counts)-1)]++
	h.n++
	h.worst = max(h.worst, d)
}

// quantile returns the time that a share of all took at most.
func (h *histogram) quantile(q float64) time.Duration {
	rest := int(q * float64(h.n))
	for i, n := range h.counts[:len(h.counts)-1] {
		if rest -= int(n); rest < 0 {
			return time.Duration(i) * time.Microsecond
		}
	}
	return h.worst
}

func (h *histogram) measure(took time.Duration) measure {
	return measure{Requests: h.n, Rate: float64(h.n) / took.Seconds(), P50: h.quantile(0.5), P99: h.quantile(0.99), Worst: h.worst}
}

// ownTime is the processor time of this process.
func ownTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// answerRaw is a server that parses nothing: a read is a request, and every
// answer is the same. What the load reaches against it is the load's ceiling.
func answerRaw(listener int, answer []byte) error {
	poll, err := newPoll()
	if err != nil {
		return err
	}
	if err := poll.add(listener); err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		ready, err := poll.wait()
		if err != nil {
			return err
		}
		for _, ev := range ready {
			fd := int(ev.Fd)
			if fd == listener {
				conn, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
				if err == nil {
					err = errors.Join(unix.SetsockoptInt(conn, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), poll.add(conn))
				}
				if err != nil && err != unix.EAGAIN {
					return err
				}
				continue
			}
			n, err := read(fd, buf)
			if err == unix.EAGAIN {
				continue
			}
			if n <= 0 || err != nil || writeAll(fd, answer) != nil {
				unix.Close(fd)
			}
		}
	}
}

// poll is an epoll instance.
type poll struct {
	fd     int
	events []unix.EpollEvent
}

func newPoll() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &poll{fd, make([]unix.EpollEvent, 256)}, err
}

func (p *poll) close() { unix.Close(p.fd) }

func (p *poll) add(fd int) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// wait returns what is ready; nothing after a while.
func (p *poll) wait() ([]unix.EpollEvent, error) {
	n, err := unix.EpollWait(p.fd, p.events, 100)
	if err == unix.EINTR {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("epoll_wait", err)
	}
	return p.events[:n], nil
}

func dial(addr netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()})
	if err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), unix.SetNonblock(fd, true)); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	return fd, nil
}

// read does not tell the Go scheduler, which would look for other work.
func read(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	n, errno := rawIO(unix.SYS_READ, fd, b)
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// writeAll writes b. Both sides have room for a request and an answer, so
// there is nothing to wait for.
func writeAll(fd int, b []byte) error {
	n, errno := rawIO(unix.SYS_WRITE, fd, b)
	if errno != 0 {
		return errno
	}
	if n != len(b) {
		return io.ErrShortWrite
	}
	return nil
}
