package tasks

import (
	"encoding/json"
	"errors"
	"fmt"
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
	EnqueuedAt time.Time   `json:"enqueued_at"`
}

var (
	errPoison = errors.New("tasks: payload cannot be read") // never gets better
	errNewer  = errors.New("tasks: payload of a newer version")
)

func encodePayload(ev event.Event, now time.Time) ([]byte, error) {
	head, err := json.Marshal(envelope{V: envelopeVersion, EnqueuedAt: now})
	if err != nil {
		return nil, fmt.Errorf("tasks: encoding event %q: %w", ev.ID, err)
	}
	doc, err := EncodeEvent(ev)
	if err != nil {
		return nil, err
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

// EncodeEvent returns ev as JSON, for a journal. Its payload, which is valid
// JSON, stands in it byte for byte.
func EncodeEvent(ev event.Event) ([]byte, error) {
	payload := ev.Payload
	ev.Payload = nil
	doc, err := json.Marshal(ev)
	if err != nil {
		return nil, fmt.Errorf("tasks: encoding event %q: %w", ev.ID, err)
	}
	if len(payload) == 0 {
		return doc, nil
	}
	return splice(doc, "payload", payload), nil
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

// DecodeEvent reads what EncodeEvent wrote, also in another version of the
// program: unknown fields are left alone. An error never gets better.
func DecodeEvent(doc []byte) (event.Event, error) {
	var ev event.Event
	if err := json.Unmarshal(doc, &ev); err != nil {
		return event.Event{}, fmt.Errorf("%w: %d bytes: %v", errPoison, len(doc), err)
	}
	if err := ev.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("%w: %v", errPoison, err)
	}
	return ev, nil
}
