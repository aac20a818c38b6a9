package main

import (
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/journal"
	"github.com/freshwire/freshwire/tasks"
)

// intake is a receiver on a Redis and a journal of its own, and what the queue
// knows of its events.
func intake(t *testing.T) (*receiver, *tasks.Records) {
	t.Helper()
	rdb := testkit.Redis(t)
	j, err := journal.Open(t.TempDir(), testkit.Logger(t), journal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return &receiver{queue: tasks.NewQueue(rdb, testkit.Logger(t), tasks.Config{}), journal: j, log: testkit.Logger(t)},
		tasks.NewRecords(rdb, testkit.Logger(t), tasks.Config{})
}

func edit(id string) event.Event {
	return event.Event{ID: id, Source: "blog", Name: "post.updated", Type: "post", Action: event.Update, Entity: "1", ReceivedAt: time.Now().UTC()}
}

func TestRecordThatCannotBeReadPurgesEverything(t *testing.T) {
	r, records := intake(t)
	good, err := tasks.EncodeEvent(edit("good"))
	if err != nil {
		t.Fatal(err)
	}
	recs := []journal.Record{{Seq: 1, ID: "good", Data: good}, {Seq: 2, ID: "bad", Data: []byte(`{"id":7}`), At: time.Now()}}
	if err := r.deliver(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"good": "post.update", "bad": "unreadable.invalidate"} {
		if rec, err := records.Get(t.Context(), id); err != nil || rec.Event != want || rec.Status != tasks.Queued {
			t.Errorf("record %s = %+v, %v, want %s queued", id, rec, err, want)
		}
	}
}

func TestRepeatIsCalledADuplicateBeforeItIsForwarded(t *testing.T) {
	r, _ := intake(t)
	guess := edit("guess")
	guess.Guessed = true
	for _, ev := range []event.Event{edit("a"), guess} {
		for try, want := range []bool{true, false, false} {
			ev.ReceivedAt = ev.ReceivedAt.Add(time.Millisecond)
			if added, err := r.accept(t.Context(), []event.Event{ev}); err != nil || added[0] != want {
				t.Errorf("%s, time %d: added = %v, %v, want %v", ev.ID, try+1, added, err, want)
			}
		}
	}
}

func TestRepeatOfWhatAnotherNodeTookIsCalledADuplicate(t *testing.T) {
	r, _ := intake(t)
	if _, err := r.queue.Enqueue(t.Context(), edit("a")); err != nil {
		t.Fatal(err)
	}
	if added, err := r.accept(t.Context(), []event.Event{edit("a"), edit("b")}); err != nil || added[0] || !added[1] {
		t.Errorf("added = %v, %v, want only the second", added, err)
	}
}

func TestRecentRemembersTheLastThousands(t *testing.T) {
	var r recent
	id := func(n int) string { return time.Duration(n).String() }
	for n := range 3 * maxRecent {
		if r.add(id(n)) {
			t.Fatalf("id %d is new, and called known", n)
		}
	}
	if !r.add(id(3*maxRecent-1)) || !r.add(id(2*maxRecent)) || r.add(id(0)) {
		t.Error("the newest should be known, the oldest forgotten")
	}
	if n := len(r.now) + len(r.old); n > 2*maxRecent {
		t.Errorf("%d ids are kept, at most %d", n, 2*maxRecent)
	}
}
