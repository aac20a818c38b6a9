package read

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// outage remembers that an origin does not answer, so that reads which have
// something stale to show, or an error, do not wait for the timeout each.
type outage struct {
	mu       sync.Mutex
	failures int // in a row
	last     error
	until    time.Time
}

const (
	outageAfter = 3 // failures in a row; one slow address is not an outage
	outagePause = time.Second
)

// err returns the failure to answer with in place of asking, or nil.
func (o *outage) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failures < outageAfter || !time.Now().Before(o.until) {
		return nil
	}
	return fmt.Errorf("not asked after %d failures: %w", o.failures, o.last)
}

// note takes in how asking went. An error status is an answer, too.
func (o *outage) note(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !errors.Is(err, errOriginAway) && !errors.Is(err, errOriginSlow) {
		o.failures = 0
		return
	}
	o.failures++
	o.last, o.until = err, time.Now().Add(outagePause)
}
