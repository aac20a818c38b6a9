package sse

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// pump is the socket of a connection to which one goroutine of its own writes,
// and may block.
type pump struct {
	tell    func(happening)
	send    func([]byte) error // blocks for up to timeout
	timeout time.Duration
	out     chan []byte  // holds what is being written, and last words behind it
	left    atomic.Int64 // bytes that were taken and not sent
	busy    bool         // of the shard alone
}

// maxPiece is what a pump sends at a time: a client that reads so much within
// the write timeout is slow, not blocked.
const maxPiece = 8 << 10

func newPump(sh *shard, s *subscriber, timeout time.Duration, send func([]byte) error) *pump {
	return &pump{send: send, timeout: timeout, out: make(chan []byte, 2), tell: func(what happening) {
		sh.post(func(in *inbox) { in.signals = append(in.signals, signal{sub: s, what: what}) })
	}}
}

func (p *pump) watch(*shard, *subscriber) error { return nil }

func (p *pump) write(b []byte) (int, error) {
	if p.busy {
		return 0, nil
	}
	p.busy = true
	p.left.Add(int64(len(b)))
	p.out <- bytes.Clone(b) // the shard uses b again
	return len(b), nil
}

func (p *pump) ready()      { p.busy = false }
func (p *pump) unsent() int { return int(p.left.Load()) }

func (p *pump) end(b []byte) {
	if len(b) > 0 {
		p.out <- b
	}
	close(p.out)
}

// run writes what the shard hands over, until that is all or ctx ends.
func (p *pump) run(ctx context.Context) {
	for {
		select {
		case b, ok := <-p.out:
			if !ok {
				return
			}
			for piece := range slices.Chunk(b, maxPiece) {
				start := time.Now()
				if err := p.send(piece); err != nil {
					if time.Since(start) >= p.timeout {
						p.tell(stalled)
					} else {
						p.tell(hungUp)
					}
					return
				}
				p.left.Add(-int64(len(piece)))
			}
			p.tell(writable)
		case <-ctx.Done():
			p.tell(hungUp)
			return
		}
	}
}

// responseWriter returns how to send on the connection of w.
func responseWriter(w http.ResponseWriter, timeout time.Duration) (send func([]byte) error, err error) {
	rc := http.NewResponseController(w)
	// The deadlines of the server are for answers that end.
	if err := rc.SetWriteDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return func(b []byte) error {
		err := rc.SetWriteDeadline(time.Now().Add(timeout))
		if err == nil {
			_, err = w.Write(b)
		}
		if err == nil {
			err = rc.Flush()
		}
		if err != nil {
			return err // the deadline stays, so that ending the response does not block again
		}
		// HTTP/2 resets a stream whose deadline passes, even if nothing is written then.
		return rc.SetWriteDeadline(time.Time{})
	}, nil
}

// pumpConn joins s on a connection that was taken over, where sockets cannot
// be watched otherwise.
func pumpConn(conn net.Conn, sh *shard, s *subscriber, timeout time.Duration) {
	p := newPump(sh, s, timeout, func(b []byte) error {
		if err := conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		_, err := conn.Write(b)
		return err
	})
	s.sock = p
	sh.accept(s) // before anything is told of it
	ctx, hangUp := context.WithCancel(context.Background())
	go func() {
		defer hangUp()
		var b [64]byte
		for {
			if _, err := conn.Read(b[:]); err != nil {
				return
			}
		}
	}()
	go func() {
		defer conn.Close() // ends the reader, too
		p.run(ctx)
	}()
}
