//go:build linux

package main

import (
	"math/bits"
	"time"
)

// histogram counts times, each to within a 64th of it.
type histogram struct {
	counts [64 * 40]uint64
	n      uint64
	worst  int64
}

func (h *histogram) add(ns int64) {
	ns = max(0, ns)
	h.counts[bucket(ns)]++
	h.n++
	h.worst = max(h.worst, ns)
}

// bucket keeps the six bits after the highest one.
func bucket(ns int64) int {
	if ns < 64 {
		return int(ns)
	}
	shift := bits.Len64(uint64(ns)) - 7
	return min(shift*64+int(ns>>shift), 64*40-1)
}

// value is the least time of a bucket.
func value(bucket int) int64 {
	if bucket < 128 {
		return int64(bucket)
	}
	shift := bucket/64 - 1
	return int64(bucket-shift*64) << shift
}

// quantile returns the time that a share of all took at most, about.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rest := int64(q * float64(h.n))
	for i, n := range h.counts {
		if rest -= int64(n); rest < 0 {
			return time.Duration(min(value(i+1), h.worst))
		}
	}
	return time.Duration(h.worst)
}
