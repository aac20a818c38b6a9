package sse

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rawSocket is a connection that was taken over. Go keeps it open and knows
// nothing else of it: the shard writes to its descriptor, and closes it.
type rawSocket struct {
	conn net.Conn
	fd   int
	poll *poller
	slot uint32
	turn uint32
	asks bool // the poller tells when there is room
}

// sendBuffer bounds what the kernel keeps for a client that does not read.
const sendBuffer = 64 << 10

// freedWithin is how long after a client vanished without a word everything of
// it is free.
const freedWithin = 27 * time.Second

// newSocket returns nil for a connection that has no descriptor of its own.
func newSocket(conn net.Conn) socket {
	s := &rawSocket{conn: conn, fd: -1}
	if _, ok := conn.(*tls.Conn); ok {
		return nil
	}
	control(conn, func(fd int) { s.fd = fd })
	if s.fd < 0 {
		return nil
	}
	return s
}

// limitBuffer bounds what the kernel keeps for conn.
func limitBuffer(conn net.Conn) {
	control(conn, func(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) })
}

// limitSilence bounds how long the kernel keeps what is not confirmed.
func limitSilence(conn net.Conn, cfg Config) {
	// A ping comes a heartbeat after the client vanished, at the latest, and
	// is not confirmed. The bound counts for a client that does not read, too.
	silence := max(freedWithin-cfg.Heartbeat, cfg.WriteTimeout, 5*time.Second)
	control(conn, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	})
}

// control calls do with the descriptor of conn, if it has one.
func control(conn net.Conn, do func(fd int)) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { do(int(fd)) }) // closed already: the first write tells
	}
}

func (s *rawSocket) watch(sh *shard, sub *subscriber) error {
	if sh.poll == nil {
		var err error
		if sh.poll, err = newPoller(sh); err != nil {
			return err
		}
	}
	s.poll, s.slot, s.turn = sh.poll, uint32(sub.slot), sub.turn
	return s.poll.ask(unix.EPOLL_CTL_ADD, s, unix.EPOLLRDHUP|unix.EPOLLET)
}

func (s *rawSocket) write(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Write(s.fd, b[n:])
		switch {
		case m > 0:
			n += m
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if !s.asks { // from now on; asking says at once if there is room again
				s.asks = true
				return n, s.poll.ask(unix.EPOLL_CTL_MOD, s, unix.EPOLLRDHUP|unix.EPOLLOUT|unix.EPOLLET)
			}
			return n, nil
		default:
			return n, err
		}
	}
	return n, nil
}

func (s *rawSocket) ready() {}

func (s *rawSocket) unsent() int {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

func (s *rawSocket) end(b []byte) {
	if len(b) > 0 {
		_, _ = unix.Write(s.fd, b) // it goes either way
	}
	s.conn.Close() // and is forgotten by the poller
}

// poller tells a shard what happens to its raw sockets. It waits for an epoll
// instance as Go waits for any file, so that no thread is blocked.
type poller struct {
	file *os.File
	fd   int
}

func newPoller(sh *shard) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what makes os wait for it
		unix.Close(fd)
		return nil, fmt.Errorf("epoll descriptor: %w", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	raw, err := p.file.SyscallConn()
	if err != nil {
		p.file.Close()
		return nil, fmt.Errorf("epoll descriptor: %w", err)
	}
	go p.run(raw, sh)
	return p, nil
}

// ask sets what is told of s, edge-triggered.
func (p *poller) ask(op int, s *rawSocket, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(s.slot), Pad: int32(s.turn)}
	if err := unix.EpollCtl(p.fd, op, s.fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (p *poller) close() { p.file.Close() }

// run ends when the poller is closed.
func (p *poller) run(raw syscall.RawConn, sh *shard) {
	var events [256]unix.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err != nil || n <= 0 {
			return
		}
		sh.post(func(in *inbox) {
			for _, ev := range events[:n] {
				what := writable
				if ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
					what = hungUp
				}
				in.signals = append(in.signals, signal{slot: uint32(ev.Fd), turn: uint32(ev.Pad), what: what})
			}
		})
	}
}
