package cache

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"regexp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// Config of a Store. The zero Config works.
type Config struct {
	// Namespace is the prefix of all Redis keys, so that several sites share a Redis.
	Namespace string `envconfig:"NAMESPACE" default:"fw" desc:"prefix of our Redis keys"`
	// Retain is how long the ledger remembers; no entry lives longer. Zero
	// means 24h, at least 10m.
	Retain time.Duration `envconfig:"CACHE_RETAIN" default:"24h" desc:"longest life of a cached answer"`
	// FillTimeout bounds one request to the origin, whoever waits for it.
	// Zero means 10s, at most 1m.
	FillTimeout time.Duration `envconfig:"CACHE_FILL_TIMEOUT" default:"10s" desc:"bound of one fetch from the origin"`
	// MaxBody is the largest body that is stored, in bytes; larger ones are
	// served and forgotten. Zero means 4 MiB.
	MaxBody int64 `envconfig:"CACHE_MAX_BODY" default:"4194304" desc:"largest body that is cached, in bytes"`
	// Memory is how much of this process's memory entries may take, in bytes.
	// Zero means 64 MiB, less than zero none.
	Memory int64 `envconfig:"CACHE_MEMORY" default:"67108864" desc:"memory for cached answers in each process, in bytes; -1 for none"`

	// Replica, when not nil, is where entries are read: a replica of the store, or
	// a client that reads from replicas. The ledger is never read there.
	Replica redis.UniversalClient `ignored:"true"`
	// Foreign names what other programs keep in the same Redis.
	Foreign ForeignConfig `ignored:"true"`
	// Embedded says that the store lives and dies with this process, so that
	// no other process can hold a lease that the ledger forgot.
	Embedded bool `ignored:"true"`
	// Metrics, when not nil, is told what the cache does.
	Metrics prometheus.Registerer `ignored:"true"`
}

var namespacePattern = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

func (c Config) withDefaults() Config {
	if c.Namespace == "" {
		c.Namespace = "fw"
	}
	if c.Retain == 0 {
		c.Retain = 24 * time.Hour
	}
	if c.FillTimeout == 0 {
		c.FillTimeout = 10 * time.Second
	}
	if c.MaxBody == 0 {
		c.MaxBody = 4 << 20
	}
	if c.Memory == 0 {
		c.Memory = 64 << 20
	}
	return c
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if !namespacePattern.MatchString(c.Namespace) {
		errs = append(errs, fmt.Errorf("namespace %q: want 1 to 32 of a-z, 0-9, _ and -", c.Namespace))
	}
	if c.Retain < 10*time.Minute {
		errs = append(errs, fmt.Errorf("retain %v: at least 10m, what a failover may have to give back", c.Retain))
	}
	if c.FillTimeout < 0 || c.FillTimeout > time.Minute {
		errs = append(errs, fmt.Errorf("fill timeout %v: between 0 and 1m", c.FillTimeout))
	}
	if c.MaxBody < 0 || c.MaxBody > maxEntryBody {
		errs = append(errs, fmt.Errorf("max body %d: between 0 and 256 MiB", c.MaxBody))
	}
	if c.Memory > 0 && c.Memory < 1<<20 {
		errs = append(errs, fmt.Errorf("memory %d: at least 1 MiB, or -1 for none", c.Memory))
	}
	return errors.Join(append(errs, c.Foreign.Validate())...)
}

// leaseTime is how long a node may trust its mirror after a sync began. It is
// one constant: the barrier waits that long for a node that it cannot hear,
// and a node with a longer lease would outlive the wait.
const leaseTime = 2 * time.Second

// Store is one process's view of the cache.
type Store struct {
	rdb   redis.UniversalClient
	log   *slog.Logger
	cfg   Config
	names names
	node  string        // random: two processes with one name would acknowledge for each other
	lease time.Duration // leaseTime, save in tests
	now   func() instant

	scripts scripts
	metrics *metrics
	mirror  *mirror
	memory  *memory
	pace    *pace
	reclaim *reclaimer
	hot     *hot
	bell    chan struct{} // holds one ring
	turns   turns
	faults  faults

	wakes      *wakes
	random     func() float64                   // of [0, 1)
	poll       struct{ min, max time.Duration } // pollMin and pollMax, save in tests
	maxReaders int                              // maxReaders, save in tests

	mu      sync.Mutex
	flights map[string]*flight // :: key → the fetch that serves it
	follows map[string]bool    // keys of which the origin showed an old view, and is asked again
}

// faults are repairs that tests take out, to see that they are needed.
type faults struct {
	joinersUnchecked bool // who joined a fetch takes its result as it is
	leaseUnchecked   bool // the mirror is trusted after its lease ended
	tokenLate        bool // the token of a fill is taken after the fetch
	generationFixed  bool // what was judged once is not judged again

	leaseNotRenewed    bool // a fill lease ends before a slow fetch does
	refreshFindsItself bool // an early refresh takes the entry itself for its result
	neverEarly         bool // nothing is fetched before it expires
	fillsJoin          bool // Fill takes the result of a fetch that had begun before
	toldUnchecked      bool // an old view is served whoever was told
	oldViewsStored     bool // what the origin shows is kept, however old
	oldViewsShared     bool // also with who came when the fetch had begun
	brokenKept         bool // a body that broke off is taken for whole

	afterLookup func() // called between looking an entry up and judging it
}

// New returns a Store on rdb. It does nothing until it is asked, or run.
func New(rdb redis.UniversalClient, log *slog.Logger, cfg Config) *Store {
	return newStore(rdb, log, cfg, options{lease: leaseTime, now: now, scripts: shipped})
}

// options are what tests vary.
type options struct {
	lease   time.Duration
	now     func() instant
	scripts scripts
	faults  faults
	random  func() float64 // nil: rand.Float64
}

func newStore(rdb redis.UniversalClient, log *slog.Logger, cfg Config, o options) *Store {
	cfg = cfg.withDefaults()
	n := names{ns: cfg.Namespace}
	m := newMirror(o.lease, o.now)
	if o.random == nil {
		o.random = mathrand.Float64
	}
	s := &Store{
		rdb: rdb, log: log, cfg: cfg, names: n,
		node: randomHex(), lease: o.lease, now: o.now,
		scripts: o.scripts,
		metrics: newMetrics(cfg.Metrics, m),
		mirror:  m,
		memory:  newMemory(cfg.Memory, o.now, cfg.Metrics),
		pace:    &pace{},
		reclaim: newReclaimer(rdb, n, log, cfg.Metrics),
		hot:     newHot(),
		bell:    make(chan struct{}, 1),
		faults:  o.faults,
		wakes:   newWakes(),
		random:  o.random,

		maxReaders: maxReaders,
		flights:    make(map[string]*flight),
		follows:    make(map[string]bool),
	}
	s.poll.min, s.poll.max = pollMin, pollMax
	return s
}

// randomHex returns 16 random hexadecimal digits.
func randomHex() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
