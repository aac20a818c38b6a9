package tasks

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
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

// What encoding/json would write differs in spaces and in how < is spelt, and
// means the same.
func TestEncodedEventReadsAsThePlainOneWould(t *testing.T) {
	full := news(1)
	full.PreviousSlug, full.Environment, full.Version, full.Guessed, full.Keep, full.ReplayOf = "old", "main", "7", true, time.Hour, "before"
	full.Tags, full.Purge = []string{"a<b", "ü"}, &event.Purge{Keys: []string{"k"}, All: true}
	for _, payload := range []string{"", `{}`, `{"a":"<b>&\u2028","n":12345678901234567890}`, " {\n \"a\" : [1, 2 ] }\n", `"text"`, `null`, `[{"payload":{"id":"x"}}]`, `{"":{}}`} {
		for name, ev := range map[string]event.Event{"full": full, "small": news(2)} {
			ev.Payload = json.RawMessage(payload)
			doc, err := EncodeEvent(ev)
			if err != nil {
				t.Fatal(err)
			}
			got, err := DecodeEvent(doc)
			if err != nil {
				t.Errorf("%s event with payload %q: %v", name, payload, err)
				continue
			}
			plain, err := json.Marshal(ev)
			if err != nil {
				t.Fatal(err)
			}
			var want event.Event
			if err := json.Unmarshal(plain, &want); err != nil {
				t.Fatal(err)
			}
			if payload != string(got.Payload) {
				t.Errorf("payload %q came back as %q", payload, got.Payload)
			}
			task, err := encodePayload(ev, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if env, err := decodePayload(ev.ID, task); err != nil || strings.TrimSpace(payload) != string(env.Event.Payload) {
				t.Errorf("payload %q came out of its task as %q, %v", payload, env.Event.Payload, err)
			}
			if len(payload) > 0 {
				var a, b any
				if err := errors.Join(json.Unmarshal(got.Payload, &a), json.Unmarshal(want.Payload, &b)); err != nil || !reflect.DeepEqual(a, b) {
					t.Errorf("payload %q reads %v, %v, want %v", payload, a, err, b)
				}
			}
			got.Payload, want.Payload = nil, nil
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s event with payload %q = %+v, want %+v", name, payload, got, want)
			}
		}
	}
}

// A field that is added to Event must be added to appendEvent.
func TestEveryFieldOfAnEventIsEncoded(t *testing.T) {
	var ev event.Event
	v := reflect.ValueOf(&ev).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Interface().(type) {
		case string, event.Action:
			f.SetString("x" + strconv.Itoa(i))
		case bool:
			f.SetBool(true)
		case time.Duration:
			f.SetInt(int64(time.Hour))
		case []string:
			f.Set(reflect.ValueOf([]string{"a", "b"}))
		case json.RawMessage:
			f.Set(reflect.ValueOf(json.RawMessage(`{"a":1}`)))
		case time.Time:
			f.Set(reflect.ValueOf(time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)))
		case *event.Purge:
			f.Set(reflect.ValueOf(&event.Purge{Tags: []string{"t"}}))
		default:
			t.Fatalf("no value for field %s: give it one here", v.Type().Field(i).Name)
		}
	}
	text, err := EncodeEvent(ev)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeEvent(text); err != nil || !reflect.DeepEqual(got, ev) {
		t.Errorf("came back as %+v, %v, want %+v", got, err, ev)
	}
}

// Events wait in journals and kept copies while the program is replaced.
func TestEventOfAnEarlierVersionIsRead(t *testing.T) {
	for _, payload := range []string{``, `{"id":"1"}`, "{\n  \"id\": \"1\"\n}"} {
		want := news(1)
		want.Payload = json.RawMessage(payload)
		bare := want
		bare.Payload = nil
		text, err := json.Marshal(bare)
		if err != nil {
			t.Fatal(err)
		}
		if payload != "" {
			text = splice(text, "payload", want.Payload)
		}
		if got, err := DecodeEvent(text); err != nil || got.ID != want.ID || string(got.Payload) != payload {
			t.Errorf("an event with the payload %q inside = %+v, %v", payload, got, err)
		}
	}
}

func TestPoisonIsRefused(t *testing.T) {
	good, err := EncodeEvent(news(1))
	if err != nil {
		t.Fatal(err)
	}
	more := strings.Replace(string(good), "{", `{"color":"red",`, 1)
	if ev, err := DecodeEvent([]byte(more)); err != nil || ev.ID != news(1).ID {
		t.Errorf("an unknown field: %v, want it left alone", err)
	}
	for _, doc := range []string{"", "null", "{}", "[]", string(good[:20]), "x" + string(good),
		strings.Replace(string(good), `"blog"`, `""`, 1), strings.Replace(string(good), `"blog"`, `7`, 1), strings.Replace(string(good), "hello", `hel\u0000lo`, 1)} {
		if ev, err := DecodeEvent([]byte(doc)); !errors.Is(err, errPoison) {
			t.Errorf("DecodeEvent(%q) = %+v, %v, want it refused", doc, ev, err)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for n := range 3 {
		ev := news(n)
		ev.ReceivedAt = time.Unix(0, 0).UTC()
		ev.Payload = json.RawMessage([]string{``, `{"a":[1, 2]}`, `null`}[n])
		doc, err := EncodeEvent(ev)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc)
	}
	for _, doc := range []string{"", "null", "{", `{"id":"a","source":"b","type":"c","action":"d"}`, `{"payload":}`, "\xff"} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		ev, err := DecodeEvent(doc)
		if err != nil {
			if !errors.Is(err, errPoison) {
				t.Errorf("DecodeEvent(%q) = %v, want it called poison", doc, err)
			}
			return
		}
		if err := ev.Validate(); err != nil {
			t.Errorf("DecodeEvent(%q) let %+v in: %v", doc, ev, err)
		}
		again, err := EncodeEvent(ev)
		if err != nil {
			return // a time that JSON cannot hold
		}
		if back, err := DecodeEvent(again); err != nil || !reflect.DeepEqual(back, ev) {
			t.Errorf("%q was read as %+v, and after writing as %+v, %v", doc, ev, back, err)
		}
	})
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
