package journal

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// childEnv makes this test binary a process that appends, or forwards, until it
// is killed: "append <dir> <name>" or "forward <dir> <store>".
const childEnv = "FRESHWIRE_JOURNAL_CHILD"

func TestMain(m *testing.M) {
	if words := strings.Fields(os.Getenv(childEnv)); len(words) == 3 {
		var err error
		switch words[0] {
		case "append":
			err = appendForEver(words[1], words[2])
		case "forward":
			err = forwardAll(words[1], diskStore(words[2]))
		}
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t *testing.T, words ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(words, " "))
	dieWithParent(cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

// appendForEver appends with 8 callers, and prints what was acknowledged.
func appendForEver(dir, name string) error {
	j, err := Open(dir, testkit.Discard(), Config{limits: limits{segmentBytes: 20_000}})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for c := range 8 {
		go func() {
			for i := 0; ; i++ {
				all := numbered(fmt.Sprintf("%s.%d.%d.", name, c, i), 1+i%2)
				if _, _, err := j.Append(context.Background(), all); err != nil {
					failed <- err
				}
				// One write each: a line is whole, or not there.
				os.Stdout.WriteString(strings.Join(ids(all), "\n") + "\n")
			}
		}()
	}
	return <-failed
}

func TestKilledReceiverKeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 9))
	var acked []string
	kills := 20
	for k := range kills {
		cmd, lines := child(t, "append", dir, fmt.Sprint(k))
		for n := rng.IntN(400); lines.Scan(); n-- {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			acked = append(acked, lines.Text())
			if n == 0 {
				cmd.Process.Kill() // what it had printed by then still counts
			}
		}
		cmd.Wait()
	}
	j, err := Open(dir, testkit.Logger(t), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	all := contents(t, j)
	found := map[string]bool{}
	for i, r := range all {
		found[r.ID] = true
		if string(r.Data) != "data of "+r.ID || i > 0 && r.Seq <= all[i-1].Seq {
			t.Fatalf("record %d is %q %q", r.Seq, r.ID, r.Data)
		}
	}
	for _, id := range acked {
		if !found[id] {
			t.Errorf("acknowledged %q is lost", id)
		}
	}
	t.Logf("%d kills, %d acknowledged, %d found", kills, len(acked), len(found))
}

// diskStore is a Sink in files, which a killed process leaves as they are.
type diskStore string

func (s diskStore) sink() Sink {
	return Sink{
		Deliver: func(_ context.Context, all []Record) error {
			f, err := os.OpenFile(filepath.Join(string(s), "delivered"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString(strings.Join(ids(all), "\n") + "\n")
			return err
		},
		Advance: func(_ context.Context, node string, from, to uint64) (uint64, error) {
			name := filepath.Join(string(s), node)
			b, _ := os.ReadFile(name)
			found, _ := strconv.ParseUint(string(b), 10, 64)
			if found != from || from == to {
				return found, nil
			}
			if err := os.WriteFile(name+".new", []byte(strconv.FormatUint(to, 10)), 0o600); err != nil {
				return 0, err
			}
			fmt.Println(to)
			return found, os.Rename(name+".new", name)
		},
	}
}

// forwardAll hands on what the directory holds, and prints each step of the mark.
func forwardAll(dir string, s diskStore) error {
	j, err := Open(dir, testkit.Discard(), Config{limits: limits{batchRecords: 7}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx, s.sink()) }()
	err = j.Wait(ctx, j.synced)
	cancel()
	<-done
	return err
}

func TestKilledForwarderDeliversEverything(t *testing.T) {
	dir, s := t.TempDir(), t.TempDir()
	rng := rand.New(rand.NewPCG(2, 9))
	j, err := Open(dir, testkit.Discard(), Config{limits: limits{segmentBytes: 5000}})
	if err != nil {
		t.Fatal(err)
	}
	want := ids(numbered("r", 2000))
	for some := range slices.Chunk(numbered("r", 2000), 100) {
		mustAppend(t, j, some...)
	}
	j.Close()
	kills := 0
	for done := false; !done; {
		cmd, lines := child(t, "forward", dir, s)
		killed := false
		for n := rng.IntN(30); lines.Scan(); n-- {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			if n == 0 && kills < 15 {
				cmd.Process.Kill()
				killed = true
				kills++
			}
		}
		cmd.Wait()
		done = !killed
	}
	b, err := os.ReadFile(filepath.Join(s, "delivered"))
	if err != nil {
		t.Fatal(err)
	}
	delivered := strings.Fields(string(b))
	seen := map[string]bool{}
	next := 0 // the first time that each is delivered is in order
	for _, id := range delivered {
		if !seen[id] && (next >= len(want) || id != want[next]) {
			t.Fatalf("%q was delivered before %q", id, want[next])
		}
		if !seen[id] {
			next++
		}
		seen[id] = true
	}
	if next != len(want) {
		t.Errorf("%d of %d delivered", next, len(want))
	}
	t.Logf("%d kills, %d delivered, %d of them again", kills, len(delivered), len(delivered)-next)
}
