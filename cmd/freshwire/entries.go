package main

import (
	"context"
	"net/http"
	"strings"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/entries"
)

// newEntries returns what answers /v1/entries/, for operators and for those who
// show FRESHWIRE_ENTRIES_TOKEN.
func (a *app) newEntries() http.Handler {
	purge := func(ctx context.Context, key string) (any, error) {
		return a.purge(ctx, cache.Purge{Keys: []string{key}, By: byEntries})
	}
	h := entries.NewHandler(a.cache, purge, a.log, entries.Config{MaxBody: a.configs.Cache.MaxBody, Metrics: a.reg})
	return a.guard.Also(a.env.EntriesToken).Protect(h)
}

// besideRouter answers the paths of h, which must reach it as they were sent: a
// key may hold slashes and dots, which the router would clean away.
func besideRouter(prefix string, h, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, prefix) {
			h.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
