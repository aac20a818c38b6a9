package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Entry is one stored answer. It is shared by all who read it: never change it.
type Entry struct {
	Status   int
	Header   map[string][]string // those response headers that the fill kept
	ETag     string
	Negative bool // says that there is nothing, such as a 404
	Size     int  // of the body, in bytes, before packing

	StoredAt   time.Time
	FreshUntil time.Time
	StaleUntil time.Time     // may be served while it is fetched again
	ErrorUntil time.Time     // may be served when the origin fails
	Took       time.Duration // to fetch it

	Target   string // how to ask for it again, such as "/api/posts/42"; empty where nobody told
	Position string // of the change log, taken before the fetch
	Token    uint64 // position of the ledger, taken before the fetch
	Epoch    string // of the ledger that the token belongs to

	// Memo is for who serves the entry: what it works out once for all readers.
	Memo atomic.Value

	scopes []string // what voids it, besides its key
	body   body

	early   atomic.Uint32 // notDue, due or begun, see dueEarly
	checked atomic.Uint64 // generation of the mirror that found nothing against it
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
// and GETRANGE find what they need without the rest, a header, the body.
//
//	0   "F1"
//	2   token, 16 decimal digits
//	18  epoch, 16 hexadecimal digits
//	34  length of prefix and header together, 6 decimal digits
//	40  header, its first byte is headerFormat
const (
	entryMagic   = "F1"
	tokenAt      = 2
	epochAt      = 18
	headLenAt    = 34
	prefixLen    = 40
	maxHeader    = 1<<18 - 1 // bytes; beyond it an answer is not stored
	epochLen     = 16
	tokenPattern = "%016d"
	headerFormat = 2
)

// Bits of the header's flags.
const (
	flagNegative = 1 << iota
	flagPacked   // the body is zstd
)

var (
	errEntry       = errors.New("cache: not an entry")
	errBigHeader   = fmt.Errorf("cache: header and scopes above %d bytes", maxHeader)
	errBadTokenGen = errors.New("cache: no ledger position to store under")
)

func (e *Entry) encode() ([]byte, error) {
	if len(e.Epoch) != epochLen || e.Token == 0 || e.Token >= 1e16 {
		return nil, errBadTokenGen
	}
	b := make([]byte, prefixLen, prefixLen+512+len(e.body.stored))
	b = append(b, headerFormat)
	flags := byte(0)
	if e.Negative {
		flags |= flagNegative
	}
	if e.body.packed {
		flags |= flagPacked
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(e.Status))
	b = binary.AppendUvarint(b, uint64(e.Size))
	b = binary.AppendVarint(b, e.StoredAt.UnixMilli())
	for _, until := range []time.Time{e.FreshUntil, e.StaleUntil, e.ErrorUntil} {
		b = binary.AppendVarint(b, until.Sub(e.StoredAt).Milliseconds())
	}
	b = binary.AppendUvarint(b, uint64(max(0, e.Took.Microseconds())))
	for _, s := range []string{e.ETag, e.Target, e.Position} {
		b = appendText(b, s)
	}
	b = appendTexts(b, e.scopes)
	b = binary.AppendUvarint(b, uint64(len(e.Header)))
	for name, values := range e.Header {
		b = appendText(b, name)
		b = appendTexts(b, values)
	}
	if len(b) > maxHeader {
		return nil, errBigHeader
	}
	copy(b, entryMagic)
	copy(b[tokenAt:], fmt.Sprintf(tokenPattern, e.Token))
	copy(b[epochAt:], e.Epoch)
	copy(b[headLenAt:], fmt.Sprintf("%06d", len(b)))
	return append(b, e.body.stored...), nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTexts(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

// decodeEntry reads what encode wrote. The body shares b.
func decodeEntry(b []byte) (*Entry, error) {
	e, n, err := decodeHead(b)
	if err != nil {
		return nil, err
	}
	e.body.stored = b[n:]
	if !e.body.packed && len(e.body.stored) != e.Size {
		return nil, fmt.Errorf("%w: a body of %d bytes, want %d", errEntry, len(e.body.stored), e.Size)
	}
	return e, nil
}

// decodeHead reads an entry without its body; n is where that begins. b may
// end there.
func decodeHead(b []byte) (e *Entry, n int, err error) {
	token, epoch, n, err := decodePrefix(b)
	if err != nil {
		return nil, 0, err
	}
	if n > len(b) || n <= prefixLen || b[prefixLen] != headerFormat {
		return nil, 0, errEntry
	}
	// One copy of the header, of which all texts are parts.
	r := headReader{rest: string(b[prefixLen+1 : n])}
	flags := r.byte()
	e = &Entry{Token: token, Epoch: epoch, Status: int(r.uvarint()), Size: int(r.uvarint())}
	e.Negative, e.body.packed = flags&flagNegative != 0, flags&flagPacked != 0
	e.StoredAt = time.UnixMilli(r.varint())
	for _, until := range []*time.Time{&e.FreshUntil, &e.StaleUntil, &e.ErrorUntil} {
		*until = e.StoredAt.Add(time.Duration(r.varint()) * time.Millisecond)
	}
	e.Took = time.Duration(r.uvarint()) * time.Microsecond
	e.ETag, e.Target, e.Position = r.text(), r.text(), r.text()
	e.scopes = r.texts()
	if headers := r.count(); headers > 0 {
		e.Header = make(map[string][]string, headers)
		for range headers {
			name := r.text()
			e.Header[name] = r.texts()
		}
	}
	if r.bad || r.rest != "" || e.Size < 0 || e.Size > maxEntryBody {
		return nil, 0, fmt.Errorf("%w: header cannot be read", errEntry)
	}
	return e, n, nil
}

// maxEntryBody is above every Config.MaxBody: no entry has a larger body.
const maxEntryBody = 256 << 20

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

// headReader reads a header from the front; bad says that it is none.
type headReader struct {
	rest string
	bad  bool
}

func (r *headReader) byte() byte {
	if r.rest == "" {
		r.bad = true
		return 0
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c
}

func (r *headReader) uvarint() uint64 {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		c := r.byte()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	r.bad = true
	return 0
}

func (r *headReader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// count reads a number of things, each of which takes at least one byte.
func (r *headReader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *headReader) text() string {
	n := r.count()
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

func (r *headReader) texts() []string {
	n := r.count()
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.text()
	}
	return list
}
