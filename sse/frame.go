package sse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/event"
)

// errField is returned by appendEvent for an id or an event name that would
// forge a field or an event.
var errField = errors.New("sse: CR, LF or NUL in an id or event name")

// appendEvent appends one event in the text/event-stream format to dst. Data
// may hold anything: each of its lines becomes a data field, so CR and CRLF
// arrive as LF. An empty id or name is left out.
func appendEvent(dst []byte, id, name string, data []byte) ([]byte, error) {
	if strings.ContainsAny(id, "\r\n\x00") || strings.ContainsAny(name, "\r\n\x00") {
		return dst, fmt.Errorf("%w: %q, %q", errField, id, name)
	}
	if id != "" {
		dst = append(append(append(dst, "id: "...), id...), '\n')
	}
	if name != "" {
		dst = append(append(append(dst, "event: "...), name...), '\n')
	}
	for more := true; more; {
		var line []byte
		line, data, more = cutLine(data)
		dst = append(append(append(dst, "data: "...), line...), '\n')
	}
	return append(dst, '\n'), nil
}

// cutLine cuts data at its first CRLF, LF or CR. found tells that there was one.
func cutLine(data []byte) (line, rest []byte, found bool) {
	i := bytes.IndexAny(data, "\r\n")
	if i < 0 {
		return data, nil, false
	}
	if data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n' {
		return data[:i], data[i+2:], true
	}
	return data[:i], data[i+1:], true
}

// frame is one record as all its subscribers get it, encoded once and never changed.
type frame struct {
	pos      event.Position
	channels []string
	wire     []byte
	data     []byte    // the record's JSON; a part of wire when it is one line
	at       time.Time // when this process took it
	dec      decoded   // see change

	streams  atomic.Int64 // that it was written to
	reported int64        // of streams, by Hub.Delivered
}

// newLiveFrame returns a frame without a position, for who listens now.
func newLiveFrame(channel string, data []byte, now time.Time) *frame {
	f := &frame{channels: []string{channel}, data: data, at: now}
	f.wire, _ = appendEvent(nil, "", "", data) // no id, no name: no error
	return f
}

func newFrame(r event.Record, now time.Time) *frame {
	f := &frame{pos: r.Position, channels: r.Channels, data: r.Data, at: now}
	const around = len("id: 18446744073709551615-18446744073709551615\ndata: \n\n")
	// A position holds digits and a dash: no error.
	f.wire, _ = appendEvent(make([]byte, 0, around+len(r.Data)), r.Position.String(), "", r.Data)
	if !bytes.ContainsAny(r.Data, "\r\n") {
		end := len(f.wire) - len("\n\n")
		f.data = f.wire[end-len(r.Data) : end : end]
	}
	return f
}

func (f *frame) isForAll() bool { return slices.Contains(f.channels, event.Everybody) }

// The control events, a closed vocabulary. Only ready and reset carry an id.

// pingEvent has data, since a comment is invisible to JavaScript, and no id.
var pingEvent = []byte("event: ping\ndata: {}\n\n")

func appendRetry(dst []byte, d time.Duration) []byte {
	return append(strconv.AppendInt(append(dst, "retry: "...), d.Milliseconds(), 10), "\n\n"...)
}

func appendReady(dst []byte, at event.Position) []byte {
	id := at.String() // digits and a dash
	dst, _ = appendEvent(dst, id, "ready", []byte(`{"position":"`+id+`"}`))
	return dst
}

func appendReset(dst []byte, reason string, at event.Position) []byte {
	return appendControl(dst, at.String(), "reset", map[string]any{"reason": reason})
}

func appendGoaway(dst []byte, reason string, retry time.Duration) []byte {
	dst = appendRetry(dst, retry)
	return appendControl(dst, "", "goaway", map[string]any{"reason": reason, "retryAfterMs": retry.Milliseconds()})
}

func appendControl(dst []byte, id, name string, data map[string]any) []byte {
	text, _ := json.Marshal(data)             // strings and integers
	dst, _ = appendEvent(dst, id, name, text) // our own words
	return dst
}
