package journal

import "io"

const (
	readChunk = 256 << 10
	diskBlock = 4 << 10
)

// reader reads the records of one segment, and jumps over what is unreadable.
// It looks at each byte a bounded number of times, and holds one chunk of the
// file, or one record. Records point into chunks, which are not written again.
type reader struct {
	f    io.ReaderAt
	salt uint32
	end  int64 // nothing is read beyond; may grow

	off   int64  // where the next record should be
	good  int64  // where the newest good record ends
	seq   uint64 // of that record; lower ones are left out
	count int64  // records returned

	holes      int // stretches without a good record, before a good one
	disorder   int // good records left out, since they are not above their predecessor
	unreadable int // blocks that the disk did not give

	chunk   []byte
	chunkAt int64
}

func newReader(f io.ReaderAt, salt uint32, end int64) *reader {
	return &reader{f: f, salt: salt, end: end, off: headerSize, good: headerSize}
}

// next returns the next good record. At the end it returns false; off is below
// end then if what is there is no record, nor is anything after it.
func (r *reader) next() (Record, bool) {
	for r.off < r.end {
		rec, size, state := r.look(r.off)
		if state != whole {
			at, found := r.search(r.off)
			if !found {
				return Record{}, false
			}
			r.holes++
			r.off = at
			continue
		}
		r.off += size
		r.good = r.off
		if rec.Seq <= r.seq {
			r.disorder++
			continue
		}
		r.seq = rec.Seq
		r.count++
		return rec, true
	}
	return Record{}, false
}

// search returns the first place from off on where a good record begins.
func (r *reader) search(off int64) (at int64, found bool) {
	for off+headSize <= r.end {
		_, size, state := r.look(off)
		switch state {
		case whole:
			return off, true
		case bodyLost: // the head is ours, so the bytes after it are no heads
			off += size
		default:
			off++
		}
	}
	return 0, false
}

type state int

const (
	noRecord state = iota
	bodyLost       // a good head, and a body that is not
	whole
)

// look reads the record at off; size is that of all of it.
func (r *reader) look(off int64) (rec Record, size int64, _ state) {
	if off+headSize > r.end {
		return Record{}, 0, noRecord
	}
	h, ok := decodeHead(r.salt, r.bytes(off, headSize))
	size = headSize + int64(h.size)
	if !ok || off+size > r.end {
		return Record{}, 0, noRecord
	}
	rec, ok = h.record(r.salt, r.bytes(off, size)[headSize:])
	if !ok {
		return Record{}, size, bodyLost
	}
	return rec, size, whole
}

// bytes returns n bytes from off on, which lie before end.
func (r *reader) bytes(off, n int64) []byte {
	if off < r.chunkAt || off+n > r.chunkAt+int64(len(r.chunk)) {
		r.chunk = make([]byte, min(max(n, readChunk), r.end-off))
		r.chunkAt = off
		if _, err := r.f.ReadAt(r.chunk, off); err != nil {
			r.readBlocks()
		}
	}
	return r.chunk[off-r.chunkAt : off-r.chunkAt+n]
}

// readBlocks fills the chunk with what the disk still gives, and zeros.
func (r *reader) readBlocks() {
	for at := 0; at < len(r.chunk); {
		block := r.chunk[at:min(len(r.chunk), at+diskBlock-int((r.chunkAt+int64(at))%diskBlock))]
		if n, err := r.f.ReadAt(block, r.chunkAt+int64(at)); err != nil {
			clear(block[n:])
			r.unreadable++
		}
		at += len(block)
	}
}
