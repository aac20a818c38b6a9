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

// Purge is what an operator wants purged.
type Purge struct {
	event.Purge
	Soft bool // make stale, not void
}

// Receipt tells what a purge has done. Settled means that no node serves any
// of it any more; of a soft one, that each node knows of it.
type Receipt struct {
	Seq        uint64 `json:"seq"`
	Entries    int    `json:"entries"` // deleted by now; more may follow in the background
	Reclaiming bool   `json:"reclaiming,omitempty"`
	Nodes      int    `json:"nodes"` // that were asked
	WaitedMS   int64  `json:"waited_ms"`
	Settled    bool   `json:"settled"`

	Soft bool   `json:"soft,omitempty"`
	Note string `json:"note,omitempty"` // what the one who purged should know

	Left []string `json:"left,omitempty"` // keys of other programs that could not be deleted, and why
}

// SoftNote is the note on the receipt of a soft purge.
const SoftNote = "Soft: readers may get older content once more, while it is fetched again. Entries without a stale_while_revalidate window are fetched first."

// Purger makes p void everywhere and returns once that is so.
type Purger func(ctx context.Context, p Purge) (Receipt, error)

// Preview tells what a purge would make void.
type Preview struct {
	DryRun  bool     `json:"dry_run"` // true
	Entries int      `json:"entries"`
	Exact   bool     `json:"exact"`   // false: there may be fewer or more
	Samples []string `json:"samples"` // keys of some
	By      []Count  `json:"by"`
}

// Count is the part of a Preview that one tag, key, path or pattern has in it.
type Count struct {
	Kind    string `json:"kind"`
	Name    string `json:"name,omitempty"`
	Entries int    `json:"entries"`
	Exact   bool   `json:"exact"`
}

// Previewer tells what p would make void, and changes nothing.
type Previewer func(ctx context.Context, p Purge) (Preview, error)

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
func NewPurgeHandler(purge Purger, preview Previewer, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, dryRun, complaint := decodePurge(http.MaxBytesReader(w, r.Body, maxPurgeBody))
		if complaint != "" {
			Problem(w, http.StatusBadRequest, complaint)
			return
		}
		if dryRun {
			seen, err := preview(r.Context(), p)
			seen.DryRun = true
			answerPurge(w, r, log, "previewing a purge", seen, err)
			return
		}
		start := time.Now()
		receipt, err := purge(r.Context(), p)
		if err == nil {
			log.InfoContext(r.Context(), "purged", "tags", p.Tags, "keys", p.Keys, "patterns", p.Patterns, "paths", p.Paths, "all", p.All,
				"soft", p.Soft, "seq", receipt.Seq, "entries", receipt.Entries, "nodes", receipt.Nodes, "left", receipt.Left, "took", time.Since(start))
		}
		answerPurge(w, r, log, "purging", receipt, err)
	})
}

func answerPurge(w http.ResponseWriter, r *http.Request, log *slog.Logger, doing string, answer any, err error) {
	switch {
	case errors.Is(err, ErrPurge):
		Problem(w, http.StatusBadRequest, strings.TrimPrefix(err.Error(), ErrPurge.Error()+": "))
	case err != nil:
		unavailable(w, r, log, doing, err)
	default:
		reply(w, http.StatusOK, answer)
	}
}

// decodePurge reads one purge. The complaint, empty when there is none, is for
// the caller and holds nothing of the body but key names of ours.
func decodePurge(body io.Reader) (p Purge, dryRun bool, complaint string) {
	var in struct {
		event.Purge
		Soft   bool `json:"soft"`
		DryRun bool `json:"dry_run"`
	}
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return p, false, "The body is one JSON object with tags, keys, patterns, paths (lists of text) or all (true), and soft or dry_run (true)."
	}
	if _, err := dec.Token(); err != io.EOF {
		return p, false, "The body holds more than one JSON object."
	}
	p = Purge{Purge: in.Purge, Soft: in.Soft}
	return p, in.DryRun, checkPurge(in.Purge)
}

func checkPurge(in event.Purge) (complaint string) {
	for name, list := range map[string][]string{"tags": in.Tags, "keys": in.Keys, "patterns": in.Patterns, "paths": in.Paths} {
		if len(list) > maxPurgeItems {
			return fmt.Sprintf("%s holds %d items, at most %d are taken at once.", name, len(list), maxPurgeItems)
		}
		for _, item := range list {
			if item == "" || len(item) > maxPurgeItem {
				return fmt.Sprintf("%s holds an item that is empty or longer than %d bytes.", name, maxPurgeItem)
			}
		}
	}
	for _, path := range in.Paths {
		if path[0] != '/' {
			return "A path begins with a slash."
		}
	}
	if in.Empty() {
		return "Nothing to purge: give tags, keys, patterns, paths or all."
	}
	return ""
}
