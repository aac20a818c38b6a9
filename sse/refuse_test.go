package sse

import (
	"net/http/httptest"
	"testing"
	"time"
)

func TestRefusedStreamIsToldWhenToComeAgain(t *testing.T) {
	const want = "retry: 1500\n\nevent: goaway\ndata: {\"reason\":\"rate_limit\",\"retryAfterMs\":1500}\n\n"
	for method, body := range map[string]string{"GET": want, "HEAD": ""} {
		w := httptest.NewRecorder()
		Refuse(w, httptest.NewRequest(method, "/api/events?channel=a", nil), "rate_limit", 1500*time.Millisecond)
		if w.Code != 200 || w.Header().Get("Content-Type") != "text/event-stream" || w.Body.String() != body {
			t.Errorf("%s: %d %v %q, want 200 and %q", method, w.Code, w.Header(), w.Body, body)
		}
	}
}
