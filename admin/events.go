package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gorilla/mux"
)

// ErrNotFound is returned by Events.Get for an event that is unknown or whose
// record has been forgotten.
var ErrNotFound = errors.New("admin: no such event")

// ErrCursor is returned by Events.List for a cursor that it did not give out.
var ErrCursor = errors.New("admin: not a cursor")

// Query asks for records of events, newest first.
type Query struct {
	Status string // empty: all
	Limit  int    // 1 to MaxLimit
	Cursor string // empty: from the newest; else Page.Next of the page before
}

// MaxLimit is the most records that one page holds.
const MaxLimit = 200

// Page is one page of records. They are any JSON; main hands on the worker's.
type Page struct {
	Events any    `json:"events"`
	Next   string `json:"next,omitempty"`
}

// Events gives the records of events.
type Events struct {
	List func(ctx context.Context, q Query) (Page, error)
	Get  func(ctx context.Context, id string) (any, error)
}

// Statuses are those that a query may name.
var Statuses = []string{"queued", "running", "retrying", "done", "failed", "ignored"}

// NewListHandler answers GET /admin/events?limit=&status=&cursor=.
func NewListHandler(events Events, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := Query{Limit: 50, Status: r.FormValue("status"), Cursor: r.FormValue("cursor")}
		if s := r.FormValue("limit"); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 || n > MaxLimit {
				Problem(w, http.StatusBadRequest, "limit is a number from 1 to "+strconv.Itoa(MaxLimit)+".")
				return
			}
			q.Limit = n
		}
		if q.Status != "" && !slices.Contains(Statuses, q.Status) {
			Problem(w, http.StatusBadRequest, "status is one of "+strings.Join(Statuses, ", ")+".")
			return
		}
		if len(q.Cursor) > 128 {
			Problem(w, http.StatusBadRequest, "The cursor is not one of ours.")
			return
		}
		page, err := events.List(r.Context(), q)
		if errors.Is(err, ErrCursor) {
			Problem(w, http.StatusBadRequest, "The cursor is not one of ours.")
			return
		}
		if err != nil {
			unavailable(w, r, log, "listing events", err)
			return
		}
		reply(w, http.StatusOK, page)
	})
}

// NewEventHandler answers GET /admin/events/{id}.
func NewEventHandler(events Events, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := mux.Vars(r)["id"]
		if len(id) > 64 {
			Problem(w, http.StatusNotFound, "No such event.")
			return
		}
		rec, err := events.Get(r.Context(), id)
		switch {
		case errors.Is(err, ErrNotFound):
			Problem(w, http.StatusNotFound, "No such event; records are kept for 24 hours.")
		case err != nil:
			unavailable(w, r, log, "reading an event", err)
		default:
			reply(w, http.StatusOK, rec)
		}
	})
}

func unavailable(w http.ResponseWriter, r *http.Request, log *slog.Logger, doing string, err error) {
	log.WarnContext(r.Context(), "admin request unanswered", "doing", doing, "err", err)
	w.Header().Set("Retry-After", "2")
	Problem(w, http.StatusServiceUnavailable, "Redis does not answer.")
}
