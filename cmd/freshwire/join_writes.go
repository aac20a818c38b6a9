package main

import (
	"bytes"
	"net"
	"net/http"
	"sync"
	"syscall"
)

// net/http buffers 4 KiB of an answer, so one of a few KiB more leaves in two
// writes, of which the second one is small. A write costs more than all that a
// hit in memory needs besides. joinedConn holds the first piece of an answer
// back until the second comes, or the answer is over.
//
// That there is more to come is what the piece itself says: it is a whole
// buffer, and ends before the body of the declared length does.
type joinedConn struct {
	net.Conn
	raw net.Conn // under it, which can send two pieces at once

	mu   sync.Mutex // writes come one after the other; the end of a connection may come beside them
	held *[]byte    // nil: nothing
}

// joinWrites returns a listener whose connections join the pieces of answers.
func joinWrites(l net.Listener) net.Listener { return joiningListener{l} }

type joiningListener struct{ net.Listener }

func (l joiningListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	raw := conn
	if counted, ok := conn.(*limitedConn); ok {
		raw = counted.Conn
	}
	return &joinedConn{Conn: conn, raw: raw}, nil
}

// serverBuffer is the size of net/http's buffer.
const serverBuffer = 4 << 10

var heldPieces = sync.Pool{New: func() any {
	b := make([]byte, 0, 2*serverBuffer)
	return &b
}}

// Write sends p behind what is held. An error about that is told here: the
// server ends the connection, whichever of its writes it was about.
func (c *joinedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		if len(p) != serverBuffer || !begins(p) {
			return c.Conn.Write(p)
		}
		c.held = heldPieces.Get().(*[]byte)
		*c.held = append((*c.held)[:0], p...)
		return len(p), nil
	}
	if len(p) <= serverBuffer {
		*c.held = append(*c.held, p...)
		return len(p), c.send()
	}
	pieces := net.Buffers{*c.held, p}
	_, err := pieces.WriteTo(c.raw)
	c.drop()
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// send sends what is held. The caller holds the lock.
func (c *joinedConn) send() error {
	if c.held == nil {
		return nil
	}
	_, err := c.Conn.Write(*c.held)
	c.drop()
	return err
}

func (c *joinedConn) drop() {
	heldPieces.Put(c.held)
	c.held = nil
}

func (c *joinedConn) Close() error {
	c.mu.Lock()
	c.send()
	c.mu.Unlock()
	return c.Conn.Close()
}

// SyscallConn is for who takes the connection over: what was held is sent then.
func (c *joinedConn) SyscallConn() (syscall.RawConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.send(); err != nil {
		return nil, err
	}
	return syscallConn(c.Conn)
}

// begins reports whether p is the beginning of an answer with a body of known
// length that goes on after p.
func begins(p []byte) bool {
	if !bytes.HasPrefix(p, []byte("HTTP/1.1 200 ")) {
		return false
	}
	head := bytes.Index(p, []byte("\r\n\r\n"))
	if head < 0 {
		return false
	}
	at := bytes.Index(p[:head], []byte("\r\nContent-Length: "))
	if at < 0 {
		return false
	}
	length := 0
	for _, c := range p[at+len("\r\nContent-Length: ") : head] {
		if c < '0' || c > '9' || length > 1<<40 {
			break
		}
		length = 10*length + int(c-'0')
	}
	return head+4+length > len(p)
}

// sendHeld is for http.Server.ConnState: an answer that is over holds nothing back.
func sendHeld(conn net.Conn, state http.ConnState) {
	if c, ok := conn.(*joinedConn); ok && state == http.StateIdle {
		c.mu.Lock()
		c.send()
		c.mu.Unlock()
	}
}
