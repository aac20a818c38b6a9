package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
)

// Looker tells about the thing of a name, as any JSON.
type Looker func(ctx context.Context, name string) (any, error)

// NewLookHandler answers GET ?<param>=<name>, such as /debug/why?key=post:42.
func NewLookHandler(param string, look Looker, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := r.URL.Query()[param]
		if len(given) != 1 || given[0] == "" || len(given[0]) > maxPurgeItem {
			Problem(w, http.StatusBadRequest, fmt.Sprintf("Give one %s, of at most %d bytes: ?%s=…", param, maxPurgeItem, param))
			return
		}
		answer, err := look(r.Context(), given[0])
		if err != nil {
			unavailable(w, r, log, "looking at one "+param, err)
			return
		}
		reply(w, http.StatusOK, answer)
	})
}

// NewShowHandler answers GET with what show tells.
func NewShowHandler(show func(ctx context.Context) (any, error), log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := show(r.Context())
		if err != nil {
			unavailable(w, r, log, "showing "+r.URL.Path, err)
			return
		}
		reply(w, http.StatusOK, answer)
	})
}
