package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// within runs fn in a bubble, with a journal on disk and a store that it runs
// against. Time is virtual: a pause there is over when all has settled.
func within(t *testing.T, cfg Config, fn func(t *testing.T, b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, disk: newMemFS(), store: &store{}, cfg: cfg, log: &logs{}}
		b.start()
		defer func() { b.stop() }()
		fn(t, b)
	})
}

type bubble struct {
	t     *testing.T
	disk  *memFS
	store *store
	cfg   Config
	log   *logs
	*Journal
	stop func()
}

// start opens the journal and runs it.
func (b *bubble) start() {
	j, err := open(b.disk, b.log.logger(), b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Journal = j
	end := run(b.t, j, b.store.sink())
	b.stop = func() {
		end()
		j.Close()
	}
}

func (b *bubble) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// add appends records of these IDs and waits until they are handed on.
func (b *bubble) add(ids ...string) {
	b.t.Helper()
	seq := mustAppend(b.t, b.Journal, recs(ids...)...)
	if err := b.Wait(b.t.Context(), seq); err != nil {
		b.t.Fatal(err)
	}
}

// wants compares what was delivered since the last look.
func (b *bubble) wants(when, ids string) {
	b.t.Helper()
	if got := strings.Join(b.store.took(), " "); got != ids {
		b.t.Errorf("%s: delivered %q, want %q", when, got, ids)
	}
}

func TestRecordsAreDeliveredInOrderAndBeforeTheMark(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprint(i))
			mustAppend(t, b.Journal, rec(fmt.Sprint(i)))
		}
		b.settle(time.Second)
		b.wants("in order", strings.Join(want, " "))
		if err := unfounded(b.store, b.Journal); err != nil {
			t.Error(err)
		}
		if b.Wait(t.Context(), 40) != nil || b.backlog() != (position{}) {
			t.Errorf("backlog = %+v after all was handed on", b.backlog())
		}
	})
}

// unfounded looks for a mark that came before what it stands for.
func unfounded(s *store, j *Journal) error {
	all := map[uint64]string{}
	c := j.seek(0)
	defer c.close()
	for {
		r, _, err := c.peek()
		if err != nil {
			return err
		}
		if r == nil {
			break
		}
		all[r.Seq] = r.ID
		c.take()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[string]bool{}
	for _, w := range s.history {
		if w.node == "" {
			held[w.rec.ID] = true
			continue
		}
		for _, seq := range slices.Sorted(maps.Keys(all)) {
			if seq <= w.mark && !held[all[seq]] && !s.over[all[seq]] {
				return fmt.Errorf("mark %d was set before %q (%d) was delivered", w.mark, all[seq], seq)
			}
		}
	}
	return nil
}

func TestBatchesAreBounded(t *testing.T) {
	within(t, Config{}, func(t *testing.T, b *bubble) {
		var most, mostBytes int64
		sink := b.store.sink()
		deliver := sink.Deliver
		sink.Deliver = func(ctx context.Context, all []Record) error {
			var sum int64
			for i := range all {
				sum += recordSize(&all[i])
			}
			most, mostBytes = max(most, int64(len(all))), max(mostBytes, sum)
			return deliver(ctx, all)
		}
		b.stop()
		j := mustOpen(t, b.disk, b.cfg)
		mustAppend(t, j, numbered("small", 1000)...)
		for i := range 10 {
			mustAppend(t, j, Record{ID: fmt.Sprint("big", i), Data: make([]byte, 1<<20)})
		}
		last := mustAppend(t, j, Record{ID: "huge", Data: make([]byte, 5<<20)})
		stop := run(t, j, sink)
		if err := j.Wait(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		stop()
		j.Close()
		if most != 128 || mostBytes > 5<<20+100 {
			t.Errorf("the largest batch had %d records, and one %d bytes; want 128, and at most one large record", most, mostBytes)
		}
		if n := len(b.store.has()); n != 1011 {
			t.Errorf("%d of 1011 delivered", n)
		}
	})
}

func TestMarkThatWentBackMakesItSendAgain(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		for i := range 20 {
			b.add(fmt.Sprint(i))
		}
		b.store.took()
		b.store.apply("17", "18", "19") // over does not matter: the store forgot what they made void
		b.settle(time.Second)
		b.store.forget(6) // three records with their marks
		b.settle(2 * time.Second)
		b.wants("idle journal", "17 18 19")
		b.store.forget(4)
		b.add("20")
		b.wants("busy journal", "20 17 18 19 20") // seen at the mark of 20
		if n := b.log.count("store forgot records"); n != 2 {
			t.Errorf("logged %d times that the store forgot, want 2", n)
		}
		if b.backlog() != (position{}) {
			t.Errorf("backlog = %+v after all was handed on", b.backlog())
		}
	})
}

func TestEmptiedStoreGetsEverythingButWhatIsOver(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		b.add("0", "1", "2", "3", "4", "5")
		guess := rec("guess")
		guess.Again = true
		seq := mustAppend(t, b.Journal, guess)
		if err := b.Wait(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
		b.store.apply("0", "1", "3", "guess")
		b.settle(2 * time.Second)
		b.store.took()
		b.store.forget(1000)
		b.settle(2 * time.Second)
		b.wants("idle journal", "2 4 5 guess")

		b.store.apply("2")
		b.settle(2 * time.Second)
		b.store.took()
		b.stop()
		b.store.forget(1000)
		b.start()
		b.settle(2 * time.Second)
		b.wants("restart with an emptied store", "4 5 guess")

		b.stop()
		b.disk.names[overFile].data[40] ^= 1
		b.store.forget(1000)
		b.start()
		b.settle(2 * time.Second)
		b.wants("restart with damaged notes", "0 1 2 3 4 5 guess")
	})
}

func TestEmptiedStoreGetsTheNewestOfWhatIsOver(t *testing.T) {
	cfg := small()
	cfg.Rebuild = 2
	within(t, cfg, func(t *testing.T, b *bubble) {
		b.add("0", "1", "2", "3", "4")
		b.store.apply("0", "1", "2", "3", "4")
		b.settle(2 * time.Second)
		b.store.took()
		b.store.forget(1000)
		b.settle(2 * time.Second)
		b.wants("emptied", "3 4")
	})
}

func TestForgottenRecordsAreNotOverAnyMore(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		for i := range 4 {
			b.add(fmt.Sprint(i))
		}
		b.store.apply("0", "1", "2", "3")
		b.settle(2 * time.Second)
		b.store.forget(2)
		b.store.mu.Lock()
		b.store.over["3"] = false
		b.store.mu.Unlock()
		b.settle(2 * time.Second)
		b.store.took()
		b.store.forget(1000)
		b.settle(2 * time.Second)
		b.wants("emptied after it forgot", "3")
	})
}

func TestRestartGoesOnAtTheMark(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		b.add("0", "1", "2")
		b.store.failWith(func(string) (error, error) { return errors.New("away"), nil })
		mustAppend(t, b.Journal, recs("3", "4")...)
		b.settle(time.Second)
		b.stop()
		b.store.took()
		b.store.failWith(nil)
		b.start()
		b.settle(time.Second)
		b.wants("restart", "3 4")
		b.add("5")
		b.wants("after it", "5")
	})
}

func TestLostAnswerOfTheMarkIsNoLoss(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		b.add("0")
		lose := true
		b.store.failWith(func(op string) (before, after error) {
			if lose && op == "advance" {
				lose = false
				return nil, errors.New("reply lost")
			}
			return nil, nil
		})
		b.add("1")
		b.add("2")
		if got := b.store.mark(b.forwarder.node.id); got != 3 {
			t.Errorf("mark = %d, want 3", got)
		}
		if b.log.count("mark is ahead") != 0 {
			t.Error("took its own mark for somebody else's")
		}
	})
}

func TestStoreThatFailsBetweenBatchAndMarkGetsTheBatchAgain(t *testing.T) {
	// The store takes the batch, dies, and comes back without it, but with the
	// mark before it.
	within(t, small(), func(t *testing.T, b *bubble) {
		b.add("0")
		b.store.took()
		died := false
		b.store.failWith(func(op string) (before, after error) {
			if op == "advance" && !died && len(b.store.calls) > 0 {
				died = true
				b.store.history = b.store.history[:len(b.store.history)-1]
				return errors.New("gone"), nil
			}
			return nil, nil
		})
		b.add("1")
		if !died || !b.store.has()["1"] {
			t.Errorf("store died: %v, and has 1: %v", died, b.store.has()["1"])
		}
	})
}

func TestCopiedOrRestoredDirectoryTakesANewName(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		b.add("0", "1")
		b.stop()
		old := b.disk.after(keepsAll, nil)
		b.start()
		b.add("2", "3", "4")
		b.stop()

		b.disk = old // as it was before 2
		nodeName := func() string {
			content, err := readFile(b.disk, nodeFile)
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
		name := nodeName()
		b.start()
		mustAppend(t, b.Journal, recs("a", "b", "c", "d", "e", "f")...) // with the numbers of 2, 3 …
		b.settle(2 * time.Second)
		if nodeName() == name || b.log.count("it gets a new name") != 1 {
			t.Error("the journal kept its name")
		}
		for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
			if !b.store.has()[id] {
				t.Errorf("%q was taken for a record of the other life, and not delivered", id)
			}
		}
		name = nodeName()
		b.stop()
		b.store.took()
		b.start()
		b.add("g")
		b.wants("with the new name", "g")
		if nodeName() != name {
			t.Error("the new name was not kept")
		}
	})
}

func TestRecordLostBesideTheMarkIsSentOnceMore(t *testing.T) {
	// The store takes the batch, forgets it without an error, and keeps the
	// mark before it; then the mark moves.
	within(t, small(), func(t *testing.T, b *bubble) {
		b.add("0")
		forgot := false
		b.store.failWith(func(op string) (before, after error) {
			if op == "advance" && !forgot && len(b.store.calls) > 1 {
				forgot = true
				b.store.history = b.store.history[:len(b.store.history)-1]
			}
			return nil, nil
		})
		b.add("1")
		b.store.apply("0", "1") // as soon as they are there
		if b.store.has()["1"] {
			t.Fatal("nothing was lost")
		}
		b.settle(40 * time.Second)
		if !b.store.has()["1"] {
			t.Error("the lost record did not come again")
		}
		b.store.took()
		b.settle(5 * time.Minute)
		b.wants("over", "")
	})
	within(t, small(), func(t *testing.T, b *bubble) { // never over: its retries fail
		b.add("0", "1")
		b.settle(5 * time.Minute)
		b.wants("once more, not for ever", "0 1 0 1")
	})
}

func TestFailuresAreLoggedOncePerChange(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		b.add("0")
		b.store.failWith(func(string) (error, error) { return errors.New("away"), nil })
		mustAppend(t, b.Journal, recs("1")...)
		b.settle(time.Minute)
		b.store.failWith(nil)
		b.settle(5 * time.Second)
		if !b.store.has()["1"] {
			t.Error("not delivered after the store came back")
		}
		// deliver, advance and over fail, each for itself
		if a, c := b.log.count("interrupted"), b.log.count("goes on"); a > 3 || a != c {
			t.Errorf("logged %d interruptions and %d recoveries", a, c)
		}
	})
}

func TestHangingStoreIsLeftAfterATime(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		b.stop()
		sink := b.store.sink()
		deliver, hangs := sink.Deliver, 2
		sink.Deliver = func(ctx context.Context, all []Record) error {
			if hangs > 0 {
				hangs--
				<-ctx.Done()
				return ctx.Err()
			}
			return deliver(ctx, all)
		}
		j := mustOpen(t, b.disk, b.cfg)
		defer run(t, j, sink)()
		defer j.Close()
		start := time.Now()
		seq := mustAppend(t, j, rec("0"))
		if err := j.Wait(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 13*time.Second {
			t.Errorf("two hanging calls took %v, want a little more than 10s", took)
		}
	})
}

func TestSegmentsStayUntilTheStoreCannotForgetThem(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		for i := range 20 {
			id := fmt.Sprint("filler of a segment", i)
			b.store.apply(id)
			b.add(id)
		}
		segments := func() int { return len(b.segments) }
		all := segments()
		b.settle(9 * time.Minute)
		if segments() != all {
			t.Fatalf("%d of %d segments left after 9 minutes", segments(), all)
		}
		b.store.failWith(func(string) (error, error) { return errors.New("away"), nil })
		b.settle(time.Hour)
		if segments() != all {
			t.Fatalf("%d of %d segments left: they got older while the store was away", segments(), all)
		}
		b.store.forget(6)
		b.store.failWith(nil)
		b.settle(3 * time.Second)
		for i := range 20 {
			if id := fmt.Sprint("filler of a segment", i); !b.store.has()[id] {
				t.Errorf("%q is lost", id)
			}
		}
		b.settle(11 * time.Minute)
		if n := segments(); n != 1 {
			t.Errorf("%d segments left, want the newest", n)
		}
		if names, _ := b.disk.List(); len(names) != 3 { // node, over, segment; the lock is no file here
			t.Errorf("files left: %q", names)
		}
		next := mustAppend(t, b.Journal, rec("next"))
		b.stop()
		b.start()
		if seq := mustAppend(t, b.Journal, rec("after restart")); seq != next+1 {
			t.Errorf("seq %d after %d", seq, next)
		}
	})
}

func TestSegmentsStayWhileTheirRecordsWaitInTheStore(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		var waiting []string // in the store, where no worker runs them
		for i := range 20 {
			waiting = append(waiting, fmt.Sprint("filler of a segment", i))
		}
		b.add(waiting...)
		b.settle(time.Hour)
		b.store.forget(1000)
		b.settle(3 * time.Second)
		for _, id := range waiting {
			if !b.store.has()[id] {
				t.Errorf("%q is lost", id)
			}
		}
		b.store.apply(waiting[1:]...)
		b.settle(time.Hour)
		if n := len(b.segments); n < 5 {
			t.Errorf("%d segments left, and the oldest record is not over", n)
		}
		b.store.apply(waiting[0])
		b.settle(2 * time.Second)
		if n := len(b.segments); n != 1 {
			t.Errorf("%d segments left of records that are over, want the newest", n)
		}
	})
	within(t, small(), func(t *testing.T, b *bubble) {
		b.add(ids(numbered("never over", 40))...)
		b.settle(unfinishedFor + time.Minute)
		if n := len(b.segments); n != 1 {
			t.Errorf("%d segments left after a day, want the newest", n)
		}
	})
}

func TestHandedOnSegmentsAreBoundedInBytesAndOthersAreNot(t *testing.T) {
	cfg := small()
	cfg.limits.keptBytes = 1000
	within(t, cfg, func(t *testing.T, b *bubble) {
		b.store.failWith(func(string) (error, error) { return errors.New("away"), nil })
		mustAppend(t, b.Journal, numbered("filler", 100)...)
		b.settle(time.Minute)
		if n := len(contents(t, b.Journal)); n != 100 {
			t.Fatalf("%d of 100 records left, and none was handed on", n)
		}
	})
	within(t, cfg, func(t *testing.T, b *bubble) {
		mustAppend(t, b.Journal, numbered("filler", 100)...)
		b.settle(3 * time.Second)
		if n := len(b.segments); n < 3 || n > 5 {
			t.Errorf("%d segments of 300 bytes left, want about 1000 bytes", n)
		}
		if n := len(b.store.has()); n != 100 {
			t.Errorf("%d of 100 delivered", n)
		}
	})
}

func TestCloseEndsRunAndWaiters(t *testing.T) {
	within(t, small(), func(t *testing.T, b *bubble) {
		b.store.failWith(func(string) (error, error) { return errors.New("away"), nil })
		seq := mustAppend(t, b.Journal, rec("0"))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.Wait(context.Background(), seq); !errors.Is(err, ErrClosed) {
				t.Errorf("Wait = %v, want ErrClosed", err)
			}
		})
		b.settle(time.Second)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		for what, err := range map[string]error{"Run": b.Run(t.Context(), Sink{}), "Ready": b.Ready(), "Close": nil} {
			if what != "Close" && !errors.Is(err, ErrClosed) {
				t.Errorf("%s after Close = %v", what, err)
			}
		}
		if _, _, err := b.Append(t.Context(), recs("1")); !errors.Is(err, ErrClosed) {
			t.Errorf("Append after Close = %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("second Close = %v", err)
		}
	})
}
