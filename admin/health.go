package admin

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Check tells whether one thing that a role needs is there. It should answer
// within a second.
type Check struct {
	Name string
	Ask  func(ctx context.Context) error
}

// Alive answers /healthz: the process runs.
func Alive(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

// NewReadyHandler answers /readyz: 200 when every check passes, else 503. It
// names the checks; why one fails is for the log, not for callers.
func NewReadyHandler(checks ...Check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		results := make([]error, len(checks))
		var wg sync.WaitGroup
		for i, c := range checks {
			wg.Go(func() { results[i] = c.Ask(ctx) })
		}
		wg.Wait()
		status, word := http.StatusOK, "ready"
		states := make(map[string]string, len(checks))
		for i, c := range checks {
			states[c.Name] = "ok"
			if results[i] != nil {
				states[c.Name] = "not ready"
				status, word = http.StatusServiceUnavailable, "not ready"
			}
		}
		reply(w, status, map[string]any{"status": word, "checks": states})
	})
}
