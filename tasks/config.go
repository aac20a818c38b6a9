package tasks

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is shared by Queue, Worker and Records; the zero Config works. All
// processes of a site must agree on Namespace.
type Config struct {
	// Namespace is the name of the Asynq queue and the prefix of our keys.
	// Empty means "fw".
	Namespace string `envconfig:"NAMESPACE" default:"fw" desc:"prefix of our Redis keys and name of the Asynq queue; [a-z0-9_-]{1,32}"`

	// Concurrency is how many events one worker process runs at a time.
	// Zero means 32.
	Concurrency int `envconfig:"WORKER_CONCURRENCY" default:"32" desc:"events that one worker process runs at a time"`

	// Coalesce says that events wait in a worker, since some rule coalesces or some
	// target is told: it then takes many more of them than it runs at a time.
	Coalesce bool `ignored:"true"`

	// TargetBudget bounds the time that an event waits for its targets, with
	// all their repetitions; after it the change goes out as degraded. Zero
	// means 10s, at most 15s: the rest of a task must fit before its deadline.
	TargetBudget time.Duration `envconfig:"TARGET_BUDGET" default:"10s" desc:"time an event waits for its targets before it goes out as degraded, at most 15s"`

	// SettleTimeout bounds the time that an event waits for its origin to show what
	// it announced; after it the change goes out as degraded. Zero means that none
	// waits. It counts for Queue and Worker: a task has so much more time.
	SettleTimeout time.Duration `envconfig:"SETTLE_TIMEOUT" default:"30s" desc:"how long a notification waits for an origin that still shows the old version, at most 5m; then it goes out as degraded, and once more when the origin shows the new one (0: it does not wait)"`

	// RecordTTL is how long the record of an event is kept after its last
	// start. Zero means 24h.
	RecordTTL time.Duration `envconfig:"RECORD_TTL" default:"24h" desc:"how long the record of an event is kept"`

	// RecordCap is how many records are kept; the oldest go first. Zero means 10000.
	RecordCap int `envconfig:"RECORD_CAP" default:"10000" desc:"how many records of events are kept"`

	// QueueCap is how many events may wait; above it new ones are refused, and
	// the journal keeps them. Zero means 50000; the embedded store takes 10 000.
	QueueCap int `envconfig:"QUEUE_CAP" default:"50000" desc:"events that may wait in the queue; above it new ones stay in the journal, or are answered 503 without one"`

	// Embedded says that the store is the in-process one of `freshwire dev`: it
	// is asked half as often, and refuses events when 10 000 are waiting.
	Embedded bool `ignored:"true"`

	// Registerer receives the metrics; nil costs nothing. Queue, Worker and
	// Records of one process share one.
	Registerer prometheus.Registerer `ignored:"true"`
}

// What the settings of Asynq must hold: whole seconds (half a second would mean
// half an hour), no Retention, no Unique.
const (
	maxRetry        = 25
	taskTimeout     = 30 * time.Second
	runBudget       = 25 * time.Second // a task returns before Asynq's deadline, which would hide its own answer; without the wait for its origin
	shutdownTimeout = 8 * time.Second
	drainAfter      = 7 * time.Second // running tasks are told to hand back before Asynq takes them away

	maxSettleTimeout = 5 * time.Minute
	maxLag           = 30 * time.Second // that Settle may wait out where nothing tells a version
	afterWait        = 5 * time.Second  // for Settle to make void once more

	forwardInterval = time.Second
	reapInterval    = 2 * time.Second

	embeddedBacklog = 10_000

	// timeToRun is how long an event may take with all its attempts.
	timeToRun = 3 * time.Hour
)

var namespacePattern = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

// Validate reports every mistake of c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if !namespacePattern.MatchString(c.Namespace) {
		errs = append(errs, fmt.Errorf("namespace %q: want 1 to 32 of a-z, 0-9, _ and -", c.Namespace))
	}
	if c.Concurrency < 1 || c.Concurrency > 1000 {
		errs = append(errs, fmt.Errorf("worker concurrency %d: want 1 to 1000", c.Concurrency))
	}
	if c.TargetBudget < 100*time.Millisecond || c.TargetBudget > 15*time.Second {
		errs = append(errs, fmt.Errorf("target budget %v: want 100ms to 15s", c.TargetBudget))
	}
	if c.SettleTimeout < 0 || c.SettleTimeout > maxSettleTimeout {
		errs = append(errs, fmt.Errorf("settle timeout %v: want 0 to %v", c.SettleTimeout, maxSettleTimeout))
	}
	if c.RecordTTL < time.Minute {
		errs = append(errs, fmt.Errorf("record TTL %v: want at least 1m", c.RecordTTL))
	}
	if c.RecordCap < 1 || c.RecordCap > 1_000_000 {
		errs = append(errs, fmt.Errorf("record cap %d: want 1 to 1000000", c.RecordCap))
	}
	if c.QueueCap < 1 || c.QueueCap > 10_000_000 {
		errs = append(errs, fmt.Errorf("queue cap %d: want 1 to 10000000", c.QueueCap))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.Namespace = cmp.Or(c.Namespace, "fw")
	c.Concurrency = cmp.Or(c.Concurrency, 32)
	c.TargetBudget = cmp.Or(c.TargetBudget, 10*time.Second)
	c.RecordTTL = cmp.Or(c.RecordTTL, 24*time.Hour)
	c.RecordCap = cmp.Or(c.RecordCap, 10_000)
	c.QueueCap = cmp.Or(c.QueueCap, 50_000)
	return c
}

// backlog is how many events may wait. The embedded store copies its list for each push.
func (c Config) backlog() int {
	if c.Embedded {
		return min(c.QueueCap, embeddedBacklog)
	}
	return c.QueueCap
}

// settleBudget is how long Settle may take. Asynq counts whole seconds.
func (c Config) settleBudget() time.Duration {
	return (max(c.SettleTimeout, maxLag) + afterWait + time.Second - 1).Truncate(time.Second)
}

// checkInterval is the pause between two looks at an empty queue: the time from
// enqueue to start is half of it to one and a half, and each look costs Redis a script.
func (c Config) checkInterval() time.Duration {
	if c.Embedded {
		return 20 * time.Millisecond
	}
	return 10 * time.Millisecond
}

// keys names what is stored. All of it shares one hash tag, so it lives and is
// lost together with the queue, the ledger and the log.
type keys string // the namespace

func (ns keys) own(name string) string { return string(ns) + ":{" + string(ns) + "}:" + name }

func (ns keys) record(id string) string { return ns.own("ev:" + id) }   // hash, see record.lua
func (ns keys) index() string           { return ns.own("events") }     // sorted set of "<µs received>-<id>", all with score 0
func (ns keys) seen(id string) string   { return ns.own("seen:" + id) } // string: position in the log; written by whoever appends
func (ns keys) got(id string) string    { return ns.own("got:" + id) }  // string: the event that a guessed delivery, by its JournalID, takes effect with
func (ns keys) kept(id string) string   { return ns.own("kept:" + id) } // string: EncodeEvent, for replay
func (ns keys) marks() string           { return ns.own("wm") }         // hash: node → number, see mark.lua
func (ns keys) markUses() string        { return ns.own("wm:used") }    // sorted set of nodes by unix seconds
func (ns keys) confirm() string         { return ns.own("confirm") }    // string that a replica must have

// The keys of Asynq that we read or write. A test holds them to the version in go.mod.
func (ns keys) asynq(name string) string { return "asynq:{" + string(ns) + "}:" + name }

func (ns keys) task(id string) string { return ns.asynq("t:" + id) }  // hash: msg, state, pending_since, and our fw_reaps
func (ns keys) pending() string       { return ns.asynq("pending") }  // list, next one at the right
func (ns keys) active() string        { return ns.asynq("active") }   // list
func (ns keys) lease() string         { return ns.asynq("lease") }    // sorted set: id by end of lease, unix seconds
func (ns keys) retry() string         { return ns.asynq("retry") }    // sorted set
func (ns keys) archived() string      { return ns.asynq("archived") } // sorted set

const asynqQueues = "asynq:queues" // set of queue names, for the inspector and the dashboard
