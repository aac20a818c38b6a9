package session

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/admin"
)

// Path is where sessions are made, asked for and ended.
const Path = "/api/auth/session"

// handler answers Path.
type handler struct {
	store  *Store
	log    *slog.Logger
	create http.Handler
	csrf   *http.CrossOriginProtection
}

// NewHandler returns what answers Path: POST makes a session and is for those
// whom protect lets through; GET tells a browser who it is, DELETE ends that.
func NewHandler(store *Store, protect func(http.Handler) http.Handler, log *slog.Logger) http.Handler {
	h := &handler{store: store, log: log, csrf: http.NewCrossOriginProtection()}
	h.create = protect(http.HandlerFunc(h.post))
	for _, origin := range store.cfg.CORSOrigins {
		_ = h.csrf.AddTrustedOrigin(origin) // Validate says which are none
	}
	return h
}

const methods = "GET, HEAD, POST, DELETE, OPTIONS"

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.cors(w.Header(), r)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h.get(w, r)
	case http.MethodPost:
		h.create.ServeHTTP(w, r)
	case http.MethodDelete:
		h.delete(w, r)
	case http.MethodOptions:
		h.preflight(w, r)
	default:
		w.Header().Set("Allow", methods)
		admin.Problem(w, http.StatusMethodNotAllowed, "")
	}
}

// cors lets pages of the listed origins read the answer, whatever it is.
func (h *handler) cors(answer http.Header, r *http.Request) {
	answer.Add("Vary", "Origin")
	if origin := r.Header["Origin"]; len(origin) == 1 && slices.Contains(h.store.cfg.CORSOrigins, origin[0]) {
		answer.Set("Access-Control-Allow-Origin", origin[0])
		answer.Set("Access-Control-Allow-Credentials", "true")
	}
}

func (h *handler) preflight(w http.ResponseWriter, r *http.Request) {
	answer := w.Header()
	answer.Set("Allow", methods)
	if answer.Get("Access-Control-Allow-Origin") != "" && r.Header.Get("Access-Control-Request-Method") != "" {
		answer.Set("Access-Control-Allow-Methods", "GET, HEAD, DELETE") // POST is for back ends
		answer.Set("Access-Control-Allow-Headers", "Content-Type")
		answer.Set("Access-Control-Max-Age", "600")
	}
	w.WriteHeader(http.StatusNoContent)
}

// post makes a session and hands out its cookie.
func (h *handler) post(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUser))
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		admin.Problem(w, http.StatusRequestEntityTooLarge, "A user is at most 4096 bytes of JSON.")
		return
	} else if err != nil {
		admin.Problem(w, http.StatusBadRequest, "The body cannot be read.")
		return
	}
	user, err := ParseUser(text, time.Now())
	if err != nil {
		admin.Problem(w, http.StatusBadRequest, "The body is no user: "+strings.TrimPrefix(err.Error(), ErrUser.Error()+": ")+".")
		return
	}
	id, err := h.store.Create(r.Context(), user)
	if err != nil {
		h.away(w, r, err)
		return
	}
	h.store.setCookie(w.Header(), id)
	reply(w, `{"success":true}`)
}

// get tells who the visitor is.
func (h *handler) get(w http.ResponseWriter, r *http.Request) {
	found, err := h.store.Of(r, w.Header())
	switch {
	case errors.Is(err, ErrNone):
		reply(w, `{"user":null}`)
	case err != nil:
		h.away(w, r, err)
	default:
		reply(w, `{"user":`+string(found.User)+`}`)
	}
}

// delete ends the visitor's session.
func (h *handler) delete(w http.ResponseWriter, r *http.Request) {
	if h.csrf.Check(r) != nil {
		admin.Problem(w, http.StatusForbidden, "Requests from other sites are refused.")
		return
	}
	for _, id := range allShown(r) { // none is to stay
		if err := h.store.End(r.Context(), id); err != nil {
			h.away(w, r, err)
			return
		}
	}
	h.store.setCookie(w.Header(), "")
	reply(w, `{"success":true}`)
}

func (h *handler) away(w http.ResponseWriter, r *http.Request, err error) {
	h.log.WarnContext(r.Context(), "sessions unknown", "err", err)
	w.Header().Set("Retry-After", "2")
	admin.Problem(w, http.StatusServiceUnavailable, "Redis does not answer.")
}

func reply(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, body+"\n")
}
