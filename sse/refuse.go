package sse

import (
	"net/http"
	"time"
)

// Refuse answers a request for a stream that is not to be opened now: 200, and
// goaway with the reason and when to come again. EventSource gives up for good
// on other codes.
func Refuse(w http.ResponseWriter, r *http.Request, reason string, retry time.Duration) {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("X-Accel-Buffering", "no")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.ProtoMajor == 1 {
		header.Set("Connection", "close")
	}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(appendGoaway(nil, reason, retry))
	}
}
