package demo

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// receiver is freshwire as the CMS sees it: one answer a try, then 200.
type receiver struct {
	answers []int // 0: no connection
	got     chan delivery
}

type delivery struct {
	header http.Header
	body   string
	at     time.Time
}

func (rc *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	rc.got <- delivery{req.Header, string(body), time.Now()}
	code := 200
	if len(rc.answers) > 0 {
		code, rc.answers = rc.answers[0], rc.answers[1:]
	}
	if code == 0 {
		return nil, errors.New("connection refused")
	}
	w := httptest.NewRecorder()
	w.Header().Set("Location", "http://elsewhere.test/") // for the redirects
	w.WriteHeader(code)
	return w.Result(), nil
}

func mac(body []byte, now time.Time) string {
	h := hmac.New(sha256.New, []byte("secret"))
	h.Write([]byte(now.UTC().Format(time.RFC3339Nano)))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// startCMS returns a CMS that delivers to rc. It must be called in a synctest bubble.
func startCMS(t *testing.T, rc *receiver) *CMS {
	t.Helper()
	rc.got = make(chan delivery, 100)
	c, err := New(Config{
		WebhookURL: "http://freshwire.test/webhooks/demo",
		Client:     &http.Client{Transport: rc},
		Sign: func(body []byte, now time.Time) http.Header {
			return http.Header{"X-Time": {now.UTC().Format(time.RFC3339Nano)}, "X-Mac": {mac(body, now)}}
		},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil after its context ended", err)
		}
	})
	return c
}

func TestEditIsAnnouncedByASignedWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rc := &receiver{}
		c := startCMS(t, rc)
		a, err := c.Edit("3", "No plums left", "All gone.")
		if err != nil {
			t.Fatal(err)
		}
		d := <-rc.got
		var body struct {
			Type string
			Data struct {
				ID, Slug, Title string
				Version         int
				UpdatedAt       time.Time
			}
		}
		if err := json.Unmarshal([]byte(d.body), &body); err != nil {
			t.Fatal(err)
		}
		if body.Type != "article.updated" || body.Data.ID != "3" || body.Data.Slug != "a-tray-of-plums" ||
			body.Data.Title != "No plums left" || body.Data.Version != 2 || !body.Data.UpdatedAt.Equal(a.UpdatedAt) {
			t.Errorf("webhook = %s", d.body)
		}
		if strings.Contains(d.body, "All gone") {
			t.Error("the webhook carries the article's text, want a notice only")
		}
		at, err := time.Parse(time.RFC3339Nano, d.header.Get("X-Time"))
		if err != nil || d.header.Get("X-Mac") != mac([]byte(d.body), at) {
			t.Errorf("signature %q does not fit the body", d.header.Get("X-Mac"))
		}
		if got := d.header.Get("Content-Type"); got != "application/json" {
			t.Errorf("Content-Type = %q", got)
		}
		if _, err := c.Create("New", "x"); err != nil {
			t.Fatal(err)
		}
		if d := <-rc.got; !strings.Contains(d.body, `"article.created"`) {
			t.Errorf("webhook after Create = %s", d.body)
		}
	})
}

func TestWebhookIsRepeatedUntilAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rc := &receiver{answers: []int{503, 0, 401, 301, 429, 500, 500, 500}}
		tries := len(rc.answers) + 1
		c := startCMS(t, rc)
		c.Edit("1", "First", "x")
		c.Edit("2", "Second", "x")

		first := <-rc.got
		last := first
		for range tries - 1 {
			d := <-rc.got
			if d.body != first.body {
				t.Fatalf("a repeat has another body:\n%s\n%s", d.body, first.body)
			}
			if d.header.Get("X-Mac") == last.header.Get("X-Mac") {
				t.Error("a repeat has the signature of the try before, which may have expired")
			}
			if rest := d.at.Sub(last.at); rest < firstRest || rest > longRest {
				t.Errorf("%v between two tries, want %v to %v", rest, firstRest, longRest)
			}
			last = d
		}
		if d := <-rc.got; !strings.Contains(d.body, "Second") {
			t.Errorf("after the first edit was accepted came %s, want the second", d.body)
		}
		synctest.Wait()
		if got, want := c.Stats(), (Stats{Sent: 2, Tries: uint64(tries) + 1, Accepted: 2}); got != want {
			t.Errorf("Stats = %+v, want %+v", got, want)
		}
	})
}

func TestAPIIsSlowUnlessTheCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCMS(t, &receiver{})
		start := time.Now()
		get(c, "/_demo/cms/articles/1")
		if took := time.Since(start); took != 120*time.Millisecond {
			t.Errorf("GET took %v, want 120ms", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start = time.Now()
		do(c, httptest.NewRequest("GET", "/_demo/cms/articles/1", nil).WithContext(ctx))
		if took := time.Since(start); took != 0 {
			t.Errorf("GET of a caller that left took %v, want no time", took)
		}
	})
}

func TestRunEndsWithAWebhookStillUnaccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rc := &receiver{answers: []int{500, 500, 500}}
		c := startCMS(t, rc)
		c.Edit("1", "x", "y")
		<-rc.got // the cleanup of startCMS waits for Run
	})
}
