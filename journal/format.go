package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

// A segment is a header and then records, without gaps; all numbers are little
// endian.
//
//	header, 32 bytes              record, 32 bytes and its ID and data
//	 0  magic "fwspool\n"          0  u32 length of ID and data together
//	 8  u32 version, 1             4  u32 crc32c of this head without these 4 bytes
//	12  u32 salt                   8  u32 crc32c of ID and data
//	16  u64 lowest seq            12  u16 flags: 1 Again; others are ignored
//	24  u32 zero                  14  u16 length of the ID
//	28  u32 crc32c of the above   16  u64 seq
//	                              24  i64 µs since 1970
//	                              32  ID, data
//
// The sums of records begin with the salt, a random number of the directory
// that nobody outside knows: the data of a record, which strangers write, cannot
// hold bytes that pass for a record when a damaged file is searched for what is
// left. The head has a sum of its own so that this search looks at 32 bytes a
// place, not at as many as the place claims.
const (
	magic      = "fwspool\n"
	version    = 1
	headerSize = 32
	headSize   = 32

	maxID   = 1024
	maxData = 64 << 20
	maxSeq  = 1<<53 - 1 // what a store that counts in floats can hold: 28 000 years at 10 000/s

	flagAgain = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func segmentName(first uint64) string { return fmt.Sprintf("%020d.seg", first) }

// firstSeq reads the name of a segment.
func firstSeq(name string) (first uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, ".seg")
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0 && first <= maxSeq
}

func encodeHeader(salt uint32, first uint64) []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, salt)
	b = binary.LittleEndian.AppendUint64(b, first)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errHeader = errors.New("bad segment header")

// errVersion says that a whole header asks for another reader.
type errVersion uint32

func (v errVersion) Error() string {
	return fmt.Sprintf("written in format %d, and this program reads format %d: run the one that wrote it until all is handed on", uint32(v), version)
}

func decodeHeader(b []byte) (salt uint32, err error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic ||
		binary.LittleEndian.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return 0, errHeader
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return 0, errVersion(v)
	}
	return binary.LittleEndian.Uint32(b[12:]), nil
}

func checkRecord(r *Record) error {
	if len(r.ID) == 0 || len(r.ID) > maxID {
		return fmt.Errorf("%w: ID of %d bytes, want 1 to %d", ErrRecord, len(r.ID), maxID)
	}
	if len(r.Data) > maxData {
		return fmt.Errorf("%w: %d bytes, want at most %d", ErrRecord, len(r.Data), maxData)
	}
	return nil
}

func recordSize(r *Record) int64 { return int64(headSize + len(r.ID) + len(r.Data)) }

// appendRecord appends r with the given seq to b.
func appendRecord(b []byte, salt uint32, seq uint64, r *Record) []byte {
	var flags uint16
	if r.Again {
		flags |= flagAgain
	}
	body := crc32.Update(salt, castagnoli, []byte(r.ID))
	body = crc32.Update(body, castagnoli, r.Data)
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.ID)+len(r.Data)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, body)
	b = binary.LittleEndian.AppendUint16(b, flags)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.ID)))
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.At.UnixMicro()))
	binary.LittleEndian.PutUint32(b[start+4:], headSum(salt, b[start:]))
	b = append(b, r.ID...)
	return append(b, r.Data...)
}

func headSum(salt uint32, head []byte) uint32 {
	return crc32.Update(crc32.Update(salt, castagnoli, head[:4]), castagnoli, head[8:headSize])
}

// head is what a record says of itself.
type head struct {
	size  int // of ID and data
	id    int // of these, the ID
	sum   uint32
	seq   uint64
	at    int64
	again bool
}

// decodeHead reads the head of a record at the start of b, which holds at
// least headSize bytes.
func decodeHead(salt uint32, b []byte) (head, bool) {
	size := binary.LittleEndian.Uint32(b)
	if size == 0 || size > maxID+maxData { // cheap, and right for most places of a search
		return head{}, false
	}
	if binary.LittleEndian.Uint32(b[4:]) != headSum(salt, b) {
		return head{}, false
	}
	h := head{
		size: int(size), id: int(binary.LittleEndian.Uint16(b[14:])), sum: binary.LittleEndian.Uint32(b[8:]),
		seq: binary.LittleEndian.Uint64(b[16:]), at: int64(binary.LittleEndian.Uint64(b[24:])),
		again: binary.LittleEndian.Uint16(b[12:])&flagAgain != 0,
	}
	ok := h.id > 0 && h.id <= maxID && h.id <= h.size && h.size-h.id <= maxData && h.seq > 0 && h.seq <= maxSeq
	return h, ok
}

// record reads the ID and the data that follow a head.
func (h head) record(salt uint32, body []byte) (Record, bool) {
	body = body[:h.size:h.size]
	if crc32.Update(salt, castagnoli, body) != h.sum {
		return Record{}, false
	}
	return Record{Seq: h.seq, ID: string(body[:h.id]), Data: body[h.id:], At: time.UnixMicro(h.at).UTC(), Again: h.again}, true
}
