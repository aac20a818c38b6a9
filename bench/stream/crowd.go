//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// crowd is the subscribers: one epoll loop on one thread, with system calls as
// bare as can be, since it shares its core with those who publish.
type crowd struct {
	addr       netip.AddrPort
	path       string
	readyEvent bool // a subscriber is subscribed at the event ready, not at the head
	keepIDs    bool

	poll   int
	events []unix.EpollEvent
	buf    []byte
	byFD   []*subscriber
	subs   []*subscriber

	readyCount int
	fresh      int // messages that this pass brought
	lost       int // that a subscriber should have got before a later one
	repeated   int
	closed     int // connections that the server closed

	latency *histogram // nil: not now
	from    int64      // of messages sent since

	delivered atomic.Int64          // messages, by all subscribers
	onFresh   func(delivered int64) // nil: nobody waits
	onMessage func(*subscriber)     // nil: nobody asks
}

func newCrowd(t target) (*crowd, error) {
	addr, err := netip.ParseAddrPort(t.Addr)
	if err != nil {
		return nil, err
	}
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &crowd{addr: addr, path: t.Path, readyEvent: t.ReadyEvent, poll: poll, events: make([]unix.EpollEvent, 1024),
		buf: make([]byte, 256<<10)}, nil
}

func (c *crowd) isReady(s *subscriber) {
	if !s.ready {
		s.ready = true
		c.readyCount++
	}
}

// opening is how many connections may be on their way in at a time: fewer
// than any server's queue of them holds.
const opening = 256

// join opens n connections and waits until all are subscribed. expect is what
// each of them awaits first of a publisher; lastID, where it resumes.
func (c *crowd) join(n int, lastID string, expect [maxPublishers]int) (took time.Duration, err error) {
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n", c.path, c.addr)
	if lastID != "" {
		request = fmt.Appendf(request, "Last-Event-ID: %s\r\n", lastID)
	}
	request = append(request, "\r\n"...)
	begun, all := time.Now(), c.readyCount+n
	deadline := begun.Add(time.Minute)
	for opened := 0; c.readyCount < all; {
		for ; opened < n && all-n+opened-c.readyCount < opening; opened++ {
			if err := c.open(request, expect); err != nil {
				return 0, err
			}
		}
		if err := c.step(100); err != nil {
			return 0, err
		}
		if c.closed > 0 {
			return 0, fmt.Errorf("the server closed %d connections of %d", c.closed, len(c.subs))
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("%d of %d were subscribed after a minute", c.readyCount, all)
		}
	}
	return time.Since(begun), nil
}

// perAddress is how many connections share a source address: the system finds
// a free port quickly as long as most are.
const perAddress = 4000

func (c *crowd) open(request []byte, expect [maxPublishers]int) error {
	opened := time.Now()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	source := [4]byte{127, 0, 0, byte(1 + len(c.subs)/perAddress)}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: source}),
		unix.Connect(fd, &unix.SockaddrInet4{Port: int(c.addr.Port()), Addr: c.addr.Addr().As4()}),
		unix.SetNonblock(fd, true),
		unix.EpollCtl(c.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
	if err == nil {
		_, err = unix.Write(fd, request)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("connecting to %s: %w", c.addr, err)
	}
	s := &subscriber{fd: fd, opened: opened, next: expect}
	for fd >= len(c.byFD) {
		c.byFD = append(c.byFD, make([]*subscriber, 1024)...)
	}
	c.byFD[fd] = s
	c.subs = append(c.subs, s)
	return nil
}

// leave closes all connections.
func (c *crowd) leave() {
	for _, s := range c.subs {
		if c.byFD[s.fd] == s {
			c.byFD[s.fd] = nil
			unix.Close(s.fd)
		}
	}
	c.subs, c.readyCount = nil, 0
}

// step reads what is there, or waits for it a while.
func (c *crowd) step(waitMS int) error {
	n, err := unix.EpollWait(c.poll, c.events, waitMS)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("epoll_wait", err)
	}
	for _, ev := range c.events[:n] {
		s := c.byFD[ev.Fd]
		n, errno := rawIO(unix.SYS_READ, s.fd, c.buf)
		switch {
		case errno == unix.EAGAIN:
			continue
		case n <= 0 || errno != 0:
			c.closed++
			c.byFD[s.fd] = nil
			unix.Close(s.fd)
			continue
		}
		if err := c.take(s, c.buf[:n], time.Now().UnixNano()); err != nil {
			return err
		}
	}
	if c.fresh > 0 {
		all := c.delivered.Add(int64(c.fresh))
		c.fresh = 0
		if c.onFresh != nil {
			c.onFresh(all)
		}
	}
	return nil
}

// until reads until done, which is asked after every pass, or the deadline.
func (c *crowd) until(deadline time.Time, done func() bool) error {
	for !done() {
		wait := time.Until(deadline)
		if wait <= 0 {
			return nil
		}
		if err := c.step(int(min(wait, 10*time.Millisecond)/time.Millisecond) + 1); err != nil {
			return err
		}
	}
	return nil
}

// during reads for a time.
func (c *crowd) during(d time.Duration) error {
	return c.until(time.Now().Add(d), func() bool { return false })
}

// rawIO reads into b, or writes it, without a word to the Go scheduler. The
// descriptor does not block.
func rawIO(call uintptr, fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}
