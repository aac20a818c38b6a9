package tasks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/freshwire/freshwire/event"
)

// taskType is the type of every task of ours.
const taskType = "event"

// envelopeVersion grows only when an older worker would misread a newer
// envelope; fields that it may leave unread are simply added.
const envelopeVersion = 1

// envelope is the payload of a task. During a deploy old and new versions of
// the program read each other's: unknown fields are tolerated.
type envelope struct {
	V          int         `json:"v"`
	Event      event.Event `json:"event,omitzero"` // written by splice, so that its payload is copied only
	Mark       *Mark       `json:"mark,omitempty"` // already made void under this mark
	Follow     *followUp   `json:"follow,omitempty"`
	EnqueuedAt time.Time   `json:"enqueued_at"`
}

var (
	errPoison = errors.New("tasks: payload cannot be read") // never gets better
	errNewer  = errors.New("tasks: payload of a newer version")
)

func encodePayload(ev event.Event, now time.Time) ([]byte, error) {
	return encodeEnvelope(envelope{Event: ev, EnqueuedAt: now})
}

func encodeEnvelope(env envelope) ([]byte, error) {
	ev := env.Event
	env.V, env.Event = envelopeVersion, event.Event{}
	head, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("tasks: encoding event %q: %w", ev.ID, err)
	}
	doc, payload, err := splitEvent(ev)
	if err != nil {
		return nil, err
	}
	if len(payload) > 0 {
		doc = splice(doc, "payload", payload)
	}
	return splice(head, "event", doc), nil
}

// decodePayload reads the payload of the task with the given id. A newer
// version is no poison: a newer worker can read it.
func decodePayload(id string, payload []byte) (envelope, error) {
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(payload, &head); err != nil {
		return envelope{}, fmt.Errorf("%w: %d bytes: %v", errPoison, len(payload), err)
	}
	if head.V > envelopeVersion {
		return envelope{}, fmt.Errorf("%w: %d, this worker reads %d", errNewer, head.V, envelopeVersion)
	}
	var env envelope
	if err := json.Unmarshal(payload, &env); err != nil {
		return envelope{}, fmt.Errorf("%w: %d bytes: %v", errPoison, len(payload), err)
	}
	if env.V < 1 || env.Event.ID != id {
		return envelope{}, fmt.Errorf("%w: version %d, event %q in task %q", errPoison, env.V, env.Event.ID, id)
	}
	if err := env.Event.Validate(); err != nil {
		return envelope{}, fmt.Errorf("%w: %v", errPoison, err)
	}
	return env, nil
}

// splitEvent returns ev without its payload as JSON, and the payload.
func splitEvent(ev event.Event) (doc, payload []byte, err error) {
	payload, ev.Payload = ev.Payload, nil
	if doc, err = appendEvent(make([]byte, 0, 512), ev); err != nil {
		err = fmt.Errorf("tasks: encoding event %q: %w", ev.ID, err)
	}
	return doc, payload, err
}

// appendEvent writes what json.Marshal would, in a third of the time: it is
// done for each webhook before its answer. What is rare is left to json.Marshal.
// (BenchmarkEncodeEvent)
func appendEvent(b []byte, ev event.Event) ([]byte, error) {
	b = append(b, '{')
	for _, f := range []struct {
		name, value string
		always      bool
	}{
		{"id", ev.ID, true}, {"source", ev.Source, true}, {"name", ev.Name, true}, {"type", ev.Type, true}, {"action", string(ev.Action), true},
		{"entity", ev.Entity, false}, {"slug", ev.Slug, false}, {"previous_slug", ev.PreviousSlug, false}, {"locale", ev.Locale, false},
		{"environment", ev.Environment, false}, {"version", ev.Version, false}, {"delivery_id", ev.DeliveryID, false}, {"replay_of", ev.ReplayOf, false},
	} {
		if f.value != "" || f.always {
			b = appendText(append(append(append(b, '"'), f.name...), `":`...), f.value)
			b = append(b, ',')
		}
	}
	b = append(b, `"received_at":`...)
	if y := ev.ReceivedAt.Year(); y < 0 || y > 9999 {
		return nil, errors.New("a time that JSON cannot hold")
	}
	b = append(ev.ReceivedAt.AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
	if ev.Guessed {
		b = append(b, `,"guessed":true`...)
	}
	if ev.Keep != 0 {
		b = strconv.AppendInt(append(b, `,"keep":`...), int64(ev.Keep), 10)
	}
	if len(ev.Tags) > 0 || ev.Purge != nil {
		rest, err := json.Marshal(struct {
			Tags  []string     `json:"tags,omitempty"`
			Purge *event.Purge `json:"purge,omitempty"`
		}{ev.Tags, ev.Purge})
		if err != nil {
			return nil, err
		}
		return append(append(b, ','), rest[1:]...), nil
	}
	return append(b, '}'), nil
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(s) // of a string it cannot fail
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// splice adds a last member to a JSON object that has others. encoding/json
// would read value once more, byte by byte. (BenchmarkEncodeEvent)
func splice(object []byte, name string, value []byte) []byte {
	out := make([]byte, 0, len(object)+len(name)+len(value)+4)
	out = append(out, object[:len(object)-1]...)
	out = append(out, ',', '"')
	out = append(out, name...)
	out = append(out, '"', ':')
	out = append(out, value...)
	return append(out, '}')
}

// EncodeEvent returns ev for a journal: a line of JSON, and after it the
// payload as it came, which nobody has to read again.
func EncodeEvent(ev event.Event) ([]byte, error) {
	doc, payload, err := splitEvent(ev)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(doc)+1+len(payload))
	return append(append(append(out, doc...), '\n'), payload...), nil
}

// DecodeEvent reads what EncodeEvent wrote, also in another version of the
// program: unknown fields are left alone. The payload is taken as it is, and
// not copied. An error never gets better.
func DecodeEvent(text []byte) (event.Event, error) {
	doc, payload, _ := bytes.Cut(text, []byte("\n"))
	var ev event.Event
	err := json.Unmarshal(doc, &ev)
	if err != nil && len(payload) > 0 { // of an earlier version: all of it is JSON, and the payload in it has lines
		payload, ev = nil, event.Event{}
		err = json.Unmarshal(text, &ev)
	}
	if err != nil {
		return event.Event{}, fmt.Errorf("%w: %d bytes: %v", errPoison, len(text), err)
	}
	if len(payload) > 0 {
		ev.Payload = payload
	}
	if err := ev.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("%w: %v", errPoison, err)
	}
	return ev, nil
}
