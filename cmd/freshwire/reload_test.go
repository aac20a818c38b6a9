package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/webhook"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	l.text.Reset()
	return text
}

// reloading is a web role of a config file, as far as a reload goes.
type reloading struct {
	*app
	t    *testing.T
	file string
	log  *lines
}

func newReloading(t *testing.T, text string) *reloading {
	t.Helper()
	r := &reloading{t: t, file: filepath.Join(t.TempDir(), "freshwire.yaml"), log: &lines{}}
	r.write(text)
	s, err := loadSite(environment{Config: r.file}, "")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	accept := func(_ context.Context, evs []event.Event) ([]bool, error) {
		return slices.Repeat([]bool{true}, len(evs)), nil
	}
	r.app = &app{site: s, log: log, hooks: webhook.NewHandler(s.sources, accept, log, webhook.Config{})}
	return r
}

func (r *reloading) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// send delivers to a source with a token, and returns the answer's status.
func (r *reloading) send(source, token string) int {
	req := httptest.NewRequest("POST", "/webhooks/"+source, strings.NewReader(`{"type":"post.updated"}`))
	req.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	r.hooks.Source(source).ServeHTTP(w, req)
	return w.Code
}

const reloadFile = `
sources:
  blog: {cms: generic, scheme: token, secret: a secret of the blog}
rules:
  - {on: ["post.*"]}
`

func TestReloadAppliesSourcesAndTellsWhatItLeaves(t *testing.T) {
	r := newReloading(t, reloadFile)
	if got := r.send("blog", "a secret of the blog"); got != http.StatusOK {
		t.Fatalf("before: %d, want 200", got)
	}
	r.write(`
sources:
  blog: {cms: generic, scheme: token, secret: "the next secret, longer"}
  shop: {cms: generic, scheme: token, secret: the secret of the shop}
rules:
  - {on: ["page.*"]}
routes:
  - {path: "/api/posts", origin: "http://127.0.0.1:1/posts"}
`)
	r.log.take()
	r.reload()
	for _, tc := range []struct {
		source, token string
		want          int
	}{{"blog", "a secret of the blog", 401}, {"blog", "the next secret, longer", 200}, {"shop", "the secret of the shop", 200}} {
		if got := r.send(tc.source, tc.token); got != tc.want {
			t.Errorf("%s with %q: %d, want %d", tc.source, tc.token, got, tc.want)
		}
	}
	log := r.log.take()
	for _, want := range []string{"next start only\" section=rules", "next start only\" section=routes", `msg="sources reloaded"`, "sources=2"} {
		if !strings.Contains(log, want) {
			t.Errorf("log lacks %s:\n%s", want, log)
		}
	}
	if strings.Contains(log, "section=targets") || strings.Contains(log, "longer") {
		t.Errorf("log tells of what did not change, or a secret:\n%s", log)
	}
}

func TestFileWithMistakesChangesNothing(t *testing.T) {
	r := newReloading(t, reloadFile)
	for name, text := range map[string]string{
		"two mistakes": "sources:\n  blog: {cms: gohst, secret: a}\n  shop: {cms: generic, scheme: token}\n",
		"no YAML":      "sources: [",
		"a variable":   "sources:\n  blog: {cms: ghost, secret: \"${NO_SUCH_VARIABLE_HERE}\"}\n",
	} {
		r.write(text)
		r.log.take()
		r.reload()
		log := r.log.take()
		want := 1
		if name == "two mistakes" {
			want = 2
		}
		if got := r.send("blog", "a secret of the blog"); got != http.StatusOK || strings.Count(log, "config file not reloaded") != want || strings.Contains(log, "sources reloaded") {
			t.Errorf("%s: %d, want 200 as before and %d mistakes logged:\n%s", name, got, want, log)
		}
	}
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	r.reload()
	if got := r.send("blog", "a secret of the blog"); got != http.StatusOK {
		t.Errorf("without the file: %d, want 200 as before", got)
	}
}

func TestHangupReadsSecretFilesAgain(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	put := func(text string) {
		if err := os.WriteFile(secret, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("the first secret")
	t.Setenv("RELOADED_SECRET_FILE", secret)
	r := newReloading(t, strings.Replace(reloadFile, "a secret of the blog", `"${RELOADED_SECRET}"`, 1))
	run := r.reloads()
	testkit.Go(t, run)
	put("the second secret")
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "the second secret to be accepted", func() bool { return r.send("blog", "the second secret") == http.StatusOK })
	if got := r.send("blog", "the first secret"); got != http.StatusUnauthorized {
		t.Errorf("the first secret: %d, want 401", got)
	}
}

// The file names old and new, the sender is moved, the file drops the old one:
// over and over, while four senders send.
func TestSecretsRotatedInTheFileUnderLoadRefuseNothing(t *testing.T) {
	text := func(current, previous string) string {
		return "sources:\n  blog: {cms: generic, scheme: token, secret: " + current + ", previous_secrets: [\"" + previous + "\"], rate: 0}\n"
	}
	tokens := []string{"the even secret of the blog", "the odd secret of the blog"}
	r := newReloading(t, text(tokens[0], ""))
	var sending sync.RWMutex // held for reading from choosing the secret to the answer
	current := tokens[0]
	stop, end := context.WithCancel(t.Context())
	var senders sync.WaitGroup
	var sent, refused [4]int
	for n := range 4 {
		senders.Go(func() {
			for stop.Err() == nil {
				sending.RLock()
				if r.send("blog", current) != http.StatusOK {
					refused[n]++
				}
				sent[n]++
				sending.RUnlock()
			}
		})
	}
	for n := range 20 {
		old, next := tokens[n%2], tokens[(n+1)%2]
		r.write(text(next, old))
		r.reload()
		sending.Lock() // no delivery made with the old secret is under way
		current = next
		sending.Unlock()
		r.write(text(next, ""))
		r.reload()
	}
	end()
	senders.Wait()
	for n := range sent {
		if refused[n] > 0 || sent[n] == 0 {
			t.Errorf("sender %d: %d of %d deliveries refused, want 0 of some", n, refused[n], sent[n])
		}
	}
}
