package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// overs are records that were handed on and are not known to be over. Those
// that are have a bit in their segment; a record that finds no room here never
// gets one, and is sent once more to a store that was emptied.
type overs struct {
	most    int
	waiting []waitingOver // in the order of asking
	next    time.Time     // when to ask again
	left    int           // to be asked about in this round
	chunks  int           // questions left in this round
	changed bool          // since the notes were written

	late []uint64 // to be delivered once more, at most a batch
}

type waitingOver struct {
	seq  uint64
	id   string
	at   time.Time // when it was handed on, or found
	late bool      // and once more
}

// asking reports whether a round is not at its end.
func (o *overs) asking() bool { return o.left > 0 && o.chunks > 0 }

func (o *overs) waits() bool { return len(o.waiting) > 0 || o.changed }

// add notes that rec was handed on.
func (o *overs) add(j *Journal, rec *Record) {
	if rec.Again { // nobody can tell, and it is never left out: not a hole in the notes
		j.setOver(rec.Seq)
		return
	}
	o.track(rec.Seq, rec.ID)
}

func (o *overs) track(seq uint64, id string) {
	if len(o.waiting) < o.most {
		o.waiting = append(o.waiting, waitingOver{seq: seq, id: strings.Clone(id), at: time.Now()})
	}
}

// track notes a record that Open found.
func (f *forwarder) track(seq uint64, id string) { f.over.track(seq, id) }

// forget drops what will be handed on again.
func (o *overs) forget(after uint64) {
	o.waiting = slices.DeleteFunc(o.waiting, func(w waitingOver) bool { return w.seq > after })
	o.late = slices.DeleteFunc(o.late, func(seq uint64) bool { return seq > after })
	o.left, o.chunks = 0, 0
}

// clear takes back that records after seq are over: the store forgot that.
func (o *overs) clear(j *Journal, after uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, seg := range j.segments {
		if seg.last > after {
			seg.over.clearFrom(max(after+1, seg.first) - seg.first)
		}
	}
	o.changed = true
}

func (j *Journal) setOver(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i, _ := slices.BinarySearchFunc(j.segments, seq, func(s *segment, seq uint64) int {
		if s.last < seq {
			return -1
		}
		return 1
	})
	if i < len(j.segments) && seq >= j.segments[i].first {
		j.segments[i].over.set(seq - j.segments[i].first)
	}
}

// askOver asks about one chunk of what waits, twice a second about each, with
// a bound for the store's sake.
func (f *forwarder) askOver(ctx context.Context) {
	o := &f.over
	now := time.Now()
	if !o.asking() {
		if now.Before(o.next) {
			return
		}
		f.saveOver()
		o.next = now.Add(overEvery)
		o.left, o.chunks = len(o.waiting), overChunks
	}
	n := min(o.left, overChunk)
	if n == 0 || f.sink.Over == nil {
		o.left = 0
		return
	}
	o.left -= n
	o.chunks--
	ids := make([]string, n)
	for i := range ids {
		ids[i] = o.waiting[i].id
	}
	ctx, cancel := context.WithTimeout(ctx, sinkTimeout)
	defer cancel()
	over, err := f.sink.Over(ctx, ids)
	if err == nil && len(over) != n {
		err = fmt.Errorf("%d answers for %d questions", len(over), n)
	}
	if f.report(ctx, "over", err) != nil {
		o.left = 0 // not again before the next round
		return
	}
	for i, w := range o.waiting[:n] {
		if over[i] {
			f.j.setOver(w.seq)
			o.changed = true
		} else {
			if !w.late && now.Sub(w.at) > lateAfter && len(o.late) < f.j.cfg.limits.batchRecords {
				w.late = true
				o.late = append(o.late, w.seq)
			}
			o.waiting = append(o.waiting, w) // behind the others, so that all get their turn
		}
	}
	o.waiting = slices.Delete(o.waiting, 0, n)
}

// deliverLate hands on once more what is not over after a time. Most of it
// waits for a retry, and is not harmed. But a store may lose a batch in the
// moment before the mark moves, and keep the mark before it: then the mark
// moves past records that are nowhere.
func (f *forwarder) deliverLate(ctx context.Context) error {
	late := f.over.late
	slices.Sort(late)
	c := f.j.seek(late[0] - 1)
	defer c.close()
	var all []Record
	var bytes int64
	for len(late) > 0 {
		rec, _, err := c.peek()
		if err != nil {
			return f.report(ctx, "read", err)
		}
		if rec == nil { // no longer readable, all of them
			late = nil
			break
		}
		if len(all) > 0 && bytes+recordSize(rec) > f.j.cfg.limits.batchBytes {
			break
		}
		for len(late) > 0 && late[0] < rec.Seq { // no longer readable
			late = late[1:]
		}
		if len(late) > 0 && late[0] == rec.Seq {
			all, bytes, late = append(all, *rec), bytes+recordSize(rec), late[1:]
		}
		c.take()
	}
	if len(all) > 0 {
		if err := f.handOn(ctx, all); err != nil {
			return err
		}
		f.j.metrics.resent.Add(float64(len(all)))
		f.j.log.Info("records that are not over are sent once more", "records", len(all))
	}
	f.over.late = slices.Clone(late)
	return nil
}

// The notes on what is over: a line with the sum of what follows, one with the
// node and the newest seq, one for each span of records that are over. They are
// not synced: after a power cut there may be none, and more is sent again.
const (
	overFile  = "over"
	overMagic = "freshwire over 1 %08x\n"
)

// span is from and to, both included.
type span struct{ from, to uint64 }

type spans []span // ascending

func (s spans) has(seq uint64) bool {
	i, found := slices.BinarySearchFunc(s, seq, func(sp span, seq uint64) int {
		switch {
		case sp.to < seq:
			return -1
		case sp.from > seq:
			return 1
		}
		return 0
	})
	return found && i < len(s)
}

// saveOver writes the notes when they have changed.
func (f *forwarder) saveOver() {
	if !f.over.changed {
		return
	}
	j := f.j
	j.mu.Lock()
	content := encodeNotes(f.node.id, j.synced, overSpans(j.segments))
	j.mu.Unlock()
	if err := f.report(context.Background(), "note", replaceFile(j.fs, overFile, content, false)); err == nil {
		f.over.changed = false
	}
}

func encodeNotes(node string, last uint64, over spans) []byte {
	b := fmt.Appendf(nil, "%s %d\n", node, last)
	for _, sp := range over {
		b = fmt.Appendf(b, "%d %d\n", sp.from, sp.to)
	}
	return append(fmt.Appendf(nil, overMagic, crc32.Checksum(b, castagnoli)), b...)
}

// overSpans lists the oldest spans of records that are over.
func overSpans(segments []*segment) spans {
	var all spans
	for _, seg := range segments {
		for i, ok := seg.over.next(0, true); ok; i, ok = seg.over.next(i, true) {
			sp := span{from: seg.first + i}
			i, _ = seg.over.next(i, false)
			sp.to = seg.first + i - 1
			if n := len(all); n > 0 && all[n-1].to+1 == sp.from {
				all[n-1].to = sp.to
				continue
			}
			if len(all) == maxOverSpans {
				return all
			}
			all = append(all, sp)
		}
	}
	return all
}

// loadOver reads the notes of node, and the newest seq they know. Notes that are
// not as they were written say nothing.
func loadOver(fs filesystem, node string) (over spans, last uint64) {
	content, err := readFile(fs, overFile)
	if err != nil {
		return nil, 0
	}
	over, last, err = parseOver(content, node)
	if err != nil {
		return nil, 0
	}
	return over, last
}

var errNotes = errors.New("bad notes")

func parseOver(content []byte, node string) (over spans, last uint64, err error) {
	head, rest, _ := bytes.Cut(content, []byte("\n"))
	if string(head)+"\n" != fmt.Sprintf(overMagic, crc32.Checksum(rest, castagnoli)) {
		return nil, 0, errNotes
	}
	lines := strings.Split(strings.TrimSuffix(string(rest), "\n"), "\n")
	var of string
	if _, err := fmt.Sscanf(lines[0], "%s %d", &of, &last); err != nil || of != node || last > maxSeq {
		return nil, 0, errNotes
	}
	for _, line := range lines[1:] {
		var sp span
		if _, err := fmt.Sscanf(line, "%d %d", &sp.from, &sp.to); err != nil || sp.from > sp.to ||
			len(over) > 0 && sp.from <= over[len(over)-1].to {
			return nil, 0, errNotes
		}
		over = append(over, sp)
	}
	return over, last, nil
}

// bitset is a set of small numbers. Large ones are not kept: seqs in one
// segment lie close together, whatever a damaged file claims.
type bitset []uint64

const maxBit = 1 << 26

func (b *bitset) set(i uint64) {
	if i >= maxBit {
		return
	}
	for uint64(len(*b)) <= i/64 {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}

func (b bitset) has(i uint64) bool { return i/64 < uint64(len(b)) && b[i/64]&(1<<(i%64)) != 0 }

// clearFrom removes i and all above.
func (b *bitset) clearFrom(i uint64) {
	if i/64 < uint64(len(*b)) {
		(*b)[i/64] &= 1<<(i%64) - 1
		*b = (*b)[:i/64+1]
	}
}

// count is how many numbers are in the set.
func (b bitset) count() (n int64) {
	for _, word := range b {
		n += int64(bits.OnesCount64(word))
	}
	return n
}

// next returns the first number from i on that is in the set, or is not. There
// is always one that is not.
func (b bitset) next(i uint64, in bool) (uint64, bool) {
	for ; i/64 < uint64(len(b)); i = (i/64 + 1) * 64 {
		word := b[i/64]
		if !in {
			word = ^word
		}
		if word &= ^uint64(0) << (i % 64); word != 0 {
			return i/64*64 + uint64(bits.TrailingZeros64(word)), true
		}
	}
	return max(i, uint64(len(b))*64), !in
}
