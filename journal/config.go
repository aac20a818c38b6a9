package journal

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config of a Journal; the zero Config works.
type Config struct {
	// KeepFor is how long records stay in the files after they were handed on:
	// longer than the store may lag when it loses data. They go earlier when
	// they exceed 256 MiB. Zero means 10m.
	KeepFor time.Duration `envconfig:"SPOOL_KEEP" default:"10m" desc:"how long accepted webhooks stay in the journal after Redis has them, for a Redis that forgets; at most 256 MiB of them"`

	// MaxBytes is how much may wait to be handed on. Zero means 1 GiB.
	MaxBytes int64 `envconfig:"SPOOL_MAX_BYTES" default:"1073741824" desc:"bytes of accepted webhooks that may wait in the journal while Redis is away; above, webhooks are answered 503"`

	// Rebuild is how many of the newest records a store that was emptied gets
	// also when they are over, so that it has a history again. Zero means none.
	Rebuild int `ignored:"true"`

	// Registerer receives the metrics; nil costs nothing.
	Registerer prometheus.Registerer `ignored:"true"`

	limits limits
}

// Validate reports every mistake of c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.KeepFor < time.Second || c.KeepFor > 7*24*time.Hour {
		errs = append(errs, fmt.Errorf("spool keep %v: want 1s to 168h", c.KeepFor))
	}
	if c.MaxBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("spool max bytes %d: want at least 1048576", c.MaxBytes))
	}
	return errors.Join(errs...)
}

// limits are the same everywhere but in tests.
type limits struct {
	segmentBytes int64 // a segment grows no further, unless by one record
	waitingBytes int64 // in memory, for the disk
	keptBytes    int64 // handed on
	knownIDs     int
	overTracked  int // records handed on of which it is asked whether they are over
	batchRecords int
	batchBytes   int64
}

const (
	writeBuffer  = 1 << 20 // a group of records is written in pieces of this size
	probeBytes   = 64 << 10
	probeEvery   = time.Second // while the disk fails
	checkEvery   = time.Second // between two looks at a mark that does not move
	overEvery    = 500 * time.Millisecond
	overChunk    = 1000             // IDs a question
	overChunks   = 10               // questions a round
	lateAfter    = 30 * time.Second // a record that is not over by then is delivered once more
	sinkTimeout  = 5 * time.Second
	minBackoff   = 50 * time.Millisecond
	maxBackoff   = time.Second
	maxSkipped   = 10_000 // records left out between two looks at ctx
	maxOverSpans = 4096
)

func (c Config) withDefaults() Config {
	c.KeepFor = cmp.Or(c.KeepFor, 10*time.Minute)
	c.MaxBytes = cmp.Or(c.MaxBytes, 1<<30)
	l := &c.limits
	l.segmentBytes = cmp.Or(l.segmentBytes, 16<<20)
	l.waitingBytes = cmp.Or(l.waitingBytes, 64<<20)
	l.keptBytes = cmp.Or(l.keptBytes, 256<<20)
	l.knownIDs = cmp.Or(l.knownIDs, 200_000)
	l.overTracked = cmp.Or(l.overTracked, 100_000)
	l.batchRecords = cmp.Or(l.batchRecords, 128)
	l.batchBytes = cmp.Or(l.batchBytes, 4<<20)
	return c
}
