package ratelimit

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Rate is so many requests in so long, such as 100/1m. The zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// Bounds of a Rate, within which Lua counts exactly.
const (
	maxCount = 9_999_999
	maxPer   = 24 * time.Hour
)

// ParseRate reads 100/1m, and 0 as no limit.
func ParseRate(s string) (Rate, error) {
	if s == "0" {
		return Rate{}, nil
	}
	count, per, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(count, 10, 24)
	d, bad := time.ParseDuration(per)
	r := Rate{int(n), d}
	if err != nil || bad != nil || n == 0 || r.validate() != nil {
		return Rate{}, fmt.Errorf("%q is neither 0 nor like 100/1m, of at most %d and 24h", s, maxCount)
	}
	return r, nil
}

func (r Rate) validate() error {
	if r == (Rate{}) {
		return nil
	}
	if r.Count < 1 || r.Count > maxCount || r.Per < time.Second || r.Per > maxPer || r.Per%time.Millisecond != 0 {
		return fmt.Errorf("rate %d in %v: want 1 to %d in 1s to %v", r.Count, r.Per, maxCount, maxPer)
	}
	return nil
}

// Config of a Limiter. All nodes of a site must agree on Namespace and Rate.
type Config struct {
	// Namespace is the prefix of all keys. Empty means "fw".
	Namespace string

	// Rate is what one client is admitted. It must not be zero: a site without a
	// limit has no Limiter.
	Rate Rate

	// Client returns the address of who sent a request. Nil: the host of RemoteAddr.
	Client func(*http.Request) string

	// Counts says which requests are limited. Nil: all.
	Counts func(*http.Request) bool

	// Refuse answers a request too many, once the headers are set; wait is when
	// the next one is admitted. Nil: 429 with a problem.
	Refuse func(w http.ResponseWriter, r *http.Request, wait time.Duration)

	// CORSOrigins are the exact origins whose pages may read the headers and the refusal.
	CORSOrigins []string

	// Timeout is how long a request waits for Redis. Zero means 100ms.
	Timeout time.Duration

	// Pause is how long Redis is left alone after it failed. Zero means 1s.
	Pause time.Duration

	// Metrics registers what is counted. Nil counts nowhere.
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() Config {
	c.Namespace = cmp.Or(c.Namespace, "fw")
	c.Timeout = cmp.Or(c.Timeout, 100*time.Millisecond)
	c.Pause = cmp.Or(c.Pause, time.Second)
	return c
}

// Validate joins all that is wrong with c.
func (c Config) Validate() error {
	errs := []error{c.Rate.validate()}
	if c.Rate == (Rate{}) {
		errs = append(errs, errors.New("no rate"))
	}
	if c.Timeout < 0 || c.Pause < 0 {
		errs = append(errs, fmt.Errorf("a wait of %v and a pause of %v for Redis: want more than 0", c.Timeout, c.Pause))
	}
	return errors.Join(errs...)
}
