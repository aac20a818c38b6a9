package cache

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sampleEntry() *Entry {
	at := time.UnixMilli(1795176000123)
	e := &Entry{
		Status: 200, Header: map[string][]string{"Content-Type": {"text/html"}}, ETag: `"e"`,
		StoredAt: at, FreshUntil: at.Add(time.Minute), StaleUntil: at.Add(time.Hour), ErrorUntil: at.Add(time.Hour),
		Position: "1795176000123-0", Token: 1795176000120456, Epoch: "0123456789abcdef",
		scopes: []string{"t:posts", "p:/blog/", "n:"}, Negative: true, Target: "/api/posts/1?page=2", Took: 3 * time.Millisecond,
	}
	e.setBody([]byte("<p>\x00hi"), true)
	return e
}

func TestEntryComesBackAsItWasStored(t *testing.T) {
	want := sampleEntry()
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	if prefix := string(b[:34]); prefix != "F117951760001204560123456789abcdef" {
		t.Errorf("prefix %q: scripts compare token and epoch by place", prefix)
	}
	got, err := decodeEntry(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %+v, %v; want %+v", got, err, want)
	}
}

func TestEntryWithoutItsPlaceInTheLedgerIsNotEncoded(t *testing.T) {
	for _, change := range []func(*Entry){
		func(e *Entry) { e.Token = 0 },
		func(e *Entry) { e.Token = 1e16 },
		func(e *Entry) { e.Epoch = "" },
		func(e *Entry) { e.scopes = []string{strings.Repeat("t", maxHeader)} },
	} {
		e := sampleEntry()
		if change(e); e != nil {
			if _, err := e.encode(); err == nil {
				t.Errorf("%+v was encoded", e)
			}
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	b, err := sampleEntry().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:prefixLen])
	f.Add([]byte("F1"))
	f.Add(bytes.Replace(b, []byte("000"), []byte("-99"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			return
		}
		if stored := e.body.stored; !bytes.HasSuffix(b, stored) || len(stored) > len(b)-prefixLen {
			t.Errorf("body of %d bytes in an entry of %d", len(stored), len(b))
		}
		if again, err := e.encode(); err == nil && len(e.Header) < 2 && len(again) > len(b) {
			t.Errorf("%q was read from %q", again, b)
		}
	})
}
