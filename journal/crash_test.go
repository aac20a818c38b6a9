package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// scripted appends to a journal on disk until it crashes, and returns what was
// acknowledged.
func scripted(disk filesystem) (acked []string) {
	j, err := open(disk, quiet, small())
	if err != nil {
		return nil
	}
	defer j.Close()
	for i := range 8 {
		all := numbered(fmt.Sprintf("%c", 'a'+i), 1+i%3)
		if _, _, err := j.Append(context.Background(), all); err == nil {
			acked = append(acked, ids(all)...)
		}
	}
	return acked
}

// lost checks a directory found after a crash: it opens, holds all that was
// acknowledged, in order, and nothing that was not appended as it is.
func lost(disk *memFS, acked []string) error {
	j, err := open(disk, quiet, small())
	if err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	defer j.Close()
	c := j.seek(0)
	defer c.close()
	var found []string
	var last uint64
	for {
		r, _, err := c.peek()
		if err != nil {
			return err
		}
		if r == nil {
			break
		}
		if string(r.Data) != "data of "+r.ID || r.Seq <= last {
			return fmt.Errorf("invented record %d %q %q", r.Seq, r.ID, r.Data)
		}
		last = r.Seq
		found = append(found, r.ID)
		c.take()
	}
	rest := found
	for _, id := range acked {
		i := slices.Index(rest, id)
		if i < 0 {
			return fmt.Errorf("acknowledged %q is lost: found %q of %q", id, found, acked)
		}
		rest = rest[i+1:]
	}
	seq, _, err := j.Append(context.Background(), recs("more"))
	if err != nil || seq <= last {
		return fmt.Errorf("Append after the crash = %d, %v; the newest had %d", seq, err, last)
	}
	return nil
}

// crashes runs the script on disks that crash after each number of steps, and
// returns the first loss.
func crashes(wrap func(*memFS) filesystem) (points int, err error) {
	whole := newMemFS()
	whole.budget = 1 << 30
	if len(scripted(whole)) != 15 {
		return 0, errors.New("script is not acknowledged without a crash")
	}
	steps := 1<<30 - whole.budget
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range steps + 1 {
		disk := newMemFS()
		disk.budget = n
		acked := scripted(wrap(disk))
		for how := range keepsBits + 1 {
			if err := lost(disk.after(how, rng), acked); err != nil {
				return n, fmt.Errorf("crash after step %d, kind %d: %w", n, how, err)
			}
		}
	}
	return steps + 1, nil
}

func TestCrashAtEveryByteKeepsWhatWasAcknowledged(t *testing.T) {
	points, err := crashes(func(m *memFS) filesystem { return m })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d points, 3 kinds of crash at each", points)
}

// What a journal that cuts a corner loses must be seen by the test above.

type noSync struct{ *memFS }

func (n noSync) Create(name string) (file, error) {
	f, err := n.memFS.Create(name)
	return lyingFile{f}, err
}

type lyingFile struct{ file }

func (lyingFile) Sync() error { return nil }

type noSyncDir struct{ *memFS }

func (noSyncDir) SyncDir() error { return nil }

func TestCrashTestCatchesJournalsThatCutCorners(t *testing.T) {
	tests := []struct {
		name string
		wrap func(*memFS) filesystem
	}{
		{"acknowledges before fsync", func(m *memFS) filesystem { return noSync{m} }},
		{"does not sync the directory", func(m *memFS) filesystem { return noSyncDir{m} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			points, err := crashes(tt.wrap)
			if err == nil {
				t.Fatalf("nothing was lost at %d points", points)
			}
			t.Log(err)
		})
	}
}

func TestFailedFsyncIsNeverAcknowledged(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for n := range 30 { // the n-th sync fails, and some after it
		disk := newMemFS()
		syncs := 0
		disk.failSync(func() error {
			syncs++
			if syncs >= n && syncs < n+1+n%3 {
				return syscall.EIO
			}
			return nil
		})
		j, err := open(disk, quiet, small())
		if err != nil {
			continue // it was the sync of the node's name
		}
		var acked []string
		for i := range 30 {
			r := rec(fmt.Sprint(i))
			failsAt := syncs
			_, _, err := j.Append(context.Background(), []Record{r})
			if err == nil {
				acked = append(acked, r.ID)
			}
			if failed := failsAt+1 >= n && failsAt+1 < n+1+n%3; failed && err == nil {
				t.Fatalf("sync %d failed, and Append returned nil", failsAt+1)
			}
		}
		if len(acked) < 27 {
			t.Errorf("n=%d: only %d of 30 were acknowledged: it does not recover", n, len(acked))
		}
		for how := range keepsBits + 1 {
			if err := lost(disk.after(how, rng), acked); err != nil {
				t.Errorf("n=%d, kind %d: %v", n, how, err)
			}
		}
		j.Close()
	}
}

func TestAppendIsAcknowledgedOnlyAsAWhole(t *testing.T) {
	// Each record of the call has a segment of its own; a later one finds no room.
	disk := newMemFS()
	j := mustOpen(t, disk, small())
	mustAppend(t, j, rec("first"))
	big := func(id string) Record { return Record{ID: id, Data: make([]byte, 280)} }
	for room := range int64(1100) {
		disk.fill(room)
		_, _, err := j.Append(t.Context(), []Record{big("a"), big("b"), big("c")})
		disk.fill(-1)
		all := ids(contents(t, j))
		if err == nil && !slices.Equal(all[len(all)-3:], []string{"a", "b", "c"}) {
			t.Fatalf("room for %d bytes: acknowledged, and only %q are there", room, all)
		}
		if room < 900 && err == nil {
			t.Fatalf("room for %d bytes was enough for 900", room)
		}
	}
}

func TestFullDiskAnswersErrorAndRecoversAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logs
		disk := newMemFS()
		j, err := open(disk, log.logger(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		mustAppend(t, j, rec("before"))
		disk.fill(100)
		for range 5 {
			if _, _, err := j.Append(t.Context(), numbered("lost", 3)); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("Append on a full disk = %v, want ENOSPC", err)
			}
		}
		if err := j.Ready(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Ready on a full disk = %v, want ENOSPC", err)
		}
		time.Sleep(10 * time.Second) // virtual: looks at the disk pass
		if err := j.Ready(); err == nil {
			t.Error("Ready = nil while the disk is full")
		}
		disk.fill(-1)
		time.Sleep(2 * time.Second)
		if err := j.Ready(); err != nil {
			t.Errorf("Ready with room again = %v: it does not look without a caller", err)
		}
		mustAppend(t, j, rec("after"))
		if got := ids(contents(t, j)); !slices.Equal(got, []string{"before", "after"}) {
			t.Errorf("the journal holds %q, want before and after", got)
		}
		if a, b := log.count("journal cannot write"), log.count("journal writes again"); a != 1 || b != 1 {
			t.Errorf("logged %d times that it fails, and %d times that it works; want 1 and 1", a, b)
		}
		for how := range keepsBits + 1 {
			if err := lost(disk.after(how, rand.New(rand.NewPCG(5, 6))), []string{"before", "after"}); err != nil {
				t.Errorf("crash of kind %d: %v", how, err)
			}
		}
	})
}
