package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kelseyhightower/envconfig"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/foreign"
	"github.com/freshwire/freshwire/journal"
	"github.com/freshwire/freshwire/ratelimit"
	"github.com/freshwire/freshwire/read"
	"github.com/freshwire/freshwire/session"
	"github.com/freshwire/freshwire/sse"
	"github.com/freshwire/freshwire/tasks"
	"github.com/freshwire/freshwire/webhook"
)

// roles says what one process does.
type roles struct{ web, worker, sse, dev bool }

func newRoleCommand(name, short string, r roles) *cobra.Command {
	return &cobra.Command{
		Use:   name,
		Short: short,
		RunE: func(c *cobra.Command, _ []string) error {
			return serve(c.Context(), r)
		},
	}
}

// configs are the settings of the parts, each read from FRESHWIRE_<NAME>.
type configs struct {
	Webhook webhook.Config
	Journal journal.Config
	Tasks   tasks.Config
	Cache   cache.Config
	Feed    feed.Config
	SSE     sse.Config
	Session session.Config
	Read    read.Config
}

// parts lists the configs of c, for reading, checking and describing them.
func (c *configs) parts() []interface{ Validate() error } {
	return []interface{ Validate() error }{&c.Webhook, &c.Journal, &c.Tasks, &c.Cache, &c.Feed, &c.SSE, &c.Session, &c.Read}
}

func loadConfigs(env environment) (configs, error) {
	var c configs
	var errs []error
	for _, part := range c.parts() {
		errs = append(errs, envconfig.Process("FRESHWIRE", part))
	}
	c.Tasks.Namespace, c.Cache.Namespace, c.Feed.Namespace, c.Session.Namespace = env.Namespace, env.Namespace, env.Namespace, env.Namespace
	c.SSE.Mode = env.SSEMode
	c.SSE.CORSOrigins, c.Session.CORSOrigins, c.Read.CORSOrigins = env.CORSOrigins, env.CORSOrigins, env.CORSOrigins
	for _, part := range c.parts() {
		errs = append(errs, part.Validate())
	}
	return c, errors.Join(errs...)
}

// app is one running process: its parts, wired.
type app struct {
	roles   roles
	env     environment
	configs configs
	site    *site
	log     *slog.Logger
	reg     *prometheus.Registry
	guard   *admin.Guard

	store    *store
	ingest   redis.UniversalClient // fails fast: a CMS waits
	work     redis.UniversalClient // the queue's dequeue loop, and the steps
	tailing  redis.UniversalClient // blocked reads hold its connections
	caching  redis.UniversalClient // lookups and the ledger
	closers  []func() error
	draining atomic.Bool

	cache    *cache.Store
	reader   *read.Reader  // nil but for the web and worker roles
	routes   []*read.Route // of the config file, in its order
	evict    *eviction     // nil on the embedded store
	queue    *tasks.Queue
	intake   *receiver
	records  *tasks.Records
	worker   *tasks.Worker
	changes  *feed.Log
	hooks    *webhook.Handler // nil unless this is the web role
	hub      *sse.Hub
	streams  *sse.Handler
	foreign  *foreign.Follower  // of other programs' channels
	visits   *session.Store     // nil but for the web and sse roles
	limits   *ratelimit.Limiter // nil where nothing is limited
	dev      *devSite           // nil unless this is the demo
	reporter *reporter          // nil where nothing streams
	started  time.Time
}

// serve runs one process until ctx ends, then drains it.
func serve(ctx context.Context, r roles) error {
	env, s, err := loadAll(demoConfig(demoAddr))
	c, configErr := loadConfigs(env)
	if err := errors.Join(err, configErr); err != nil {
		return report(err)
	}
	if env.RedisURL == "" && !r.dev {
		return errors.New("REDIS_URL is not set; only `freshwire dev` has an embedded store")
	}
	log := newLogger(env)
	tasks.LogRedis(log)
	for _, note := range env.notes() {
		log.WarnContext(ctx, "note", "text", note)
	}
	if env.AdminToken == "" && r.web && !r.dev {
		log.WarnContext(ctx, "no FRESHWIRE_ADMIN_TOKEN: every caller on this machine is an operator, also a proxy that sends no X-Forwarded-For")
	}
	reg := prometheus.NewRegistry()
	listener, err := listen(env, log, reg)
	if err != nil {
		return err
	}
	defer listener.Close()
	a := &app{roles: r, env: env, configs: c, site: s, log: log, reg: reg, guard: admin.NewGuard(env.AdminToken), started: time.Now()}
	a.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := a.build(listener.Addr()); err != nil {
		return err
	}
	if a.evict != nil {
		if err := a.evict.refuse(ctx); err != nil {
			return err
		}
	}
	return a.run(ctx, listener)
}

func listen(env environment, log *slog.Logger, reg prometheus.Registerer) (net.Listener, error) {
	config := net.ListenConfig{Control: endSilentConnections, KeepAlive: keepAlive}
	l, err := config.Listen(context.Background(), "tcp", env.listenAddr())
	if err != nil {
		return nil, fmt.Errorf("%w\nFRESHWIRE_ADDR or PORT chooses another address; port 0 picks a free one", err)
	}
	l = limitConnections(l, env, log, reg)
	if env.TLSCert == "" {
		return joinWrites(l), nil
	}
	cert, err := tls.LoadX509KeyPair(env.TLSCert, env.TLSKey)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("FRESHWIRE_TLS_CERT: %w", err)
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}), nil
}

// build makes the parts that the roles need. Nothing runs yet.
func (a *app) build(addr net.Addr) error {
	var err error
	c := &a.configs
	if a.store, err = newStore(a.env.RedisURL); err != nil {
		return err
	}
	if a.roles.dev && a.site.name == "" { // first: it is another site
		if a.dev, err = newDevSite(a, addr); err != nil {
			return err
		}
	}
	embedded := a.store.embedded != nil
	c.Tasks.Embedded, c.Cache.Embedded = embedded, embedded
	c.Tasks.Coalesce = a.site.rules.Coalesces() || len(a.site.targets) > 0 // calls to a target gather events, too
	c.Journal.Registerer, c.Journal.Rebuild = a.reg, c.Tasks.RecordCap     // records of events come back, too
	c.Webhook.Metrics, c.Tasks.Registerer, c.Cache.Metrics, c.Feed.Metrics, c.SSE.Metrics, c.Read.Metrics = a.reg, a.reg, a.reg, a.reg, a.reg, a.reg

	for _, route := range a.site.file.Routes { // a route's bounds hold for its fills, too
		c.Cache.FillTimeout = max(c.Cache.FillTimeout, min(route.Timeout, time.Minute))
		c.Cache.MaxBody = max(c.Cache.MaxBody, route.MaxBody)
	}

	a.tailing = a.client(func(o *redis.UniversalOptions) {
		tasks.TailOptions(o)
		if a.roles.worker { // who appends through it
			o.PoolSize += c.Tasks.Concurrency
		}
	})
	a.changes = feed.New(a.tailing, a.log, c.Feed)
	if !embedded {
		a.evict = &eviction{rdb: a.tailing, log: a.log}
	}
	if a.roles.web || a.roles.sse {
		c.SSE.AllowAll = a.guard.Allows
		c.SSE.ClientAddress = trustedProxies(a.env.TrustedProxies).client
		c.Webhook.ClientAddress = c.SSE.ClientAddress
		a.newSessions()
		a.hub = sse.NewHub(a.log, c.SSE)
		a.streams = sse.NewHandler(a.hub, a.changes.Range, a.log, c.SSE)
		a.limits = a.newLimits()
		a.foreign = foreign.New(a.client(tasks.TailOptions), a.log, foreign.Config{Channels: a.site.file.Foreign.Channels, Metrics: a.reg})
	}
	if a.roles.web || a.roles.worker {
		a.caching = a.client(cacheOptions)
		c.Cache.Foreign = a.site.file.Foreign
		if a.env.Replica != "" {
			if c.Cache.Replica, err = newReplica(a.env.Replica, cacheOptions); err != nil {
				return err
			}
			a.closers = append(a.closers, c.Cache.Replica.Close)
		}
		a.cache = cache.New(a.caching, a.log, c.Cache)
		if err := a.newReader(); err != nil {
			return err
		}
		a.ingest = a.client(tasks.IngestOptions)
		a.queue = tasks.NewQueue(a.ingest, a.log, c.Tasks)
		a.records = tasks.NewRecords(a.ingest, a.log, c.Tasks)
	}
	if a.hub != nil {
		a.reporter = a.newReporter(addr)
	}
	if a.roles.web {
		if a.intake, err = a.newIntake(); err != nil {
			return err
		}
	}
	if a.roles.worker {
		a.work = a.client(tasks.WorkerOptions)
		steps := a.steps()
		a.readsOrigins(&steps, a.reader)
		a.worker = tasks.NewWorker(a.work, steps, a.log, c.Tasks)
	}
	return nil
}

// newReader makes the routes of the config file. The web role serves them, a
// worker asks their origins.
func (a *app) newReader() error {
	cfg := a.configs.Read
	cfg.TrustedProxies, cfg.User = a.env.TrustedProxies, a.user
	a.reader = read.New(a.cache, a.position(), a.log, cfg)
	for i, cfg := range a.site.file.Routes {
		route, err := a.reader.Route(cfg)
		if err != nil {
			return fmt.Errorf("routes[%d]: %w", i, err)
		}
		a.routes = append(a.routes, route)
	}
	return nil
}

// position returns how far in the log of changes this process is, for reads:
// the text is made once for all of them between two changes.
func (a *app) position() func() string {
	type written struct {
		at   event.Position
		text string
	}
	var last atomic.Pointer[written]
	return func() string {
		at := a.changes.Position()
		if at.IsZero() {
			return "" // the tail has not caught up: no position can be promised
		}
		if w := last.Load(); w != nil && w.at == at {
			return w.text
		}
		w := &written{at, at.String()}
		last.Store(w)
		return w.text
	}
}

func (a *app) client(tune func(*redis.UniversalOptions)) redis.UniversalClient {
	rdb := a.store.client(tune)
	a.closers = append(a.closers, rdb.Close)
	return rdb
}

// cacheOptions keep a slow Redis cheaper than the origin.
func cacheOptions(o *redis.UniversalOptions) {
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = 500*time.Millisecond, 800*time.Millisecond, 800*time.Millisecond
	o.ContextTimeoutEnabled = true
	o.MaxRetries = 1
}

// close closes the clients, once nothing uses them any more.
func (a *app) close() {
	for _, c := range a.closers {
		if err := c(); err != nil {
			a.log.Debug("closing", "err", err)
		}
	}
}

// Bounds of the end, which must be over within 15 s.
const (
	graceTime    = 2 * time.Second  // balancers see that we are not ready; who comes still is served
	drainTime    = 3 * time.Second  // streams are told to go
	shutdownTime = 3 * time.Second  // requests under way end
	stopTime     = 14 * time.Second // all of it
)

// run serves until ctx ends or a part fails, then takes everything down in the
// reverse order: no new work, streams sent away, tasks finished or handed
// back, and only then the cache's node and the log's tail. What is not over in
// time ends with the process: tasks are found again, and leases run out.
func (a *app) run(ctx context.Context, listener net.Listener) error {
	server := a.newServer(a.urls())
	var err error
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	working, stopWork := context.WithCancel(life)
	defer stopWork()

	parts, failed := errgroup.WithContext(life)
	worker, workFailed := errgroup.WithContext(working)
	parts.Go(func() error { return a.store.run(life) })
	if a.evict != nil {
		parts.Go(func() error { return a.evict.run(life) })
	}
	reload := a.reloads()
	parts.Go(func() error { return reload(life) })
	if a.cache != nil {
		parts.Go(func() error { return a.cache.Run(life) })
	}
	if a.hub != nil {
		parts.Go(func() error { return a.changes.Tail(life, sessionEnds{a.hub}) })
		parts.Go(func() error { return a.foreign.Run(life, a.hub.Live) })
		parts.Go(func() error { return a.reporter.run(life) })
	}
	if a.intake != nil && a.intake.journal != nil {
		parts.Go(func() error { return a.intake.forward(life) })
	}
	if a.dev != nil {
		parts.Go(func() error { return a.dev.cms.Run(life) })
	}
	if a.worker != nil {
		worker.Go(func() error { return a.worker.Run(working) })
	}
	parts.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving: %w", err)
		}
		return nil
	})
	a.log.Log(ctx, max(slog.LevelInfo, a.env.level()), "listening", // whatever the level: port 0 is known from here only
		"addr", listener.Addr().String(), "roles", a.roles.String(), "version", version(),
		"config", a.site.name, "store", a.storeKind())
	if a.roles.dev {
		a.greet(listener.Addr())
	}

	select {
	case <-ctx.Done():
	case <-failed.Done():
	case <-workFailed.Done():
	}
	a.draining.Store(true)
	asked := ctx.Err() != nil
	a.log.Info("draining")
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	stopWork()
	over := make(chan error, 1)
	go func() {
		var wg sync.WaitGroup
		wg.Go(func() {
			a.drainHTTP(bound, server)
			a.intake.flush(bound)
		})
		workErr := worker.Wait()
		wg.Wait()
		end()
		over <- errors.Join(workErr, parts.Wait())
	}()
	select {
	case err = <-over:
	case <-bound.Done():
		err = errors.New("work under way is left to others")
	}
	if err == nil {
		a.log.Info("stopped")
		a.close()
		return nil
	}
	if asked { // what went wrong on the way out is told, and is no failure
		a.log.Warn("stopped", "err", err)
		return nil
	}
	return err
}

// drainHTTP sends streams away, then lets requests under way end.
func (a *app) drainHTTP(ctx context.Context, server *http.Server) {
	var grace <-chan time.Time
	if !a.roles.dev && (a.roles.web || a.roles.sse) {
		grace = time.After(graceTime)
	}
	if a.streams != nil {
		drain, cancel := context.WithTimeout(ctx, drainTime)
		a.streams.Drain(drain)
		cancel()
	}
	if grace != nil {
		<-grace
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTime)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		a.log.Warn("requests cut off", "err", err)
		server.Close()
	}
}

func (a *app) newServer(h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       sse.ConnContext,
		ConnState:         sendHeld,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug), // what strangers do wrong
	}
}

func (a *app) storeKind() string {
	if a.store.embedded != nil {
		return "embedded"
	}
	scheme, _, _ := strings.Cut(a.env.RedisURL, "://")
	return scheme
}

func (r roles) String() string {
	var names []string
	for name, on := range map[string]bool{"web": r.web, "worker": r.worker, "sse": r.sse} {
		if on {
			names = append(names, name)
		}
	}
	if len(names) == 3 {
		return "all"
	}
	return strings.Join(names, ",")
}
