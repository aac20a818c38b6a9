//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The bare servers: no feature but a short history, one for each way to write.
//
//	nethttp  a goroutine and a queue for each connection, Write and Flush
//	hijack   taken-over connections without goroutines; who publishes writes to all
//	log      the same, but one pump writes all that is new since its last pass at once
//
// GET /events subscribes, after Last-Event-ID if given; POST /publish publishes.
func serveBare(name string, l net.Listener) error {
	h := &bareHub{}
	h.drop, _ = strconv.Atoi(os.Getenv(dropVariable))
	mux := http.NewServeMux()
	switch name {
	case nameNetHTTP:
		h.publish = h.toQueues
		mux.HandleFunc("GET /events", h.serveQueue)
	case nameHijack:
		h.publish = h.toAll
		mux.HandleFunc("GET /events", h.takeOver)
	case nameLog:
		h.news = make(chan struct{}, 1)
		h.publish = h.toPump
		go h.pump()
		mux.HandleFunc("GET /events", h.takeOver)
	default:
		return fmt.Errorf("no bare server %q", name)
	}
	mux.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		h.publish(body)
		w.WriteHeader(http.StatusNoContent)
	})
	return http.Serve(l, mux)
}

// dropVariable is how the tests make a server lose a message: the one of this
// number, for the first subscriber.
const dropVariable = "FRESHWIRE_BENCH_DROP"

// history is how many messages every server of the bench keeps.
const history = 2000

type bareHub struct {
	publish func(body []byte)
	drop    int
	news    chan struct{} // wakes the pump; holds one

	passing sync.Mutex // held while subscribers are written to, or added
	conns   []*bareConn
	queues  map[*queue]struct{}
	passed  int // messages that the subscribers have

	mu     sync.Mutex
	frames [][]byte // the last of them
	count  int      // messages; the last one's id
}

// add appends a message to the history.
func (h *bareHub) add(body []byte) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	frame := fmt.Appendf(nil, "id: %d\ndata: %s\n\n", h.count, body)
	if h.frames = append(h.frames, frame); len(h.frames) > history {
		h.frames = h.frames[1:]
	}
	return frame
}

// between returns what came after one message, up to another, as one text.
func (h *bareHub) between(after, upTo int) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := h.count - len(h.frames) // id before the oldest
	return slices.Concat(h.frames[min(max(0, after-first), len(h.frames)):max(0, upTo-first)]...)
}

// missed returns what a client that comes back has to get before it is told
// what comes after h.passed.
func (h *bareHub) missed(r *http.Request) []byte {
	last, err := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	if err != nil {
		return nil
	}
	return h.between(last, h.passed)
}

// queue is a subscriber of net/http's.
type queue struct {
	frames chan []byte
	gone   <-chan struct{}
}

func (h *bareHub) toQueues(body []byte) {
	h.passing.Lock()
	defer h.passing.Unlock()
	frame := h.add(body)
	h.passed++
	for q := range h.queues {
		select {
		case q.frames <- frame:
		case <-q.gone:
		}
	}
}

func (h *bareHub) serveQueue(w http.ResponseWriter, r *http.Request) {
	q := &queue{make(chan []byte, 256), r.Context().Done()}
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	h.passing.Lock()
	frame := h.missed(r)
	if h.queues == nil {
		h.queues = map[*queue]struct{}{}
	}
	h.queues[q] = struct{}{}
	h.passing.Unlock()
	defer func() {
		h.passing.Lock()
		delete(h.queues, q)
		h.passing.Unlock()
	}()
	for {
		if _, err := w.Write(frame); err != nil || rc.Flush() != nil {
			return
		}
		select {
		case frame = <-q.frames:
		case <-q.gone:
			return
		}
	}
}

// bareConn is a connection that was taken over.
type bareConn struct {
	conn net.Conn // keeps fd open
	fd   int

	mu   sync.Mutex
	rest []byte // what the socket did not take; somebody writes it
	busy bool
	dead bool
}

const bareHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"

func (h *bareHub) takeOver(w http.ResponseWriter, r *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	c := &bareConn{conn: conn}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { c.fd = int(fd) })
	}
	if err != nil {
		conn.Close()
		return
	}
	h.passing.Lock()
	defer h.passing.Unlock()
	if c.send(append([]byte(bareHead), h.missed(r)...)) {
		h.conns = append(h.conns, c)
	}
}

// send writes b without waiting, the rest of it later. It reports whether the
// connection lives.
func (c *bareConn) send(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return false
	}
	if c.busy {
		c.rest = append(c.rest, b...)
		return true
	}
	n, errno := rawIO(unix.SYS_WRITE, c.fd, b)
	if errno != 0 && errno != syscall.EAGAIN {
		c.dead = true
		c.conn.Close()
		return false
	}
	if n = max(0, n); n < len(b) {
		c.rest, c.busy = slices.Clone(b[n:]), true
		go c.sendRest()
	}
	return true
}

func (c *bareConn) sendRest() {
	for {
		c.mu.Lock()
		b := c.rest
		if c.rest = nil; len(b) == 0 {
			c.busy = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if _, err := c.conn.Write(b); err != nil {
			c.mu.Lock()
			c.dead = true
			c.mu.Unlock()
			c.conn.Close()
			return
		}
	}
}

// toAll writes a message to everybody before its publisher is answered.
func (h *bareHub) toAll(body []byte) {
	h.passing.Lock()
	defer h.passing.Unlock()
	frame := h.add(body)
	h.passed++
	h.pass(frame)
}

// pass writes b to all. The caller holds passing.
func (h *bareHub) pass(b []byte) {
	conns := h.conns
	if h.drop > 0 && h.passed >= h.drop && len(conns) > 0 {
		h.drop, conns = 0, conns[1:]
	}
	dead := false
	for _, c := range conns {
		if !c.send(b) {
			dead = true
		}
	}
	if dead {
		h.conns = slices.DeleteFunc(h.conns, func(c *bareConn) bool { return c.dead })
	}
}

// toPump leaves the writing to the pump.
func (h *bareHub) toPump(body []byte) {
	h.add(body)
	select {
	case h.news <- struct{}{}:
	default:
	}
}

func (h *bareHub) pump() {
	for range h.news {
		h.passing.Lock()
		h.mu.Lock()
		upTo := h.count
		h.mu.Unlock()
		if b := h.between(h.passed, upTo); len(b) > 0 {
			h.passed = upTo
			h.pass(b)
		}
		h.passing.Unlock()
	}
}
