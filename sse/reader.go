package sse

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Message is one event of a stream, as a browser dispatches it.
type Message struct {
	ID   string // last event id of the stream so far; send it back as Last-Event-ID
	Name string // of the event; empty for a plain message
	Data string // its data lines, joined with LF
}

// ErrTooLong is returned by Reader.Next for an event of more than MaxMessage bytes.
var ErrTooLong = errors.New("sse: event too long")

// MaxMessage bounds the bytes of one event that a Reader takes, comments and ignored fields too.
const MaxMessage = 4 << 20

// Reader reads a text/event-stream as the HTML standard says: LF, CR and CRLF
// end lines, a byte order mark at the start and fields without meaning are
// skipped, an id that holds NUL is ignored, and an event that the stream's end
// cuts off is dropped.
//
//	events := sse.NewReader(response.Body)
//	for {
//		m, err := events.Next()
type Reader struct {
	r       *bufio.Reader
	begun   bool
	skipLF  bool // the last line ended with CR: an LF belongs to it
	line    []byte
	size    int // of the event so far
	id      string
	idBuf   string
	retry   time.Duration
	hasData bool
	data    bytes.Buffer
	name    string
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReader(r)} }

// LastEventID returns the id to send as Last-Event-ID when the stream ends
// here. It also moves with a block that has an id and no data.
func (r *Reader) LastEventID() string { return r.id }

// Retry returns how long the stream last asked to wait before reconnecting,
// zero when it did not.
func (r *Reader) Retry() time.Duration { return r.retry }

// Next returns the next event, or the error that ended the stream: io.EOF
// when it just ended.
func (r *Reader) Next() (Message, error) {
	for {
		line, err := r.readLine()
		if err != nil {
			return Message{}, err
		}
		if len(line) > 0 {
			r.field(line)
			continue
		}
		r.id = r.idBuf
		m := Message{ID: r.id, Name: r.name, Data: strings.TrimSuffix(r.data.String(), "\n")}
		dispatch := r.hasData
		r.name, r.hasData, r.size = "", false, 0
		r.data.Reset()
		if dispatch {
			return m, nil
		}
	}
}

// readLine returns a line without its end. It never waits for the LF of a
// CRLF: an event counts as soon as its blank line is there.
func (r *Reader) readLine() (string, error) {
	r.line = r.line[:0]
	for {
		c, err := r.r.ReadByte()
		if err != nil {
			return "", err
		}
		if r.skipLF {
			r.skipLF = false
			if c == '\n' {
				continue
			}
		}
		if c == '\n' || c == '\r' {
			r.skipLF = c == '\r'
			break
		}
		if r.size++; r.size > MaxMessage {
			return "", ErrTooLong
		}
		r.line = append(r.line, c)
	}
	line := r.line
	if !r.begun {
		r.begun = true
		line = bytes.TrimPrefix(line, []byte("\ufeff"))
	}
	if utf8.Valid(line) {
		return string(line), nil
	}
	return strings.ToValidUTF8(string(line), "\ufffd"), nil
}

func (r *Reader) field(line string) {
	name, value, _ := strings.Cut(line, ":")
	value = strings.TrimPrefix(value, " ")
	switch name {
	case "data":
		r.hasData = true
		r.data.WriteString(value)
		r.data.WriteByte('\n')
	case "event":
		r.name = value
	case "id":
		if !strings.ContainsRune(value, 0) {
			r.idBuf = value
		}
	case "retry":
		if ms, err := strconv.ParseUint(value, 10, 31); err == nil && strings.Trim(value, "0123456789") == "" {
			r.retry = time.Duration(ms) * time.Millisecond
		}
	}
}
