package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
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

	// Refusals bounds the deliveries of one address to one source that prove no
	// secret; one beyond it is answered 429 unread. The zero Rate means 30/1s,
	// RefusalsBurst of zero 100.
	Refusals      Rate `envconfig:"WEBHOOK_REFUSALS" default:"30/1s" desc:"deliveries without a valid secret that one address may try on one source, beyond which it is answered 429 unread unless it sent a valid one within the hour; 0 is no limit"`
	RefusalsBurst int  `envconfig:"WEBHOOK_REFUSALS_BURST" default:"100" desc:"how many of these may come at once"`

	// Memory bounds the bodies of all deliveries under way, in bytes. Zero means 256 MiB.
	Memory int64 `envconfig:"WEBHOOK_MEMORY" default:"268435456" desc:"bytes that the bodies of webhooks under way may hold together; one that does not fit in is answered 503"`

	// ClientAddress returns the address of who sent r, without a port; nil: the peer.
	ClientAddress func(r *http.Request) string `ignored:"true"`

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
	if c.RefusalsBurst < 0 || c.RefusalsBurst > maxBurst {
		errs = append(errs, fmt.Errorf("webhook: WEBHOOK_REFUSALS_BURST %d is not between 0 and %d", c.RefusalsBurst, maxBurst))
	}
	if c.Memory != 0 && c.Memory < 8<<20 {
		errs = append(errs, fmt.Errorf("webhook: WEBHOOK_MEMORY %d is neither 0 nor at least %d", c.Memory, 8<<20))
	}
	return errors.Join(errs...)
}

// Handler answers the webhook URLs of all sources. It is safe for use by many goroutines.
type Handler struct {
	enqueue   Enqueue
	log       *slog.Logger
	cfg       Config
	metrics   *metrics
	now       func() time.Time
	sources   atomic.Pointer[map[string]*served]
	memory    memory
	strangers *strangers
}

// Outcomes that say nothing about who sent.
const (
	turnedAway = "too_many_refusals"
	noRoom     = "busy"
)

// served is a source with what the handler counts for it. A delivery keeps the
// one that it found, whatever Replace does meanwhile.
type served struct {
	*Source
	bucket *bucket
}

// NewHandler returns the handler of the given sources, and logs what is weak
// about their settings.
func NewHandler(sources []*Source, enqueue Enqueue, log *slog.Logger, cfg Config) *Handler {
	cfg.EnqueueTimeout = cmp.Or(cfg.EnqueueTimeout, 900*time.Millisecond)
	cfg.RetryAfter = cmp.Or(cfg.RetryAfter, 5*time.Second)
	cfg.Refusals = cmp.Or(cfg.Refusals, Rate{30, time.Second})
	cfg.RefusalsBurst = cmp.Or(cfg.RefusalsBurst, 100)
	cfg.Memory = cmp.Or(cfg.Memory, 256<<20)
	h := &Handler{
		enqueue:   enqueue,
		log:       log,
		cfg:       cfg,
		metrics:   newMetrics(cfg.Metrics),
		now:       time.Now,
		memory:    memory{limit: cfg.Memory},
		strangers: newStrangers(quota{cfg.Refusals, cfg.RefusalsBurst}),
	}
	h.sources.Store(&map[string]*served{})
	h.Replace(sources)
	return h
}

// Replace puts these sources in the place of all others at once, and logs what
// is weak about them. Deliveries under way go on with the source that they
// found; where the rate of a source stays, so does what is used up of it.
// Calls must not overlap.
func (h *Handler) Replace(sources []*Source) {
	old := *h.sources.Load()
	next := make(map[string]*served, len(sources))
	for _, s := range sources {
		b := &bucket{quota: quota{s.cfg.Rate, s.cfg.Burst}}
		if before := old[s.name]; before != nil && before.bucket.quota == b.quota {
			b = before.bucket
		}
		next[s.name] = &served{s, b}
		for _, w := range s.warnings {
			h.log.Warn("weak webhook source", "remark", w)
		}
		if room := h.memory.forLarge(); s.cfg.MaxBody > smallBody && s.cfg.MaxBody >= room {
			h.log.Warn("weak webhook source", "remark", fmt.Sprintf("sources.%s.max_body: bodies from %d bytes on are answered 503; raise FRESHWIRE_WEBHOOK_MEMORY", s.name, room))
		}
		for _, w := range s.ExpiryWarnings(h.now()) {
			h.log.Warn("secret of a webhook source expires", "remark", w)
		}
	}
	h.sources.Store(&next)
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
	outcome string        // queued, duplicate, ignored, or why refused; the word of metrics and logs
	detail  string        // a fixed sentence for the sender, or empty
	retry   time.Duration // what the sender is asked to wait; 0: nothing
	unread  bool          // of the body a part, or all of it
	eventID string
	kind    string
	secret  string // label of the one that matched
	proved  bool   // the sender knows a secret, and it is no old delivery
	bytes   int
	err     error
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, name string) {
	start := h.now()
	id := requestID(r)
	src, label := (*h.sources.Load())[name], ""
	if src != nil {
		label = src.name
	}
	from := callerOf(h.address(r), label)
	a := h.deliver(w, r, src, from, start)
	h.write(w, id, a)

	switch {
	case a.proved && src.scheme == noneScheme, a.outcome == turnedAway, a.outcome == noRoom:
	case a.proved:
		h.strangers.verify(from, start)
	default:
		h.strangers.refuse(from, start)
	}
	took := h.now().Sub(start)
	h.metrics.count(label, a, took)
	level := slog.LevelInfo
	switch {
	case a.outcome == turnedAway: // the refusals before it are in the log, and a flood must not fill that
		level = slog.LevelDebug
	case a.status >= 500:
		level = slog.LevelError
	case a.status >= 400:
		level = slog.LevelWarn
	}
	if !h.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("source", name[:min(len(name), 64)]), slog.String("event_id", a.eventID), slog.String("event", a.kind),
		slog.Int("status", a.status), slog.String("reason", a.outcome), slog.Int("bytes", a.bytes), slog.String("secret", a.secret),
		slog.String("request_id", id), slog.Duration("took", took),
	}
	if a.err != nil {
		attrs = append(attrs, slog.Any("err", a.err))
	}
	h.log.LogAttrs(r.Context(), level, "webhook", attrs...)
}

// address returns where r comes from; the zero Addr when that is no address.
func (h *Handler) address(r *http.Request) netip.Addr {
	if h.cfg.ClientAddress == nil {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr)
		return peer.Addr().Unmap().WithZone("")
	}
	addr, _ := netip.ParseAddr(h.cfg.ClientAddress(r))
	return addr.Unmap().WithZone("")
}

// deliver takes a delivery from the wire to the queue. The cheap questions
// come first, and the body is bounded before anything is computed over it.
func (h *Handler) deliver(w http.ResponseWriter, r *http.Request, src *served, from caller, now time.Time) answer {
	if wait := h.strangers.wait(from, now); wait > 0 {
		return answer{status: http.StatusTooManyRequests, outcome: turnedAway, retry: wait, unread: true}
	}
	var source *Source
	if src != nil {
		source = src.Source
	}
	switch methods := source.Methods(); {
	case !slices.Contains(methods, r.Method):
		w.Header().Set("Allow", strings.Join(methods, ", "))
		return answer{status: http.StatusMethodNotAllowed, outcome: "bad_method", unread: true}
	case src == nil:
		return answer{status: http.StatusNotFound, outcome: "unknown_source", unread: true}
	case !src.allows(from.net):
		return answer{status: http.StatusForbidden, outcome: "address_not_allowed", unread: true}
	case encoded(r.Header): // what is signed are the bytes sent, and nobody's few bytes shall become many here
		w.Header()["Accept-Encoding"] = []string{"identity"}
		return answer{status: http.StatusUnsupportedMediaType, outcome: "encoded_body", unread: true,
			detail: "Send the body as it was signed, without Content-Encoding."}
	}
	body, held, err := h.memory.read(r, src.cfg.MaxBody)
	defer h.memory.free(held)
	if err != nil {
		a := h.unreadable(err)
		a.bytes, a.err, a.unread = len(body), err, true
		return a
	}
	res := src.Verify(Delivery{Method: r.Method, Target: target(r), Header: r.Header, Body: body}, now)
	a := answer{status: res.Status(), outcome: string(res.Reason), secret: res.SecretLabel, bytes: len(body), err: res.Err}
	a.proved = res.Valid() || res.Reason == MalformedBody
	if a.proved {
		if wait := src.bucket.take(now); wait > 0 {
			a.status, a.outcome, a.retry = http.StatusTooManyRequests, "rate_limited", wait
			a.detail = "This source sends more than it may. Send the delivery again."
			return a
		}
	}
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

// unreadable is the answer to a delivery whose body did not come.
func (h *Handler) unreadable(err error) answer {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return answer{status: http.StatusRequestEntityTooLarge, outcome: "too_large", detail: fmt.Sprintf("A body may have %d bytes.", tooLarge.Limit)}
	case errors.Is(err, errBusy):
		return answer{status: http.StatusServiceUnavailable, outcome: noRoom, retry: h.cfg.RetryAfter, detail: "There is too much under way. Send the delivery again."}
	}
	return answer{status: http.StatusBadRequest, outcome: "incomplete_body"}
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
		a.retry = h.cfg.RetryAfter
		a.detail = "The delivery could not be stored. Send it again."
		return a
	}
	a.outcome = "duplicate"
	if slices.Contains(added, true) {
		a.outcome = "queued"
	}
	return a
}

// encoded reports whether a body is compressed.
func encoded(h http.Header) bool {
	for _, coding := range h["Content-Encoding"] {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return true
		}
	}
	return false
}

// target returns the raw request target.
func target(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}
