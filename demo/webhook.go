package demo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// webhook is one delivery: its body stays the same however often it is tried,
// so that the receiver knows a repeat.
type webhook struct {
	article string
	body    []byte
}

// How long a webhook that was not accepted rests before the next try: each
// time twice as long.
const (
	firstRest  = 200 * time.Millisecond
	longRest   = 5 * time.Second
	maxWaiting = 1000 // webhooks in the outbox
)

// Stats counts webhooks since the start.
type Stats struct {
	Sent     uint64 // handed to the outbox
	Tries    uint64
	Accepted uint64 // answered with 2xx
}

type counters struct{ sent, tries, accepted atomic.Uint64 }

// Stats returns the counts so far.
func (c *CMS) Stats() Stats {
	return Stats{c.count.sent.Load(), c.count.tries.Load(), c.count.accepted.Load()}
}

// send puts a webhook about a into the outbox, or returns ErrBehind.
func (c *CMS) send(event string, a Article) error {
	select {
	case c.outbox <- webhook{a.ID, webhookBody(event, a, time.Now())}:
		c.count.sent.Add(1)
		return nil
	default:
		return ErrBehind
	}
}

// webhookBody is the generic shape that freshwire reads without settings. The
// time makes two webhooks about the same version different deliveries.
func webhookBody(event string, a Article, now time.Time) []byte {
	body, _ := json.Marshal(map[string]any{
		"type": event,
		"sent": now.UTC().Format(time.RFC3339Nano),
		"data": map[string]any{
			"id": a.ID, "slug": a.Slug, "title": a.Title, "version": a.Version, "updatedAt": a.UpdatedAt,
		},
	})
	return body
}

// Run posts the webhooks of all edits, one after the other, until ctx ends.
// What was not accepted by then is forgotten, as the articles are.
func (c *CMS) Run(ctx context.Context) error {
	for {
		select {
		case hook := <-c.outbox:
			c.deliver(ctx, hook)
		case <-ctx.Done():
			return nil
		}
	}
}

// deliver tries until hook is accepted or ctx ends.
func (c *CMS) deliver(ctx context.Context, hook webhook) {
	start, rest := time.Now(), firstRest
	for try := 1; ; try++ {
		c.count.tries.Add(1)
		err := c.post(ctx, hook.body)
		if err == nil {
			c.count.accepted.Add(1)
			c.log.InfoContext(ctx, "webhook accepted", "article", hook.article, "tries", try, "took", time.Since(start))
			return
		}
		if ctx.Err() != nil {
			return
		}
		c.log.WarnContext(ctx, "webhook not accepted", "article", hook.article, "tries", try, "next_in", rest, "err", err)
		select {
		case <-time.After(rest):
			rest = min(2*rest, longRest)
		case <-ctx.Done():
			return
		}
	}
}

func (c *CMS) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.WebhookURL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, values := range c.cfg.Sign(body, time.Now()) {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "freshwire-demo-cms")
	resp, err := c.cfg.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("posting a webhook: answered %d", resp.StatusCode)
	}
	return nil
}

// Curl returns a shell command that posts a webhook about the article of that
// id, signed now. It says that the article changed; the article stays as it is.
func (c *CMS) Curl(id string) (string, error) {
	a, err := c.Article(id)
	if err != nil {
		return "", err
	}
	now := time.Now()
	body := webhookBody("article.updated", a, now)
	lines := []string{"curl -sS " + quote(c.cfg.WebhookURL), "-H 'Content-Type: application/json'"}
	header := c.cfg.Sign(body, now)
	for _, name := range sortedNames(header) {
		for _, value := range header[name] {
			lines = append(lines, "-H "+quote(name+": "+value))
		}
	}
	lines = append(lines, "--data-raw "+quote(string(body)))
	return strings.Join(lines, " \\\n  ") + "\n", nil
}

func sortedNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		if http.CanonicalHeaderKey(name) != "Content-Type" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// quote makes one word of s for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (c *CMS) curl(w http.ResponseWriter, r *http.Request) {
	command, err := c.Curl(cmp.Or(r.FormValue("id"), "1"))
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, command)
}
