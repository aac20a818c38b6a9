package cache

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// body is the content of an entry: as it is stored, and in the other forms that
// readers asked for. They are made once, and kept as long as the entry is.
type body struct {
	stored []byte
	packed bool // stored is zstd
	absent bool // it was not asked for, see Request.NoBody

	plain  atomic.Pointer[[]byte]
	zipped atomic.Pointer[[]byte]
}

// packAbove is the size from which packing is tried: below it, a packet more or
// less is all that it could save.
const packAbove = 1 << 10

// packAboveUnheld is the size in a process without memory for entries, which
// would unpack at every read: that takes as long as the look-up itself.
const packAboveUnheld = 32 << 10

func (s *Store) packable(f Fill) bool {
	return f.Packable && (s.memory != nil || len(f.Body) > packAboveUnheld)
}

// ErrNoBody is returned for the body of an entry of which only the head was read.
var ErrNoBody = errors.New("cache: the body was not asked for")

var (
	packer = sync.OnceValue(func() *zstd.Encoder {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
		if err != nil {
			panic(err) // the options above are valid
		}
		return enc
	})
	unpacker = sync.OnceValue(func() *zstd.Decoder {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxEntryBody))
		if err != nil {
			panic(err)
		}
		return dec
	})
	zippers = sync.Pool{New: func() any {
		w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err)
		}
		return w
	}}
)

// setBody keeps b, packed where that saves a tenth. The entry shares b.
func (e *Entry) setBody(b []byte, packable bool) {
	e.Size = len(b)
	e.body.stored = b
	if !packable || len(b) < packAbove {
		return
	}
	if small := packer().EncodeAll(b, make([]byte, 0, len(b)/2)); len(small) <= len(b)/10*9 {
		e.body.stored, e.body.packed = small, true
		e.body.plain.Store(&b)
	}
}

// Body returns the content. It fails for an entry whose stored content is
// broken, and for one of which only the head was read.
func (e *Entry) Body() ([]byte, error) {
	switch plain := e.body.plain.Load(); {
	case e.body.absent:
		return nil, ErrNoBody
	case !e.body.packed:
		return e.body.stored, nil
	case plain != nil:
		return *plain, nil
	}
	b, err := unpacker().DecodeAll(e.body.stored, make([]byte, 0, e.Size))
	if err != nil || len(b) != e.Size {
		return nil, fmt.Errorf("%w: body cannot be unpacked: %d of %d bytes, %w", errEntry, len(b), e.Size, err)
	}
	e.body.plain.Store(&b)
	return b, nil
}

// Packed returns the content as zstd, RFC 8878, or nil where packing it would
// save nothing.
func (e *Entry) Packed() []byte {
	if !e.body.packed || e.body.absent {
		return nil
	}
	return e.body.stored
}

// Zipped returns the content as gzip, or nil where packing it would save nothing.
func (e *Entry) Zipped() ([]byte, error) {
	if !e.body.packed || e.body.absent {
		return nil, nil
	}
	if z := e.body.zipped.Load(); z != nil {
		return *z, nil
	}
	plain, err := e.Body()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	buf.Grow(len(plain) / 2)
	w := zippers.Get().(*gzip.Writer)
	defer zippers.Put(w)
	w.Reset(&buf)
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	z := slices.Clip(buf.Bytes())
	e.body.zipped.Store(&z)
	return z, nil
}

// entryOverhead is what an entry takes besides its texts and its body, with its
// place in the memory tier; measured by bench/memory.
const entryOverhead = 736

// weight is what e takes of a process's memory, in bytes, with all forms of its
// body, whether they are made or not.
func (e *Entry) weight(key string) int {
	n := entryOverhead + len(key) + len(e.ETag) + len(e.Target) + len(e.Position) + len(e.body.stored)
	for _, s := range e.scopes {
		n += 16 + len(s)
	}
	for name, values := range e.Header {
		n += 64 + len(name)
		for _, v := range values {
			n += 16 + len(v)
		}
	}
	if e.body.packed {
		n += e.Size + len(e.body.stored)*5/4 // plain, and gzip, which is a little larger than zstd
	}
	return n
}
