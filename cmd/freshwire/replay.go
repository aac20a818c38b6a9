package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/tasks"
)

// replay answers POST /admin/replay.
func (a *app) replay(ctx context.Context, r admin.Replay) (admin.Replayed, error) {
	n, err := a.queue.Replay(ctx, tasks.ReplayQuery{IDs: r.IDs, Since: r.Since, Status: tasks.Status(r.Status)})
	done := admin.Replayed{Queued: n}
	if unknown := (*tasks.UnknownError)(nil); errors.As(err, &unknown) {
		done.Unknown, err = unknown.IDs[:min(len(unknown.IDs), 10)], nil
	}
	if errors.Is(err, tasks.ErrBusy) {
		err = fmt.Errorf("%w: %w", admin.ErrBusy, err)
	}
	return done, err
}

func newReplayCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "replay ID… | --failed | --since 1h",
		Short: "Run events again, and print how many were queued",
		Long: "Run events again: those named, those that failed, those received since a time, or the failed ones since then.\n" +
			"A failed event goes on as itself; any other becomes a new event. Those that wait or run are left alone.",
		Example: "  freshwire replay 2kq4xw7ykq3fzlmn5o6p7qrstu\n  freshwire replay --failed\n  freshwire replay --since 1h --failed",
		Args:    cobra.ArbitraryArgs,
	}
	failed := c.Flags().Bool("failed", false, "events that failed for good")
	since := c.Flags().String("since", "", "events received since then: a span such as 1h, or a time such as 2026-11-20T12:00:00Z")
	base := addURLFlag(c)
	c.RunE = func(c *cobra.Command, ids []string) error {
		switch {
		case len(ids) == 0 && !*failed && *since == "":
			return usageError{"nothing to replay: give ids of events, --failed or --since"}
		case len(ids) > 0 && (*failed || *since != ""):
			return usageError{"give either ids of events, or --failed and --since"}
		case len(ids) > tasks.MaxReplayIDs:
			return usageError{fmt.Sprintf("%d ids, at most %d at once", len(ids), tasks.MaxReplayIDs)}
		}
		wanted := map[string]any{}
		if len(ids) > 0 {
			wanted["ids"] = ids
		}
		if *failed {
			wanted["status"] = tasks.Failed
		}
		if *since != "" {
			if _, err := admin.ParseSince(*since, time.Now()); err != nil {
				return usageError{"--since: " + err.Error()}
			}
			wanted["since"] = *since
		}
		r, err := newRemote(*base)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), answerTime)
		defer cancel()
		done, err := r.replay(ctx, wanted)
		if err != nil {
			return fmt.Errorf("replaying: %w", err)
		}
		fmt.Fprintf(c.OutOrStdout(), "%d queued\n", done.Queued)
		if len(done.Unknown) > 0 {
			return fmt.Errorf("no such event: %s", strings.Join(done.Unknown, ", "))
		}
		return nil
	}
	return c
}

func (r *remote) replay(ctx context.Context, wanted map[string]any) (done admin.Replayed, err error) {
	body, err := json.Marshal(wanted)
	if err != nil {
		return done, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/admin/replay", bytes.NewReader(body))
	if err != nil {
		return done, err
	}
	req.Header.Set("Content-Type", "application/json")
	r.authorize(req)
	answer, err := r.do(req)
	if err != nil {
		return done, err
	}
	return done, json.Unmarshal(answer, &done)
}
