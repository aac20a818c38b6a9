package journal

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
)

// cursor is a place in the segments.
type cursor struct {
	j     *Journal
	from  uint64 // records up to it are passed over
	seg   *segment
	file  file
	r     *reader  // of seg; nil: all of it is behind us
	taken position // end of the newest record that was taken or passed over

	held    *Record // the next one, read already
	heldEnd position
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close()
	}
	c.file, c.r = nil, nil
}

// seek returns a cursor before the record after seq.
func (j *Journal) seek(seq uint64) cursor {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := cursor{j: j, from: seq}
	if len(j.segments) > 0 {
		c.taken = j.segments[0].base
	}
	for _, seg := range j.segments {
		if seg.last > seq {
			break
		}
		c.seg, c.taken = seg, seg.endPosition()
	}
	return c
}

// endPosition needs Journal.mu.
func (s *segment) endPosition() position {
	return position{s.base.records + s.records, s.base.bytes + s.end - headerSize}
}

// following returns where seg ends and the segment after it, if there is one:
// then seg grows no more. After nil comes the oldest.
func (j *Journal) following(seg *segment) (end int64, next *segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := 0
	if seg != nil {
		end = seg.end
		i, _ = slices.BinarySearchFunc(j.segments, seg.first+1, func(s *segment, first uint64) int { return cmp.Compare(s.first, first) })
	}
	if i < len(j.segments) {
		next = j.segments[i]
	}
	return end, next
}

// peek returns the next record and where it ends, or nil when there is none yet.
func (c *cursor) peek() (*Record, position, error) {
	for c.held == nil {
		end, next := c.j.following(c.seg)
		if c.r != nil {
			c.r.end = end
			rec, ok := c.r.next()
			lost := !ok && c.r.off < c.r.end // in a stretch that was synced
			if lost {
				c.r.off = c.r.end
			}
			if lost || c.r.holes > 0 || c.r.unreadable > 0 {
				c.j.damage(c.seg, c.r)
			}
			at := position{c.seg.base.records + c.r.count, c.seg.base.bytes + c.r.off - headerSize}
			if ok && rec.Seq > c.from {
				c.held, c.heldEnd = &rec, at
				break
			}
			if ok || lost {
				c.taken = at
				continue
			}
		}
		if next == nil {
			return nil, position{}, nil
		}
		if err := c.enter(next); err != nil {
			return nil, position{}, err
		}
	}
	return c.held, c.heldEnd, nil
}

// take makes the record that peek returned the newest one taken.
func (c *cursor) take() {
	c.taken, c.held = c.heldEnd, nil
}

// enter opens the next segment.
func (c *cursor) enter(seg *segment) error {
	file, err := c.j.fs.Open(seg.name)
	if errors.Is(err, fs.ErrNotExist) {
		c.j.log.Error("journal segment has vanished; acknowledged records may be lost", "segment", seg.name)
		c.j.metrics.damaged.Inc()
		c.close()
		c.seg = seg
		return nil
	}
	if err != nil {
		return err
	}
	c.close()
	c.seg, c.file = seg, file
	c.r = newReader(file, seg.salt, headerSize)
	c.r.seq = seg.after
	return nil
}
