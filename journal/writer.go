package journal

import (
	"errors"
	"fmt"
	"time"
)

// request is one Append that waits.
type request struct {
	recs  []Record
	bytes int64
	last  uint64 // seq of the newest of recs; 0: it has none yet
	known []bool
	done  chan error // holds one
}

// writer is the state of the one goroutine that writes.
type writer struct {
	salt  uint32
	next  uint64 // seq of the next record
	known *knownIDs

	seg    *segment // the one that grows; nil: the next record begins another
	file   file
	size   int64  // of its content, written or not
	buf    []byte // what is not written yet
	done   segEnd // what is written or in buf, not synced
	synced segEnd // what is synced
}

// segEnd tells how far a segment goes.
type segEnd struct {
	bytes   int64
	records int64
	seq     uint64
}

// write commits what waits, as one group each time, until Close.
func (j *Journal) write() {
	probe := time.NewTicker(probeEvery)
	probe.Stop()
	defer probe.Stop()
	defer func() { j.abandon(nil) }()
	for {
		failing := false
		select {
		case <-j.wake:
			failing = j.commitWaiting()
		case <-probe.C:
			failing = j.probe()
		case <-j.closing: // nothing is pushed any more
			j.commitWaiting()
			return
		}
		probe.Stop()
		if failing {
			probe.Reset(probeEvery)
		}
	}
}

func (j *Journal) commitWaiting() (failing bool) {
	j.mu.Lock()
	group := j.waiting
	j.waiting = nil
	failing = j.failed != nil
	j.mu.Unlock()
	if len(group) == 0 {
		return failing
	}
	err := j.commit(group)
	if err != nil {
		j.abandon(err)
	}
	j.outcome(err)
	var bytes int64
	for _, req := range group {
		bytes += req.bytes
		if err == nil || req.last != 0 && req.last <= j.writer.synced.seq {
			j.answer(req)
		} else {
			req.done <- err
		}
	}
	j.mu.Lock()
	j.waitingBytes -= bytes
	j.mu.Unlock()
	return err != nil
}

// answer tells a caller that its records are on the disk.
func (j *Journal) answer(req *request) {
	now := time.Now()
	req.known = make([]bool, len(req.recs))
	for i := range req.recs {
		req.known[i] = j.writer.known.add(req.recs[i].ID, now)
	}
	req.done <- nil
}

var errNumbers = errors.New("no seq is left: a segment claims the highest one")

// commit writes and syncs a group.
func (j *Journal) commit(group []*request) error {
	w := &j.writer
	now := time.Now()
	for _, req := range group {
		for i := range req.recs {
			rec := req.recs[i]
			if rec.At.IsZero() {
				rec.At = now
			}
			size := recordSize(&rec)
			if w.seg != nil && w.done.records > 0 && w.size+size > j.cfg.limits.segmentBytes {
				if err := j.sync(); err != nil {
					return err
				}
				j.abandon(nil)
			}
			if w.next > maxSeq {
				return errNumbers
			}
			if w.seg == nil {
				if err := j.begin(); err != nil {
					return err
				}
			}
			w.buf = appendRecord(w.buf, w.salt, w.next, &rec)
			w.size += size
			w.done = segEnd{w.size, w.done.records + 1, w.next}
			if i == len(req.recs)-1 {
				req.last = w.next // only now: the first of recs may be synced in another segment, and the last one fail
			}
			w.next++
			if len(w.buf) >= writeBuffer {
				if err := w.flush(); err != nil {
					return err
				}
			}
		}
	}
	return j.sync()
}

// begin makes a new segment, under a name that is durable before its first
// record is acknowledged.
func (j *Journal) begin() (err error) {
	w := &j.writer
	first := w.next
	w.next++ // so that the next try has another name, should this file stay
	name := segmentName(first)
	f, err := j.fs.Create(name)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(encodeHeader(w.salt, first), 0); err == nil {
		err = j.fs.SyncDir()
	}
	if err != nil {
		_ = f.Close()
		_ = j.fs.Remove(name)
		return err
	}
	w.next = first
	w.seg = &segment{name: name, first: first, after: first - 1, salt: w.salt, base: j.appended, end: headerSize}
	w.file, w.size = f, headerSize
	w.done = segEnd{bytes: headerSize}
	w.synced = segEnd{bytes: headerSize, seq: w.synced.seq}
	return nil
}

// flush writes the buffer. A large one is not kept.
func (w *writer) flush() error {
	_, err := w.file.WriteAt(w.buf, w.size-int64(len(w.buf)))
	if cap(w.buf) > 4*writeBuffer {
		w.buf = nil
	}
	w.buf = w.buf[:0]
	return err
}

// sync makes what was appended durable, and shows it to Run.
func (j *Journal) sync() error {
	w := &j.writer
	if w.seg == nil || w.done == w.synced {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	start := time.Now()
	if err := w.file.Sync(); err != nil {
		return err
	}
	j.metrics.fsync.Observe(time.Since(start).Seconds())
	added := position{w.done.records - w.synced.records, w.done.bytes - w.synced.bytes}
	fresh := w.synced.records == 0
	w.synced = w.done

	j.mu.Lock()
	if fresh {
		j.segments = append(j.segments, w.seg)
	}
	w.seg.end, w.seg.records, w.seg.last = w.synced.bytes, w.synced.records, w.synced.seq
	j.synced = w.synced.seq
	j.appended.records += added.records
	j.appended.bytes += added.bytes
	j.metrics.backlog(j.backlog())
	j.mu.Unlock()

	j.metrics.appended.Add(float64(added.records))
	signal(j.fresh)
	return nil
}

// abandon ends the growing segment. After a failed write or sync nobody knows
// what the disk holds beyond what was synced before, and asking again may be
// answered with a lie: so that is cut off as well as the disk allows, and the
// next record begins another segment, with a number of its own.
func (j *Journal) abandon(failure error) {
	w := &j.writer
	if w.seg == nil {
		return
	}
	w.buf = w.buf[:0]
	if failure != nil && w.synced.records > 0 {
		_ = w.file.Truncate(w.synced.bytes)
	}
	_ = w.file.Close()
	if w.synced.records == 0 {
		_ = j.fs.Remove(w.seg.name)
	}
	w.seg, w.file = nil, nil
}

// probe finds out whether the disk takes writes again, without waiting for
// somebody to lose one.
func (j *Journal) probe() (failing bool) {
	w := &j.writer
	err := func() error {
		if w.seg == nil {
			if err := j.begin(); err != nil {
				return err
			}
		}
		if _, err := w.file.WriteAt(make([]byte, probeBytes), w.size); err != nil {
			return err
		}
		if err := w.file.Sync(); err != nil {
			return err
		}
		return w.file.Truncate(w.size)
	}()
	if err != nil {
		j.abandon(err)
	}
	j.outcome(err)
	return err != nil
}

// outcome remembers how the last write went, and logs when that changes.
func (j *Journal) outcome(err error) {
	j.mu.Lock()
	before := j.failed
	j.failed = err
	j.mu.Unlock()
	if err != nil {
		j.metrics.errors.WithLabelValues("write").Inc()
	}
	switch {
	case err != nil && before == nil:
		j.log.Error("journal cannot write", "err", err)
	case err == nil && before != nil:
		j.log.Info("journal writes again", "failed_with", fmt.Sprint(before))
	}
}
