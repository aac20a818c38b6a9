package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/sse"
)

func newTailCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "tail [CHANNEL...]",
		Short: "Follow the stream of changes in the terminal; without channels all of them, for operators",
		Example: "  freshwire tail\n  freshwire tail posts post:42\n" +
			"  freshwire tail --json posts | jq .entity",
		Args: cobra.ArbitraryArgs,
	}
	asJSON := c.Flags().Bool("json", false, "one JSON object a line, for pipes")
	since := c.Flags().String("since", "", "position to resume from, such as 1795176000123-0")
	base := addURLFlag(c)
	c.RunE = func(c *cobra.Command, channels []string) error {
		r, err := newRemote(*base)
		if err != nil {
			return err
		}
		if len(channels) == 0 {
			channels = []string{"*"}
		}
		if *since != "" {
			if _, err := event.ParsePosition(*since); err != nil {
				return usageError{fmt.Sprintf("--since %q is no position", *since)}
			}
		}
		t := &tailer{remote: r, channels: channels, last: *since, out: c.OutOrStdout(), errs: c.ErrOrStderr(), json: *asJSON}
		return t.follow(c.Context())
	}
	return c
}

// tailer follows the stream, and comes back after each break.
type tailer struct {
	remote   *remote
	channels []string
	last     string // position to resume from
	out      io.Writer
	errs     io.Writer // for words about the connection
	json     bool
}

// errRefused is an answer that asking again does not change.
var errRefused = errors.New("the stream is refused")

func (t *tailer) follow(ctx context.Context) error {
	rest := time.Second
	for {
		heard, err := t.connect(ctx)
		if ctx.Err() != nil {
			return nil // Ctrl-C
		}
		if errors.Is(err, errRefused) {
			return err
		}
		if heard {
			rest = time.Second
		}
		pause := rest/2 + rand.N(rest/2)
		fmt.Fprintf(t.errs, "disconnected (%v); again in %v\n", cmp.Or(err, io.EOF), pause.Round(100*time.Millisecond))
		select {
		case <-time.After(pause):
			rest = min(2*rest, 30*time.Second)
		case <-ctx.Done():
			return nil
		}
	}
}

// connect follows one connection to its end and reports whether it was a stream.
func (t *tailer) connect(ctx context.Context) (heard bool, err error) {
	query := url.Values{"channel": t.channels}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.remote.base+"/api/events?"+query.Encode(), nil)
	if err != nil {
		return false, err
	}
	t.remote.authorize(req)
	if t.last != "" {
		req.Header.Set("Last-Event-ID", t.last)
	}
	resp, err := t.remote.client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		err := fmt.Errorf("%w: %w", errRefused, cmp.Or(answerError(resp, body), errors.New(resp.Status)))
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			err = errors.New(resp.Status)
		}
		return false, err
	}
	reader := sse.NewReader(resp.Body)
	for {
		frame, err := reader.Next()
		if err != nil {
			return heard, err
		}
		heard = true
		if frame.ID != "" {
			t.last = frame.ID
		}
		if err := t.print(frame); err != nil {
			return heard, fmt.Errorf("%w: %w", errRefused, err)
		}
	}
}

func (t *tailer) print(f sse.Message) error {
	switch {
	case f.Name == "ping":
		return nil
	case f.Name != "" && f.Name != "message":
		_, err := fmt.Fprintf(t.errs, "%s %s\n", f.Name, f.Data)
		return err
	case t.json:
		_, err := fmt.Fprintf(t.out, "%s\n", f.Data)
		return err
	}
	var c event.Change
	if err := json.Unmarshal([]byte(f.Data), &c); err != nil || c.Event == "" {
		_, err := fmt.Fprintf(t.out, "%s  %s\n", time.Now().Format("15:04:05.000"), f.Data)
		return err
	}
	note := ""
	if c.Degraded {
		note = "  degraded"
	}
	_, err := fmt.Fprintf(t.out, "%s  %-22s %-16s %6d ms  %s%s\n", time.Now().Format("15:04:05.000"), c.Event, cmp.Or(c.Entity, "-"),
		time.Since(c.At).Milliseconds(), strings.Join(c.Tags, " "), note)
	return err
}
