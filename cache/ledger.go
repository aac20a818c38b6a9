package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Report says what a barrier waited for.
type Report struct {
	Nodes   int // registered when it ended
	Waited  time.Duration
	Settled bool // no node can serve what the event made void
}

// Invalidate declares void what p names, and everything negative, for content
// fetched before now. When it returns, the event is in the ledger; when Barrier
// has returned too, every node heeds it.
//
// prior is the mark of an earlier try for the same event, or zero: it is
// returned again when the ledger still knows it.
func (s *Store) Invalidate(ctx context.Context, p Purge, prior Mark) (Mark, error) {
	if err := p.Validate(); err != nil {
		return Mark{}, err
	}
	named := scopes(p)
	want := wanted(p)
	if strings.TrimPrefix(named[0], softly) == everyone && !p.All {
		s.log.WarnContext(ctx, "too many scopes, voiding all", "tags", len(p.Tags), "keys", len(p.Keys),
			"patterns", len(p.Patterns), "paths", len(p.Paths), "limit", maxScopes)
	}
	args := append(s.clockArgs(), s.cfg.Retain.Microseconds(), s.names.bell(), prior.Member, prior.Epoch, by(p), len(named))
	for _, name := range append(named[:len(named):len(named)], want...) {
		args = append(args, name)
	}
	v, err := s.scripts.invalidate.Run(ctx, s.rdb, s.ledgerKeys(), args...).Slice()
	if err != nil {
		return Mark{}, fmt.Errorf("invalidating %d scopes: %w", len(named), err)
	}
	r := reply{v: v}
	mark := Mark{Seq: r.uint(0), Member: r.text(1), Epoch: r.text(2)}
	if r.err != nil {
		return Mark{}, fmt.Errorf("invalidating: %w", r.err)
	}
	s.mirror.learn(mark, named, want)
	s.ringBell()
	return mark, nil
}

// by is who asks for p, as it may stand in a member of the ledger.
func by(p Purge) string {
	if len(p.By) > maxBy || strings.ContainsFunc(p.By, func(c rune) bool { return c <= ' ' || c > '~' || c == ':' }) {
		return ""
	}
	return p.By
}

const maxBy = 64

// Barrier returns when no node can serve what the event of mark made void:
// each one has acknowledged it, or its lease ran out. Where the ledger lost the
// event meanwhile, p is invalidated again, and the new mark is the one returned.
func (s *Store) Barrier(ctx context.Context, p Purge, mark Mark) (Mark, Report, error) {
	begun := s.now().mono
	defer func() { s.metrics.barrier.Observe((s.now().mono - begun).Seconds()) }()
	var report Report
	start, pause, again := begun, 200*time.Microsecond, 0
	for {
		// A node that does not know the event got its lease before it was written.
		over := s.now().mono-start >= s.lease+slack
		waiting, nodes, err := s.askBarrier(ctx, mark)
		report.Nodes, report.Waited = nodes, s.now().mono-begun
		switch {
		case err != nil:
			return mark, report, fmt.Errorf("waiting for nodes: %w", err)
		case waiting < 0 && again == maxAgain:
			return mark, report, errForgetful
		case waiting < 0:
			again++
			s.log.WarnContext(ctx, "ledger lost an event, invalidating again", "seq", mark.Seq)
			if mark, err = s.Invalidate(ctx, p, Mark{}); err != nil {
				return mark, report, err
			}
			start, pause = s.now().mono, 200*time.Microsecond
			continue
		case waiting == 0 || over:
			report.Settled = true
			return mark, report, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return mark, report, ctx.Err()
		}
		pause = min(2*pause, 5*time.Millisecond)
	}
}

// maxAgain bounds how often one barrier invalidates again: a ledger that forgets
// faster is broken, and the task's own retries are further apart.
const maxAgain = 10

var errForgetful = errors.New("cache: the ledger keeps losing events")

func (s *Store) askBarrier(ctx context.Context, mark Mark) (waiting, nodes int, err error) {
	believe := s.pace.believable(s.now().mono, s.lease)
	keys := []string{s.names.ack(), s.names.live(), s.names.seqs()}
	v, err := s.scripts.barrier.Run(ctx, s.rdb, keys, mark.Seq, mark.Member, believe, (2 * slack).Microseconds()).Slice()
	if err != nil {
		return 0, 0, err
	}
	r := reply{v: v}
	waiting, nodes = r.int(0), r.int(1)
	return waiting, nodes, r.err
}

// sync asks the ledger once. It reports whether there was news.
func (s *Store) sync(ctx context.Context) (news bool, err error) {
	q := s.mirror.question()
	args := append(s.clockArgs(), s.node, s.lease.Microseconds(), q.epoch, q.newest, q.wrote)
	args[0] = q.token
	t0 := s.now() // before the call: the client may send it more than once
	v, err := s.scripts.sync.Run(ctx, s.rdb, s.ledgerKeys(), args...).Slice()
	t1 := s.now()
	if err != nil {
		return false, fmt.Errorf("syncing with the ledger: %w", err)
	}
	a, err := parseAnswer(v)
	if err != nil {
		return false, fmt.Errorf("syncing with the ledger: %w", err)
	}
	s.pace.note(t0.mono, t1.mono, a.now, s.lease)
	if q.epoch != "" && a.epoch != q.epoch {
		s.metrics.lost.Inc()
		s.log.ErrorContext(ctx, "the ledger was lost: everything cached is void", "was", q.epoch, "is", a.epoch)
	}
	news, taken := s.mirror.merge(q, a, t0, t1)
	switch {
	case !taken:
		return s.sync(ctx)
	case !a.whole:
		return true, s.giveBack(ctx, q, a)
	}
	return news, nil
}

// giveBackSpan is how far back a failover can have lost events, in a ledger
// that does not say by itself: clock.lua takes an older one for lost.
const giveBackSpan = 10 * time.Minute

// giveBack invalidates again what this node knows and the ledger does not: of
// the last minutes, and since the event that is left before the loss. Until it
// succeeded, each sync finds the ledger lacking.
func (s *Store) giveBack(ctx context.Context, q question, a answer) error {
	from := min(a.kept, a.now-min(a.now, uint64(giveBackSpan.Microseconds())))
	recent, want := s.mirror.recent(from), s.mirror.recentWant(from)
	newest := a.newest
	for batch := range slicesOf(recent, maxScopes) {
		args := append(s.clockArgs(), s.names.bell(), a.epoch, len(batch))
		for _, st := range batch {
			args = append(args, st.scope, st.seq)
		}
		for _, st := range want {
			args = append(args, st.scope, st.seq)
		}
		v, err := s.scripts.giveBack.Run(ctx, s.rdb, s.ledgerKeys(), args...).Slice()
		if err != nil {
			return fmt.Errorf("giving %d scopes back: %w", len(batch), err)
		}
		r := reply{v: v}
		lost, epoch, member := r.int(0), r.text(1), r.text(2)
		if r.err != nil || epoch != a.epoch {
			return r.err // another epoch: everything is void, the next sync says so
		}
		if lost > 0 {
			newest = member
			s.metrics.givenBack.Add(float64(lost))
			s.log.WarnContext(ctx, "gave lost invalidations back", "scopes", lost, "node", s.node)
		}
	}
	s.mirror.gaveBack(q, a.epoch, newest)
	return nil
}

func slicesOf(list []stamp, n int) func(yield func([]stamp) bool) {
	return func(yield func([]stamp) bool) {
		for len(list) > 0 {
			k := min(n, len(list))
			if !yield(list[:k]) {
				return
			}
			list = list[k:]
		}
	}
}

// leave tells the ledger that this node reads no more.
func (s *Store) leave(ctx context.Context) error {
	return s.scripts.leave.Run(ctx, s.rdb, []string{s.names.ack(), s.names.live()}, s.node).Err()
}

func (s *Store) ledgerKeys() []string {
	return []string{s.names.ledger(), s.names.seqs(), s.names.ack(), s.names.live(), s.names.meta(), s.names.want()}
}

// clockArgs are the arguments that clock.lua wants.
func (s *Store) clockArgs() []any {
	longest := s.lease.Microseconds()
	if s.cfg.Embedded {
		longest = 0
	}
	return append(make([]any, 0, 16), s.mirror.position().token, longest, randomHex())
}

func parseAnswer(v []any) (answer, error) {
	r := reply{v: v}
	a := answer{
		token: r.uint(0), floor: r.uint(1), whole: r.text(2) != "0", epoch: r.text(3), newest: r.text(4),
		now: r.uint(5), cold: r.uint(6), kept: r.uint(7),
	}
	a.scopes, a.want = r.stamps(8), r.stamps(9)
	return a, r.err
}

var errReply = errors.New("cache: script answered in another shape")

// reply reads a script's answer; the first misfit stays in err.
type reply struct {
	v   []any
	err error
}

func (r *reply) at(i int) any {
	if i >= len(r.v) {
		r.err = errReply
		return nil
	}
	return r.v[i]
}

func (r *reply) text(i int) string {
	switch v := r.at(i).(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	r.err = errReply
	return ""
}

// uint reads a seq. Scores are whole numbers below 2^53, written out in full.
func (r *reply) uint(i int) uint64 {
	n, err := strconv.ParseUint(r.text(i), 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%w: %w", errReply, err)
	}
	return n
}

// stamps reads a list of name, seq, name, seq ...
func (r *reply) stamps(i int) []stamp {
	list, ok := r.at(i).([]any)
	if !ok && r.err == nil {
		r.err = errReply
	}
	pairs := reply{v: list}
	out := make([]stamp, 0, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		out = append(out, stamp{pairs.text(i), pairs.uint(i + 1)})
	}
	if r.err == nil {
		r.err = pairs.err
	}
	return out
}

func (r *reply) int(i int) int {
	n, err := strconv.Atoi(r.text(i))
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%w: %w", errReply, err)
	}
	return n
}

// memberSeq returns the seq of an event's member, 0 for none.
func memberSeq(member string) uint64 {
	digits, _, _ := strings.Cut(member, ":")
	n, _ := strconv.ParseUint(digits, 10, 64)
	return n
}
