package version

import (
	"slices"
	"testing"
)

func TestOlderTellsWhatIsBehindTheAnnouncement(t *testing.T) {
	for _, tc := range []struct {
		seen, announced string
		older           bool
	}{
		{"4", "5", true},
		{"5", "5", false},
		{"10", "9", false},
		{"007", "7", false},
		{"9", "10", true},
		{"2026-11-20T12:00:00Z", "2026-11-20T12:00:01Z", true},
		{"2026-11-20T12:00:01Z", "2026-11-20T12:00:00Z", false},
		{"2026-11-20T13:00:00+01:00", "2026-11-20T12:00:00Z", false},
		{"2026-11-20T12:00:00Z", "2026-11-20T12:00:00.750Z", false}, // cut to seconds by the API
		{"2026-11-20T12:00:00.7Z", "2026-11-20T12:00:00.750Z", false},
		{"2026-11-20T12:00:00.6Z", "2026-11-20T12:00:00.750Z", true},
		{"2026-11-20T12:00:00.123Z", "2026-11-20T12:00:00.124Z", true},
		{"2026-11-20T11:59:59Z", "2026-11-20T12:00:00.750Z", true},
		{"a81bc", "a81bc", false},
		{"a81bc", "f00ba", true}, // hashes have no order
		{"", "5", true},
		{"5", "2026-11-20T12:00:00Z", false}, // not of one kind
		{"2026-11-20T12:00:00Z", "5", false},
	} {
		if got := Older(tc.seen, tc.announced); got != tc.older {
			t.Errorf("Older(%q, %q) = %v, want %v", tc.seen, tc.announced, got, tc.older)
		}
	}
}

func TestRanksSortAsVersionsDo(t *testing.T) {
	for _, ascending := range [][]string{
		{"0", "1", "9", "10", "99999999999999999999", "100000000000000000000"},
		{"2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000001Z", "2026-01-01T00:00:01+00:00"},
	} {
		ranks := make([]string, len(ascending))
		for i, v := range ascending {
			ranks[i] = Rank(v)
		}
		if !slices.IsSorted(ranks) || slices.Contains(ranks, "") {
			t.Errorf("ranks of %q are %q", ascending, ranks)
		}
	}
	for _, v := range []string{"", "a81bc", "1.5", "-3", "yesterday"} {
		if got := Rank(v); got != "" {
			t.Errorf("Rank(%q) = %q, want none", v, got)
		}
	}
}
