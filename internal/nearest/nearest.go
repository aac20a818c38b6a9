// Package nearest finds the word that a misspelt one was meant to be, for
// errors that ask "did you mean".
package nearest

import "strings"

// Word returns the known word that word most likely was meant to be, whatever
// its case, or "" when none is near.
func Word(word string, known []string) string {
	best, at := "", 1+max(2, min(3, len(word)/3))
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < at && d < max(len(word), len(k)) {
			best, at = k, d
		}
	}
	return best
}

// distance counts the letters to insert, drop, change or swap with the next
// one to make b of a. Words over 64 bytes are far from everything.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var before []int // the row two above
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
