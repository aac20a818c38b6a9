package tasks

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestPayloadReadsBackAsItWas(t *testing.T) {
	ev := news(1)
	ev.Payload = json.RawMessage(`{"n":12345678901234567890,"html":"<b>&</b>"}`)
	b, err := encodePayload(ev, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	env, err := decodePayload(ev.ID, b)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := errors.Join(json.Unmarshal(env.Event.Payload, &got), json.Unmarshal(ev.Payload, &want)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("payload = %s, %v, want %s", env.Event.Payload, err, ev.Payload)
	}
	if !strings.Contains(string(env.Event.Payload), "12345678901234567890") {
		t.Errorf("payload = %s, want the number as it was", env.Event.Payload)
	}
	env.Event.Payload, ev.Payload = nil, nil
	if !reflect.DeepEqual(env.Event, ev) {
		t.Errorf("event = %+v, want %+v", env.Event, ev)
	}
}

func TestPayloadOfAnotherVersionOfTheProgram(t *testing.T) {
	b, _ := encodePayload(news(1), time.Now())
	more := strings.Replace(string(b), `{"v":1,`, `{"v":1,"priority":"high","mark":{"seq":5,"color":"red"},`, 1)
	if env, err := decodePayload(news(1).ID, []byte(more)); err != nil || env.Mark == nil || env.Mark.Seq != 5 {
		t.Errorf("unknown fields: %+v, %v, want them left alone", env.Mark, err)
	}
	newer := strings.Replace(string(b), `"v":1`, `"v":2`, 1)
	if _, err := decodePayload(news(1).ID, []byte(newer)); !errors.Is(err, errNewer) || errors.Is(err, errPoison) {
		t.Errorf("newer version: %v, want it left to a newer worker, not thrown away", err)
	}
}

func FuzzPayload(f *testing.F) {
	id := news(1).ID
	b, _ := encodePayload(news(1), time.Unix(0, 0).UTC())
	for _, seed := range []string{string(b), "", "{", "null", `{"v":1}`, `{"v":2,"event":7}`, `{"v":1,"event":{"id":"` + id + `"}}`, "\xff", `{"v":-1,"event":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		env, err := decodePayload(id, b)
		if err != nil {
			if !errors.Is(err, errPoison) && !errors.Is(err, errNewer) {
				t.Errorf("decodePayload(%q) = %v, neither poison nor newer", b, err)
			}
			return
		}
		if err := env.Event.Validate(); err != nil || env.Event.ID != id {
			t.Errorf("decodePayload(%q) let %+v in: %v", b, env.Event, err)
		}
		again, err := encodePayload(env.Event, env.EnqueuedAt)
		if err != nil {
			return // a time that JSON cannot hold
		}
		if _, err := decodePayload(id, again); err != nil {
			t.Errorf("what was read from %q cannot be written and read again: %v", b, err)
		}
	})
}
