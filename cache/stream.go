package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// flow is a body on its way in. The flight reads it into a buffer, and the one
// who began the flight reads from there, at its own pace.
type flow struct {
	src io.ReadCloser // read by one goroutine
	max int64         // bytes that are kept

	mu    sync.Mutex
	moved sync.Cond // something below changed
	buf   []byte    // what came; once the body is too large to keep, less what was read
	read  int       // of buf
	ended error     // io.EOF, or why it broke off
	left  bool      // nobody reads it
	stop  func() bool
}

// flowWindow is how far a body that is not kept may be ahead of its reader, in
// bytes, beyond what had come when it grew too large.
const flowWindow = 256 << 10

var errLeft = errors.New("cache: stream is closed")

func newFlow(src io.ReadCloser, max int64) *flow {
	fl := &flow{src: src, max: max, left: true}
	fl.moved.L = &fl.mu
	return fl
}

// large reports whether more has come than is kept.
func (fl *flow) large() bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return int64(len(fl.buf)) > fl.max
}

// gather reads a body to its end, and finishes the answer with it. One that is
// too large stays a flow.
func (r *response) gather(f faults) error {
	for {
		switch err := r.body.take(); {
		case r.body.large():
			return nil
		case errors.Is(err, io.EOF) || err != nil && f.brokenKept:
			body := r.body.buf
			r.body.src.Close()
			r.Fill, r.body = r.finished(body[:len(body):len(body)]), nil
			return nil
		case err != nil:
			return fmt.Errorf("reading the body: %w", r.bound.explain(err))
		}
	}
}

// finished is f with the whole body, and what is told of it at the end.
func (f Fill) finished(body []byte) Fill {
	if f.Finish != nil {
		f = f.Finish(body)
	}
	f.Body, f.Stream, f.Finish = body, nil, nil
	return f
}

// take reads once.
func (fl *flow) take() error {
	fl.mu.Lock()
	if len(fl.buf) == cap(fl.buf) {
		fl.buf = append(make([]byte, 0, max(4096, min(2*cap(fl.buf), int(fl.max)+flowWindow))), fl.buf...)
	}
	room := fl.buf[len(fl.buf):cap(fl.buf)]
	fl.mu.Unlock()
	n, err := fl.src.Read(room)
	fl.mu.Lock()
	fl.buf = fl.buf[:len(fl.buf)+n]
	fl.mu.Unlock()
	fl.end(err)
	return err
}

// end says that nothing more comes, where err is not nil.
func (fl *flow) end(err error) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.ended == nil {
		fl.ended = err
	}
	fl.moved.Broadcast()
}

// pass reads on for the one reader only, at its pace, until either ends.
func (fl *flow) pass(b *bound) {
	b.pause()
	for fl.wanted() {
		b.again()
		fl.take()
		b.pause()
	}
}

// wanted waits until the reader has taken nearly all that came. It is false when
// there is nothing more to come, or nobody to take it.
func (fl *flow) wanted() bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for !fl.left && fl.ended == nil && len(fl.buf)-fl.read > flowWindow {
		fl.moved.Wait()
	}
	if fl.left || fl.ended != nil {
		return false
	}
	if fl.read == len(fl.buf) || fl.read >= flowWindow || len(fl.buf) == cap(fl.buf) {
		fl.buf = append(make([]byte, 0, 2*flowWindow), fl.buf[fl.read:]...)
		fl.read = 0
	}
	return true
}

// open hands the body to the one who began the flight, if it can use that. Its
// ctx ends the reading, not the fetch.
func (s *Store) open(reader context.Context, f *flight, r response) {
	if !f.streams {
		return
	}
	r.body.left = false
	r.body.stop = context.AfterFunc(reader, r.body.leave)
	f.flow = r.body
	f.head = Result{Entry: s.headOf(f.errand, r), Verdict: f.verdict, Detail: f.detail, Stream: r.body}
	close(f.flowing)
}

func (fl *flow) Read(p []byte) (n int, err error) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for !fl.left && fl.ended == nil && fl.read == len(fl.buf) {
		fl.moved.Wait()
	}
	if fl.left {
		return 0, errLeft
	}
	n = copy(p, fl.buf[fl.read:])
	fl.read += n
	fl.moved.Broadcast()
	if n == 0 && fl.ended != nil {
		fl.stop()
		return 0, fl.ended
	}
	return n, nil
}

// Close ends the reading. The fetch goes on where its result can be kept.
func (fl *flow) Close() error {
	fl.stop()
	fl.leave()
	return nil
}

func (fl *flow) leave() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.left = true
	fl.moved.Broadcast()
}

// direct is a body for one reader, who reads from the origin itself.
type direct struct{ response }

func (d direct) Read(p []byte) (n int, err error) {
	fl := d.body
	if fl.read < len(fl.buf) {
		n = copy(p, fl.buf[fl.read:])
		fl.read += n
		return n, nil
	}
	if fl.ended != nil {
		return 0, fl.ended
	}
	d.bound.again()
	n, err = fl.src.Read(p)
	d.bound.pause()
	if fl.ended = err; err != nil {
		d.end()
	}
	return n, err
}

func (d direct) Close() error {
	d.end()
	return nil
}
