package sse

import (
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// specParse is a second reading of the HTML standard's "event stream
// interpretation", over the whole text at once and as plain as can be. What
// Reader and the encoder say is held against it.
func specParse(stream string) (messages []Message, lastID string, retry string) {
	stream = strings.TrimPrefix(strings.ToValidUTF8(stream, "\ufffd"), "\ufeff")
	lines := regexp.MustCompile("\r\n|\n|\r").Split(stream, -1)
	lines = lines[:len(lines)-1] // what follows the last line end is incomplete
	var data, name, id string
	for _, line := range lines {
		if line == "" {
			lastID = id
			if data != "" {
				messages = append(messages, Message{ID: lastID, Name: name, Data: strings.TrimSuffix(data, "\n")})
			}
			data, name = "", ""
			continue
		}
		if strings.HasPrefix(line, ":") {
			continue
		}
		field, value, found := strings.Cut(line, ":")
		if found && strings.HasPrefix(value, " ") {
			value = value[1:]
		}
		switch field {
		case "event":
			name = value
		case "data":
			data += value + "\n"
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		case "retry":
			if regexp.MustCompile(`^[0-9]+$`).MatchString(value) {
				retry = value
			}
		}
	}
	return messages, lastID, retry
}

func readAll(t *testing.T, r io.Reader) []Message {
	t.Helper()
	var all []Message
	for events := NewReader(r); ; {
		m, err := events.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatalf("Next() = %v, want io.EOF", err)
			}
			return all
		}
		all = append(all, m)
	}
}

func sameMessages(t *testing.T, what string, got, want []Message) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d messages %q, want %d %q", what, len(got), got, len(want), want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: message %d = %q, want %q", what, i, got[i], want[i])
		}
	}
}

func TestReaderReadsWhatTheStandardSays(t *testing.T) {
	for _, stream := range []string{
		"", "\n", "data: a\n\n", "data:a\n\n", "data:  a\n\n", "data\n\n", "data: a\ndata: b\n\n", "data\ndata\n\n",
		"id: 1\n\n", "id: 1\ndata: a\n\nid\ndata: b\n\n", "id: 1\x002\ndata: a\n\n", "event: x\n\ndata: a\n\n",
		": comment\ndata: a\n\n", "\ufeffdata: a\n\n", "\ufeff\ufeffdata: a\n\n", "data: a\r\rdata: b\r\n\r\ndata: c\n\n",
		"data: a\r\n\ndata: b\n\n", "data: cut off", "data: cut off\n", "id: 7\ndata: cut off\n", "retry: 10\n\n", "retry: 1x\n\n", "retry:\n\n",
		"data: \xff\n\n", "unknown: x\ndata: a\n\n", " data: a\n\n", "data: a\n\n\n\ndata: b\n\n",
	} {
		want, wantID, _ := specParse(stream)
		for _, r := range []io.Reader{strings.NewReader(stream), iotest.OneByteReader(strings.NewReader(stream))} {
			sameMessages(t, stream, readAll(t, r), want)
		}
		r := NewReader(strings.NewReader(stream))
		for err := error(nil); err == nil; {
			_, err = r.Next()
		}
		if r.LastEventID() != wantID {
			t.Errorf("%q: LastEventID() = %q, want %q", stream, r.LastEventID(), wantID)
		}
	}
}

func TestReaderNeverWaitsForMoreThanTheBlankLine(t *testing.T) {
	pr, pw := io.Pipe()
	defer pw.Close()
	events := NewReader(pr)
	go io.WriteString(pw, "data: a\r\r") // an LF may or may not follow
	if m, err := events.Next(); err != nil || m.Data != "a" {
		t.Fatalf("Next() = %q, %v, want data a", m, err)
	}
}

func TestReaderIsBounded(t *testing.T) {
	_, err := NewReader(io.MultiReader(strings.NewReader("data: "), iotest.DataErrReader(strings.NewReader(strings.Repeat("x", MaxMessage+1))))).Next()
	if !errors.Is(err, ErrTooLong) {
		t.Errorf("Next() = %v, want ErrTooLong", err)
	}
}

// FuzzReader: any bytes give what the plain reading gives, however they arrive.
func FuzzReader(f *testing.F) {
	f.Add("retry: 2000\n\nid: 1-0\ndata: {}\n\nevent: ping\ndata: {}\n\n", 3)
	f.Add("\ufeffdata: a\r\rid\x00: b\r\n\r\n", 1)
	f.Fuzz(func(t *testing.T, stream string, split int) {
		if strings.ToValidUTF8(stream, "") != stream {
			t.Skip("how many replacement characters stand for broken bytes is not the point")
		}
		want, _, _ := specParse(stream)
		sameMessages(t, "at once", readAll(t, strings.NewReader(stream)), want)
		if len(stream) > 0 {
			cut := max(split, -split) % len(stream)
			if cut >= 0 {
				sameMessages(t, "split", readAll(t, io.MultiReader(strings.NewReader(stream[:cut]), strings.NewReader(stream[cut:]))), want)
			}
		}
	})
}

// FuzzFrame: what is encoded is what a browser reads, one event, in every
// split of its bytes; an id or a name can forge nothing.
func FuzzFrame(f *testing.F) {
	f.Add("1-0", "", `{"id":"x"}`)
	f.Add("1-0", "reset", "a\nb\r\nc\rd")
	f.Add("1\nevent: reset", "x\rdata: y", "\n\ndata: forged\n\n")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, id, name, data string) {
		wire, err := appendEvent([]byte("data: before\n\n"), id, name, []byte(data))
		if strings.ContainsAny(id+name, "\r\n\x00") {
			if !errors.Is(err, errField) || string(wire) != "data: before\n\n" {
				t.Fatalf("appendEvent(%q, %q) = %q, %v, want nothing and errField", id, name, wire, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.ValidString(id) || !utf8.ValidString(name) || !utf8.ValidString(data) {
			return // broken bytes arrive as replacement characters
		}
		text := strings.ReplaceAll(strings.ReplaceAll(data, "\r\n", "\n"), "\r", "\n")
		want := []Message{{Data: "before"}, {ID: id, Name: name, Data: text}}
		got, _, _ := specParse(string(wire))
		sameMessages(t, "standard", got, want)
		if len(wire) > 300 {
			return
		}
		for cut := range wire {
			r := io.MultiReader(strings.NewReader(string(wire[:cut])), strings.NewReader(string(wire[cut:])))
			sameMessages(t, "reader", readAll(t, r), want)
		}
	})
}

func TestFrameSharesItsDataWithTheWire(t *testing.T) {
	for _, data := range []string{`{"a":1}`, "{\n}", ""} {
		f := newFrame(record(5, data, "posts"), now0)
		got, _, _ := specParse(string(f.wire))
		if len(got) != 1 || got[0].ID != "5-0" || string(f.data) != data {
			t.Errorf("newFrame(%q) = %q with data %q", data, f.wire, f.data)
		}
	}
}
