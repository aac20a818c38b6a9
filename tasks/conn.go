package tasks

import (
	"context"
	"net"
	"sync"
	"time"
)

// EmbeddedDialer is the Dialer of clients of the embedded store, whose dial
// gives one end of a net.Pipe. Such a pipe has no room: the store would stop
// reading until its first reply is read, and the client reads none before its
// pipeline is written. So what is written waits here.
func EmbeddedDialer(dial func() (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		conn, err := dial()
		if err != nil {
			return nil, err
		}
		return &roomyConn{Conn: conn}, nil
	}
}

// roomyConn takes every write at once. A write that fails closes the
// connection, which the next read tells.
type roomyConn struct {
	net.Conn

	mu      sync.Mutex
	writing bool
	waiting []byte
}

func (c *roomyConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, b...)
	if !c.writing {
		c.writing = true
		go c.write()
	}
	return len(b), nil
}

func (c *roomyConn) write() {
	for {
		c.mu.Lock()
		b := c.waiting
		c.waiting = nil
		if len(b) == 0 {
			c.writing = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if _, err := c.Conn.Write(b); err != nil {
			c.Close()
			return
		}
	}
}

func (c *roomyConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *roomyConn) SetWriteDeadline(time.Time) error { return nil }
