package sse

import (
	"net/http"
	"time"
)

// Refuse answers a request for a stream that is not to be opened now: 200, and
// goaway with the reason and when to come again. EventSource gives up for good
// on other codes.
func Refuse(w http.ResponseWriter, r *http.Request, reason string, retry time.Duration) {
	setHeader(w, r)
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(appendGoaway(nil, reason, retry))
	}
}
