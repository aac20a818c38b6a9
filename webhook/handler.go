package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/event"
)

// Enqueue accepts the events of one delivery for later work: once it returns
// without an error, all of them are durable. It reports of each whether it was
// added; false means that an event with the same ID is already accepted. It
// must return when ctx ends.
type Enqueue func(ctx context.Context, evs []event.Event) (added []bool, err error)

// Config of a Handler. The zero Config works.
type Config struct {
	// EnqueueTimeout bounds the time to make a delivery durable, so that the
	// answer comes within a second; the tightest senders wait for two.
	EnqueueTimeout time.Duration `envconfig:"ENQUEUE_TIMEOUT" default:"900ms" desc:"time to make one webhook delivery durable before it is answered 503"`

	// RetryAfter is what a 503 asks the sender to wait.
	RetryAfter time.Duration `envconfig:"RETRY_AFTER" default:"5s" desc:"pause that a webhook's sender is asked for when its delivery could not be queued"`

	Metrics prometheus.Registerer `ignored:"true"` // nil: none
}

// Validate joins all complaints about c.
func (c Config) Validate() error {
	var errs []error
	if c.EnqueueTimeout < 0 || c.EnqueueTimeout > 30*time.Second {
		errs = append(errs, fmt.Errorf("webhook: ENQUEUE_TIMEOUT %v is not between 0s and 30s", c.EnqueueTimeout))
	}
	if c.RetryAfter < 0 || c.RetryAfter > time.Hour {
		errs = append(errs, fmt.Errorf("webhook: RETRY_AFTER %v is not between 0s and 1h", c.RetryAfter))
	}
	return errors.Join(errs...)
}

// Handler answers the webhook URLs of all sources. It is safe for use by many goroutines.
type Handler struct {
	sources map[string]*Source
	enqueue Enqueue
	log     *slog.Logger
	cfg     Config
	metrics *metrics
	now     func() time.Time
}

// NewHandler returns the handler of the given sources, and logs what is weak
// about their settings.
func NewHandler(sources []*Source, enqueue Enqueue, log *slog.Logger, cfg Config) *Handler {
	cfg.EnqueueTimeout = cmp.Or(cfg.EnqueueTimeout, 900*time.Millisecond)
	cfg.RetryAfter = cmp.Or(cfg.RetryAfter, 5*time.Second)
	h := &Handler{
		sources: make(map[string]*Source, len(sources)),
		enqueue: enqueue,
		log:     log,
		cfg:     cfg,
		metrics: newMetrics(cfg.Metrics),
		now:     time.Now,
	}
	for _, s := range sources {
		h.sources[s.name] = s
		for _, w := range s.warnings {
			log.Warn("weak webhook source", "remark", w)
		}
	}
	return h
}

// ServeHTTP answers a delivery to the source that the route names as {source}.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, mux.Vars(r)["source"])
}

// Source returns the handler of one source, for a URL that does not name it.
func (h *Handler) Source(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, name) })
}

// answer is what becomes of a delivery.
type answer struct {
	status  int
	outcome string // queued, duplicate, ignored, or why refused; the word of metrics and logs
	detail  string // a fixed sentence for the sender, or empty
	eventID string
	kind    string
	secret  int // -1: none, or not asked
	bytes   int
	err     error
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, name string) {
	start := h.now()
	requestID := requestID(r)
	w.Header().Set("X-Request-Id", requestID)

	src := h.sources[name]
	a := h.deliver(w, r, src, start)
	h.write(w, requestID, a)

	took, label := h.now().Sub(start), ""
	if src != nil {
		label = src.name
	}
	h.metrics.deliveries.WithLabelValues(label, a.outcome).Inc()
	h.metrics.seconds.WithLabelValues(label).Observe(took.Seconds())
	if a.secret >= 0 {
		h.metrics.secrets.WithLabelValues(label, strconv.Itoa(a.secret)).Inc()
	}
	level := slog.LevelInfo
	switch {
	case a.status >= 500:
		level = slog.LevelError
	case a.status >= 400:
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{
		slog.String("source", name[:min(len(name), 64)]), slog.String("event_id", a.eventID), slog.String("event", a.kind),
		slog.Int("status", a.status), slog.String("reason", a.outcome), slog.Int("bytes", a.bytes), slog.Int("secret_index", a.secret),
		slog.String("request_id", requestID), slog.Duration("took", took),
	}
	if a.err != nil {
		attrs = append(attrs, slog.Any("err", a.err))
	}
	h.log.LogAttrs(r.Context(), level, "webhook", attrs...)
}

// deliver takes a delivery from the wire to the queue. The cheap questions
// come first, and the body is bounded before anything is computed over it.
func (h *Handler) deliver(w http.ResponseWriter, r *http.Request, src *Source, now time.Time) answer {
	if methods := src.Methods(); !slices.Contains(methods, r.Method) {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		return answer{status: http.StatusMethodNotAllowed, outcome: "bad_method", secret: -1}
	}
	if src == nil {
		return answer{status: http.StatusNotFound, outcome: "unknown_source", secret: -1}
	}
	body, err := readBody(w, r, src.cfg.MaxBody)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return answer{status: http.StatusRequestEntityTooLarge, outcome: "too_large", secret: -1, bytes: len(body), err: err,
			detail: fmt.Sprintf("A body may have %d bytes.", src.cfg.MaxBody)}
	}
	if err != nil {
		return answer{status: http.StatusBadRequest, outcome: "incomplete_body", secret: -1, bytes: len(body), err: err}
	}

	res := src.Verify(Delivery{Method: r.Method, Target: target(r), Header: r.Header, Body: body}, now)
	a := answer{status: res.Status(), outcome: string(res.Reason), secret: res.Secret, bytes: len(body), err: res.Err}
	switch {
	case res.Reason == MalformedBody:
		a.detail = "The delivery is verified, but its body is not what this source sends."
		return a
	case res.Ping:
		a.outcome = "ignored"
		return a
	case !res.Valid():
		return a
	case len(res.Events) == 0: // it speaks of nothing that we care for
		a.outcome = "ignored"
		return a
	}
	a.eventID, a.kind = res.Events[0].ID, res.Events[0].Kind()
	return h.queue(r.Context(), a, res.Events)
}

// queue makes every event of a delivery durable. When one cannot be, the
// sender is asked to come again: those already queued are known by their ids.
func (h *Handler) queue(ctx context.Context, a answer, events []event.Event) answer {
	// The sender may hang up; what it sent is still worth keeping.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.EnqueueTimeout)
	defer cancel()
	added, err := h.enqueue(ctx, events)
	if err != nil {
		a.status, a.outcome, a.err = http.StatusServiceUnavailable, "not_queued", fmt.Errorf("queueing event %s: %w", a.eventID, err)
		a.detail = "The delivery could not be stored. Send it again."
		return a
	}
	a.outcome = "duplicate"
	if slices.Contains(added, true) {
		a.outcome = "queued"
	}
	return a
}

// readBody reads at most limit bytes; a body that announces more is not read at all.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close") // rather than reading it to the end
		return nil, &http.MaxBytesError{Limit: limit}
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, 64<<10)) + bytes.MinRead) // a promise of more is believed when it comes
	}
	_, err := io.Copy(&buf, http.MaxBytesReader(w, r.Body, limit))
	return buf.Bytes(), err
}

// target returns the raw request target.
func target(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// problem is an error for the sender (RFC 9457). What was sent is never in it.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	RequestID string `json:"request_id"`
}

func (h *Handler) write(w http.ResponseWriter, requestID string, a answer) {
	var body any = struct {
		ID     string `json:"id,omitempty"`
		Status string `json:"status"`
	}{a.eventID, a.outcome}
	head := w.Header()
	head.Set("Content-Type", "application/json")
	if a.status != http.StatusOK {
		body = problem{"about:blank", http.StatusText(a.status), a.status, a.detail, requestID}
		head.Set("Content-Type", "application/problem+json")
	}
	if a.status == http.StatusServiceUnavailable {
		head.Set("Retry-After", strconv.Itoa(int((h.cfg.RetryAfter+time.Second-1)/time.Second)))
	}
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(a.status)
	json.NewEncoder(w).Encode(body) // the sender may be gone; the log line says what it was told
}

var saneRequestID = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// requestID returns the id that a proxy in front gave the request, or a new one.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); saneRequestID.MatchString(id) {
		return id
	}
	return strings.ToLower(rand.Text())
}
