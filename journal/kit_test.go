package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// logs collects what is logged.
type logs struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logs) count(line string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), line)
}

// small makes segments that a handful of records fill.
func small() Config { return Config{limits: limits{segmentBytes: 300, knownIDs: 64}} }

func mustOpen(t testing.TB, fs filesystem, cfg Config) *Journal {
	t.Helper()
	j, err := open(fs, quiet, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func rec(id string) Record { return Record{ID: id, Data: []byte("data of " + id)} }

func recs(ids ...string) []Record {
	all := make([]Record, len(ids))
	for i, id := range ids {
		all[i] = rec(id)
	}
	return all
}

// numbered returns n records: p1, p2, …
func numbered(p string, n int) []Record {
	all := make([]Record, n)
	for i := range all {
		all[i] = rec(fmt.Sprint(p, i+1))
	}
	return all
}

func mustAppend(t testing.TB, j *Journal, all ...Record) uint64 {
	t.Helper()
	seq, _, err := j.Append(context.Background(), all)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return seq
}

func ids(all []Record) []string {
	s := make([]string, len(all))
	for i := range all {
		s[i] = all[i].ID
	}
	return s
}

// contents reads all records of a journal that nobody runs.
func contents(t testing.TB, j *Journal) []Record {
	t.Helper()
	c := j.seek(0)
	defer c.close()
	var all []Record
	for {
		r, _, err := c.peek()
		if err != nil {
			t.Fatal(err)
		}
		if r == nil {
			return all
		}
		all = append(all, *r)
		c.take()
	}
}

// store stands for the store behind a Sink. It is a history of writes, in
// order, of which the newest can be lost.
type store struct {
	mu      sync.Mutex
	history []write
	over    map[string]bool                       // once it is here
	fail    func(op string) (before, after error) // before or after it is done
	calls   []string                              // to Deliver, as IDs
}

// write is a record, or a mark.
type write struct {
	rec  Record
	node string
	mark uint64
}

func (s *store) sink() Sink {
	return Sink{Deliver: s.deliver, Advance: s.advance, Over: s.isOver}
}

func (s *store) failure(op string) (before, after error) {
	if s.fail == nil {
		return nil, nil
	}
	return s.fail(op)
}

func (s *store) deliver(_ context.Context, all []Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, after := s.failure("deliver")
	if before != nil {
		return before
	}
	for _, r := range all {
		s.history = append(s.history, write{rec: r})
	}
	s.calls = append(s.calls, strings.Join(ids(all), " "))
	return after
}

func (s *store) advance(_ context.Context, node string, from, to uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, after := s.failure("advance")
	if before != nil {
		return 0, before
	}
	found := s.mark(node)
	if found == from && from != to {
		s.history = append(s.history, write{node: node, mark: to})
	}
	return found, after
}

func (s *store) mark(node string) uint64 {
	for _, w := range slices.Backward(s.history) {
		if w.node == node && node != "" {
			return w.mark
		}
	}
	return 0
}

func (s *store) isOver(_ context.Context, ids []string) ([]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, after := s.failure("over"); before != nil || after != nil {
		return nil, errors.Join(before, after)
	}
	here := map[string]bool{}
	for _, w := range s.history {
		here[w.rec.ID] = true
	}
	over := make([]bool, len(ids))
	for i, id := range ids {
		over[i] = s.over[id] && here[id]
	}
	return over, nil
}

// failWith sets what fails from now on.
func (s *store) failWith(fn func(op string) (before, after error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fn
}

// forget loses the newest n writes.
func (s *store) forget(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = slices.Clip(s.history[:max(0, len(s.history)-n)])
}

func (s *store) apply(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over = map[string]bool{}
	}
	for _, id := range ids {
		s.over[id] = true
	}
}

// took returns the calls to Deliver since the last time.
func (s *store) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

func (s *store) has() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]bool{}
	for _, w := range s.history {
		if w.rec.ID != "" {
			all[w.rec.ID] = true
		}
	}
	return all
}

// run runs j until the returned func, which waits for its end.
func run(t testing.TB, j *Journal, sink Sink) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx, sink) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}
