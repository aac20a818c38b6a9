//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// subscriber is one connection of the crowd: the answer's head, then events.
type subscriber struct {
	fd      int
	opened  time.Time
	ready   bool   // subscribed
	head    bool   // the head is read
	chunked bool   // the body has chunks around it
	chunk   int    // bytes that are left of this chunk, with its line end
	size    []byte // a chunk's size line that has not come in full
	rest    []byte // a line that has not come in full

	// The event under way.
	kind      eventKind
	publisher int
	seq       int // -1: it carries no message
	sent      int64

	next   [maxPublishers]int // seq expected next
	got    int                // messages
	reset  bool               // told that messages may be missing
	lastID string             // where the crowd keeps ids
}

// eventKind is an event's name, as far as we tell them apart.
type eventKind uint8

const (
	eventMessage eventKind = iota // no name
	eventReady
	eventReset
	eventGoaway
	eventOther // a ping
)

func kindOf(name []byte) eventKind {
	switch string(name) {
	case "ready":
		return eventReady
	case "reset":
		return eventReset
	case "goaway":
		return eventGoaway
	}
	return eventOther
}

var (
	statusOK     = []byte("HTTP/1.1 200")
	headEnd      = []byte("\r\n\r\n")
	chunkedField = []byte("\r\nTransfer-Encoding: chunked\r\n")
	eventStream  = []byte("\r\nContent-Type: text/event-stream")
)

// take reads what came in for s, and changes it.
func (c *crowd) take(s *subscriber, in []byte, now int64) error {
	if !s.head {
		in = append(s.rest, in...)
		at := bytes.Index(in, headEnd)
		if at < 0 {
			s.rest = in
			return nil
		}
		head := in[:at+len(headEnd)]
		if !bytes.HasPrefix(head, statusOK) || !bytes.Contains(head, eventStream) {
			return fmt.Errorf("no event stream: %s", in)
		}
		s.head, s.chunked, s.rest, s.seq = true, bytes.Contains(head, chunkedField), nil, -1
		if !c.readyEvent {
			c.isReady(s)
		}
		in = in[len(head):]
	}
	if s.chunked {
		var err error
		if in, err = s.unchunk(in); err != nil {
			return err
		}
	}
	if len(s.rest) > 0 {
		s.rest = append(s.rest, in...)
		in = s.rest
	}
	for {
		n := bytes.IndexByte(in, '\n')
		if n < 0 {
			break
		}
		if err := c.line(s, in[:n], now); err != nil {
			return err
		}
		in = in[n+1:]
	}
	s.rest = append(s.rest[:0], in...)
	return nil
}

// line reads one line of an event stream; a blank one ends the event.
func (c *crowd) line(s *subscriber, line []byte, now int64) error {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	switch {
	case len(line) == 0:
		err := c.event(s, now)
		s.kind, s.seq = eventMessage, -1
		return err
	case bytes.HasPrefix(line, []byte("data: ")):
		if publisher, seq, sent, ok := decodeMessage(line[6:]); ok {
			s.publisher, s.seq, s.sent = publisher, seq, sent
		} else if s.kind == eventMessage {
			return fmt.Errorf("a message that nobody published: %s", line)
		}
	case bytes.HasPrefix(line, []byte("event: ")):
		s.kind = kindOf(line[7:])
	case c.keepIDs && bytes.HasPrefix(line, []byte("id: ")):
		s.lastID = string(line[4:])
	}
	return nil
}

// event counts the event that has come in full.
func (c *crowd) event(s *subscriber, now int64) error {
	switch {
	case s.kind == eventReady:
		c.isReady(s)
	case s.kind == eventReset:
		s.reset = true
	case s.kind == eventGoaway:
		return errors.New("a subscriber was sent away")
	case s.kind == eventMessage && s.seq >= 0:
		if want := s.next[s.publisher]; s.seq > want {
			c.lost += s.seq - want
		} else if s.seq < want {
			c.repeated++
		}
		s.next[s.publisher] = s.seq + 1
		s.got++
		c.fresh++
		if c.latency != nil && s.sent >= c.from {
			c.latency.add(now - s.sent)
		}
		if c.onMessage != nil {
			c.onMessage(s)
		}
	}
	return nil
}

// unchunk takes the chunks' sizes out of in, in place.
func (s *subscriber) unchunk(in []byte) ([]byte, error) {
	out := in[:0]
	for len(in) > 0 {
		if s.chunk > 0 {
			n := min(s.chunk, len(in))
			data := in[:n]
			if past := n - (s.chunk - len("\r\n")); past > 0 {
				data = data[:max(0, n-past)]
			}
			out = append(out, data...)
			s.chunk -= n
			in = in[n:]
			continue
		}
		n := bytes.IndexByte(in, '\n')
		if n < 0 {
			s.size = append(s.size, in...)
			break
		}
		size := bytes.TrimSpace(append(s.size, in[:n]...))
		length, err := strconv.ParseUint(string(size), 16, 31)
		if err != nil || length == 0 {
			return nil, fmt.Errorf("the answer ended, or a chunk of %q bytes", size)
		}
		s.chunk, s.size = int(length)+len("\r\n"), nil
		in = in[n+1:]
	}
	return out, nil
}
