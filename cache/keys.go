package cache

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Limits of what may name an entry, in bytes. An entry beyond them is never
// stored, so a purge beyond them has nothing to void.
const (
	MaxKey = 1024
	MaxTag = 256
)

// ErrKey is returned for a key that cannot name an entry: empty, or longer than MaxKey.
var ErrKey = errors.New("cache: bad key")

func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: empty", ErrKey) // {} is no hash tag: entry and lease would part
	case len(key) > MaxKey:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrKey, len(key), MaxKey)
	}
	return nil
}

// names makes the Redis keys of one namespace. What belongs to the ledger
// shares one slot, and so do an entry and its fill lease.
type names struct{ ns string }

func (n names) ledger() string { return n.own("ledger") } // sorted set, scope → seq; "*" is the floor, "@" the clock
func (n names) seqs() string   { return n.own("seqs") }   // sorted set, "seq:nonce" → seq, the newest 10,000 events
func (n names) ack() string    { return n.own("ack") }    // sorted set, node → token applied
func (n names) live() string   { return n.own("live") }   // sorted set, node → end of lease, µs; "?" a lost node, "#" whole
func (n names) meta() string   { return n.own("meta") }   // hash: epoch, host, until
func (n names) bell() string   { return n.own("bell") }   // channel, rung for each event
func (n names) want() string   { return n.own("want") }   // sorted set, announcement → seq, see announce.go

func (n names) told(tag string) string { return n.own("told:" + tag) } // string, "seq:announcement" that was told last

func (n names) own(part string) string { return n.ns + ":{" + n.ns + "}:" + part }

func (n names) entry(key string) string { return n.ns + ":e:{" + esc(key) + "}" } // string, see entry.go
func (n names) lease(key string) string { return n.ns + ":l:{" + esc(key) + "}" } // string, token of the one who fills, and "+" when others wait
func (n names) wake(key string) string  { return n.ns + ":f:{" + esc(key) + "}" } // channel, told of the end of a fill that others wait for

// entryKey returns the key of an entry's Redis name, the inverse of entry.
func (n names) entryKey(name string) (key string, ok bool) {
	s, ok := strings.CutPrefix(name, n.ns+":e:{")
	if !ok {
		return "", false
	}
	if s, ok = strings.CutSuffix(s, "}"); !ok {
		return "", false
	}
	return unesc(s)
}

const upperHex = "0123456789ABCDEF"

// plain reports whether c stands for itself in a Redis name: everything but
// what opens a hash tag, a pattern or an escape, blanks and controls.
func plain(c byte) bool {
	switch c {
	case '{', '}', '*', '?', '[', ']', '\\', '^', '%':
		return false
	}
	return c > ' ' && c != 0x7f
}

// esc percent-encodes s so that it can open neither a hash tag nor a pattern.
// Different texts stay different.
func esc(s string) string {
	i := 0
	for i < len(s) && plain(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	b := append(make([]byte, 0, len(s)+16), s[:i]...)
	for ; i < len(s); i++ {
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return string(b)
}

// unesc is the inverse of esc; ok is false for what esc never writes.
func unesc(s string) (_ string, ok bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(c))
		i += 2
	}
	return string(b), true
}
