package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kelseyhightower/envconfig"
	"golang.org/x/term"

	"github.com/freshwire/freshwire/ratelimit"
)

// environment is what the process's environment says. The tags also print
// docs/config.md; a test compares the two.
type environment struct {
	RedisURL string `envconfig:"REDIS_URL" secret:"true" desc:"Where Redis is: redis://, rediss://, redis+cluster://h1,h2,h3, redis+sentinel://h1,h2/MASTER; user:password@ is allowed. Unset: an embedded store, in dev only."`
	Replica  string `envconfig:"FRESHWIRE_REPLICA_URL" secret:"true" desc:"Where cached entries are read: a replica of REDIS_URL's store, by the same schemes; of a cluster or with sentinels the nearest server. It may lag: what it answers is held against the ledger, which is never read there. When it fails, REDIS_URL is asked." shown:"REDIS_URL"`
	Port     string `envconfig:"PORT" desc:"Port to listen on, on all interfaces; 0 picks a free one."`
	Addr     string `envconfig:"FRESHWIRE_ADDR" desc:"host:port to listen on; wins over PORT. The line msg=listening tells the real one." shown:"127.0.0.1:8080"`

	Config    string `envconfig:"FRESHWIRE_CONFIG" desc:"Path of the config file." shown:"freshwire.yaml if present"`
	Namespace string `envconfig:"FRESHWIRE_NAMESPACE" default:"fw" desc:"Prefix of our Redis keys and name of the Asynq queue, so that several sites share a Redis: a-z, 0-9, _ and -, at most 32."`

	AdminToken         string `envconfig:"FRESHWIRE_ADMIN_TOKEN" secret:"true" desc:"Bearer token of the admin endpoints. Unset: only direct callers on this machine may enter."`
	EntriesToken       string `envconfig:"FRESHWIRE_ENTRIES_TOKEN" secret:"true" desc:"Bearer token of /v1/entries alone, for edge functions and other programs that use the cache. Unset: the admin token opens it."`
	RevalidationSecret string `envconfig:"FRESHWIRE_REVALIDATION_SECRET" secret:"true" desc:"Secret of POST /api/revalidate. Unset: that endpoint answers 404."`

	SpoolDir string `envconfig:"FRESHWIRE_SPOOL_DIR" desc:"Directory of the durable journal of accepted webhooks, one for each web process, on a disk that outlives it. Unset: webhooks are answered 503 while Redis is away." shown:"dev: a temporary one, else none"`
	Ack      string `envconfig:"FRESHWIRE_ACK" default:"durable" desc:"durable: a webhook is acknowledged once the journal (without one: Redis) has it. replicated: also one Redis replica."`

	CORSOrigins    []string `envconfig:"FRESHWIRE_CORS_ORIGINS" desc:"Exact origins, with commas between, that may read the stream, the routes and sessions with credentials."`
	RateLimit      string   `envconfig:"FRESHWIRE_RATE_LIMIT" shown:"100/1m, off in dev" desc:"Requests of one client address (of one /64 in IPv6) on /api/* in so long, all nodes together; webhooks and /api/revalidate do not count. At most 9999999, and 24h; 0 is no limit. See limits.md."`
	SSEMode        string   `envconfig:"FRESHWIRE_SSE_MODE" default:"auto" desc:"auto takes HTTP/1.1 connections over, so that an idle stream holds neither goroutine nor buffer; plain serves all with the ordinary handler, as HTTP/2 always is."`
	TLSCert        string   `envconfig:"FRESHWIRE_TLS_CERT" desc:"Certificate file: serve TLS with HTTP/2. Without it HTTP/1.1 and h2c."`
	TLSKey         string   `envconfig:"FRESHWIRE_TLS_KEY" desc:"Key file of the certificate."`
	TrustedProxies []string `envconfig:"FRESHWIRE_TRUSTED_PROXIES" desc:"CIDRs, with commas between, whose X-Forwarded-For is believed when client addresses are counted, or compared with the allow list of a source."`

	MaxConnections           int `envconfig:"FRESHWIRE_MAX_CONNECTIONS" default:"0" desc:"Open connections in all; one more is closed at once. 0 is no limit."`
	MaxConnectionsPerAddress int `envconfig:"FRESHWIRE_MAX_CONNECTIONS_PER_ADDRESS" default:"1024" desc:"Open connections of one client address (of one /64 in IPv6); this machine and trusted proxies are not limited. 0 is no limit."`

	LogLevel  string `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error."`
	LogFormat string `envconfig:"LOG_FORMAT" desc:"text or json." shown:"text on a terminal, else json"`
}

// loadEnvironment reads the environment and joins all its mistakes.
func loadEnvironment() (environment, error) {
	var env environment
	if err := envconfig.Process("", &env); err != nil {
		return env, err
	}
	return env, errors.Join(env.readSecretFiles(), env.validate())
}

// readSecretFiles fills each secret X that is not set from the file that
// X_FILE names.
func (env *environment) readSecretFiles() error {
	var errs []error
	v := reflect.ValueOf(env).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		if tag.Get("secret") != "true" || v.Field(i).String() != "" {
			continue
		}
		value, _, err := lookupSecret(tag.Get("envconfig"))
		v.Field(i).SetString(value)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lookupSecret returns the variable name or, when it is not set, what the file
// that name_FILE names holds, less the line ends at its end.
func lookupSecret(name string) (value string, ok bool, err error) {
	if value, ok := os.LookupEnv(name); ok {
		return value, true, nil
	}
	path, ok := os.LookupEnv(name + "_FILE")
	if !ok || path == "" {
		return "", false, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", false, fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimRight(string(b), "\r\n"), true, nil
}

var namespacePattern = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

func (env *environment) validate() error {
	var errs []error
	complain := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf(name+": "+format, args...))
	}
	oneOf := func(name, value string, words ...string) {
		if value != "" && !slices.Contains(words, value) {
			complain(name, "%q is none of %s", value, strings.Join(words, ", "))
		}
	}
	oneOf("LOG_LEVEL", env.LogLevel, "debug", "info", "warn", "error")
	oneOf("LOG_FORMAT", env.LogFormat, "text", "json")
	oneOf("FRESHWIRE_ACK", env.Ack, "durable", "replicated")
	oneOf("FRESHWIRE_SSE_MODE", env.SSEMode, "auto", "plain")
	if env.Ack == "replicated" && env.RedisURL == "" {
		complain("FRESHWIRE_ACK", "replicated needs a Redis with a replica; REDIS_URL is not set")
	}
	if !namespacePattern.MatchString(env.Namespace) {
		complain("FRESHWIRE_NAMESPACE", "%q is not 1 to 32 of a-z, 0-9, _ and -", env.Namespace)
	}
	if env.Port != "" {
		if n, err := strconv.ParseUint(env.Port, 10, 16); err != nil {
			complain("PORT", "%q is no port number (0 to 65535)", env.Port)
		} else {
			env.Port = strconv.FormatUint(n, 10)
		}
	}
	if env.Addr != "" {
		if _, port, err := net.SplitHostPort(env.Addr); err != nil || port == "" {
			complain("FRESHWIRE_ADDR", "%q is not host:port", env.Addr)
		}
	}
	if env.RateLimit != "" {
		if _, err := ratelimit.ParseRate(env.RateLimit); err != nil {
			complain("FRESHWIRE_RATE_LIMIT", "%w", err)
		}
	}
	if (env.TLSCert == "") != (env.TLSKey == "") {
		complain("FRESHWIRE_TLS_CERT", "the certificate and FRESHWIRE_TLS_KEY go together; one is missing")
	}
	for _, origin := range env.CORSOrigins {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.TrimSuffix(origin, "/") != u.Scheme+"://"+u.Host {
			complain("FRESHWIRE_CORS_ORIGINS", "%q is not an exact origin such as https://example.com", origin)
		}
	}
	for _, cidr := range env.TrustedProxies {
		if _, _, err := net.ParseCIDR(cidr); err != nil {
			complain("FRESHWIRE_TRUSTED_PROXIES", "%q is not a CIDR such as 10.0.0.0/8", cidr)
		}
	}
	if env.MaxConnections < 0 {
		complain("FRESHWIRE_MAX_CONNECTIONS", "%d is less than 0", env.MaxConnections)
	}
	if env.MaxConnectionsPerAddress < 0 {
		complain("FRESHWIRE_MAX_CONNECTIONS_PER_ADDRESS", "%d is less than 0", env.MaxConnectionsPerAddress)
	}
	if env.EntriesToken != "" && env.EntriesToken == env.AdminToken {
		complain("FRESHWIRE_ENTRIES_TOKEN", "it is the admin token: who uses the cache could do everything else, too")
	}
	if env.RedisURL != "" {
		if _, err := parseRedisURL(env.RedisURL); err != nil {
			complain("REDIS_URL", "%w", err)
		}
	}
	if env.Replica != "" {
		if _, err := parseRedisURL(env.Replica); err != nil {
			complain("FRESHWIRE_REPLICA_URL", "%w", err)
		}
		if env.RedisURL == "" {
			complain("FRESHWIRE_REPLICA_URL", "a replica of what? REDIS_URL is not set")
		}
	}
	return errors.Join(errs...)
}

// listenAddr returns where to listen.
func (env environment) listenAddr() string {
	switch {
	case env.Addr != "":
		return env.Addr
	case env.Port != "":
		return ":" + env.Port
	}
	return "127.0.0.1:8080"
}

// notes tells of settings that are right, and may yet surprise.
func (env environment) notes() []string {
	var notes []string
	if env.Port != "" && env.RedisURL != "" && env.RateLimit != "0" && len(env.TrustedProxies) == 0 {
		notes = append(notes, "FRESHWIRE_RATE_LIMIT: behind a proxy that FRESHWIRE_TRUSTED_PROXIES does not name, all clients count as one")
	}
	return notes
}

func (env environment) level() (level slog.Level) {
	level.UnmarshalText([]byte(env.LogLevel)) // checked by validate; the zero level is info
	return level
}

// newLogger returns the process's logger, on standard error.
func newLogger(env environment) *slog.Logger {
	options := &slog.HandlerOptions{Level: env.level(), ReplaceAttr: durationsAsText}
	format := env.LogFormat
	if format == "" {
		format = "json"
		if term.IsTerminal(int(os.Stderr.Fd())) {
			format = "text"
		}
	}
	if format == "text" {
		return slog.New(slog.NewTextHandler(os.Stderr, options))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, options))
}

// durationsAsText writes 3.5ms in JSON too, where a duration would be a number
// without its unit.
func durationsAsText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
