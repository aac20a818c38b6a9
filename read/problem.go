package read

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/freshwire/freshwire/cache"
)

// replies turns errors into answers; the first that errors.Is matches wins.
// Details stay in the log: a text from the origin or the request is never
// sent back.
var replies = []struct {
	err        error
	status     int
	detail     string
	retryAfter int // seconds; 0 for errors that trying again does not mend
}{
	{errAddress, http.StatusBadRequest, "The address is not well formed.", 0},
	{cache.ErrKey, http.StatusBadRequest, "The address is not well formed.", 0},
	{errAfter, http.StatusBadRequest, "Freshwire-After is not a number.", 0},
	{errNowhere, http.StatusNotFound, "There is nothing at this address.", 0},
	{errUser, http.StatusServiceUnavailable, "Who you are cannot be known now.", 2},
	{errMethod, http.StatusMethodNotAllowed, "Content is read with GET or HEAD.", 0},
	{cache.ErrCrowded, http.StatusServiceUnavailable, "Too many wait for this address.", 1},
	{cache.ErrOldView, http.StatusServiceUnavailable, "The origin does not show the newest version yet.", 1},
	{errOriginSlow, http.StatusGatewayTimeout, "The origin took too long.", 5},
	{errOriginBusy, http.StatusServiceUnavailable, "The origin is busy.", 5},
	{errOriginFailed, http.StatusBadGateway, "The origin failed.", 5},
	{errOriginAway, http.StatusBadGateway, "The origin cannot be reached.", 5},
	{errTooLarge, http.StatusBadGateway, "The origin's answer is too large.", 0},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, "It took too long.", 5},
	{context.Canceled, http.StatusServiceUnavailable, "The request was given up.", 1},
	{errStrange, http.StatusBadGateway, "The origin's answer cannot be passed on.", 0},
}

// problem is the body of an error, RFC 9457.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	RequestID string `json:"request_id,omitempty"`
}

// problemOf returns the answer to err.
func problemOf(err error) (status int, detail string, retryAfter int) {
	for _, r := range replies {
		if errors.Is(err, r.err) {
			return r.status, r.detail, r.retryAfter
		}
	}
	return http.StatusInternalServerError, "Something went wrong here; the log knows more.", 0
}

// writeProblem answers with an error. A Cache-Control that is set already is kept.
func writeProblem(w http.ResponseWriter, r *http.Request, status int, detail string, retryAfter int, requestID string) {
	body, _ := json.Marshal(problem{"about:blank", http.StatusText(status), status, detail, requestID}) // cannot fail
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	if retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}
