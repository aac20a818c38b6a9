package cache

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestSecondReadIsServedFromCacheUntilPurged(t *testing.T) {
	rdb := testkit.Redis(t)
	s := New(rdb, testkit.Logger(t), Config{})
	testkit.Go(t, s.Run)
	var version atomic.Int64
	fill := func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 200, Body: []byte(strconv.FormatInt(version.Add(1), 10)), TTL: time.Minute}, nil
	}
	read := func() string {
		t.Helper()
		r, err := s.Fetch(t.Context(), Request{Key: "post:1", Path: "/blog/one", Tags: []string{"posts"}}, fill)
		if err != nil {
			t.Fatal(err)
		}
		return string(r.Entry.Body) + " " + string(r.Verdict)
	}
	purge := func(p Purge) {
		t.Helper()
		m, err := s.Invalidate(t.Context(), p, Mark{})
		if err != nil {
			t.Fatal(err)
		}
		if _, report, err := s.Barrier(t.Context(), p, m); err != nil || !report.Settled || report.Nodes != 1 {
			t.Fatalf("Barrier = %+v, %v", report, err)
		}
	}
	for i, p := range []Purge{{Tags: []string{"posts"}}, {Keys: []string{"post:1"}}, {Patterns: []string{"post:*"}},
		{Paths: []string{"/blog/one"}}, {Paths: []string{"/blog/*"}}, {Paths: []string{"/*"}}, {All: true}} {
		n := strconv.Itoa(i + 1)
		if got, want := read(), n+" miss"; got != want {
			t.Fatalf("read = %q, want %q", got, want)
		}
		if got, want := read(), n+" hit"; got != want {
			t.Fatalf("read again = %q, want %q", got, want)
		}
		purge(p)
	}
	if got, want := read(), "8 miss"; got != want {
		t.Fatalf("read = %q, want %q", got, want)
	}
}
