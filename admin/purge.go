package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Receipt tells what a purge has done. Settled means that no node serves any
// of it any more.
type Receipt struct {
	Seq        uint64 `json:"seq"`
	Entries    int    `json:"entries"` // deleted by now; more may follow in the background
	Reclaiming bool   `json:"reclaiming,omitempty"`
	Nodes      int    `json:"nodes"` // that were asked
	WaitedMS   int64  `json:"waited_ms"`
	Settled    bool   `json:"settled"`

	Left []string `json:"left,omitempty"` // keys of other programs that could not be deleted, and why
}

// Purger makes p void everywhere and returns once that is so.
type Purger func(ctx context.Context, p event.Purge) (Receipt, error)

// Bounds of one purge request.
const (
	maxPurgeBody  = 1 << 20
	maxPurgeItems = 1000
	maxPurgeItem  = 1024
)

// ErrPurge is wrapped by a Purger's error for a purge that can never succeed,
// such as a pattern that is no pattern.
var ErrPurge = errors.New("admin: cannot purge this")

// NewPurgeHandler answers POST /admin/purge.
func NewPurgeHandler(purge Purger, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, complaint := decodePurge(http.MaxBytesReader(w, r.Body, maxPurgeBody))
		if complaint != "" {
			Problem(w, http.StatusBadRequest, complaint)
			return
		}
		start := time.Now()
		receipt, err := purge(r.Context(), p)
		switch {
		case errors.Is(err, ErrPurge):
			Problem(w, http.StatusBadRequest, strings.TrimPrefix(err.Error(), ErrPurge.Error()+": "))
		case err != nil:
			unavailable(w, r, log, "purging", err)
		default:
			log.InfoContext(r.Context(), "purged", "tags", p.Tags, "keys", p.Keys, "patterns", p.Patterns, "paths", p.Paths, "all", p.All,
				"seq", receipt.Seq, "entries", receipt.Entries, "nodes", receipt.Nodes, "left", receipt.Left, "took", time.Since(start))
			reply(w, http.StatusOK, receipt)
		}
	})
}

// decodePurge reads one purge. The complaint, empty when there is none, is for
// the caller and holds nothing of the body but key names of ours.
func decodePurge(body io.Reader) (p event.Purge, complaint string) {
	var in struct {
		event.Purge
		Soft   bool `json:"soft"`
		DryRun bool `json:"dry_run"`
	}
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return p, "The body is one JSON object with tags, keys, patterns, paths (lists of text) or all (true)."
	}
	if in.Soft || in.DryRun {
		return p, "soft and dry_run are not done by this version yet."
	}
	for name, list := range map[string][]string{"tags": in.Tags, "keys": in.Keys, "patterns": in.Patterns, "paths": in.Paths} {
		if len(list) > maxPurgeItems {
			return p, fmt.Sprintf("%s holds %d items, at most %d are taken at once.", name, len(list), maxPurgeItems)
		}
		for _, item := range list {
			if item == "" || len(item) > maxPurgeItem {
				return p, fmt.Sprintf("%s holds an item that is empty or longer than %d bytes.", name, maxPurgeItem)
			}
		}
	}
	for _, path := range in.Paths {
		if path[0] != '/' {
			return p, "A path begins with a slash."
		}
	}
	if in.Purge.Empty() {
		return p, "Nothing to purge: give tags, keys, patterns, paths or all."
	}
	return in.Purge, ""
}
