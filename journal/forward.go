package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// forwarder is the state of Run. It outlives one Run, for the next.
type forwarder struct {
	j    *Journal
	sink Sink
	node node
	held uint64 // newest seq given before Open: our mark cannot stand above it before we move it

	met      bool      // the mark was looked at
	believed uint64    // where the mark stands, for all we know
	trying   uint64    // where it may stand, since an answer was lost; 0: nowhere else
	contact  time.Time // when it last stood where we believed
	retained time.Time // when old segments were last looked for

	cur       cursor
	batch     batch  // read and not known to be behind the mark
	delivered uint64 // newest seq that was ever delivered
	skipTo    uint64 // up to it, records that are over are left out

	over overs

	failing map[string]bool // operations whose last try failed
	backoff time.Duration
}

// batch is what is handed on at once.
type batch struct {
	recs []Record
	last uint64   // seq of the newest one, also of those left out; 0: no batch
	end  position // of that one
}

func newForwarder(j *Journal, n node) forwarder {
	return forwarder{j: j, node: n, failing: map[string]bool{}, over: overs{most: j.cfg.limits.overTracked}}
}

// Run hands records on, in order, until ctx ends, and then returns nil; it
// returns ErrClosed when the journal is closed first. What fails is tried
// again. There can be one Run at a time.
func (j *Journal) Run(ctx context.Context, sink Sink) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	running := make(chan struct{})
	j.mu.Lock()
	switch {
	case j.closed:
		j.mu.Unlock()
		return ErrClosed
	case j.running != nil:
		j.mu.Unlock()
		return errors.New("journal: Run runs already")
	}
	j.running, j.stop = running, stop
	j.mu.Unlock()

	f := &j.forwarder
	f.sink, f.contact = sink, time.Time{}
	f.cur = j.seek(max(f.believed, f.batch.last)) // the batch of the last Run is tried first
	for ctx.Err() == nil {
		if err := f.step(ctx); err != nil {
			f.pause(ctx)
			continue
		}
		f.backoff = 0
	}
	f.cur.close()
	f.saveOver()

	j.mu.Lock()
	defer j.mu.Unlock()
	j.running, j.stop = nil, nil
	close(running)
	if j.closed {
		return ErrClosed
	}
	return nil
}

// step hands on one batch, or waits for one. Its errors are reported already.
func (f *forwarder) step(ctx context.Context) error {
	if !f.met || time.Since(f.contact) >= checkEvery {
		// Also when nothing comes: a store that lost data must get it back.
		if err := f.advance(ctx, f.believed); err != nil {
			return err
		}
	}
	if time.Since(f.retained) >= checkEvery {
		f.retain()
	}
	f.askOver(ctx)
	if f.batch.last == 0 {
		if err := f.read(); err != nil {
			return f.report(ctx, "read", err)
		}
	}
	if f.batch.last == 0 {
		if len(f.over.late) > 0 {
			return f.deliverLate(ctx)
		}
		f.wait(ctx)
		return nil
	}
	if len(f.batch.recs) > 0 {
		if err := f.deliver(ctx); err != nil {
			return err
		}
	}
	// When this fails the batch is delivered again before the next try: a store
	// that fails here may come back without it, but with the mark before it.
	return f.advance(ctx, f.batch.last)
}

// wait returns when there may be something to do.
func (f *forwarder) wait(ctx context.Context) {
	until := f.contact.Add(checkEvery)
	if f.over.asking() {
		return
	}
	if f.over.waits() && f.over.next.Before(until) {
		until = f.over.next
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-f.j.fresh:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (f *forwarder) pause(ctx context.Context) {
	f.backoff = min(max(2*f.backoff, minBackoff), maxBackoff)
	timer := time.NewTimer(f.backoff/2 + rand.N(f.backoff/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// report counts err, and logs it when the operation worked before; nil is
// logged when it did not.
func (f *forwarder) report(ctx context.Context, op string, err error) error {
	switch {
	case err != nil && ctx.Err() != nil: // the end, not a failure
	case err != nil:
		f.j.metrics.errors.WithLabelValues(op).Inc()
		if !f.failing[op] {
			f.failing[op] = true
			f.j.log.Warn("journal forwarding interrupted", "operation", op, "seq", f.believed, "err", err)
		}
	case f.failing[op]:
		delete(f.failing, op)
		f.j.mu.Lock()
		backlog := f.j.backlog()
		f.j.mu.Unlock()
		f.j.log.Info("journal forwarding goes on", "operation", op, "seq", f.believed, "records", backlog.records, "bytes", backlog.bytes)
	}
	return err
}

// read fills the batch with what comes next.
func (f *forwarder) read() error {
	l := f.j.cfg.limits
	var b batch
	var bytes int64
	for skipped := 0; len(b.recs) < l.batchRecords && skipped < maxSkipped; {
		rec, end, err := f.cur.peek()
		if err != nil {
			return err
		}
		if rec == nil {
			break
		}
		if f.skips(rec) {
			skipped++
		} else {
			bytes += recordSize(rec)
			if len(b.recs) > 0 && bytes > l.batchBytes {
				break
			}
			b.recs = append(b.recs, *rec)
		}
		b.last, b.end = rec.Seq, end
		f.cur.take()
	}
	f.batch = b
	return nil
}

// skips reports whether rec is left out. That is only done in a store that was
// emptied, which is a new life: all that was cached is void, and all who
// listen are told to fetch anew, so an event that was applied in full before
// has nothing left to do but to be remembered, which the newest few are. A
// store that forgot a suffix still holds what these events had made void: it
// gets them all.
func (f *forwarder) skips(rec *Record) bool {
	return rec.Seq+uint64(f.j.cfg.Rebuild) <= f.skipTo && !rec.Again && f.cur.seg.over.has(rec.Seq-f.cur.seg.first)
}

func (f *forwarder) handOn(ctx context.Context, recs []Record) error {
	call, cancel := context.WithTimeout(ctx, sinkTimeout)
	defer cancel()
	return f.report(ctx, "deliver", f.sink.Deliver(call, recs))
}

func (f *forwarder) deliver(ctx context.Context) error {
	recs := f.batch.recs
	if err := f.handOn(ctx, recs); err != nil {
		return err
	}
	resent := 0
	for resent < len(recs) && recs[resent].Seq <= f.delivered {
		resent++
	}
	f.delivered = max(f.delivered, f.batch.last)
	f.j.metrics.forwarded.Add(float64(len(recs) - resent))
	f.j.metrics.resent.Add(float64(resent))
	return nil
}

// advance moves the mark to `to`, or finds out where it stands.
func (f *forwarder) advance(ctx context.Context, to uint64) error {
	call, cancel := context.WithTimeout(ctx, sinkTimeout)
	defer cancel()
	found, err := f.sink.Advance(call, f.node.id, f.believed, to)
	if f.report(ctx, "advance", err) != nil {
		f.trying = max(f.trying, to)
		return err
	}
	switch {
	case !f.met:
		err = f.meet(found)
	case found == f.believed:
		f.stand(to)
	case found > f.believed && found == f.trying: // that answer was lost
		f.stand(found)
	case found > f.believed:
		err = f.rename(found)
	case found == 0:
		err = f.emptied()
	default:
		err = f.forgotten(found)
	}
	return f.report(ctx, "go back", err)
}

// stand notes that the mark stands where it should: where it did, or behind
// the batch.
func (f *forwarder) stand(seq uint64) {
	f.contact, f.trying = time.Now(), 0
	if seq == f.believed {
		return
	}
	f.believed = seq
	for i := range f.batch.recs {
		f.over.add(f.j, &f.batch.recs[i])
	}
	end := f.batch.end
	f.batch = batch{}
	f.publish(end)
}

func (f *forwarder) publish(end position) {
	j := f.j
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mark, j.forwarded = f.believed, end
	close(j.moved)
	j.moved = make(chan struct{})
	j.metrics.backlog(j.backlog())
}

// meet handles the first look at the mark.
func (f *forwarder) meet(found uint64) error {
	if found > f.held {
		return f.rename(found)
	}
	if err := f.back(found); err != nil {
		return err
	}
	f.met = true
	if found == 0 {
		// A new journal, or a store that was emptied while nobody looked.
		f.skipTo = f.held
	} else {
		f.over.clear(f.j, found)
	}
	return nil
}

// forgotten handles a store that lost all after found.
func (f *forwarder) forgotten(found uint64) error {
	before := f.believed
	records, err := f.count(func() error { return f.back(found) })
	if err != nil {
		return err
	}
	f.skipTo = 0
	f.over.clear(f.j, found)
	f.saveOver() // before the store can be emptied, too: what it forgot is not over any more
	f.j.log.Warn("store forgot records; they are sent again", "found", found, "seq", before, "records", records)
	return nil
}

// emptied handles a store that lost everything.
func (f *forwarder) emptied() error {
	before := f.believed
	records, err := f.count(func() error { return f.back(0) })
	if err != nil {
		return err
	}
	f.skipTo = max(f.skipTo, before)
	f.j.log.Warn("store was emptied; what is kept is sent again, except what is over", "seq", before, "records", records)
	return nil
}

// rename handles a mark that somebody else moved: another copy of this
// directory, or this one before it was put back to an older state. Neither the
// mark nor the notes on what is over say anything about our records, so they
// get a mark of their own, and all of them are sent.
func (f *forwarder) rename(found uint64) error {
	fresh, err := f.j.newNode(f.node.salt)
	if err != nil {
		return fmt.Errorf("naming the journal anew: %w", err)
	}
	if err := f.back(0); err != nil {
		return err
	}
	f.j.log.Error("mark is ahead of the journal: the directory is a copy, or was put back; it gets a new name, and all that is kept is sent again",
		"found", found, "seq", max(f.believed, f.held), "node", fresh.id)
	f.node, f.met, f.believed, f.skipTo = fresh, true, 0, 0
	f.over.clear(f.j, 0)
	return nil
}

// back goes to the record after seq, which is where the mark stands.
func (f *forwarder) back(seq uint64) error {
	f.cur.close()
	f.cur = f.j.seek(seq)
	f.batch = batch{}
	if _, _, err := f.cur.peek(); err != nil { // the first one tells where we are
		return err
	}
	f.believed, f.trying, f.contact = seq, 0, time.Now()
	f.over.forget(seq)
	f.j.unpass(seq)
	f.publish(f.cur.taken)
	return nil
}

// count tells how many records fn puts before the mark again.
func (f *forwarder) count(fn func() error) (int64, error) {
	f.j.mu.Lock()
	before := f.j.forwarded.records
	f.j.mu.Unlock()
	if err := fn(); err != nil {
		return 0, err
	}
	return before - f.cur.taken.records, nil
}
