// Package version compares versions as CMSs tell them: numbers, times, hashes.
package version

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Rank returns a text by which versions of one kind sort: a whole number, or a
// time as RFC 3339 writes it. It is "" for all others, such as hashes, which
// have no order. Ranks of different kinds begin with different letters.
func Rank(v string) string {
	if isNumber(v) {
		digits := strings.TrimLeft(v, "0")
		return fmt.Sprintf("n%03d%s", len(digits), digits)
	}
	if t, ok := parseTime(v); ok {
		return "t" + t.Format("20060102150405") + fmt.Sprintf("%09d", t.Nanosecond())
	}
	return ""
}

// Older reports whether content that tells the version seen is older than what
// was announced. Numbers and times have an order; two times are compared at the
// coarser of their precisions, since an API may cut what its webhook tells in
// full. Of anything else it is only known whether it is the same: what is not
// counts as older. A number says nothing of a time, nor the other way round.
func Older(seen, announced string) bool {
	if seen == announced {
		return false
	}
	if isNumber(seen) && isNumber(announced) {
		return Rank(seen) < Rank(announced)
	}
	s, seenTime := parseTime(seen)
	a, announcedTime := parseTime(announced)
	switch {
	case seenTime && announcedTime:
		coarser := max(precision(seen), precision(announced))
		return s.Truncate(coarser).Before(a.Truncate(coarser))
	case (seenTime || isNumber(seen)) && (announcedTime || isNumber(announced)):
		return false
	}
	return true
}

func isNumber(v string) bool {
	return v != "" && len(v) < 1000 && strings.Trim(v, "0123456789") == ""
}

func parseTime(v string) (t time.Time, ok bool) {
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		return t, false
	}
	t = t.UTC()
	return t, t.Year() >= 0 && t.Year() <= 9999
}

// precision is the unit of the last digit of a time's seconds.
func precision(v string) time.Duration {
	_, fraction, ok := strings.Cut(v, ".")
	if !ok {
		return time.Second
	}
	digits := len(fraction) - len(strings.TrimLeft(fraction, "0123456789"))
	unit := time.Second
	for range min(digits, 9) {
		unit /= 10
	}
	return cmp.Or(unit, time.Nanosecond)
}
