package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

// load reads back what the directory holds. It holds none of the data.
func (j *Journal) load() error {
	start := time.Now()
	node, err := j.loadNode()
	if err != nil {
		return err
	}
	j.writer = writer{salt: node.salt, known: newKnownIDs(j.cfg.limits.knownIDs, j.cfg.KeepFor)}
	j.forwarder = newForwarder(j, node)
	over, last := loadOver(j.fs, node.id)

	names, err := j.fs.List()
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { _, ok := firstSeq(name); return !ok })
	slices.Sort(names)
	for i, name := range names {
		if err := j.loadSegment(name, i == len(names)-1, over); err != nil {
			return fmt.Errorf("segment %q: %w", name, err)
		}
	}
	// Numbers that were ever given must not be given again: to the store, and
	// to the notes on what is over, they would mean what is already there.
	j.writer.next = max(j.synced, last) + 1
	j.forwarder.held = j.writer.next - 1
	j.metrics.backlog(j.appended)
	if j.appended.records > 0 {
		j.log.Info("journal read back", "segments", len(j.segments), "records", j.appended.records,
			"bytes", j.appended.bytes, "seq", j.synced, "took", time.Since(start))
	}
	return nil
}

// node is the identity of a directory.
type node struct {
	id   string // names the mark
	salt uint32
}

const nodeFile = "node"

func (j *Journal) loadNode() (node, error) {
	b, err := readFile(j.fs, nodeFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return node{}, err
	}
	if n, ok := parseNode(string(b)); ok {
		return n, nil
	}
	if err == nil {
		j.log.Error("journal has a new name: the file with the old one is unreadable, and all records that are kept are sent again")
	}
	var salt [4]byte
	_, _ = rand.Read(salt[:]) // never fails
	return j.newNode(binary.LittleEndian.Uint32(salt[:]))
}

// newNode gives the directory a new identity. The old one's mark is never
// looked at again.
func (j *Journal) newNode(salt uint32) (node, error) {
	n := node{id: rand.Text(), salt: salt}
	return n, replaceFile(j.fs, nodeFile, fmt.Appendf(nil, "%s %08x\n", n.id, n.salt), true)
}

func parseNode(s string) (node, bool) {
	id, hex, _ := strings.Cut(strings.TrimSuffix(s, "\n"), " ")
	salt, err := strconv.ParseUint(hex, 16, 32)
	ok := err == nil && len(hex) == 8 && len(id) == 26 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
	return node{id, uint32(salt)}, ok
}

// loadSegment reads one file. The newest one may end in the middle of a write
// that nobody was told of: that is cut off.
func (j *Journal) loadSegment(name string, newest bool, over spans) error {
	f, err := j.fs.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	first, _ := firstSeq(name)
	seg := &segment{name: name, first: first, after: j.synced, base: j.appended, salt: j.writer.salt, end: headerSize}

	salt, headerErr := readHeader(f, size)
	var newer errVersion
	if errors.As(headerErr, &newer) {
		return newer
	}
	if headerErr == nil {
		seg.salt = salt
	}
	r := newReader(f, seg.salt, size)
	r.seq = seg.after
	for rec, ok := r.next(); ok; rec, ok = r.next() {
		if seg.last == 0 {
			seg.first = min(seg.first, rec.Seq) // the name is only a name
		}
		seg.last = rec.Seq
		j.writer.known.add(rec.ID, rec.At)
		if rec.Again || over.has(rec.Seq) {
			seg.over.set(rec.Seq - seg.first)
		} else {
			j.forwarder.track(rec.Seq, rec.ID)
		}
	}
	seg.end, seg.records = r.good, r.count

	tail, aside := size-r.good, true
	switch {
	case r.holes > 0 || r.disorder > 0 || r.unreadable > 0 || r.count > 0 && headerErr != nil || tail > 0 && !newest:
		aside = j.damage(seg, r)
	case tail > 0 && r.count > 0:
		j.log.Info("journal ends in a torn write, which is cut off", "segment", name, "bytes", tail)
		if err := cut(f, r.good); err != nil {
			j.log.Warn("torn end of the journal cannot be cut off", "segment", name, "err", err)
		}
	}
	if r.count == 0 {
		if !aside {
			return nil
		}
		if err := j.fs.Remove(name); err != nil {
			j.log.Warn("empty segment cannot be removed", "segment", name, "err", err)
		}
		return nil
	}
	j.segments = append(j.segments, seg)
	j.synced = seg.last
	j.appended = position{seg.base.records + seg.records, seg.base.bytes + seg.end - headerSize}
	return nil
}

func readHeader(f file, size int64) (salt uint32, err error) {
	if size < headerSize {
		return 0, errHeader
	}
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return 0, errHeader
	}
	return decodeHeader(b)
}

func cut(f file, size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// damage tells of a segment with unreadable bytes, and gives it a second name
// for people to look at. What can be read of it is used all the same.
func (j *Journal) damage(seg *segment, r *reader) (aside bool) {
	if seg.damaged {
		return true
	}
	seg.damaged = true
	j.metrics.damaged.Inc()
	j.log.Error("journal segment is damaged; acknowledged records may be lost", "segment", seg.name, "records", r.count,
		"holes", r.holes, "out_of_order", r.disorder, "unreadable_blocks", r.unreadable, "tail_bytes", r.end-r.good)
	if err := j.fs.Link(seg.name, seg.name+".damaged"); err != nil && !errors.Is(err, fs.ErrExist) {
		j.log.Warn("damaged segment cannot be put aside", "segment", seg.name, "err", err)
		return false
	}
	return true
}
