package feed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/redis/go-redis/v9"
)

// Why a Sink is reset, as browsers are told.
const (
	HistoryLost  = "history_lost"  // the log was trimmed past the tail
	StoreChanged = "store_changed" // the store lost or may have lost data, or began anew
)

// Sink receives the log. Its methods are called by one goroutine, in order, and must not block.
type Sink interface {
	// Broadcast hands on records, oldest first, that follow what came before without a gap.
	Broadcast([]event.Record)

	// Reset says that what comes next follows position at, and that records
	// between the last one and at may be missing. The first call is always a
	// Reset: it tells where the log starts for this process.
	Reset(reason string, at event.Position)
}

const (
	tailCount    = 512 // entries a read
	loadCount    = 1000
	loadMaxBytes = 16 << 20
	trimEvery    = 10 * time.Minute
	maxBackoff   = 2 * time.Second
)

// Tail follows the log until ctx ends. It begins with the newest
// Config.History records of this life of the store, then hands on each new
// one. While Redis is away it tries again, with growing pauses.
func (l *Log) Tail(ctx context.Context, sink Sink) error {
	t := &tail{Log: l, sink: sink, look: true}
	defer l.ready.Store(false)
	failures := 0
	for ctx.Err() == nil {
		err := t.step(ctx)
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			break
		}
		l.ready.Store(false)
		l.metrics.reconnects.Inc()
		if failures == 0 {
			l.log.WarnContext(ctx, "log tail interrupted", "position", t.pos.String(), "err", err)
		}
		failures++
		t.look = true
		pause(ctx, failures)
	}
	return nil
}

// tail is the state of one Tail call.
type tail struct {
	*Log
	sink Sink

	epoch   string         // life that pos belongs to; empty before the first look
	pos     event.Position // newest entry handed on; always an entry of the log
	look    bool           // look at the log's life before the next read
	trimmed time.Time
}

func (t *tail) step(ctx context.Context) error {
	if t.look {
		if err := t.open(ctx); err != nil {
			return err
		}
		t.look = false
	}
	if time.Since(t.trimmed) > trimEvery {
		t.trim(ctx)
	}
	n, err := t.read(ctx)
	if err != nil {
		return err
	}
	if n < tailCount && !t.look {
		t.ready.Store(true)
	}
	// A read that waited in vain cannot tell a quiet log from one that vanished.
	t.look = t.look || n == 0
	return nil
}

// open finds out whether the log goes on where the tail stands.
func (t *tail) open(ctx context.Context) error {
	known, raise := "", ""
	if t.epoch != "" {
		next := event.Position{Ms: t.pos.Ms + 1}
		if t.pos.Ms == math.MaxUint64 {
			next = t.pos
		}
		known, raise = t.pos.String(), next.String()
	}
	reply, err := openScript.Run(ctx, t.rdb, []string{t.logKey(), t.metaKey()}, rand.Text(), t.epoch, known, raise).StringSlice()
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	epoch := reply[0]
	origin, err := event.ParsePosition(reply[1])
	if err != nil {
		return fmt.Errorf("opening the log: origin %q: %w", reply[1], err)
	}
	first, err := event.ParsePosition(reply[2])
	if err != nil {
		return fmt.Errorf("opening the log: first entry %q: %w", reply[2], err)
	}
	newest, err := event.ParsePosition(reply[3])
	if err != nil {
		return fmt.Errorf("opening the log: newest entry %q: %w", reply[3], err)
	}
	switch {
	case t.epoch == "":
		return t.load(ctx, epoch, origin, HistoryLost)
	case t.epoch != epoch:
		return t.load(ctx, epoch, origin, StoreChanged)
	case t.pos.Compare(first) < 0:
		return t.load(ctx, epoch, origin, HistoryLost)
	}
	if t.pos == newest {
		t.ready.Store(true)
	}
	return nil
}

// load resets the sink to the oldest entry that it finds within its bounds,
// and hands on all after it.
func (t *tail) load(ctx context.Context, epoch string, origin event.Position, reason string) error {
	var entries []entry // newest first
	end, bytes := "+", 0
	for len(entries) <= t.cfg.History && bytes < loadMaxBytes {
		page, err := t.rdb.XRevRangeN(ctx, t.logKey(), end, origin.String(), min(loadCount, int64(t.cfg.History+1-len(entries)))).Result()
		if err != nil {
			return fmt.Errorf("loading the log's history: %w", err)
		}
		for _, m := range page {
			e, err := decode(m)
			if err != nil {
				return err
			}
			if e.epoch != "" && e.epoch != epoch {
				return errors.New("feed: the log began anew while it was loaded")
			}
			entries = append(entries, e)
			bytes += len(e.Data)
		}
		if len(page) == 0 {
			break
		}
		end = "(" + page[len(page)-1].ID
	}
	if len(entries) == 0 {
		return errors.New("feed: the log vanished while it was loaded")
	}
	slices.Reverse(entries)

	if t.epoch != "" {
		t.metrics.resets.WithLabelValues(reason).Inc()
		t.log.WarnContext(ctx, "log reset", "reason", reason, "from", t.pos.String(), "to", entries[0].Position.String())
	} else {
		t.log.InfoContext(ctx, "log tail started", "history", len(entries)-1, "position", entries[len(entries)-1].Position.String())
	}
	t.sink.Reset(reason, entries[0].Position)
	t.epoch = epoch
	t.hand(entries[1:])
	t.reached(entries[len(entries)-1].Position)
	t.ready.Store(true)
	return nil
}

// read waits for entries after pos and hands them on. It returns how many there were.
func (t *tail) read(ctx context.Context) (int, error) {
	// Read with the client's ordinary timeout, where go-redis' XRead adds 10s: a hung Redis is found sooner.
	pipe := t.rdb.Pipeline()
	news := redis.NewXStreamSliceCmd(ctx, "xread", "count", tailCount, "block", t.cfg.Block.Milliseconds(), "streams", t.logKey(), t.pos.String())
	news.SetFirstKeyPos(6)
	_ = pipe.Process(ctx, news)
	// The first entry, looked up after the read: what is still kept now was not missing then.
	first := pipe.XRangeN(ctx, t.logKey(), "-", "+", 1)
	life := pipe.HGet(ctx, t.metaKey(), "epoch")
	_, _ = pipe.Exec(ctx) // each command's own error is looked at
	if err := news.Err(); errors.Is(err, redis.Nil) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("reading the log after %v: %w", t.pos, err)
	}
	if err := first.Err(); err != nil {
		return 0, fmt.Errorf("reading the log's first entry: %w", err)
	}
	if err := life.Err(); err != nil && !errors.Is(err, redis.Nil) {
		return 0, fmt.Errorf("reading the log's epoch: %w", err)
	}
	if len(news.Val()) == 0 || len(news.Val()[0].Messages) == 0 {
		return 0, nil
	}
	if len(first.Val()) == 0 {
		t.look = true
		return 0, nil
	}
	if at, err := event.ParsePosition(first.Val()[0].ID); err != nil || t.pos.Compare(at) < 0 {
		t.look = true // trimmed past us, or another life; open tells which
		return 0, err
	}

	messages := news.Val()[0].Messages
	entries := make([]entry, 0, len(messages))
	for _, m := range messages {
		e, err := decode(m)
		if err != nil {
			return 0, err
		}
		entries = append(entries, e)
	}
	begins := func(e entry) bool { return e.epoch != "" && e.epoch != t.epoch }
	if life.Val() != t.epoch && !slices.ContainsFunc(entries, begins) {
		t.look = true // the life of these entries began before our position
		return 0, nil
	}
	// A marker in between resets at its place.
	for len(entries) > 0 {
		n := slices.IndexFunc(entries, begins)
		if n < 0 {
			t.hand(entries)
			t.reached(entries[len(entries)-1].Position)
			break
		}
		t.hand(entries[:n])
		t.metrics.resets.WithLabelValues(StoreChanged).Inc()
		t.log.WarnContext(ctx, "log reset", "reason", StoreChanged, "from", t.pos.String(), "to", entries[n].Position.String())
		t.sink.Reset(StoreChanged, entries[n].Position)
		t.epoch = entries[n].epoch
		t.reached(entries[n].Position)
		entries = entries[n+1:]
	}
	return len(messages), nil
}

// hand gives the records among entries to the sink.
func (t *tail) hand(entries []entry) {
	recs := make([]event.Record, 0, len(entries))
	for _, e := range entries {
		if e.epoch == "" {
			recs = append(recs, e.Record)
		}
	}
	if len(recs) > 0 {
		t.sink.Broadcast(recs)
		age := time.Since(time.UnixMilli(int64(recs[len(recs)-1].Position.Ms)))
		t.metrics.lag.Observe(max(0, age.Seconds()))
	}
}

// reached is called after the sink took everything up to at: who is shown
// Position may already be served from there.
func (t *tail) reached(at event.Position) {
	t.pos = at
	t.position.Store(&at)
}

// trim forgets entries older than Config.MaxAge, except the newest: a position
// on a quiet log stays good.
func (t *tail) trim(ctx context.Context) {
	oldest := event.Position{Ms: uint64(time.Now().Add(-t.cfg.MaxAge).UnixMilli())}
	if t.pos.Compare(oldest) < 0 {
		oldest = t.pos
	}
	t.trimmed = time.Now()
	if err := t.rdb.XTrimMinIDApprox(ctx, t.logKey(), oldest.String(), 0).Err(); err != nil {
		t.log.WarnContext(ctx, "log not trimmed", "err", err)
	}
}

// pause waits before the next try: 50ms, 100ms … 2s, each by half more or less.
func pause(ctx context.Context, failures int) {
	d := min(maxBackoff, 50*time.Millisecond<<min(failures-1, 10))
	d = d/2 + mathrand.N(d)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
