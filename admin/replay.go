package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Replay says which events to run again: those that fit all that is given.
type Replay struct {
	IDs    []string
	Since  time.Time // zero: whenever received
	Status string    // empty: any
}

// Replayed tells what a replay has done.
type Replayed struct {
	Queued  int      `json:"queued"`
	Unknown []string `json:"unknown,omitempty"` // asked for, but forgotten or never there; a few of them
}

// Replayer enqueues events again. With an error, Replayed tells what was done before it.
type Replayer func(ctx context.Context, r Replay) (Replayed, error)

// ErrBusy is wrapped by a Replayer's error when too many events wait.
var ErrBusy = errors.New("admin: too many events wait")

// Bounds of one replay request.
const (
	maxReplayBody = 128 << 10
	maxReplayIDs  = 1000
)

var eventID = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// NewReplayHandler answers POST /admin/replay.
func NewReplayHandler(replay Replayer, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		wanted, complaint := decodeReplay(http.MaxBytesReader(w, r.Body, maxReplayBody), start)
		if complaint != "" {
			Problem(w, http.StatusBadRequest, complaint)
			return
		}
		done, err := replay(r.Context(), wanted)
		since := "" // the beginning
		if !wanted.Since.IsZero() {
			since = wanted.Since.UTC().Format(time.RFC3339)
		}
		attrs := []any{"ids", len(wanted.IDs), "since", since, "status", wanted.Status, "queued", done.Queued, "unknown", len(done.Unknown),
			"client", r.RemoteAddr, "request_id", w.Header().Get("X-Request-Id"), "took", time.Since(start)}
		switch {
		case errors.Is(err, ErrBusy):
			log.WarnContext(r.Context(), "replay cut off", append(attrs, "err", err)...)
			w.Header().Set("Retry-After", "10")
			Problem(w, http.StatusServiceUnavailable, fmt.Sprintf("Too many events wait. %d were queued before; try the others later.", done.Queued))
		case err != nil:
			if done.Queued > 0 {
				log.WarnContext(r.Context(), "replay cut off", append(attrs, "err", err)...)
			}
			unavailable(w, r, log, "replaying events", err)
		case done.Queued == 0 && len(done.Unknown) > 0:
			Problem(w, http.StatusNotFound, "No such event: "+strings.Join(done.Unknown, ", ")+".")
		default:
			log.InfoContext(r.Context(), "replayed", attrs...)
			reply(w, http.StatusOK, done)
		}
	})
}

// decodeReplay reads one request. The complaint, empty when there is none, is
// for the caller and holds nothing of the body.
func decodeReplay(body io.Reader, now time.Time) (r Replay, complaint string) {
	var in struct {
		IDs    []string `json:"ids"`
		Since  string   `json:"since"`
		Status string   `json:"status"`
	}
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return r, "The body is one JSON object with ids (a list of text), since (1h, or a time as in RFC 3339) or status."
	}
	if _, err := dec.Token(); err != io.EOF {
		return r, "The body holds more than one JSON object."
	}
	if len(in.IDs) > maxReplayIDs {
		return r, fmt.Sprintf("ids holds %d items, at most %d are taken at once.", len(in.IDs), maxReplayIDs)
	}
	for _, id := range in.IDs {
		if !eventID.MatchString(id) {
			return r, "ids holds an item that is no id of an event."
		}
	}
	if in.Status != "" && !slices.Contains(Statuses, in.Status) {
		return r, "status is one of " + strings.Join(Statuses, ", ") + "."
	}
	if len(in.IDs) == 0 && in.Since == "" && in.Status == "" {
		return r, "Nothing to replay: give ids, since or status."
	}
	r = Replay{IDs: in.IDs, Status: in.Status}
	if in.Since != "" {
		var err error
		if r.Since, err = ParseSince(in.Since, now); err != nil {
			return r, "since is a span such as 1h, or a time as in RFC 3339 that has passed."
		}
	}
	return r, ""
}

// ParseSince reads a span of time before now, or a time that has passed.
func ParseSince(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.After(now) {
		return time.Time{}, fmt.Errorf("%q is neither a span such as 1h nor a time such as 2026-11-20T12:00:00Z that has passed", text)
	}
	return t, nil
}
