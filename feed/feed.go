// Package feed is the log of changes: one Redis stream for all channels, in
// the order that every subscriber sees.
//
// Workers call Append; it is safe to repeat. Each stream node runs one Tail,
// which hands every entry to a Sink in order, and serves what its memory no
// longer holds with Range:
//
//	log := feed.New(rdb, logger, feed.Config{})
//	g.Go(func() error { return log.Tail(ctx, hub) })
//
// The client of a Tail should be its own: a blocked read holds a connection,
// and a cancelled context does not interrupt it, so Tail returns up to
// Config.Block later.
//
// A Sink misses no entry, or is told by Reset: XREAD itself is silent when the
// log was trimmed past the reader, went back in time or began anew. Each life
// of the store begins with a marker entry, and a position before the marker,
// before the first kept entry or ahead of the log is never called whole. When
// in doubt a reader is reset: that costs a refetch, silence costs a stale page.
package feed

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/event"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// The stored data. All keys share the hash tag of queue and ledger, so that a
// Redis which forgets a suffix forgets the same one of each.
func (l *Log) logKey() string  { return l.prefix + "log" }      // stream: d = JSON for subscribers, c = channels, one a line; or e = epoch (marker); or s = session that ended
func (l *Log) metaKey() string { return l.prefix + "log:meta" } // hash: epoch, host, origin; see life.lua

func (l *Log) seenKey(id string) string { return l.prefix + "seen:" + id } // string: id of the entry, expires

// Limits of what may be appended.
const (
	MaxChannelName = 256     // bytes
	maxPublish     = 64      // channels that also get a PUBLISH
	maxRawData     = 1 << 16 // bytes of an application's own news
	maxRawChannels = 64
	maxIDs         = 1000 // events that one change stands for
)

var (
	// ErrChannels is returned by AppendRaw for no channels, too many, or a name
	// that nobody can listen to.
	ErrChannels = errors.New("feed: bad channels")

	// ErrData is returned by AppendRaw for data that is not one JSON object of bounded size.
	ErrData = errors.New("feed: data is not a JSON object of at most 64 KiB")
)

var (
	//go:embed life.lua
	lifeLua string
	//go:embed append.lua
	appendLua string
	//go:embed end.lua
	endLua string
	//go:embed open.lua
	openLua string

	appendScript = redis.NewScript(lifeLua + appendLua)
	endScript    = redis.NewScript(lifeLua + endLua)
	openScript   = redis.NewScript(lifeLua + openLua)
)

// Config of a Log. The zero Config works.
type Config struct {
	// Namespace is the prefix of all keys, and their hash tag. Empty means fw.
	Namespace string `ignored:"true"`

	// MaxLen is how many entries the log keeps, about. Zero means 100000, about 33 MB.
	MaxLen int64 `envconfig:"LOG_MAX_LEN" default:"100000" desc:"changes that the log keeps, about"`

	// MaxAge is how long an entry is kept. Zero means 24h. The newest entry always stays.
	MaxAge time.Duration `envconfig:"LOG_MAX_AGE" default:"24h" desc:"how long a change stays in the log"`

	// SeenFor is how long an event's id is remembered, so that it is appended once. Zero means 72h.
	SeenFor time.Duration `envconfig:"LOG_SEEN_FOR" default:"72h" desc:"how long a repeated event is recognised"`

	// History is how many entries Tail hands to its Sink first, so that
	// reconnecting browsers are served from memory. Zero means 10000.
	History int `envconfig:"LOG_HISTORY" default:"10000" desc:"changes loaded into memory at start"`

	// Block is how long one read waits for news. Zero means 1s; at most 2s, below go-redis' read timeout of 3s.
	Block time.Duration `ignored:"true"`

	// Metrics registers what the Log counts. Nil counts nowhere.
	Metrics prometheus.Registerer `ignored:"true"`
}

func (c Config) withDefaults() Config {
	if c.Namespace == "" {
		c.Namespace = "fw"
	}
	if c.MaxLen == 0 {
		c.MaxLen = 100_000
	}
	if c.MaxAge == 0 {
		c.MaxAge = 24 * time.Hour
	}
	if c.SeenFor == 0 {
		c.SeenFor = 72 * time.Hour
	}
	if c.History == 0 {
		c.History = 10_000
	}
	if c.Block == 0 {
		c.Block = time.Second
	}
	return c
}

// Validate joins all that is wrong with c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	complain := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("feed: "+format, args...))
		}
	}
	complain(c.MaxLen < 1, "log of %d changes, need at least 1", c.MaxLen)
	complain(c.MaxAge < time.Minute, "changes kept for %v, need at least 1m", c.MaxAge)
	complain(c.SeenFor < time.Minute, "ids remembered for %v, need at least 1m", c.SeenFor)
	complain(c.History < 1, "history of %d changes, need at least 1", c.History)
	complain(c.Block < time.Millisecond || c.Block > 2*time.Second, "reads that block for %v, need 1ms to 2s", c.Block)
	return errors.Join(errs...)
}

// Log is the log of one namespace. Its methods may be called by many goroutines; Tail by one.
type Log struct {
	rdb     redis.UniversalClient
	log     *slog.Logger
	cfg     Config
	prefix  string // "<ns>:{<ns>}:"
	metrics *metrics

	ranges   chan struct{} // a slot for each Range that may run at a time
	position atomic.Pointer[event.Position]
	ready    atomic.Bool
}

// maxRanges is how many Range calls of one process may ask Redis at a time:
// 10 000 browsers that come back at once must not stop it.
const maxRanges = 2

// New returns the log of cfg.Namespace. rdb must read from masters only.
func New(rdb redis.UniversalClient, log *slog.Logger, cfg Config) *Log {
	cfg = cfg.withDefaults()
	l := &Log{rdb: rdb, log: log, cfg: cfg, prefix: cfg.Namespace + ":{" + cfg.Namespace + "}:", ranges: make(chan struct{}, maxRanges)}
	l.position.Store(new(event.Position))
	l.metrics = newMetrics(cfg.Metrics, l)
	return l
}

// Append adds c to the log and returns where it stands. An event whose ID was
// appended before is not added again: its first position is returned.
//
// A change may stand for several events, c.IDs. All of them count as appended
// then, in the same moment; those that were appended before keep their
// position. A change whose own ID is known is not added, whatever the others are.
//
// Channels that nobody can listen to (see ValidChannel) are left out of the
// index, as they reach nobody.
func (l *Log) Append(ctx context.Context, c event.Change) (at event.Position, added bool, err error) {
	if c.ID == "" {
		return at, false, errors.New("feed: a change without an id")
	}
	if len(c.IDs) > maxIDs {
		return at, false, fmt.Errorf("feed: change %q stands for %d events, at most %d", c.ID, len(c.IDs), maxIDs)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return at, false, fmt.Errorf("encoding change %q: %w", c.ID, err)
	}
	ids := append([]string{c.ID}, slices.DeleteFunc(slices.Clone(c.IDs), func(id string) bool { return id == c.ID })...)
	return l.append(ctx, ids, l.cfg.SeenFor, reachable(c.Channels), data)
}

// AppendRaw adds an application's own news: data, one JSON object, goes to the
// subscribers of channels as it is.
func (l *Log) AppendRaw(ctx context.Context, channels []string, data []byte) (event.Position, error) {
	if ok := reachable(channels); len(channels) == 0 || len(channels) > maxRawChannels || len(ok) < len(channels) || slices.Contains(ok, event.Everybody) {
		return event.Position{}, ErrChannels
	}
	if len(data) > maxRawData || !json.Valid(data) || !strings.HasPrefix(strings.TrimSpace(string(data)), "{") {
		return event.Position{}, ErrData
	}
	// The id lives as long as a client library may repeat a call whose answer was lost.
	at, _, err := l.append(ctx, []string{"raw:" + rand.Text()}, time.Minute, channels, data)
	return at, err
}

// EndSession tells every node that a session is over: each one's tail hands
// on a record that says so, in its place among the changes. session is what
// streams know it by, never what the browser holds. Telling it twice does no harm.
func (l *Log) EndSession(ctx context.Context, session string) error {
	if session == "" {
		return errors.New("feed: the end of a session without a name")
	}
	if err := endScript.Run(ctx, l.rdb, []string{l.logKey(), l.metaKey()}, rand.Text(), l.cfg.MaxLen, session).Err(); err != nil {
		return fmt.Errorf("appending the end of a session to the log: %w", err)
	}
	l.metrics.ended.Inc()
	return nil
}

// append adds data under the first of ids, which decides whether it is new.
func (l *Log) append(ctx context.Context, ids []string, seenFor time.Duration, channels []string, data []byte) (at event.Position, added bool, err error) {
	args := []any{rand.Text(), l.cfg.MaxLen, int64(seenFor / time.Second), data, strings.Join(channels, "\n")}
	for _, ch := range channels[:min(len(channels), maxPublish)] {
		args = append(args, l.cfg.Namespace+":"+ch)
	}
	keys := []string{l.logKey(), l.metaKey()}
	for _, id := range ids {
		keys = append(keys, l.seenKey(id))
	}
	reply, err := appendScript.Run(ctx, l.rdb, keys, args...).Slice()
	if err != nil {
		return at, false, fmt.Errorf("appending %q to the log: %w", ids[0], err)
	}
	text, _ := reply[0].(string)
	if at, err = event.ParsePosition(text); err != nil {
		return at, false, fmt.Errorf("appending %q to the log: got position %q: %w", ids[0], text, err)
	}
	n, _ := reply[1].(int64)
	if n == 1 {
		l.metrics.appended.Inc()
	} else {
		l.metrics.repeated.Inc()
	}
	return at, n == 1, nil
}

// ValidChannel reports whether a subscriber can name the channel: 1 to 256
// bytes of UTF-8 without control characters and without "*".
func ValidChannel(name string) bool {
	return name != "" && len(name) <= MaxChannelName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '*' })
}

// reachable returns the channels that reach a subscriber, each once.
func reachable(channels []string) []string {
	ok := make([]string, 0, len(channels))
	seen := make(map[string]bool, len(channels))
	for _, ch := range channels {
		if (ValidChannel(ch) || ch == event.Everybody) && !seen[ch] {
			seen[ch] = true
			ok = append(ok, ch)
		}
	}
	return ok
}

// Position returns the newest position that this process' Tail has handed to
// its Sink: at most what the log holds. It is zero before the first.
func (l *Log) Position() event.Position { return *l.position.Load() }

// Ready reports whether Tail is connected and has caught up with the log.
func (l *Log) Ready() bool { return l.ready.Load() }

// Range returns up to limit records after a position, oldest first; ends of
// sessions are among them, on no channel and without data. whole is
// false when records after it may be missing: it is older than the first kept
// entry, of another life of the store, or ahead of the log.
func (l *Log) Range(ctx context.Context, after event.Position, limit int) (recs []event.Record, whole bool, err error) {
	if after.Ms == math.MaxUint64 && after.N == math.MaxUint64 {
		return nil, false, nil // Redis refuses to look after it
	}
	select {
	case l.ranges <- struct{}{}:
		defer func() { <-l.ranges }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	l.metrics.ranges.Inc()

	// One transaction: entries and what makes them whole are of one moment.
	tx := l.rdb.TxPipeline()
	origin := tx.HGet(ctx, l.metaKey(), "origin")
	first := tx.XRangeN(ctx, l.logKey(), "-", "+", 1)
	newest := tx.XRevRangeN(ctx, l.logKey(), "+", "-", 1)
	found := tx.XRangeN(ctx, l.logKey(), "("+after.String(), "+", int64(limit))
	if _, err := tx.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, false, fmt.Errorf("reading the log after %v: %w", after, err)
	}
	if len(first.Val()) == 0 || len(newest.Val()) == 0 {
		return nil, false, nil
	}
	for _, bound := range []struct {
		id   string
		want int // what comparing after with id must not give
	}{{origin.Val(), -1}, {first.Val()[0].ID, -1}, {newest.Val()[0].ID, 1}} {
		at, err := event.ParsePosition(bound.id)
		if err != nil || after.Compare(at) == bound.want {
			return nil, false, nil
		}
	}
	for _, m := range found.Val() {
		entry, err := decode(m)
		if err != nil {
			return nil, false, err
		}
		if entry.epoch != "" {
			return nil, false, nil // a life began after the position
		}
		recs = append(recs, entry.Record)
	}
	return recs, true, nil
}

// entry is one entry of the stream: a record, or the marker of a life.
type entry struct {
	event.Record
	epoch string // of the life that begins here; empty for a record
}

func decode(m redis.XMessage) (entry, error) {
	at, err := event.ParsePosition(m.ID)
	if err != nil {
		return entry{}, fmt.Errorf("decoding log entry %q: %w", m.ID, err)
	}
	e := entry{Record: event.Record{Position: at}}
	e.epoch, _ = m.Values["e"].(string)
	data, _ := m.Values["d"].(string)
	e.Data = []byte(data)
	e.EndsSession, _ = m.Values["s"].(string)
	if channels, _ := m.Values["c"].(string); channels != "" {
		e.Channels = strings.Split(channels, "\n")
	}
	return e, nil
}
