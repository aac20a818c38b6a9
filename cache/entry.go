package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Entry is one stored answer. It is shared by all who read it: never change it.
type Entry struct {
	Status   int
	Header   map[string][]string // those response headers that the fill kept
	ETag     string
	Body     []byte
	Negative bool // says that there is nothing, such as a 404

	StoredAt   time.Time
	FreshUntil time.Time
	StaleUntil time.Time // may be served while it is fetched again
	ErrorUntil time.Time // may be served when the origin fails

	Position string // of the change log, taken before the fetch
	Token    uint64 // position of the ledger, taken before the fetch
	Epoch    string // of the ledger that the token belongs to

	scopes []string // what voids it, besides its key
}

// Tags returns the tags that void e.
func (e *Entry) Tags() []string {
	var tags []string
	for _, s := range e.scopes {
		if t, ok := strings.CutPrefix(s, tagScope); ok {
			tags = append(tags, t)
		}
	}
	return tags
}

// An entry is stored as one string: a prefix of fixed places, so that scripts
// and GETRANGE find what they need without the rest, a JSON header, the body.
//
//	0   "F1"
//	2   token, 16 decimal digits
//	18  epoch, 16 hexadecimal digits
//	34  length of prefix and header together, 6 decimal digits
//	40  header
const (
	entryMagic   = "F1"
	tokenAt      = 2
	epochAt      = 18
	headLenAt    = 34
	prefixLen    = 40
	maxHeader    = 1<<18 - 1 // bytes; beyond it an answer is not stored
	epochLen     = 16
	tokenPattern = "%016d"
)

type header struct {
	Status   int                 `json:"c"`
	Stored   int64               `json:"a"` // ms since 1970, as the next three
	Fresh    int64               `json:"f"`
	Stale    int64               `json:"s,omitempty"`
	Error    int64               `json:"e,omitempty"`
	ETag     string              `json:"t,omitempty"`
	Position string              `json:"p,omitempty"`
	Negative bool                `json:"n,omitempty"`
	Scopes   []string            `json:"v,omitempty"`
	Header   map[string][]string `json:"h,omitempty"`
}

var (
	errEntry       = errors.New("cache: not an entry")
	errBigHeader   = fmt.Errorf("cache: header and scopes above %d bytes", maxHeader)
	errBadTokenGen = errors.New("cache: no ledger position to store under")
)

func (e *Entry) encode() ([]byte, error) {
	if len(e.Epoch) != epochLen || e.Token == 0 || e.Token >= 1e16 {
		return nil, errBadTokenGen
	}
	h, err := json.Marshal(header{
		Status: e.Status, Stored: e.StoredAt.UnixMilli(), Fresh: e.FreshUntil.UnixMilli(),
		Stale: e.StaleUntil.UnixMilli(), Error: e.ErrorUntil.UnixMilli(),
		ETag: e.ETag, Position: e.Position, Negative: e.Negative, Scopes: e.scopes, Header: e.Header,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding entry: %w", err)
	}
	n := prefixLen + len(h)
	if n > maxHeader {
		return nil, errBigHeader
	}
	b := make([]byte, 0, n+len(e.Body))
	b = fmt.Appendf(b, entryMagic+tokenPattern+"%s%06d", e.Token, e.Epoch, n)
	b = append(b, h...)
	return append(b, e.Body...), nil
}

// decodeEntry reads what encode wrote. The body shares b.
func decodeEntry(b []byte) (*Entry, error) {
	token, epoch, n, err := decodePrefix(b)
	if err != nil {
		return nil, err
	}
	var h header
	if n > len(b) {
		return nil, errEntry
	}
	if err := json.Unmarshal(b[prefixLen:n], &h); err != nil {
		return nil, fmt.Errorf("%w: %w", errEntry, err)
	}
	return &Entry{
		Status: h.Status, Header: h.Header, ETag: h.ETag, Body: b[n:], Negative: h.Negative,
		StoredAt: time.UnixMilli(h.Stored), FreshUntil: time.UnixMilli(h.Fresh),
		StaleUntil: time.UnixMilli(h.Stale), ErrorUntil: time.UnixMilli(h.Error),
		Position: h.Position, Token: token, Epoch: epoch, scopes: h.Scopes,
	}, nil
}

// decodePrefix reads the fixed places of an entry; n is where its body begins.
func decodePrefix(b []byte) (token uint64, epoch string, n int, err error) {
	if len(b) < prefixLen || string(b[:tokenAt]) != entryMagic {
		return 0, "", 0, errEntry
	}
	token, err = strconv.ParseUint(string(b[tokenAt:epochAt]), 10, 64)
	if err != nil {
		return 0, "", 0, errEntry
	}
	n, err = strconv.Atoi(string(b[headLenAt:prefixLen]))
	if err != nil || n < prefixLen || n > maxHeader {
		return 0, "", 0, errEntry
	}
	return token, string(b[epochAt:headLenAt]), n, nil
}
