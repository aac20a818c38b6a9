package read

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// Purge makes void what the tags and paths name. It returns when that is so on
// every node and the event is durably queued. eventID is the id of the event
// that the caller acts for, or "".
//
// An error that is ErrAway says that the same call may succeed soon.
type Purge func(ctx context.Context, tags, paths []string, eventID string) error

// ErrAway is to be wrapped by errors of a Purge whose store cannot be reached.
var ErrAway = errors.New("read: store is away")

// Limits of what one call may name.
const (
	maxRevalidateBody = 64 << 10
	maxRevalidateTags = 1000
	maxRevalidatePath = 100
	maxRevalidateText = 1024 // bytes of one tag or path
)

// Revalidate answers POST /api/revalidate: {secret, path, tag}, also paths and
// tags. It is how deploy hooks and editors' buttons purge.
type Revalidate struct {
	secret [sha256.Size]byte // hashed, so that comparing tells nothing of its length
	open   bool              // a secret is configured
	purge  Purge
	log    *slog.Logger
	calls  *prometheus.CounterVec
}

// NewRevalidate returns the handler. Without a secret it answers 404 to all.
func NewRevalidate(secret string, purge Purge, log *slog.Logger, reg prometheus.Registerer) *Revalidate {
	h := &Revalidate{secret: sha256.Sum256([]byte(secret)), open: secret != "", purge: purge, log: log,
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_revalidate_requests_total",
			Help: "Calls of /api/revalidate, by outcome.",
		}, []string{"outcome"})}
	if reg != nil {
		reg.MustRegister(h.calls)
	}
	return h
}

// revalidation is the body of a call.
type revalidation struct {
	Secret any      `json:"secret"`
	Path   string   `json:"path"`
	Tag    string   `json:"tag"`
	Paths  []string `json:"paths"`
	Tags   []string `json:"tags"`
}

func (h *Revalidate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	requestID := w.Header().Get("X-Request-Id")
	refuse := func(status int, outcome, detail string) {
		h.calls.WithLabelValues(outcome).Inc()
		writeProblem(w, r, status, detail, 0, requestID)
	}
	if !h.open {
		refuse(http.StatusNotFound, "off", "There is nothing at this address.")
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		refuse(http.StatusMethodNotAllowed, "method", "Revalidation is asked for with POST.")
		return
	}
	var call revalidation
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRevalidateBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		refuse(http.StatusRequestEntityTooLarge, "too_large", "The body is too large.")
		return
	}
	if err != nil || json.Unmarshal(body, &call) != nil {
		refuse(http.StatusBadRequest, "malformed", "The body is not the JSON of a revalidation.")
		return
	}
	secret, _ := call.Secret.(string) // anything else is not the secret either
	if given := sha256.Sum256([]byte(secret)); subtle.ConstantTimeCompare(given[:], h.secret[:]) != 1 {
		h.calls.WithLabelValues("secret").Inc()
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "Invalid secret"})
		return
	}
	tags, paths, detail := call.named()
	if detail != "" {
		refuse(http.StatusBadRequest, "malformed", detail)
		return
	}
	start := time.Now()
	if len(tags)+len(paths) > 0 {
		if err := h.purge(r.Context(), tags, paths, eventID(r)); err != nil {
			h.calls.WithLabelValues("failed").Inc()
			h.log.ErrorContext(r.Context(), "revalidation failed", "tags", len(tags), "paths", len(paths), "request_id", requestID, "took", time.Since(start), "err", err)
			status := http.StatusInternalServerError
			if isAway(err) {
				status = http.StatusServiceUnavailable
				w.Header().Set("Retry-After", "2")
			}
			writeJSON(w, status, map[string]any{"error": "Revalidation failed"})
			return
		}
	}
	h.calls.WithLabelValues("done").Inc()
	h.log.InfoContext(r.Context(), "revalidated", "tags", len(tags), "paths", len(paths), "request_id", requestID, "took", time.Since(start))
	writeJSON(w, http.StatusOK, map[string]any{"revalidated": true, "now": time.Now().UnixMilli()})
}

// named returns the tags and paths of a call, or what is wrong with them. A
// path also names the tag that sites keep for it in Redis, "/blog/a" as
// ":blog:a".
func (c revalidation) named() (tags, paths []string, detail string) {
	for _, t := range append(c.Tags, c.Tag) {
		if t != "" {
			tags = append(tags, t)
		}
	}
	for _, p := range append(c.Paths, c.Path) {
		if p != "" {
			paths = append(paths, p)
		}
	}
	switch {
	case len(tags) > maxRevalidateTags:
		return nil, nil, "At most " + strconv.Itoa(maxRevalidateTags) + " tags at once."
	case len(paths) > maxRevalidatePath:
		return nil, nil, "At most " + strconv.Itoa(maxRevalidatePath) + " paths at once."
	}
	for _, s := range append(tags[:len(tags):len(tags)], paths...) {
		if len(s) > maxRevalidateText || !utf8.ValidString(s) || hasControl(s) {
			return nil, nil, "A tag or path is too long, or holds control characters."
		}
	}
	for _, p := range paths {
		if p[0] != '/' {
			return nil, nil, "A path begins with a slash."
		}
		tags = append(tags, strings.ReplaceAll(p, "/", ":"))
	}
	return tags, paths, ""
}

// eventID returns the event that a caller says it acts for, or "".
func eventID(r *http.Request) string {
	id := r.Header.Get("Freshwire-Event")
	if len(id) > 64 {
		return ""
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return ""
		}
	}
	return id
}

func isAway(err error) bool {
	var network net.Error
	return errors.Is(err, ErrAway) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, _ := json.Marshal(v)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}
