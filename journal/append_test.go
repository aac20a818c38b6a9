package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestOneOfManyEqualRecordsIsNew(t *testing.T) {
	disk := newMemFS()
	j := mustOpen(t, disk, small())
	for round := range 20 {
		var fresh atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, known, err := j.Append(context.Background(), recs(fmt.Sprint(round)))
				if err != nil {
					t.Error(err)
				} else if !known[0] {
					fresh.Add(1)
				}
			})
		}
		wg.Wait()
		if n := fresh.Load(); n != 1 {
			t.Fatalf("%d of 8 were told that theirs is new", n)
		}
	}
	if _, known, _ := j.Append(t.Context(), recs("x", "x", "19")); !slices.Equal(known, []bool{false, true, true}) {
		t.Errorf("known = %v of one call", known)
	}
	j.Close()
	j = mustOpen(t, disk, small())
	if _, known, _ := j.Append(t.Context(), recs("19", "y")); !slices.Equal(known, []bool{true, false}) {
		t.Errorf("known = %v after a restart", known)
	}
}

func TestKnownIDsAreForgottenInTime(t *testing.T) {
	k := newKnownIDs(3, 10*time.Minute)
	at := time.Unix(1e9, 0)
	steps := []struct {
		id    string
		after time.Duration
		known bool
	}{
		{"a", 0, false}, {"a", time.Minute, true}, {"b", 0, false},
		{"a", 10 * time.Minute, true}, // since it came again
		{"b", 0, true}, {"b", 11 * time.Minute, false}, {"a", 0, false},
		{"c", 0, false}, {"d", 0, false}, {"a", 0, true}, {"c", 0, true}, {"b", 0, false}, // three at most
	}
	for i, s := range steps {
		at = at.Add(s.after)
		if known := k.add(s.id, at); known != s.known {
			t.Errorf("step %d: add(%q) = %v, want %v", i, s.id, known, s.known)
		}
	}
}

func TestManyCallersShareSyncs(t *testing.T) {
	disk := newMemFS()
	var syncs atomic.Int64
	j := mustOpen(t, disk, Config{})
	gate := make(chan struct{})
	disk.failSync(func() error {
		if syncs.Add(1) == 1 {
			<-gate
		}
		return nil
	})
	var wg sync.WaitGroup
	first := make(chan struct{})
	for i := range 65 {
		wg.Go(func() {
			if i > 0 {
				<-first
			}
			if _, _, err := j.Append(context.Background(), recs(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	testkit.Until(t, "the disk is asked", func() bool { return syncs.Load() == 1 })
	close(first)
	testkit.Until(t, "the disk is asked", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return len(j.waiting) == 64 })
	close(gate)
	wg.Wait()
	if n := syncs.Load(); n != 2 {
		t.Errorf("%d syncs for one caller, and 64 that came while it waited; want 2", n)
	}
}

func TestFullJournalRefusesAndKeepsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := small()
		cfg.MaxBytes = 1000
		j := mustOpen(t, newMemFS(), cfg)
		var err error
		n := 0
		for ; err == nil; n++ {
			_, _, err = j.Append(t.Context(), []Record{{ID: "x", Data: make([]byte, 67)}})
		}
		if !errors.Is(err, ErrFull) || n != 11 {
			t.Errorf("record %d of 100 bytes: %v, want ErrFull for the 11th", n, err)
		}
		if err := j.Ready(); !errors.Is(err, ErrFull) {
			t.Errorf("Ready = %v, want ErrFull", err)
		}
		s := &store{}
		run(t, j, s.sink())
		if err := j.Wait(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
		if err := j.Ready(); err != nil {
			t.Errorf("Ready after all was handed on = %v", err)
		}
		mustAppend(t, j, rec("y"))
		j.Close()
	})
}

func TestSlowDiskBoundsWhatWaits(t *testing.T) {
	cfg := small()
	cfg.limits.waitingBytes = 1000
	disk := newMemFS()
	j := mustOpen(t, disk, cfg)
	gate := make(chan struct{})
	disk.failSync(func() error { <-gate; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 20)
	for range 20 {
		go func() {
			_, _, err := j.Append(ctx, []Record{{ID: "x", Data: make([]byte, 67)}})
			results <- err
		}()
	}
	for range 10 {
		if err := <-results; !errors.Is(err, ErrFull) {
			t.Errorf("Append = %v, want ErrFull", err)
		}
	}
	cancel()
	for range 10 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("Append = %v, want the end of its context", err)
		}
	}
	close(gate)
	j.Close() // what waited is finished
	if got := len(contents(t, mustOpen(t, disk, cfg))); got != 10 {
		t.Errorf("%d records kept, want 10", got)
	}
}

func TestBadRecordsAreRefused(t *testing.T) {
	j := mustOpen(t, newMemFS(), small())
	tests := map[string][]Record{
		"none":       nil,
		"no ID":      {{Data: []byte("x")}},
		"long ID":    {rec("a"), {ID: string(make([]byte, maxID+1))}},
		"large data": {{ID: "x", Data: make([]byte, maxData+1)}},
	}
	for name, all := range tests {
		if _, _, err := j.Append(t.Context(), all); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: Append = %v, want ErrRecord", name, err)
		}
	}
	if seq := mustAppend(t, j, rec("good")); seq != 1 {
		t.Errorf("seq = %d, want 1: a refused call left something", seq)
	}
}

func TestMetricsTellWhatHappened(t *testing.T) {
	reg := prometheus.NewRegistry()
	cfg := small()
	cfg.Registerer = reg
	within(t, cfg, func(t *testing.T, b *bubble) {
		b.add("0", "1", "2")
		b.store.forget(1)
		b.settle(2 * time.Second)
		b.store.failWith(func(string) (error, error) { return errors.New("away"), nil })
		mustAppend(t, b.Journal, recs("3")...)
		b.settle(time.Second)
		m := b.metrics
		for name, got := range map[string][2]float64{
			"appended":  {testutil.ToFloat64(m.appended), 4},
			"forwarded": {testutil.ToFloat64(m.forwarded), 3},
			"resent":    {testutil.ToFloat64(m.resent), 3},
			"records":   {testutil.ToFloat64(m.records), 1},
			"bytes":     {testutil.ToFloat64(m.bytes), 42},
		} {
			if got[0] != got[1] {
				t.Errorf("%s = %v, want %v", name, got[0], got[1])
			}
		}
		if testutil.ToFloat64(m.errors.WithLabelValues("advance"))+testutil.ToFloat64(m.errors.WithLabelValues("deliver")) == 0 {
			t.Error("no error was counted")
		}
	})
}

func TestConfigTellsAllMistakes(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
	}
	err := Config{KeepFor: time.Millisecond, MaxBytes: 5}.Validate()
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 2 {
		t.Errorf("Validate = %v, want two mistakes", err)
	}
}
