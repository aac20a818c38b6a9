package main

import (
	"strings"
	"testing"
)

// The least that anything can take: what it is made of.
func TestEveryFigureIsMeasured(t *testing.T) {
	s, err := newStand(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	for _, test := range []struct {
		kind
		members float64
	}{
		{kind{name: "tags", entries: 3000, tags: 100}, tagsEach},
		{kind{name: "route", entries: 3000, tags: 100, route: true}, tagsEach + 1}, // its path, too
		{kind{name: "one tag", entries: 3000, tags: 1}, 1},
	} {
		c, err := s.entries(t.Context(), test.kind)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if c.entry < 50 || c.entry > 2000 || c.members != test.members || c.member < 10 || c.member > 1000 {
			t.Errorf("%s: %+v, want %v members each", test.name, c, test.members)
		}
	}
	l, err := s.ledger(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if l.scope < 20 || l.scope > 500 || l.mirror < 20 || l.mirror > 1000 || l.event < 20 || l.event > 500 || l.events != 100 {
		t.Errorf("ledger: %+v", l)
	}
	m, err := s.memoryTier(t.Context(), 3000)
	if err != nil {
		t.Fatal(err)
	}
	if m.entries != 3000 || m.real < bodySize+50 || m.real > 4000 || m.counted < bodySize {
		t.Errorf("memory tier: %+v", m)
	}
}

func TestReportHasAllTables(t *testing.T) {
	var out strings.Builder
	if err := bench(t.Context(), options{entries: 500, tags: 50, scopes: 100}, &out); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"3 of 50 tags each", "as a route writes it", "one tag for all", "100 purged tags", "in the memory of a process"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("nothing about %q in:\n%s", part, out.String())
		}
	}
}

func TestOptionsOutOfBoundsAreRefused(t *testing.T) {
	for _, o := range []options{{}, {entries: 1000, tags: 1, scopes: 100}, {entries: 1000, tags: 100, scopes: 1_000_000}} {
		if o.validate() == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
