package webhook

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestRateIsReadAsWritten(t *testing.T) {
	for text, want := range map[string]Rate{
		"50/1s": {50, time.Second}, "1000/1s": {1000, time.Second}, "3/1m0s": {3, time.Minute}, "0": Unlimited,
	} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want || r.String() != text {
			t.Errorf("rate %q = %+v (%v), %v, want %+v", text, r, r, err, want)
		}
	}
	for _, text := range []string{"", "5", "5/", "/1s", "0/1s", "-1/1s", "5/0s", "5/1", "5/1s/1s", "1e9/1s", "99999999/1s", "5/25h", "5/-1s", "5/1µs", "many"} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("rate %q = %+v, want an error", text, r)
		}
	}
}

func TestQuotaGivesABurstAndThenItsRate(t *testing.T) {
	b := bucket{quota: quota{Rate{10, time.Second}, 3}}
	clock := noon
	for i, step := range []struct {
		after time.Duration // since the step before
		wait  time.Duration
	}{
		{0, 0}, {0, 0}, {0, 0}, {0, 100 * time.Millisecond}, {0, 100 * time.Millisecond},
		{60 * time.Millisecond, 40 * time.Millisecond}, {40 * time.Millisecond, 0}, {0, 100 * time.Millisecond},
		{time.Hour, 0}, {0, 0}, {0, 0}, {0, 100 * time.Millisecond}, // a quiet hour saves no more than a burst
		{-time.Hour, time.Hour + 100*time.Millisecond}, // a clock that was set back
	} {
		clock = clock.Add(step.after)
		if wait := b.take(clock); wait != step.wait {
			t.Errorf("step %d: take = %v, want %v", i, wait, step.wait)
		}
	}
	off := bucket{quota: quota{Unlimited, -5}}
	for range 10000 {
		if wait := off.take(noon); wait != 0 {
			t.Fatalf("unlimited: take = %v, want 0", wait)
		}
	}
}

func TestCallerIsAnAddressOrTheNetworkOfAHost(t *testing.T) {
	same := func(a, b string) bool {
		return callerOf(netip.MustParseAddr(a), "blog") == callerOf(netip.MustParseAddr(b), "blog")
	}
	if !same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9") || same("2001:db8:1:2::1", "2001:db8:1:3::1") || same("192.0.2.1", "192.0.2.2") {
		t.Error("a caller must be one IPv4 address, or one /64")
	}
	if callerOf(netip.MustParseAddr("192.0.2.1"), "blog") == callerOf(netip.MustParseAddr("192.0.2.1"), "shop") {
		t.Error("a caller must be counted for each source apart")
	}
}

func TestTablesOfCallersAreBounded(t *testing.T) {
	s := newStrangers(quota{Rate{1, time.Second}, 1})
	addr := netip.MustParseAddr("10.0.0.0")
	worst := callerOf(netip.MustParseAddr("192.0.2.1"), "blog")
	for range 50 { // its bucket is no fuller than that of others: a stranger cannot make itself unforgettable
		s.refuse(worst, noon)
	}
	for range 2 * maxStrangers {
		addr = addr.Next()
		s.refuse(callerOf(addr, "blog"), noon)
		s.verify(callerOf(addr, "blog"), noon)
	}
	if len(s.refused) > maxStrangers || len(s.friends) > maxFriends {
		t.Errorf("%d strangers and %d friends, want at most %d and %d", len(s.refused), len(s.friends), maxStrangers, maxFriends)
	}
	s.refuse(caller{}, noon)
	if _, ok := s.refused[caller{}]; ok {
		t.Error("an address that is none is counted; want it left alone: it may be everybody's")
	}
}

func BenchmarkStrangers(b *testing.B) {
	for _, n := range []int{0, maxStrangers} {
		b.Run(fmt.Sprintf("refused=%d", n), func(b *testing.B) {
			s := newStrangers(quota{Rate{30, time.Second}, 100})
			addr := netip.MustParseAddr("10.0.0.0")
			for range n {
				addr = addr.Next()
				s.refuse(callerOf(addr, "blog"), noon)
			}
			c := callerOf(netip.MustParseAddr("192.0.2.1"), "blog")
			b.ReportAllocs()
			for b.Loop() {
				if s.wait(c, noon) != 0 {
					b.Fatal("turned away")
				}
				s.verify(c, noon)
			}
		})
	}
}
