package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// BenchmarkAppend appends records of 600 bytes, beside callers that write and
// sync a file by themselves, one after the other: what a journal without shared
// syncs would do.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("journal/callers=%d", callers), func(b *testing.B) {
			j, err := Open(b.TempDir(), testkit.Discard(), Config{MaxBytes: 1 << 40})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			data := make([]byte, 574)
			hammer(b, callers, func(i int64) error {
				_, _, err := j.Append(context.Background(), []Record{{ID: strconv.FormatInt(1e15+i, 10) + "0123456789", Data: data}})
				return err
			})
		})
		b.Run(fmt.Sprintf("writeAndSync/callers=%d", callers), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "file"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			var mu sync.Mutex
			data := make([]byte, 600)
			hammer(b, callers, func(int64) error {
				mu.Lock()
				defer mu.Unlock()
				if _, err := f.Write(data); err != nil {
					return err
				}
				return syncData(f)
			})
		})
	}
}

// hammer calls fn b.N times, spread over callers, and reports the rate and how
// long a call took.
func hammer(b *testing.B, callers int, fn func(i int64) error) {
	b.SetBytes(600)
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	took := make([][]time.Duration, callers)
	b.ResetTimer()
	for c := range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				start := time.Now()
				if err := fn(i); err != nil {
					b.Error(err)
					return
				}
				took[c] = append(took[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	}
}

// BenchmarkForward hands on records that are in the files, to a sink that costs
// nothing.
func BenchmarkForward(b *testing.B) {
	j, err := Open(b.TempDir(), testkit.Discard(), Config{MaxBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	var seq uint64
	for n := 0; n < b.N; n += 1000 {
		all := numbered("r", min(1000, b.N-n))
		for i := range all {
			all[i].Data = make([]byte, 570)
		}
		if seq, _, err = j.Append(context.Background(), all); err != nil {
			b.Fatal(err)
		}
	}
	s := Sink{
		Deliver: func(context.Context, []Record) error { return nil },
		Advance: func(_ context.Context, _ string, from, _ uint64) (uint64, error) { return from, nil },
	}
	b.SetBytes(600)
	b.ReportAllocs()
	b.ResetTimer()
	stop := run(b, j, s)
	if err := j.Wait(context.Background(), seq); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	stop()
}
