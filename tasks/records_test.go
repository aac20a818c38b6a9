package tasks

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestRecordsArePagedNewestFirst(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	r := NewRecords(rdb, testkit.Logger(t), Config{})
	base := time.Now().UTC().Truncate(time.Microsecond)
	var want []string
	for n := range 25 {
		ev := news(n)
		ev.ReceivedAt = base.Add(time.Duration(n/10) * time.Second) // batches of ten share a time
		r.queued(t.Context(), base, ev)
		if n%4 == 0 {
			o := r.begin(t.Context(), ev, nil, base)
			r.update(t.Context(), ev.ID, o.attempt, Done, &Outcome{Position: "1-0"}, nil)
		}
		want = append(want, member(ev.ReceivedAt, ev.ID))
	}
	slices.Sort(want)
	slices.Reverse(want)
	for _, limit := range []int{1, 5, 7, 25, 200} {
		var got []string
		cursor, pages := "", 0
		for {
			page, next, err := r.List(t.Context(), "", limit, cursor)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range page {
				got = append(got, member(rec.ReceivedAt, rec.ID))
			}
			if pages++; next == "" {
				break
			}
			if len(page) != limit {
				t.Errorf("limit %d: page of %d with a next one", limit, len(page))
			}
			cursor = next
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %d records in %d pages, want all 25, newest first", limit, len(got), pages)
		}
	}
	done, next, err := r.List(t.Context(), Done, 5, "")
	if err != nil || len(done) != 5 || next == "" {
		t.Fatalf("List(done, 5) = %d records, next %q, %v, want 5 and a next", len(done), next, err)
	}
	more, next, err := r.List(t.Context(), Done, 5, next)
	if err != nil || len(more) != 2 || next != "" {
		t.Errorf("second page = %d records, next %q, %v, want the other 2", len(more), next, err)
	}
	for _, rec := range append(done, more...) {
		if rec.Status != Done {
			t.Errorf("List(done) holds an event that is %s", rec.Status)
		}
	}
}

func TestStrangeCursorsAreRefused(t *testing.T) {
	rdb, closeAll := embedded()
	defer closeAll()
	r := NewRecords(rdb, testkit.Logger(t), Config{})
	for _, cursor := range []string{"x", "+", "KzAwMA", formatCursor("-"), formatCursor("0000000000000001-" + strings.Repeat("a", 65)), formatCursor("0000000000000001-a\xff")} {
		if _, _, err := r.List(t.Context(), "", 1, cursor); !errors.Is(err, ErrCursor) {
			t.Errorf("List with cursor %q = %v, want ErrCursor", cursor, err)
		}
	}
	if _, err := r.Get(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get(nobody) = %v, want ErrNotFound", err)
	}
}

func TestRecordsAreBounded(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	r := NewRecords(rdb, testkit.Logger(t), Config{RecordCap: 5})
	base := time.Now()
	for n := range 20 {
		ev := news(n)
		ev.ReceivedAt = base.Add(time.Duration(n) * time.Second)
		r.queued(t.Context(), base, ev)
	}
	list, _, err := r.List(t.Context(), "", 0, "")
	if err != nil || len(list) != 5 || list[0].ID != news(19).ID || list[4].ID != news(15).ID {
		t.Errorf("List = %d records, %v, want the newest five", len(list), err)
	}
	if keys := rdb.Keys(t.Context(), r.keys.record("*")).Val(); len(keys) != 5 {
		t.Errorf("%d records are stored, want five", len(keys))
	}
	if ttl := rdb.TTL(t.Context(), r.keys.record(news(19).ID)).Val(); ttl < 23*time.Hour || ttl > 24*time.Hour {
		t.Errorf("a record lives for %v, want 24h", ttl)
	}
	// Those that ran out leave the list when the next event comes.
	old := news(30)
	old.ReceivedAt = base.Add(-25 * time.Hour)
	rdb.Del(t.Context(), r.keys.index())
	r.queued(t.Context(), base, old)
	rdb.Del(t.Context(), r.keys.record(old.ID))
	r.queued(t.Context(), base, news(31))
	if n := rdb.ZCard(t.Context(), r.keys.index()).Val(); n != 1 {
		t.Errorf("the index has %d members, want the living one", n)
	}
}

func TestOlderAttemptDoesNotOverwriteNewer(t *testing.T) {
	rdb, closeAll := embedded()
	defer closeAll()
	r := NewRecords(rdb, testkit.Logger(t), Config{})
	ev := news(1)
	first := r.begin(t.Context(), ev, nil, time.Now())
	second := r.begin(t.Context(), ev, nil, time.Now())
	r.update(t.Context(), ev.ID, second.attempt, Done, &Outcome{Position: "2-0"}, nil)
	r.update(t.Context(), ev.ID, first.attempt, Retrying, &Outcome{Error: "late"}, nil)
	r.queued(t.Context(), time.Now(), ev) // the worker was faster than the queue's own note
	if rec, err := r.Get(t.Context(), ev.ID); err != nil || rec.Status != Done || rec.Position != "2-0" || rec.Error != "" || rec.Attempts != 2 {
		t.Errorf("record = %+v, %v, want what the second attempt said", rec, err)
	}
	// A record that was trimmed meanwhile stays away.
	rdb.Del(t.Context(), r.keys.record(ev.ID))
	r.update(t.Context(), ev.ID, second.attempt, Done, &Outcome{}, nil)
	if n := rdb.Exists(t.Context(), r.keys.record(ev.ID)).Val(); n != 0 {
		t.Error("an update brought a trimmed record back")
	}
}

// What the worker could not write any more, the task tells.
func TestStatusOfAnEventWhoseWorkerDied(t *testing.T) {
	for _, tt := range []struct {
		stored Status
		task   string
		want   Status
	}{
		{Running, "active", Running},
		{Running, "archived", Failed},
		{Retrying, "archived", Failed},
		{Running, "retry", Retrying},
		{Running, "pending", Queued},
		{Retrying, "pending", Retrying},
		{Queued, "pending", Queued},
		{Done, "active", Done},
		{Done, "", Done},
		{Ignored, "", Ignored},
	} {
		if got := truth(tt.stored, tt.task); got != tt.want {
			t.Errorf("truth(%s, %s) = %s, want %s", tt.stored, tt.task, got, tt.want)
		}
	}
}

func TestRecordHoldsNoPayloadAndIsCut(t *testing.T) {
	rdb, closeAll := embedded()
	defer closeAll()
	r := NewRecords(rdb, testkit.Logger(t), Config{})
	ev := news(1)
	ev.Payload = json.RawMessage(`{"secret":"hunter2"}`)
	r.queued(t.Context(), time.Now(), ev)
	for field, text := range rdb.HGetAll(t.Context(), r.keys.record(ev.ID)).Val() {
		if strings.Contains(text, "hunter2") {
			t.Errorf("field %s holds the payload", field)
		}
	}
	rec, err := r.Get(t.Context(), ev.ID)
	if err != nil || rec.Status != Queued || rec.Event != "post.update" || rec.Slug != "hello" || rec.DeliveryID != "1" || len(rec.Steps) != 2 {
		t.Errorf("record = %+v, %v, want the event as it came, received and queued", rec, err)
	}
	b, err := json.Marshal(rec)
	if err != nil || !strings.Contains(string(b), `"status":"queued"`) || !strings.Contains(string(b), `"steps":[{"step":"received","at":"`) {
		t.Errorf("JSON of the record = %s, %v", b, err)
	}
	if got := head(make([]string, 1000)); len(got) != maxListed {
		t.Errorf("a list of 1000 is cut to %d, want %d", len(got), maxListed)
	}
	if got := cut(strings.Repeat("x", 10_000)); len(got) > maxText+3 {
		t.Errorf("a text of 10 000 is cut to %d", len(got))
	}
}

// Records are a courtesy: without them events go on.
func TestUnwritableRecordStopsNoEvent(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log, reg := newSite(rdb, "fw"), testkit.Logger(t), prometheus.NewRegistry()
	q := NewQueue(rdb, log, Config{Registerer: reg})
	rdb.Set(t.Context(), q.keys.index(), "not a sorted set", 0)
	testkit.Go(t, NewWorker(rdb, s.steps(), log, Config{Registerer: reg}).Run)
	if !mustEnqueue(t, q, news(1)) {
		t.Error("added = false, want true")
	}
	testkit.Until(t, "the event is published", func() bool { return len(s.log(t)) == 1 })
	if n := gathered(t, reg, "freshwire_event_record_errors_total", ""); n == 0 {
		t.Error("the lost records were not counted")
	}
}

// gathered returns the value of a counter or gauge, or the count of a
// histogram, whose labels contain label.
func gathered(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			match := label == ""
			for _, l := range m.GetLabel() {
				match = match || l.GetValue() == label
			}
			if match {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	t.Errorf("no metric %s %s", name, label)
	return -1
}

func TestMetricsTellWhatHappens(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log, reg := newSite(rdb, "fw"), testkit.Logger(t), prometheus.NewRegistry()
	cfg := Config{Registerer: reg}
	q := NewQueue(rdb, log, cfg)
	for n := range 3 {
		mustEnqueue(t, q, news(n))
	}
	mustEnqueue(t, q, news(0))
	rdb.HSet(t.Context(), q.keys.task(news(0).ID), "pending_since", time.Now().Add(-time.Minute).UnixNano())
	if n := gathered(t, reg, "freshwire_queue_tasks", "pending"); n != 3 {
		t.Errorf("pending = %v, want 3", n)
	}
	if age := gathered(t, reg, "freshwire_queue_oldest_seconds", ""); age < 59 || age > 90 {
		t.Errorf("oldest = %v s, want a minute", age)
	}
	steps := with(s, targets("site"))
	testkit.Go(t, NewWorker(rdb, steps, log, cfg).Run)
	for n := range 3 {
		finished(t, q.records, news(n).ID)
	}
	testkit.Until(t, "the last answer has reached the queue", func() bool { return gathered(t, reg, "freshwire_queue_tasks", "active") == 0 })
	for _, m := range []struct {
		name, label string
		want        float64
	}{
		{"freshwire_events_total", "queued", 3},
		{"freshwire_events_total", "duplicate", 1},
		{"freshwire_events_total", "done", 3},
		{"freshwire_task_seconds", "", 3},
		{"freshwire_event_seconds", "", 3},
		{"freshwire_step_seconds", "barrier", 3},
		{"freshwire_step_seconds", "append", 3},
		{"freshwire_target_results_total", "site", 3},
		{"freshwire_queue_tasks", "pending", 0},
		{"freshwire_queue_tasks", "archived", 0},
		{"freshwire_queue_oldest_seconds", "", 0},
		{"freshwire_queue_up", "", 1},
		{"freshwire_queue_reaped_total", "", 0},
	} {
		if got := gathered(t, reg, m.name, m.label); got != m.want {
			t.Errorf("%s %s = %v, want %v", m.name, m.label, got, m.want)
		}
	}
}
