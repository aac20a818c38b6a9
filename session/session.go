// Package session knows who a visitor is, and what they may listen to.
//
// A trusted back end makes a session of whoever signed in there and hands the
// cookie on to the browser. The browser shows it with every request; what a
// request may have is asked of the Store each time, so the end of a session
// counts at once and everywhere:
//
//	sessions := session.New(rdb, log, session.Config{Ended: changes.EndSession})
//	router.Handle("/api/auth/session", session.NewHandler(sessions, guard.Protect, log))
//	who, err := sessions.Of(r, w.Header())
//
// It promises: nobody is anybody without the id of a session that lives now;
// the store that is away is an error, and never "nobody". The id is in the
// browser alone: the store has its hash, and so have streams and logs.
package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// The stored data. Each session has a hash tag of its own, so that a cluster
// spreads them.
func (s *Store) key(name string) string { return s.prefix + name + "}" } // string: JSON of the user, empty once it ended; expires

// CookieName is the cookie that holds a session's id.
const CookieName = "session_id"

// askTime bounds one question to the store: somebody waits for the answer.
const askTime = time.Second

var (
	//go:embed find.lua
	findLua    string
	findScript = redis.NewScript(findLua)
)

// ErrNone is returned for a request without a session, or with one that is over.
var ErrNone = errors.New("session: none")

// Config of a Store. The zero Config works.
type Config struct {
	// TTL is how long a session lives without a visit. Zero means 24h, at least 1m.
	TTL time.Duration `envconfig:"SESSION_TTL" default:"24h" desc:"a session ends after so long without a visit"`

	// Namespace is the prefix of all keys. Empty means fw.
	Namespace string `ignored:"true"`

	// Secure keeps the cookie from connections without TLS.
	Secure bool `ignored:"true"`

	// CORSOrigins are the exact origins whose pages may ask who is signed in, and
	// sign out, besides those of our own.
	CORSOrigins []string `ignored:"true"`

	// Ended tells all nodes that a session is over. Nil tells nobody.
	Ended func(ctx context.Context, session string) error `ignored:"true"`

	// Metrics registers what the Store counts. Nil counts nowhere.
	Metrics prometheus.Registerer `ignored:"true"`
}

func (c Config) withDefaults() Config {
	if c.TTL == 0 {
		c.TTL = 24 * time.Hour
	}
	if c.Namespace == "" {
		c.Namespace = "fw"
	}
	return c
}

// Validate joins all that is wrong with c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.TTL < time.Minute || c.TTL > 400*24*time.Hour { // browsers keep no cookie longer
		errs = append(errs, fmt.Errorf("session: sessions that live for %v, need 1m to 9600h", c.TTL))
	}
	for _, o := range c.CORSOrigins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o {
			errs = append(errs, fmt.Errorf("session: origin %q, need exactly scheme://host[:port]", o))
		}
	}
	return errors.Join(errs...)
}

// Session is one that lives.
type Session struct {
	Name   string          // stands for it in streams and logs: a hash of the id
	UserID string          // not empty
	User   json.RawMessage // what the back end said of them, with createdAt
}

// Store has the sessions of one namespace.
type Store struct {
	rdb     redis.UniversalClient
	log     *slog.Logger
	cfg     Config
	prefix  string // "<ns>:s:{"
	metrics *metrics
}

// New returns the store of cfg.Namespace. rdb must read from masters only, and
// should give up when a context does.
func New(rdb redis.UniversalClient, log *slog.Logger, cfg Config) *Store {
	cfg = cfg.withDefaults()
	return &Store{rdb: rdb, log: log, cfg: cfg, prefix: cfg.Namespace + ":s:{", metrics: newMetrics(cfg.Metrics)}
}

const idBytes = 32

// Create makes a session of u and returns its id.
func (s *Store) Create(ctx context.Context, u User) (id string, err error) {
	var random [idBytes]byte
	rand.Read(random[:]) // never fails
	id = base64.RawURLEncoding.EncodeToString(random[:])
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := s.rdb.Set(ctx, s.key(nameOf(id)), []byte(u.json), s.cfg.TTL).Err(); err != nil {
		return "", fmt.Errorf("storing a session: %w", err)
	}
	s.metrics.created.Inc()
	return id, nil
}

// Of returns the session that r shows, and lets it live on. The browser's copy
// of the cookie is renewed with it, in the header of the answer; nil for an
// answer that cannot carry that. It returns ErrNone for a request without a session.
func (s *Store) Of(r *http.Request, answer http.Header) (Session, error) {
	id, ok := shown(r)
	if !ok {
		return Session{}, ErrNone
	}
	found, err := s.find(r.Context(), id)
	if err == nil && answer != nil {
		s.setCookie(answer, id)
	}
	return found, err
}

func (s *Store) find(ctx context.Context, id string) (Session, error) {
	name := nameOf(id)
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	text, err := findScript.Run(ctx, s.rdb, []string{s.key(name)}, s.cfg.TTL.Milliseconds()).Text()
	switch {
	case errors.Is(err, redis.Nil):
		s.metrics.none.Inc()
		return Session{}, ErrNone
	case err != nil:
		s.metrics.failed.Inc()
		return Session{}, fmt.Errorf("looking for a session: %w", err)
	}
	u, err := storedUser([]byte(text))
	if err != nil {
		s.metrics.failed.Inc()
		return Session{}, fmt.Errorf("reading session %s: %w", name, err)
	}
	s.metrics.found.Inc()
	return Session{Name: name, UserID: u.ID, User: u.json}, nil
}

// End ends the session with that id, here and on all nodes. It may be called
// again after an error; a session that is not there has ended well.
func (s *Store) End(ctx context.Context, id string) error {
	name := nameOf(id)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*askTime)
	defer cancel()
	// Nobody enters with it from here on. Were it deleted, and then not told, who
	// tries again could not know that there is something left to tell.
	err := s.rdb.SetArgs(ctx, s.key(name), "", redis.SetArgs{Mode: "XX", KeepTTL: true}).Err()
	if errors.Is(err, redis.Nil) {
		return nil // an id that anybody made up tells nobody
	}
	if err != nil {
		return fmt.Errorf("ending session %s: %w", name, err)
	}
	if s.cfg.Ended != nil {
		if err := s.cfg.Ended(ctx, name); err != nil {
			return fmt.Errorf("telling the end of session %s: %w", name, err)
		}
	}
	s.metrics.ended.Inc()
	if err := s.rdb.Del(ctx, s.key(name)).Err(); err != nil {
		s.log.DebugContext(ctx, "ended session left to expire", "session", name, "err", err)
	}
	return nil
}

// nameOf returns the name of the session with that id.
func nameOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// shown returns the id that r shows. One with several of them shows none: a
// page of a neighbouring host may have planted its own beside the visitor's.
func shown(r *http.Request) (id string, ok bool) {
	ids := allShown(r)
	if len(ids) != 1 {
		return "", false
	}
	return ids[0], true
}

const maxShown = 8 // ids that one request is taken at its word for

// allShown returns the ids that r shows, each once.
func allShown(r *http.Request) (ids []string) {
	for _, c := range r.CookiesNamed(CookieName) {
		if isID(c.Value) && !slices.Contains(ids, c.Value) && len(ids) < maxShown {
			ids = append(ids, c.Value)
		}
	}
	return ids
}

func isID(s string) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return len(s) == base64.RawURLEncoding.EncodedLen(idBytes) && strings.Trim(s, alphabet) == ""
}

// setCookie gives the browser the id for as long as the session may live; an
// empty id takes it away.
func (s *Store) setCookie(answer http.Header, id string) {
	c := http.Cookie{Name: CookieName, Value: id, Path: "/", MaxAge: int(s.cfg.TTL / time.Second),
		HttpOnly: true, Secure: s.cfg.Secure, SameSite: http.SameSiteLaxMode}
	if id == "" {
		c.MaxAge = -1
	}
	answer.Add("Set-Cookie", c.String())
}
