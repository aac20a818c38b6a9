package version

import (
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

// Two versions that both have a rank of one kind are in the order of their ranks.
func FuzzRank(f *testing.F) {
	for _, v := range []string{"0", "00", "9", "10", "18446744073709551616", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1+14:00", "0000-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "-1", "1e5", "f00", "١", ""} {
		f.Add(v, "10")
		f.Add(v, "2026-01-01T00:00:00Z")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(a) > 256 || len(b) > 256 {
			return
		}
		ra, rb := Rank(a), Rank(b)
		if ra == "" || rb == "" || ra[0] != rb[0] {
			return
		}
		var want int
		if ra[0] == 'n' {
			na, oka := new(big.Int).SetString(a, 10)
			nb, okb := new(big.Int).SetString(b, 10)
			if !oka || !okb {
				t.Fatalf("Rank(%q) = %q, Rank(%q) = %q: no numbers", a, ra, b, rb)
			}
			want = na.Cmp(nb)
		} else {
			ta, erra := time.Parse(time.RFC3339, a)
			tb, errb := time.Parse(time.RFC3339, b)
			if err := errors.Join(erra, errb); err != nil {
				t.Fatal(err)
			}
			want = ta.Compare(tb)
		}
		if got := strings.Compare(ra, rb); got != want {
			t.Errorf("Rank(%q) = %q, Rank(%q) = %q: compared %d, want %d", a, ra, b, rb, got, want)
		}
	})
}
