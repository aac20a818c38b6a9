package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// A real file system that runs full: a file size limit gives EFBIG in the
// middle of a write, like `ulimit -f`.
func TestFileSizeLimitIsNoFalseAcknowledgement(t *testing.T) {
	if dir := os.Getenv("FRESHWIRE_JOURNAL_LIMITED"); dir != "" {
		limitedChild(t, dir)
		return
	}
	dir := t.TempDir()
	out := limitedRun(t, dir)
	j, err := Open(dir, testkit.Discard(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	found := map[string]bool{}
	for _, r := range contents(t, j) {
		found[r.ID] = true
	}
	acked, refused := 0, 0
	for _, word := range strings.Fields(out) {
		id, ok := strings.CutPrefix(word, "acked=")
		if ok {
			acked++
			if !found[id] {
				t.Errorf("acknowledged %q is lost", id)
			}
		} else if strings.HasPrefix(word, "refused=") {
			refused++
		}
	}
	if acked < 50 || refused == 0 {
		t.Errorf("%d acknowledged and %d refused of 100: want some refused, and most of the others kept", acked, refused)
	}
	t.Logf("%d acknowledged, %d refused, %d found", acked, refused, len(found))
}

func limitedChild(t *testing.T, dir string) {
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10_000, Max: 10_000}); err != nil {
		t.Fatal(err)
	}
	j, err := Open(dir, testkit.Discard(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		_, _, err := j.Append(context.Background(), []Record{{ID: fmt.Sprint(i), Data: make([]byte, 1000)}})
		switch {
		case err == nil:
			fmt.Printf("acked=%d\n", i)
		case errors.Is(err, syscall.EFBIG):
			fmt.Printf("refused=%d\n", i)
		default:
			t.Fatal(err)
		}
	}
	j.Close()
}

func limitedRun(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFileSizeLimitIsNoFalseAcknowledgement$")
	cmd.Env = append(os.Environ(), "FRESHWIRE_JOURNAL_LIMITED="+dir)
	dieWithParent(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}
