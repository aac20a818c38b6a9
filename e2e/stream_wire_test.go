package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/event"
)

// told is one event of a stream, or its retry field alone. data is valid until
// the next one is read.
type told struct {
	id, name string
	retry    time.Duration
	data     []byte

	hasID, hasName, hasData bool
}

// protocolError is something in a stream that docs/stream.md does not allow: a
// forged field, say.
type protocolError string

func (e protocolError) Error() string { return "protocol: " + string(e) }

// wire is one open stream. It is read as the HTML standard says, and held
// against docs/stream.md.
type wire struct {
	conn   line
	in     *bufio.Reader
	data   []byte
	long   []byte // a line longer than in
	header http.Header
}

// line is what a wire needs of its connection.
type line interface {
	io.Closer
	SetReadDeadline(time.Time) error
}

// silence is how long a stream may say nothing: pings are at most 20 s apart.
const silence = 45 * time.Second

// statusError is an answer other than 200, after which a browser never comes back.
type statusError int

func (e statusError) Error() string { return "answered " + strconv.Itoa(int(e)) }

// openWire asks node (host:port) for a stream. header lines end with CRLF.
func openWire(ctx context.Context, dial dialer, node, query, header string) (*wire, error) {
	conn, err := dial(ctx, node)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn, in: bufio.NewReaderSize(conn, 1<<10)}
	conn.SetDeadline(time.Now().Add(silence))
	if _, err := fmt.Fprintf(conn, "GET /api/events?%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", query, node, header); err != nil {
		conn.Close()
		return nil, err
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	w.header = resp.Header
	if resp.StatusCode != http.StatusOK {
		conn.Close()
		return nil, statusError(resp.StatusCode)
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		conn.Close()
		return nil, protocolError("a stream of type " + kind)
	}
	if len(resp.TransferEncoding) > 0 { // without, the body is what follows on the connection
		w.in = bufio.NewReaderSize(resp.Body, 1<<10)
	}
	return w, nil
}

// openOverHTTP2 is openWire for a stream among others on one connection.
func openOverHTTP2(ctx context.Context, client *http.Client, node, query, lastID string) (*wire, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+node+"/api/events?"+query, nil)
	if err != nil {
		return nil, err
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		resp.Body.Close()
		return nil, statusError(resp.StatusCode)
	}
	return &wire{conn: http2Line{resp.Body}, in: bufio.NewReaderSize(resp.Body, 1<<10), header: resp.Header}, nil
}

// http2Line knows no deadlines: its connection is watched with others.
type http2Line struct{ io.Closer }

func (http2Line) SetReadDeadline(time.Time) error { return nil }

// newHTTP2Client returns a client that speaks HTTP/2 without TLS.
func newHTTP2Client() *http.Client {
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: &h2c}}
}

// dialer connects to host:port.
type dialer func(ctx context.Context, addr string) (net.Conn, error)

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}
	return d.DialContext(ctx, "tcp", addr)
}

// next returns the next block. One that the stream's end cuts off is dropped.
func (w *wire) next() (told, error) {
	e := told{data: w.data[:0]}
	w.conn.SetReadDeadline(time.Now().Add(silence))
	for {
		line, err := w.line()
		if err != nil {
			return told{}, err
		}
		if len(line) == 0 {
			w.data = e.data[:0]
			return e, e.check()
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "": // a comment
		case "data":
			if e.hasData {
				e.data = append(e.data, '\n')
			}
			e.data, e.hasData = append(e.data, value...), true
		case "id":
			if e.hasID {
				return e, protocolError(fmt.Sprintf("two ids, %q and %q", e.id, value))
			}
			e.id, e.hasID = string(value), true
		case "event":
			if e.hasName {
				return e, protocolError(fmt.Sprintf("two names, %q and %q", e.name, value))
			}
			e.name, e.hasName = string(value), true
		case "retry":
			ms, err := strconv.Atoi(string(value))
			if err != nil {
				return e, protocolError(fmt.Sprintf("retry: %q", value))
			}
			e.retry = time.Duration(ms) * time.Millisecond
		default:
			return e, protocolError(fmt.Sprintf("field %.100q", line))
		}
	}
}

// line returns the next line without its end. The server ends lines with LF alone.
func (w *wire) line() ([]byte, error) {
	w.long = w.long[:0]
	for {
		part, err := w.in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if bytes.IndexByte(part, '\r') >= 0 {
			return nil, protocolError(fmt.Sprintf("CR in %.100q", part))
		}
		switch {
		case err != nil: // more of the line to come
			w.long = append(w.long, part...)
			continue
		case len(w.long) > 0:
			w.long = append(w.long, part...)
			part = w.long
		}
		return part[:len(part)-1], nil
	}
}

// check holds an event against the table of docs/stream.md.
func (e *told) check() error {
	switch {
	case !e.hasData && !e.hasID && !e.hasName: // retry, or a comment
		return nil
	case !e.hasData:
		return protocolError(fmt.Sprintf("event %q %q without data", e.name, e.id))
	}
	wantsID := false
	switch e.name {
	case "", "ready", "reset":
		wantsID = true
	case "ping", "goaway":
	default:
		return protocolError(fmt.Sprintf("event name %q", e.name))
	}
	if e.hasID != wantsID {
		return protocolError(fmt.Sprintf("event %q with id %q", e.name, e.id))
	}
	if e.hasID {
		if at, err := event.ParsePosition(e.id); err != nil || at.String() != e.id {
			return protocolError(fmt.Sprintf("event %q with id %q", e.name, e.id))
		}
	}
	return nil
}

// until reads on to the first event that ok accepts, and returns the names of
// those before it.
func (w *wire) until(ok func(told) bool) (e told, before []string, err error) {
	for {
		if e, err = w.next(); err != nil {
			return e, before, err
		}
		if e.hasData && ok(e) {
			return e, before, nil
		}
		if e.hasData {
			before = append(before, e.name)
		}
	}
}

func (w *wire) Close() error { return w.conn.Close() }

// ended reports whether err is how a stream ends when its server or the line to it goes.
func ended(err error) bool {
	var protocol protocolError
	var status statusError
	var timeout net.Error
	return !errors.As(err, &protocol) && !errors.As(err, &status) &&
		!(errors.As(err, &timeout) && timeout.Timeout()) || errors.Is(err, io.EOF)
}
