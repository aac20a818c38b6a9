package webhook

import (
	"crypto/rand"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Values of headers that every answer shares. Nobody changes them.
var (
	jsonType    = []string{"application/json"}
	problemType = []string{"application/problem+json"}
	noStore     = []string{"no-store"}
	noSniff     = []string{"nosniff"}
	closing     = []string{"close"}
)

// write answers with {"id":…,"status":…} or, for an error, with a problem (RFC
// 9457). All that stands there are words of ours; what was sent is never in it.
func (h *Handler) write(w http.ResponseWriter, requestID string, a answer) {
	head := w.Header()
	head["X-Request-Id"] = []string{requestID}
	head["Cache-Control"] = noStore
	head["X-Content-Type-Options"] = noSniff
	if a.retry > 0 {
		head["Retry-After"] = []string{strconv.Itoa(int((a.retry + time.Second - 1) / time.Second))}
	}
	if a.unread {
		head["Connection"] = closing // rather than reading the rest to its end
	}
	b := make([]byte, 0, 256)
	if a.status == http.StatusOK {
		head["Content-Type"] = jsonType
		b = append(b, '{')
		if a.eventID != "" {
			b = append(append(append(b, `"id":"`...), a.eventID...), `",`...)
		}
		b = append(append(append(b, `"status":"`...), a.outcome...), "\"}\n"...)
	} else {
		head["Content-Type"] = problemType
		b = append(append(b, `{"type":"about:blank","title":"`...), http.StatusText(a.status)...)
		b = strconv.AppendInt(append(b, `","status":`...), int64(a.status), 10)
		if a.detail != "" {
			b = append(append(append(b, `,"detail":"`...), a.detail...), '"')
		}
		b = append(append(append(b, `,"request_id":"`...), requestID...), "\"}\n"...)
	}
	w.WriteHeader(a.status)
	w.Write(b) // the sender may be gone; the log line says what it was told
}

// requestID returns the id that a proxy in front gave the request, or a new one.
func requestID(r *http.Request) string {
	if ids := r.Header["X-Request-Id"]; len(ids) > 0 && isRequestID(ids[0]) {
		return ids[0]
	}
	return strings.ToLower(rand.Text())
}

// isRequestID reports whether id is 1 to 64 letters, digits, '_', '.', '-'.
func isRequestID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if !('a' <= c|0x20 && c|0x20 <= 'z') && !isDigit(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= 64
}
