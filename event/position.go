package event

import (
	"cmp"
	"errors"
	"strconv"
	"strings"
)

// Position is a place in the log of changes: the id of a Redis stream entry,
// milliseconds and a number within them. The zero Position is before every entry.
type Position struct {
	Ms, N uint64
}

// ErrPosition is returned by ParsePosition for text that is no position.
var ErrPosition = errors.New("event: not a position")

// ParsePosition reads "<ms>-<n>", each 1 to 20 digits and nothing else. What a
// stranger sent must pass here before it may reach Redis, where "$", "-" and
// "+" have meanings of their own.
func ParsePosition(s string) (Position, error) {
	ms, n, ok := strings.Cut(s, "-")
	if !ok {
		return Position{}, ErrPosition
	}
	var p Position
	var err error
	if p.Ms, err = parseDigits(ms); err != nil {
		return Position{}, err
	}
	if p.N, err = parseDigits(n); err != nil {
		return Position{}, err
	}
	return p, nil
}

func parseDigits(s string) (uint64, error) {
	if len(s) == 0 || len(s) > 20 || strings.Trim(s, "0123456789") != "" {
		return 0, ErrPosition
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, ErrPosition
	}
	return n, nil
}

// String returns p as Redis and browsers write it.
func (p Position) String() string {
	return strconv.FormatUint(p.Ms, 10) + "-" + strconv.FormatUint(p.N, 10)
}

// Compare returns -1, 0 or 1 as p is before, at or after q.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Ms, q.Ms), cmp.Compare(p.N, q.N))
}

// IsZero reports whether p is before every entry.
func (p Position) IsZero() bool { return p == Position{} }

// Record is one entry of the log: where it stands, who may want it, and the
// JSON that subscribers get, encoded once.
type Record struct {
	Position Position
	Channels []string
	Data     []byte // one JSON object; shared, never changed

	// EndsSession is set in a record that is for stream servers alone: the
	// session of this name ended. It has neither channels nor data.
	EndsSession string
}
