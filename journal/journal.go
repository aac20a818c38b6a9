// Package journal keeps records in files until somebody else has them.
//
// Append returns once its records are on the disk; many callers share one
// write and one fsync. Run hands the records on, in order, to a Sink, and
// moves a mark there that says how far it got. The mark lives in the store
// that the records go to, so that it is lost together with them: a mark that
// went back tells that the store forgot a suffix, and Run sends again from
// there. A mark that vanished tells that the store was emptied: then all that
// is kept is sent again, except what is known to be over (see Sink.Over).
//
// What Append acknowledged is read back after a crash at any moment, and is
// delivered at least once, in order of its Seq; the receiver tells repeated
// records by their ID. Records stay in the files for Config.KeepFor after the
// mark passed them, by the contacts with the store, so that an outage does not
// count; those that were not handed on stay for ever.
//
// A directory belongs to one process at a time:
//
//	lock                       held with flock while the journal is open; holds the pid
//	node                       the name of this journal's mark, and the salt of its checksums
//	<first seq, 20 digits>.seg segments of 16 MiB; format.go describes them
//	over                       which records are over, as it stood a moment ago
//	<…>.seg.damaged            a second name of a segment with unreadable bytes, for people; never read again
//
// It holds what was appended in clear, in files of mode 0600. A disk that is
// lost takes the records with it that were not yet handed on.
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Record is one thing to be handed on.
type Record struct {
	Seq   uint64 // given by the journal, rising from 1; a failed write may leave a gap
	ID    string // 1 to 1024 bytes; the receiver knows repetitions by it
	Data  []byte // at most 64 MiB; not to be changed once appended
	At    time.Time
	Again bool // the ID may stand for something else than before: never left out as over
}

var (
	// ErrLocked is returned by Open when another process has the directory.
	ErrLocked = errors.New("journal: directory is in use")

	// ErrFull is returned by Append, and by Ready, when as much waits as may:
	// in the files (Config.MaxBytes), or in memory for the disk.
	ErrFull = errors.New("journal: full")

	// ErrClosed is returned by everything after Close.
	ErrClosed = errors.New("journal: closed")

	// ErrRecord is returned by Append for a record that can never be kept.
	ErrRecord = errors.New("journal: bad record")
)

// Journal is an open directory. Its methods may be called from many goroutines.
type Journal struct {
	cfg     Config
	fs      filesystem
	log     *slog.Logger
	metrics *metrics
	unlock  func() error

	wake    chan struct{} // to the writer: something waits
	fresh   chan struct{} // to Run: something is on the disk
	closing chan struct{}
	written sync.WaitGroup // the writer

	mu           sync.Mutex
	waiting      []*request
	waitingBytes int64 // of what waits, and of what is being written
	closed       bool
	failed       error      // why the last write failed; nil when it did not
	segments     []*segment // oldest first; the writer appends, Run removes
	synced       uint64     // seq of the newest record on the disk
	appended     position   // end of the newest record
	forwarded    position   // end of the newest record at or below the mark
	mark         uint64
	moved        chan struct{} // closed when the mark moves, and replaced
	running      chan struct{} // closed when Run ends; nil while it does not run
	stop         context.CancelFunc

	writer    writer    // the writer's own
	forwarder forwarder // Run's own
}

// position counts what lies before a place, since the oldest record that was
// there at Open.
type position struct{ records, bytes int64 }

// segment is one file.
type segment struct {
	name  string
	first uint64 // no record has a lower seq
	after uint64 // records up to it are in segments before
	salt  uint32
	base  position // of its first record

	// Guarded by Journal.mu. The writer alone changes them.
	last    uint64 // seq of its newest record; 0: none
	end     int64  // where that one ends: nothing beyond is on the disk for certain
	records int64

	// Run's own, once it runs.
	over    bitset    // by seq - first
	passed  time.Time // when the mark was first seen beyond it; zero: it was not
	damaged bool
}

// Open opens the journal in dir, which is made when it is missing, and reads
// back what is there. Bytes that cannot be read are never a reason to fail;
// a segment that a newer version wrote is.
func Open(dir string, log *slog.Logger, cfg Config) (*Journal, error) {
	fs, err := newDiskFS(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	return open(fs, log, cfg)
}

func open(fs filesystem, log *slog.Logger, cfg Config) (*Journal, error) {
	cfg = cfg.withDefaults()
	unlock, err := fs.Lock("lock")
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j := &Journal{
		cfg: cfg, fs: fs, log: log, unlock: unlock, metrics: newMetrics(cfg.Registerer),
		wake: make(chan struct{}, 1), fresh: make(chan struct{}, 1),
		closing: make(chan struct{}), moved: make(chan struct{}),
	}
	if err := j.load(); err != nil {
		_ = unlock()
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j.written.Go(j.write)
	return j, nil
}

// Append puts recs on the disk, in this order, and returns the seq of the last
// one. Known tells for each of them whether a record of its ID is kept already;
// it is appended all the same. Of callers with the same ID exactly one is told
// false. An empty At becomes now.
//
// An error means that not all of recs are on the disk for certain; some may be.
// When ctx ends first they probably will be.
func (j *Journal) Append(ctx context.Context, recs []Record) (seq uint64, known []bool, err error) {
	if len(recs) == 0 {
		return 0, nil, fmt.Errorf("%w: none given", ErrRecord)
	}
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	req := &request{recs: recs, done: make(chan error, 1)}
	for i := range recs {
		if err := checkRecord(&recs[i]); err != nil {
			return 0, nil, err
		}
		req.bytes += recordSize(&recs[i])
	}
	if err := j.push(req); err != nil {
		return 0, nil, err
	}
	signal(j.wake)
	select {
	case err := <-req.done:
		if err != nil {
			return 0, nil, fmt.Errorf("appending to the journal: %w", err)
		}
		return req.last, req.known, nil
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("appending to the journal: %w", ctx.Err())
	}
}

func (j *Journal) push(req *request) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	if j.waitingBytes > 0 && j.waitingBytes+req.bytes > j.cfg.limits.waitingBytes {
		return fmt.Errorf("%w: %d bytes wait for the disk", ErrFull, j.waitingBytes)
	}
	if kept := j.backlog().bytes + j.waitingBytes; kept > 0 && kept+req.bytes > j.cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes wait to be handed on", ErrFull, kept)
	}
	j.waiting = append(j.waiting, req)
	j.waitingBytes += req.bytes
	return nil
}

// backlog is what the mark has not passed. Before Run has met the store that
// is everything.
func (j *Journal) backlog() position {
	return position{j.appended.records - j.forwarded.records, j.appended.bytes - j.forwarded.bytes}
}

// Last is the seq of the newest record that is on the disk; 0 when there never
// was one.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.synced
}

// Wait returns nil once everything up to seq is handed on and the mark has
// moved past it.
func (j *Journal) Wait(ctx context.Context, seq uint64) error {
	for {
		j.mu.Lock()
		mark, moved, closed := j.mark, j.moved, j.closed
		j.mu.Unlock()
		switch {
		case mark >= seq:
			return nil
		case closed:
			return ErrClosed
		}
		select {
		case <-moved:
		case <-j.closing:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ready tells why Append would fail now, if it would.
func (j *Journal) Ready() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return ErrClosed
	case j.failed != nil:
		return fmt.Errorf("journal: the last write failed: %w", j.failed)
	case j.backlog().bytes >= j.cfg.MaxBytes:
		return fmt.Errorf("%w: %d bytes wait to be handed on", ErrFull, j.backlog().bytes)
	}
	return nil
}

// Close refuses new records, finishes the waiting ones, ends Run and gives the
// directory back. It may be called twice.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		j.written.Wait()
		return nil
	}
	j.closed = true
	running, stop := j.running, j.stop
	j.mu.Unlock()
	close(j.closing)
	j.written.Wait()
	if running != nil {
		stop()
		<-running
	}
	return j.unlock()
}

func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
