package cache

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNamesOfLedgerShareOneHashTag(t *testing.T) {
	n := names{ns: "shop"}
	for _, name := range []string{n.ledger(), n.seqs(), n.ack(), n.live(), n.meta(), n.bell()} {
		if !strings.HasPrefix(name, "shop:{shop}:") {
			t.Errorf("name %q is outside of the slot {shop}", name)
		}
	}
	if got, want := n.entry("a{b}*"), "shop:e:{a%7Bb%7D%2A}"; got != want {
		t.Errorf("entry = %q, want %q", got, want)
	}
}

func TestTwoSitesOnOneRedisNeverShareNames(t *testing.T) {
	a, b := names{ns: "a"}, names{ns: "b"}
	all := func(n names) []string {
		return []string{n.ledger(), n.entry("k"), n.lease("k"), n.shard("t:x", 0), n.bell()}
	}
	for _, name := range all(a) {
		if slices.Contains(all(b), name) {
			t.Errorf("%q belongs to both", name)
		}
	}
}

func TestEmptyAndOverlongKeysRefused(t *testing.T) {
	for _, key := range []string{"", strings.Repeat("k", MaxKey+1)} {
		if err := checkKey(key); !errors.Is(err, ErrKey) {
			t.Errorf("checkKey of %d bytes = %v, want ErrKey", len(key), err)
		}
	}
	if err := checkKey(strings.Repeat("k", MaxKey)); err != nil {
		t.Errorf("checkKey(%d bytes) = %v, want nil", MaxKey, err)
	}
}

// hashTag is how Redis finds the part of a key that decides its slot.
func hashTag(name string) string {
	if i := strings.IndexByte(name, '{'); i >= 0 {
		if j := strings.IndexByte(name[i+1:], '}'); j > 0 {
			return name[i+1 : i+1+j]
		}
	}
	return name
}

func TestEscapedKeysAreInjectiveAndKeepTheirSlot(t *testing.T) {
	n := names{ns: "fw"}
	key := rapid.OneOf(rapid.StringN(1, 20, 40), rapid.StringMatching(`[a-c{}*?\[\]\\^% %0-9A-F:]{1,8}`))
	rapid.Check(t, func(t *rapid.T) {
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		if (a == b) != (n.entry(a) == n.entry(b)) {
			t.Fatalf("entry(%q) = %q, entry(%q) = %q", a, n.entry(a), b, n.entry(b))
		}
		if hashTag(n.entry(a)) != hashTag(n.lease(a)) || hashTag(n.entry(a)) != esc(a) {
			t.Fatalf("entry and lease of %q are in different slots", a)
		}
		if strings.ContainsAny(esc(a), "{}*?[]\\^ \n\x00\x7f") {
			t.Fatalf("esc(%q) = %q", a, esc(a))
		}
		if back, ok := n.entryKey(n.entry(a)); !ok || back != a {
			t.Fatalf("entryKey(entry(%q)) = %q, %v", a, back, ok)
		}
		if n.shard(a, 1) == n.shard(b, 1) && a != b {
			t.Fatalf("index of %q and %q are one", a, b)
		}
	})
}
