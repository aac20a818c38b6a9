package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/journal"
	"github.com/freshwire/freshwire/tasks"
)

// receiver makes what a CMS said durable: in the journal on this machine's
// disk, from which it is forwarded to the queue, or without a journal in the
// queue itself.
type receiver struct {
	queue      *tasks.Queue
	journal    *journal.Journal // nil: the queue alone
	replicated bool             // also wait until a replica of Redis has it
	log        *slog.Logger
	underWay   atomic.Int64  // deliveries
	latest     atomic.Int64  // when one came in, unix ns
	worked     time.Duration // by the last call of deliver; its own
	guessed    recent        // ids of deliveries that only equal bytes tell from a repeat
}

// newIntake opens the journal, if there is to be one.
func (a *app) newIntake() (*receiver, error) {
	r := &receiver{queue: a.queue, replicated: a.env.Ack == "replicated", log: a.log}
	dir := a.env.SpoolDir
	if dir == "" && a.roles.dev {
		var err error
		if dir, err = os.MkdirTemp("", "freshwire-spool-"); err != nil {
			return nil, fmt.Errorf("making a directory for the journal: %w", err)
		}
		defer func() { a.closers = append(a.closers, func() error { return os.RemoveAll(dir) }) }() // after the journal is closed
	}
	if dir == "" {
		a.log.Info("no journal: webhooks are answered 503 while Redis is away; FRESHWIRE_SPOOL_DIR names a directory for one")
		return r, nil
	}
	var err error
	if r.journal, err = journal.Open(dir, a.log, a.configs.Journal); err != nil {
		return nil, fmt.Errorf("FRESHWIRE_SPOOL_DIR %s: %w", dir, err)
	}
	a.closers = append(a.closers, r.journal.Close)
	return r, nil
}

// flushTime is how long a process that ends waits until Redis has what it accepted.
const flushTime = time.Second

// flush waits until everything accepted is in the queue. What is not stays in
// the journal for the next process.
func (r *receiver) flush(ctx context.Context) {
	if r == nil || r.journal == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	if err := r.journal.Wait(ctx, r.journal.Last()); err != nil {
		r.log.Warn("accepted webhooks wait in the journal for the next start", "err", err)
	}
}

// lookupTime bounds the question whether a delivery is a repeat, which only
// decides what the sender is told. A busy receiver does not ask: its Redis is
// busy too, and the answer would be what everybody waits for.
const lookupTime = 20 * time.Millisecond

// busy reports whether so many deliveries are under way that answering them
// comes before everything else.
func (r *receiver) busy() bool { return r.underWay.Load() > 8 }

// accept returns once all events of a delivery are durable. It reports of each
// whether it is new.
func (r *receiver) accept(ctx context.Context, evs []event.Event) (added []bool, err error) {
	r.underWay.Add(1)
	defer r.underWay.Add(-1)
	r.latest.Store(evs[0].ReceivedAt.UnixNano())
	if r.journal == nil {
		if added, err = r.queue.EnqueueAll(ctx, evs); err == nil && r.replicated {
			err = r.queue.Replicated(ctx)
		}
		return added, err
	}
	recs, ids := make([]journal.Record, len(evs)), make([]string, len(evs))
	for i, ev := range evs {
		data, err := tasks.EncodeEvent(ev)
		if err != nil {
			return nil, err
		}
		recs[i], ids[i] = journal.Record{ID: tasks.JournalID(ev), Data: data}, ev.ID
	}
	// Asked before the journal has the events: once it has, they are on their
	// way to the queue, and would be found there themselves.
	queued := r.known(ctx, ids)
	seq, kept, err := r.journal.Append(ctx, recs)
	if err != nil {
		return nil, err
	}
	if r.replicated {
		if err := r.journal.Wait(ctx, seq); err != nil {
			return nil, fmt.Errorf("waiting for a replica: %w", err)
		}
	}
	added = make([]bool, len(evs))
	for i, ev := range evs {
		again := ev.Guessed && r.guessed.add(ev.ID) // the journal keeps each of them: one may be a second save
		added[i] = !kept[i] && !queued[i] && !again
	}
	return added, nil
}

// known reports which events the queue has already, as far as it answers soon.
func (r *receiver) known(ctx context.Context, ids []string) []bool {
	if r.busy() {
		return make([]bool, len(ids))
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	known, err := r.queue.Known(ctx, ids)
	if err != nil {
		return make([]bool, len(ids))
	}
	return known
}

// recent remembers the last some thousand ids.
type recent struct {
	mu       sync.Mutex
	now, old map[string]bool
}

const maxRecent = 8192 // ids in each of the two maps

// add reports whether id was there already.
func (r *recent) add(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now[id] || r.old[id] {
		return true
	}
	if r.now == nil || len(r.now) == maxRecent {
		r.now, r.old = map[string]bool{}, r.now
	}
	r.now[id] = true
	return false
}

// forward sends what the journal holds to the queue until ctx ends.
func (r *receiver) forward(ctx context.Context) error {
	return r.journal.Run(ctx, journal.Sink{Deliver: r.deliver, Advance: r.queue.Advance, Over: r.queue.Over})
}

// deliver hands records on to the queue. While there are many deliveries to
// answer, or some and a backlog, it rests three times as long as it works: that
// is still the pace of a worker. It rests before it delivers: afterwards the
// journal's mark has to move at once.
func (r *receiver) deliver(ctx context.Context, recs []journal.Record) error {
	if err := r.rest(ctx, len(recs) > backlog); err != nil {
		return err
	}
	begin := time.Now()
	defer func() { r.worked = time.Since(begin) }()
	evs := make([]event.Event, len(recs))
	for i, rec := range recs {
		var err error
		if evs[i], err = tasks.DecodeEvent(rec.Data); err != nil {
			// A newer version may have written it, before it was taken back. What it
			// says is acknowledged, and too much is safe where too little is not.
			r.log.ErrorContext(ctx, "journal record cannot be read; everything is purged instead", "seq", rec.Seq, "event_id", rec.ID, "err", err)
			evs[i] = event.Event{ID: rec.ID, Source: unreadableSource, Name: "unreadable", Type: "unreadable",
				Action: event.Invalidate, ReceivedAt: rec.At, Purge: &event.Purge{All: true}}
		}
	}
	if _, err := r.queue.EnqueueAll(ctx, evs); err != nil {
		return err
	}
	if r.replicated {
		return r.queue.Replicated(ctx)
	}
	return nil
}

// unreadableSource is the source of events that stand for records which cannot
// be read. No source of the config file can have this name: it holds a blank.
const unreadableSource = "journal record"

// rest pauses, in proportion to the last delivery's work.
func (r *receiver) rest(ctx context.Context, late bool) error {
	answering := r.busy() || late && time.Since(time.Unix(0, r.latest.Load())) < 100*time.Millisecond
	if !answering || r.replicated { // then answers wait for this
		return nil
	}
	timer := time.NewTimer(min(3*r.worked, maxRest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const (
	backlog = 64 // records in a batch; more have waited
	maxRest = 50 * time.Millisecond
)
