package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"
)

// FuzzReadSegment gives the reader, and then Open, what a disk may hold: no
// panic, no more memory than the file is large, and nothing that the sums do not
// vouch for.
func FuzzReadSegment(f *testing.F) {
	const salt = 7
	segment := encodeHeader(salt, 1)
	all := []Record{rec("a"), {ID: "b", Again: true}, {ID: "c", Data: make([]byte, 100)}}
	for i := range all {
		segment = appendRecord(segment, salt, uint64(i+1), &all[i])
	}
	f.Add(segment)
	f.Add(segment[:len(segment)-3])
	f.Add(segment[:40])
	f.Add([]byte{})
	f.Add(make([]byte, 200))
	flipped := append([]byte(nil), segment...)
	flipped[headerSize+3] ^= 0x80
	f.Add(flipped)
	f.Add(append(append([]byte(nil), segment...), segment[headerSize:]...))
	f.Add(append(appendRecord(encodeHeader(salt, 1), salt, maxSeq, &all[0]), segment[headerSize:]...))

	f.Fuzz(func(t *testing.T, content []byte) {
		readAny(t, content, salt)
		readAny(t, mended(content, salt), salt)
	})
}

// mended returns content as a segment whose sums are right, so that what the
// records say of themselves is looked at.
func mended(content []byte, salt uint32) []byte {
	b := slices.Clone(content)
	if len(b) < headerSize {
		return b
	}
	copy(b, encodeHeader(salt, 1))
	for at := headerSize; at+headSize <= len(b); {
		size := int(binary.LittleEndian.Uint32(b[at:])) % 512
		end := min(len(b), at+headSize+size)
		binary.LittleEndian.PutUint32(b[at:], uint32(size))
		binary.LittleEndian.PutUint32(b[at+8:], crc32.Update(salt, castagnoli, b[at+headSize:end]))
		binary.LittleEndian.PutUint32(b[at+4:], headSum(salt, b[at:]))
		at = end
	}
	return b
}

func readAny(t *testing.T, content []byte, salt uint32) {
	size := int64(len(content))
	counting := &countingFile{content: content}
	r := newReader(counting, salt, size)
	var last uint64
	for rec, ok := r.next(); ok; rec, ok = r.next() {
		if rec.Seq <= last || rec.Seq > maxSeq || len(rec.ID) == 0 || int64(len(rec.Data)) > size {
			t.Fatalf("record %d after %d, ID %q, %d bytes", rec.Seq, last, rec.ID, len(rec.Data))
		}
		last = rec.Seq
		// What it says it read stands in the file, sums and all.
		start := r.off - recordSize(&rec)
		h, ok := decodeHead(salt, content[start:])
		if again, whole := h.record(salt, content[start+headSize:]); !ok || !whole || again.ID != rec.ID || h.seq != rec.Seq {
			t.Fatalf("record %d at %d is not in the file", rec.Seq, start)
		}
	}
	if int64(counting.read) > 6*size+readChunk {
		t.Fatalf("read %d bytes of %d", counting.read, size)
	}

	disk := newMemFS()
	disk.names[segmentName(1)] = &inode{data: content}
	j, err := open(disk, quiet, small())
	var newer errVersion
	if errors.As(err, &newer) {
		return
	}
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer j.Close()
	before := contents(t, j)
	if _, _, err := j.Append(t.Context(), recs("next")); err != nil {
		if last == maxSeq {
			return // no number is left
		}
		t.Fatalf("Append: %v", err)
	}
	if after := contents(t, j); len(after) != len(before)+1 {
		t.Fatalf("%d records, and %d after one more", len(before), len(after))
	}
}

// FuzzNotes gives Open notes on what is over that are not as they were written.
func FuzzNotes(f *testing.F) {
	const node = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	f.Add([]byte(""))
	f.Add([]byte("freshwire over 1 00000000\n"))
	f.Add(encodeNotes(node, 9, spans{{1, 3}, {5, 9}}))
	f.Add(encodeNotes("other", 1<<63, nil))
	f.Fuzz(func(t *testing.T, content []byte) {
		over, last, err := parseOver(content, node)
		if err != nil {
			return
		}
		var before uint64
		for i, sp := range over {
			if sp.from > sp.to || i > 0 && sp.from <= before {
				t.Fatalf("spans %v", over)
			}
			before = sp.to
			if !over.has(sp.from) || !over.has(sp.to) {
				t.Fatalf("%v does not have its own ends", over)
			}
		}
		if last > maxSeq {
			t.Fatalf("newest seq %d", last)
		}
	})
}
