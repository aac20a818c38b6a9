package sse

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/event"
)

// History returns up to limit records after a position, oldest first. whole is
// false when records after it may be missing.
type History func(ctx context.Context, after event.Position, limit int) (recs []event.Record, whole bool, err error)

// Handler answers GET /api/events?channel=a&channel=b with a stream, over
// HTTP/1.1 and HTTP/2 alike.
type Handler struct {
	hub *Hub
	log *slog.Logger
	cfg Config

	portable bool // takes connections over without watching sockets, as on other systems than Linux
}

const (
	maxChannels     = 64
	maxChannelName  = 256
	maxChannelBytes = 4 << 10         // of the names of a request, repeated ones too
	startTimeout    = 5 * time.Second // for the hub to get its first position
)

// NewHandler returns the handler of hub's streams; a hub has one. A nil history
// means that positions older than the ring are told to reset.
func NewHandler(hub *Hub, history History, log *slog.Logger, cfg Config) *Handler {
	hub.history = history
	return &Handler{hub: hub, log: log, cfg: cfg.withDefaults()}
}

// Drain asks every subscriber to go away, and to come back at a time of its own
// within Config.DrainSpread. It returns when all are gone or ctx ends. New
// streams are asked the same at once.
func (h *Handler) Drain(ctx context.Context) error {
	h.hub.drain()
	for h.hub.Subscribers() > 0 {
		select {
		case <-h.hub.empty:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.cors(w, r)
	switch {
	case r.Method == http.MethodOptions && w.Header().Get("Access-Control-Allow-Origin") != "":
		w.Header().Set("Access-Control-Allow-Methods", "GET, HEAD")
		w.Header().Set("Access-Control-Allow-Headers", "Last-Event-ID, Cache-Control")
		w.Header().Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		problem(w, http.StatusMethodNotAllowed, "the stream is read with GET")
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		problem(w, http.StatusBadRequest, "the query cannot be read")
		return
	}
	channels, all, complaint := h.channels(query["channel"])
	if complaint != "" {
		problem(w, http.StatusBadRequest, complaint)
		return
	}
	listener, err := h.enter(r, channels, all)
	if errors.Is(err, ErrForbidden) {
		problem(w, http.StatusForbidden, "not a channel of yours")
		return
	}

	setHeader(w, r)
	if r.Method == http.MethodHead {
		return
	}
	if err != nil {
		h.log.WarnContext(r.Context(), "who opens a stream is not known", "err", err)
		h.goaway(w, r, "unavailable", unavailableRetry())
		return
	}
	h.stream(w, r, viewOf(channels, all), listener, resume(r, query))
}

// setHeader says what follows, and that nobody on the way may hold it back or change it.
func setHeader(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.ProtoMajor == 1 {
		header.Set("Connection", "close") // whoever is told to go away must not come back on this connection
	}
}

// cors lets the configured origins read what follows, whatever it is.
func (h *Handler) cors(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); origin != "" && slices.Contains(h.cfg.CORSOrigins, origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Allow-Credentials", "true")
	}
}

// channels returns the channels that a request names, each once. all is set
// for "*", where that exists.
func (h *Handler) channels(names []string) (channels []string, all bool, complaint string) {
	if len(names) == 0 {
		return nil, false, "name at least one channel: ?channel=posts"
	}
	if len(names) > maxChannels {
		return nil, false, "at most 64 channels a stream"
	}
	size := 0
	for _, name := range names {
		size += len(name)
		switch {
		case size > maxChannelBytes:
			return nil, false, "the channels are too long: at most 4096 bytes together"
		case name == "*" && h.cfg.AllowAll != nil:
			all = true
		case !validChannel(name) && !h.wildcard(name):
			return nil, false, "a channel is 1 to 256 bytes of text without control characters and *"
		case !slices.Contains(channels, name):
			channels = append(channels, name)
		}
	}
	return channels, all, ""
}

// wildcard reports whether name is a prefix that may be asked for, and a star.
func (h *Handler) wildcard(name string) bool {
	prefix, ok := strings.CutSuffix(name, "*")
	return ok && slices.Contains(h.cfg.Wildcards, prefix)
}

func validChannel(name string) bool {
	return name != "" && len(name) <= maxChannelName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '*' })
}

// enter decides about a request. all was asked for with "*".
func (h *Handler) enter(r *http.Request, channels []string, all bool) (Listener, error) {
	if all && !h.cfg.AllowAll(r) {
		return Listener{}, ErrForbidden
	}
	if h.cfg.Enter == nil {
		return Listener{}, nil
	}
	return h.cfg.Enter(r, channels)
}

// resumePoint is where a client wants to go on.
type resumePoint struct {
	given bool // it named a position
	bad   bool // which is none
	pos   event.Position
}

func resume(r *http.Request, query url.Values) resumePoint {
	text := r.Header.Get("Last-Event-ID") // a reconnect repeats the URL: the header is newer
	if text == "" {
		text = query.Get("lastEventId")
	}
	if text == "" {
		return resumePoint{}
	}
	pos, err := event.ParsePosition(text)
	return resumePoint{given: true, bad: err != nil, pos: pos}
}

// stream serves one subscriber: to its end, or until the connection is taken over.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, key string, who Listener, from resumePoint) {
	if h.hub.draining.Load() {
		h.goaway(w, r, "drain", h.hub.drainRetry())
		return
	}
	s := &subscriber{key: key, session: who.Session, behind: &backlog{rest: appendRetry(nil, h.cfg.Retry)}}
	if h.cfg.MaxPerAddress > 0 {
		s.addr = h.address(r)
	}
	switch {
	case from.bad:
		s.behind.reset = BadPosition
	case from.given:
		s.behind.pos = from.pos
		h.hub.metrics.replays.Add(1)
	default:
		s.behind.fresh = true
	}
	if !h.hub.admit(s) {
		h.goaway(w, r, "overload", overloadRetry())
		return
	}
	if h.takeOver(w, r, s) {
		return
	}
	send, err := responseWriter(w, h.cfg.WriteTimeout)
	if err != nil {
		h.hub.release(s)
		h.log.ErrorContext(r.Context(), "stream not possible", "err", err)
		w.Header().Del("Connection")
		problem(w, http.StatusInternalServerError, "this server cannot stream")
		return
	}
	h.leave(r)
	w.WriteHeader(http.StatusOK)
	sh := h.hub.shard()
	p := newPump(sh, s, h.cfg.WriteTimeout, send)
	s.sock = p
	sh.accept(s)
	p.run(r.Context())
}

// goaway answers that there is no stream now, and when to ask again.
func (h *Handler) goaway(w http.ResponseWriter, r *http.Request, reason string, retry time.Duration) {
	h.hub.metrics.goaway(reason)
	Refuse(w, r, reason, retry)
}

func (h *Handler) address(r *http.Request) string {
	if h.cfg.ClientAddress != nil {
		return h.cfg.ClientAddress(r)
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// problem answers with RFC 9457. It repeats nothing of the request.
func problem(w http.ResponseWriter, code int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	body := map[string]any{"type": "about:blank", "title": http.StatusText(code), "status": code, "detail": detail}
	if id := w.Header().Get("X-Request-Id"); id != "" {
		body["request_id"] = id
	}
	_ = json.NewEncoder(w).Encode(body)
}
