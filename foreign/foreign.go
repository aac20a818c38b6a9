// Package foreign follows Redis pub/sub channels of other programs.
//
// What they publish is handed on as it comes. Pub/sub keeps nothing: what is
// published while the line to Redis is broken is lost, here as for everybody.
//
//	follower := foreign.New(rdb, log, foreign.Config{Channels: []string{"orders"}})
//	g.Go(func() error { return follower.Run(ctx, hub.Live) })
//
// The subscription comes back by itself, however long Redis is away. A line
// that is dead without a word is found within 15 s.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// Live takes one message, which nobody changes afterwards. One goroutine calls
// it; it must not block.
type Live func(channel string, data []byte)

// Config of a Follower.
type Config struct {
	// Channels are followed, at most 1000.
	Channels []string

	// MaxData is how large a message may be, in bytes. Zero means 64 KiB. Larger
	// ones are dropped, as are those that are no text.
	MaxData int

	// Metrics registers what the Follower counts. Nil counts nowhere.
	Metrics prometheus.Registerer
}

const (
	maxChannels = 1000
	maxName     = 256
	maxBackoff  = 2 * time.Second
	quietTime   = 10 * time.Second // after which the line is tried
	pongTime    = 5 * time.Second
)

// Mistake is a name among Config.Channels that nobody could listen to.
type Mistake struct {
	Index int // of the name; the number of names, when these are too many
	Err   error
}

func (m *Mistake) Error() string { return m.Err.Error() }
func (m *Mistake) Unwrap() error { return m.Err }

// Validate joins all that is wrong with c, each a *Mistake.
func (c Config) Validate() error {
	var errs []error
	wrong := func(i int, format string, args ...any) {
		errs = append(errs, &Mistake{i, fmt.Errorf("foreign: "+format, args...)})
	}
	for i, name := range c.Channels {
		switch {
		case name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, isOdd):
			wrong(i, "%q is no name of a channel: 1 to %d bytes of text without control characters and *", name, maxName)
		case slices.Contains(c.Channels[:i], name):
			wrong(i, "%q stands there twice", name)
		}
	}
	if len(c.Channels) > maxChannels {
		wrong(len(c.Channels), "%d channels, at most %d", len(c.Channels), maxChannels)
	}
	return errors.Join(errs...)
}

func isOdd(r rune) bool { return r < 0x20 || r == 0x7f || r == '*' }

// Follower follows the channels of its Config.
type Follower struct {
	rdb     redis.UniversalClient
	log     *slog.Logger
	cfg     Config
	metrics *metrics

	subscribed atomic.Bool
}

// New returns a follower. rdb should be its own: it holds a connection.
func New(rdb redis.UniversalClient, log *slog.Logger, cfg Config) *Follower {
	if cfg.MaxData == 0 {
		cfg.MaxData = 64 << 10
	}
	f := &Follower{rdb: rdb, log: log, cfg: cfg}
	f.metrics = newMetrics(cfg.Metrics, f)
	return f
}

// Subscribed reports whether what is published now will be heard.
func (f *Follower) Subscribed() bool { return f.subscribed.Load() }

// Run hands on messages until ctx ends.
func (f *Follower) Run(ctx context.Context, live Live) error {
	if len(f.cfg.Channels) == 0 {
		<-ctx.Done()
		return nil
	}
	for failures := 0; ctx.Err() == nil; {
		heard, err := f.follow(ctx, live)
		if ctx.Err() != nil {
			break
		}
		if heard {
			failures = 0
		}
		if failures++; failures == 1 {
			f.log.WarnContext(ctx, "foreign channels not heard", "channels", len(f.cfg.Channels), "err", err)
		}
		f.metrics.reconnects.Inc()
		pause(ctx, failures)
	}
	return nil
}

// follow hands on messages over one connection until it breaks. heard is
// whether the subscription stood.
func (f *Follower) follow(ctx context.Context, live Live) (heard bool, err error) {
	sub := f.rdb.Subscribe(ctx, f.cfg.Channels...)
	defer sub.Close()
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // a context does not interrupt a read
	defer stop()
	defer f.subscribed.Store(false)

	left, asked := len(f.cfg.Channels), false
	for {
		patience := quietTime
		if left > 0 || asked {
			patience = pongTime
		}
		msg, err := sub.ReceiveTimeout(ctx, patience)
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() && left == 0 && !asked {
			asked = true
			err = sub.Ping(ctx)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return heard, err
		}
		asked = false
		switch msg := msg.(type) {
		case *redis.Subscription:
			if left--; left == 0 {
				heard = true
				f.subscribed.Store(true)
				f.log.InfoContext(ctx, "foreign channels heard", "channels", len(f.cfg.Channels))
			}
		case *redis.Message:
			f.take(msg, live)
		}
	}
}

// take hands a message on, if it is text of bounded size.
func (f *Follower) take(msg *redis.Message, live Live) {
	switch {
	case len(msg.Payload) > f.cfg.MaxData:
		f.metrics.large.Inc()
	case !utf8.ValidString(msg.Payload):
		f.metrics.binary.Inc()
	default:
		f.metrics.received.Inc()
		live(msg.Channel, []byte(msg.Payload))
	}
}

// pause waits before the next try: 50ms, 100ms … 2s, each by half more or less.
func pause(ctx context.Context, failures int) {
	d := min(maxBackoff, 50*time.Millisecond<<min(failures-1, 10))
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

type metrics struct {
	received, large, binary, reconnects prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, f *Follower) *metrics {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_foreign_dropped_total", Help: "Messages of other programs that were not streamed: too large, or no text."}, []string{"reason"})
	m := &metrics{
		received:   prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_foreign_messages_total", Help: "Messages of other programs that were streamed."}),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_foreign_reconnects_total", Help: "Times that the subscription to other programs' channels broke."}),
		large:      dropped.WithLabelValues("large"),
		binary:     dropped.WithLabelValues("binary"),
	}
	if reg != nil {
		reg.MustRegister(m.received, m.reconnects, dropped, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "freshwire_foreign_subscribed", Help: "1 while other programs' channels are heard."}, func() float64 {
			if f.Subscribed() {
				return 1
			}
			return 0
		}))
	}
	return m
}
