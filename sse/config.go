package sse

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config of a Hub and its Handler. The zero Config works.
type Config struct {
	// Heartbeat is the pause after which a ping is sent on a quiet stream.
	// Zero means 15s, at most 20s; proxies often cut after 60s.
	Heartbeat time.Duration `envconfig:"SSE_HEARTBEAT" default:"15s" desc:"pause before a ping on a quiet stream"`

	// WriteTimeout is how long a socket may stay blocked before it is closed. Zero means 10s.
	WriteTimeout time.Duration `envconfig:"SSE_WRITE_TIMEOUT" default:"10s" desc:"a stream blocked for so long is closed"`

	// MaxStreamAge is after how long a stream is asked to reconnect, so that
	// clients spread over nodes; by up to 20 % more or less. Zero means 1h.
	MaxStreamAge time.Duration `envconfig:"SSE_MAX_AGE" default:"1h" desc:"streams reconnect after about so long"`

	// Retry is the pause before a browser reconnects by itself. Zero means 2s.
	Retry time.Duration `envconfig:"SSE_RETRY" default:"2s" desc:"pause before a browser reconnects"`

	// DrainSpread is the time over which the clients of a draining node come back. Zero means 10s.
	DrainSpread time.Duration `envconfig:"SSE_DRAIN_SPREAD" default:"10s" desc:"clients of a stopping node reconnect within"`

	// ResetSpread is the time over which subscribers are told that the store
	// changed, since each refetches all it shows. Zero means 5s.
	ResetSpread time.Duration `envconfig:"SSE_RESET_SPREAD" default:"5s" desc:"a changed store is told to clients within"`

	// Ring bounds: changes kept in memory for reconnects and slow readers.
	// Zero means 10000 changes, 32 MiB, 1h.
	RingLen   int           `envconfig:"SSE_RING_LEN" default:"10000" desc:"changes kept in memory"`
	RingBytes int           `envconfig:"SSE_RING_BYTES" default:"33554432" desc:"bytes of changes kept in memory"`
	RingAge   time.Duration `envconfig:"SSE_RING_AGE" default:"1h" desc:"how long a change is kept in memory"`

	// MergeOver is how many missed changes are still sent one by one; more are
	// merged into one. Zero means 1000.
	MergeOver int `envconfig:"SSE_MERGE_OVER" default:"1000" desc:"more missed changes than this are merged into one"`

	// MaxReplay is how many records of the log are looked through for one
	// subscriber before it is told to reset. Zero means 10000.
	MaxReplay int `envconfig:"SSE_MAX_REPLAY" default:"10000" desc:"records read from the log for one reconnect"`

	// MaxSubscribers bounds the streams of this process. Zero means 20000.
	MaxSubscribers int `envconfig:"SSE_MAX_SUBSCRIBERS" default:"20000" desc:"streams of one process"`

	// MaxPerAddress bounds the streams of one client address. Zero means no
	// bound: behind a proxy that is not trusted all clients share an address.
	MaxPerAddress int `envconfig:"SSE_MAX_PER_ADDRESS" default:"0" desc:"streams of one client address; 0: no bound"`

	// MaxPerSession bounds the streams of one session. Zero means 64.
	MaxPerSession int `envconfig:"SSE_MAX_PER_SESSION" default:"64" desc:"streams of one session"`

	// Mode is auto, which takes HTTP/1.1 connections over where that is
	// possible, or plain, which serves all streams with the ordinary handler.
	// Empty means auto.
	Mode string `ignored:"true"`

	// CORSOrigins are the exact origins that may read streams with credentials.
	CORSOrigins []string `ignored:"true"`

	// Enter decides who may listen to channels, of which some may be wildcards
	// such as "product:*". It returns ErrForbidden for channels that are not
	// theirs, whether these exist or not; another error means that it cannot be
	// known now. Nil: all channels are public.
	Enter func(r *http.Request, channels []string) (Listener, error) `ignored:"true"`

	// Wildcards are the prefixes that may be asked for with a star behind:
	// "product:" allows "product:*". None of a private channel may be among them.
	Wildcards []string `ignored:"true"`

	// AllowAll decides whether the request may listen to "*", every channel. Nil: nobody.
	AllowAll func(*http.Request) bool `ignored:"true"`

	// ClientAddress names who MaxPerAddress counts. Nil: the host of RemoteAddr.
	ClientAddress func(*http.Request) string `ignored:"true"`

	// Metrics registers what the Hub counts. Nil counts nowhere.
	Metrics prometheus.Registerer `ignored:"true"`
}

// Listener is who opened a stream.
type Listener struct {
	// Session names the session that the stream ends with, and is counted for.
	// It is no secret: not what the browser holds. Empty: none.
	Session string
}

// ErrForbidden is returned by Config.Enter for channels that a request may not listen to.
var ErrForbidden = errors.New("sse: not a channel of theirs")

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		v    *time.Duration
		want time.Duration
	}{
		{&c.Heartbeat, 15 * time.Second}, {&c.WriteTimeout, 10 * time.Second}, {&c.MaxStreamAge, time.Hour}, {&c.Retry, 2 * time.Second},
		{&c.DrainSpread, 10 * time.Second}, {&c.ResetSpread, 5 * time.Second}, {&c.RingAge, time.Hour},
	} {
		if *d.v == 0 {
			*d.v = d.want
		}
	}
	for _, d := range []struct {
		v    *int
		want int
	}{{&c.RingLen, 10_000}, {&c.RingBytes, 32 << 20}, {&c.MergeOver, 1000}, {&c.MaxReplay, 10_000}, {&c.MaxSubscribers, 20_000}, {&c.MaxPerSession, 64}} {
		if *d.v == 0 {
			*d.v = d.want
		}
	}
	return c
}

// Validate joins all that is wrong with c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	complain := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("sse: "+format, args...))
		}
	}
	complain(c.Heartbeat < 0 || c.Heartbeat > 20*time.Second, "a ping after %v, need more than 0, at most 20s", c.Heartbeat)
	complain(c.WriteTimeout < 0, "blocked sockets closed after %v, need more than 0", c.WriteTimeout)
	complain(c.MaxStreamAge < 0, "streams that live %v, need more than 0", c.MaxStreamAge)
	complain(c.Retry < time.Millisecond, "browsers that reconnect after %v, need at least 1ms", c.Retry)
	complain(c.DrainSpread < 0, "drain spread over %v, need more than 0", c.DrainSpread)
	complain(c.ResetSpread < 0 || c.ResetSpread > time.Minute, "resets spread over %v, need more than 0, at most 1m", c.ResetSpread)
	complain(c.RingLen < 0 || c.RingBytes < 0 || c.RingAge < 0, "a ring of %d changes, %d bytes, %v, need more than 0", c.RingLen, c.RingBytes, c.RingAge)
	complain(c.MergeOver < 1, "changes merged over %d, need at least 1", c.MergeOver)
	complain(c.MaxReplay < 1, "replays of %d changes, need at least 1", c.MaxReplay)
	complain(c.MaxSubscribers < 1, "%d subscribers, need at least 1", c.MaxSubscribers)
	complain(c.MaxPerAddress < 0, "%d subscribers of an address, need 0 or more", c.MaxPerAddress)
	complain(c.MaxPerSession < 1, "%d streams of a session, need at least 1", c.MaxPerSession)
	complain(c.Mode != "" && c.Mode != "auto" && c.Mode != "plain", "mode %q, need auto or plain", c.Mode)
	for _, w := range c.Wildcards {
		complain(!validChannel(w), "wildcard prefix %q, need a beginning of a channel's name", w)
	}
	for _, o := range c.CORSOrigins {
		u, err := url.Parse(o)
		complain(err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o, "origin %q, need exactly scheme://host[:port]", o)
	}
	return errors.Join(errs...)
}
