package journal

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// unfinishedFor is how long a segment stays for what is not over: an event that
// failed for good never is.
const unfinishedFor = 24 * time.Hour

// retain removes segments that were handed on long enough ago. The clock is
// the last time that the mark was where it should be: while the store is away
// nothing gets older. The newest segment stays, for its numbers. One with
// records that are not over stays for a day, and so do those after it: a store
// that is emptied while they wait there must get them again.
func (f *forwarder) retain() {
	j := f.j
	f.retained = f.contact
	j.mu.Lock()
	segments := j.segments
	j.mu.Unlock()

	var kept int64
	done := 0 // segments behind the mark
	for ; done < len(segments)-1 && segments[done].last <= f.believed; done++ {
		seg := segments[done]
		if seg.passed.IsZero() {
			seg.passed = f.contact
		}
		kept += seg.end
	}
	removed := 0
	for _, seg := range segments[:done] {
		age := f.contact.Sub(seg.passed)
		due := age >= j.cfg.KeepFor && (age >= unfinishedFor || f.finished(seg))
		if !due && kept <= j.cfg.limits.keptBytes {
			break
		}
		err := j.fs.Remove(seg.name)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if f.report(context.Background(), "remove", err) != nil {
			break
		}
		kept -= seg.end
		removed++
	}
	if removed == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segments = append([]*segment(nil), j.segments[removed:]...)
}

// finished reports whether all records of seg are over, or nobody can tell.
func (f *forwarder) finished(seg *segment) bool {
	return f.sink.Over == nil || seg.over.count() >= seg.records
}

// unpass notes that segments with records after seq are before the mark again.
func (j *Journal) unpass(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, seg := range j.segments {
		if seg.last > seq {
			seg.passed = time.Time{}
		}
	}
}
