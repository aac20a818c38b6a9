package event

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestIDIsTheSameForTheSameDeliveryOnly(t *testing.T) {
	a := NewID("blog", "delivery-1", "0")
	if b := NewID("blog", "delivery-1", "0"); a != b {
		t.Errorf("NewID twice = %q and %q, want equal", a, b)
	}
	if len(a) != 26 {
		t.Errorf("NewID = %q, %d characters, want 26", a, len(a))
	}
	for _, parts := range [][]string{{"blog", "delivery-1", "1"}, {"blo", "gdelivery-1", "0"}, {"blog", "delivery-1\x000"}, {"blog", "delivery-10"}} {
		if b := NewID(parts[0], parts[1:]...); a == b {
			t.Errorf("NewID(%q) = %q, the id of another delivery", parts, b)
		}
	}
}

// An id that changes with a new version makes a repeated delivery a new event.
func TestIDsStayWhatTheyAre(t *testing.T) {
	for _, tc := range []struct {
		parts []string
		want  string
	}{
		{[]string{"blog", "delivery-1", "0"}, "gr3clblfsatzbpq6kljhk3547l"},
		{[]string{""}, "wdx3xrbqks7o45j42eh2wspkb7"},
		{[]string{"shop", "post.updated", "w178000000", strings.Repeat("a body of some length, ", 200), "12"}, "fmi7eeql7zsfqng76tfm36iqwp"},
	} {
		if got := NewID(tc.parts[0], tc.parts[1:]...); got != tc.want {
			t.Errorf("NewID(%.40q) = %q, want %q", tc.parts, got, tc.want)
		}
	}
}

func TestEventOfAStrangerIsBounded(t *testing.T) {
	valid := func(change func(*Event)) Event {
		e := Event{ID: NewID("s", "1"), Source: "s", Type: "post", Action: Update}
		change(&e)
		return e
	}
	for name, tc := range map[string]struct {
		ev event
		ok bool
	}{
		"plain":            {event(valid(func(e *Event) {})), true},
		"no type":          {event(valid(func(e *Event) { e.Type = "" })), false},
		"no source":        {event(valid(func(e *Event) { e.Source = "" })), false},
		"newline in slug":  {event(valid(func(e *Event) { e.Slug = "a\nb" })), false},
		"broken utf-8":     {event(valid(func(e *Event) { e.Entity = "\xff" })), false},
		"long entity":      {event(valid(func(e *Event) { e.Entity = strings.Repeat("x", MaxField+1) })), false},
		"longest entity":   {event(valid(func(e *Event) { e.Entity = strings.Repeat("x", MaxField) })), true},
		"letters of Japan": {event(valid(func(e *Event) { e.Slug = "日本" })), true},
	} {
		err := Event(tc.ev).Validate()
		if (err == nil) != tc.ok {
			t.Errorf("%s: Validate() = %v, want ok = %v", name, err, tc.ok)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: Validate() = %v, want ErrInvalid within", name, err)
		}
	}
}

type event Event

func TestChangeReadsAsTheContractSays(t *testing.T) {
	c := Change{ID: "x", Seq: 1795176000120456, Event: "post.update", Source: "blog", Type: "post", Action: Update,
		Entity: "42", At: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	got, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"x","seq":1795176000120456,"event":"post.update","source":"blog","type":"post","action":"update",` +
		`"entity":"42","tags":[],"paths":[],"channels":[],"at":"2026-11-20T12:00:00.000Z"}`
	if string(got) != want {
		t.Errorf("Marshal =\n%s, want\n%s", got, want)
	}
	var back Change
	if err := json.Unmarshal(got, &back); err != nil || !back.At.Equal(c.At) || back.Seq != c.Seq {
		t.Errorf("Unmarshal = %+v, %v", back, err)
	}
}

func TestPositionsAreOrderedAndRead(t *testing.T) {
	for _, s := range []string{"", "-", "$", "+", "1", "1-", "-1", "1-1-1", "1-$", "０-0", " 1-0", "1-0 ", "99999999999999999999-0", "123456789012345678901-0", "1.0-0"} {
		if p, err := ParsePosition(s); err == nil {
			t.Errorf("ParsePosition(%q) = %v, want an error", s, p)
		}
	}
	a, _ := ParsePosition("9-10")
	b, _ := ParsePosition("10-9")
	if a.Compare(b) != -1 || b.Compare(a) != 1 || a.Compare(a) != 0 {
		t.Errorf("9-10 and 10-9 compare as %d, want -1", a.Compare(b))
	}
}

func FuzzPosition(f *testing.F) {
	for _, s := range []string{"0-0", "1795176000123-0", "$", "18446744073709551615-18446744073709551615", "1-00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePosition(s)
		if err != nil {
			return
		}
		q, err := ParsePosition(p.String())
		if err != nil || p != q {
			t.Errorf("ParsePosition(%q.String()) = %v, %v, want %v", s, q, err, p)
		}
	})
}
