package main

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/entries"
	"github.com/freshwire/freshwire/read"
	"github.com/freshwire/freshwire/session"
	"github.com/freshwire/freshwire/tasks"
	"github.com/freshwire/freshwire/web"
	"github.com/freshwire/freshwire/webhook"
)

// urls is every URL that this process answers, with its caller.
func (a *app) urls() http.Handler {
	r := mux.NewRouter()
	r.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		admin.Problem(w, http.StatusNotFound, "There is nothing at this address.")
	})
	operator := func(method, path string, h http.Handler) { r.Handle(path, a.guard.Protect(only(method, h))) }

	if a.roles.web {
		// a CMS: one delivery, answered 200 once it is durable; a repeat is 200 too.
		// First of all: the router tries one route after the other.
		a.hooks = webhook.NewHandler(a.site.sources, a.intake.accept, a.log, a.configs.Webhook)
		r.Handle("/webhooks/{source}", a.hooks)
		r.Handle("/api/webhooks/cms", a.hooks.Source("cms"))
	}
	// orchestrators: is the process alive, is it ready for work.
	r.HandleFunc("/healthz", admin.Alive)
	r.Handle("/readyz", admin.NewReadyHandler(a.checks()...))
	// Prometheus.
	operator("GET", "/metrics", promhttp.HandlerFor(a.reg, promhttp.HandlerOpts{}))

	if a.streams != nil {
		// browsers: the stream of changes.
		r.Handle(streamPath, withAnswer(a.streams))
	}
	if !a.roles.web {
		return a.middleware(a.limited(cleaned(r)))
	}

	// a trusted back end makes a session, its browser asks who it is, and signs out.
	r.Handle(session.Path, session.NewHandler(a.visits, a.guard.Protect, a.log))
	// a deploy hook, an editor's button.
	r.Handle("/api/revalidate", read.NewRevalidate(a.env.RevalidationSecret, a.revalidate, a.log, a.reg))

	// operators and their scripts.
	events := admin.Events{List: a.listEvents, Get: a.getEvent}
	operator("GET", "/admin/events", admin.NewListHandler(events, a.log))
	operator("GET", "/admin/events/{id}", admin.NewEventHandler(events, a.log))
	operator("POST", "/admin/purge", admin.NewPurgeHandler(a.purgeNow, a.previewPurge, a.log))
	operator("POST", "/admin/publish", admin.NewPublishHandler(a.publish, a.log))
	operator("GET", "/admin/streams", admin.NewShowHandler(a.listStreams, a.log))
	operator("POST", "/admin/replay", admin.NewReplayHandler(a.replay, a.log))
	operator("GET", cachePath, admin.NewShowHandler(a.showCache, a.log))
	operator("GET", whyPath, admin.NewLookHandler("key", a.why, a.log))
	operator("GET", tagPath, admin.NewLookHandler("tag", a.aboutTag, a.log))
	operator("GET", "/_freshwire/stats", http.HandlerFunc(a.serveStats))
	r.PathPrefix(admin.DashboardPath).Handler(admin.NewDashboard(sharedClient{a.ingest}, a.guard, describeTask))

	// people: the live page; in the demo the article beside it.
	page := web.Live
	if a.dev != nil {
		page = web.Dev
		r.PathPrefix("/_demo/").Handler(a.dev.cms)
	}
	pages := web.Handler(page)
	r.Handle("/", pages)
	r.PathPrefix("/_freshwire").Handler(pages)
	r.Handle("/favicon.svg", pages)

	// browsers and sites: cached content; a miss goes to the origin.
	for i, route := range a.routes {
		r.Handle(a.site.file.Routes[i].Path, route)
	}
	// The router is not asked for an address that was read before, nor for keys:
	// they may hold what it would clean away.
	h := a.reader.Handler(cleaned(r))
	// edge functions and programs in other languages: the cache itself.
	h = besideRouter(entries.Prefix, a.newEntries(), h)
	return a.middleware(a.limited(h))
}

// checks are what /readyz asks.
func (a *app) checks() []admin.Check {
	checks := []admin.Check{
		{Name: "draining", Ask: func(context.Context) error {
			if a.draining.Load() {
				return errors.New("draining")
			}
			return nil
		}},
		{Name: "redis", Ask: func(ctx context.Context) error { return a.tailing.Ping(ctx).Err() }},
	}
	if a.evict != nil {
		checks = append(checks, admin.Check{Name: "eviction", Ask: func(context.Context) error { return a.evict.ready() }})
	}
	if a.intake != nil && a.intake.journal != nil {
		checks = append(checks, admin.Check{Name: "journal", Ask: func(context.Context) error { return a.intake.journal.Ready() }})
	}
	if a.hub != nil {
		checks = append(checks, admin.Check{Name: "stream", Ask: func(context.Context) error {
			if !a.changes.Ready() {
				return errors.New("the tail has not caught up")
			}
			return nil
		}})
	}
	if a.cache != nil {
		checks = append(checks, admin.Check{Name: "cache", Ask: func(context.Context) error {
			return a.cache.Ready()
		}})
	}
	return checks
}

func (a *app) listEvents(ctx context.Context, q admin.Query) (admin.Page, error) {
	records, next, err := a.records.List(ctx, tasks.Status(q.Status), q.Limit, q.Cursor)
	if errors.Is(err, tasks.ErrCursor) {
		err = admin.ErrCursor
	}
	return admin.Page{Events: records, Next: next}, err
}

func (a *app) getEvent(ctx context.Context, id string) (any, error) {
	rec, err := a.records.Get(ctx, id)
	if errors.Is(err, tasks.ErrNotFound) {
		return nil, admin.ErrNotFound
	}
	return rec, err
}

// only answers 405 to any method but the one given (GET includes HEAD).
func only(method string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead) {
			w.Header().Set("Allow", method)
			admin.Problem(w, http.StatusMethodNotAllowed, "")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Bounds of one exchange. The stream sets its own for each write.
const (
	bodyTime   = 10 * time.Second // for a request's body to come in
	answerTime = 2 * time.Minute  // for an answer to go out
)

// middleware bounds each exchange, and gives it an id.
func (a *app) middleware(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ids := requestID(r)
		w.Header()["X-Request-Id"] = ids
		switch r.Method {
		case http.MethodGet:
			if r.URL.Path != streamPath { // other answers are too short to wait for a reader
				if w, ok := w.(interface{ SetWriteDeadline(time.Time) error }); ok {
					w.SetWriteDeadline(time.Now().Add(answerTime))
				}
			}
		case http.MethodHead:
		default:
			r.Header["X-Request-Id"] = ids
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
		}
		h.ServeHTTP(w, r)
	})
}

// cleaned serves //webhooks/blog and the like as what they mean. The router
// would redirect, and a CMS that posts does not follow.
func cleaned(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cleanPath(r)
		h.ServeHTTP(w, r)
	})
}

func cleanPath(r *http.Request) {
	if clean := cleanedPath(r.URL.Path); clean != r.URL.Path {
		r.URL.Path, r.URL.RawPath = clean, ""
	}
}

func cleanedPath(p string) string {
	clean := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}
