package feed

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Lag returns for how long the oldest entry that Tail has not handed on yet is
// in the log, by the clocks of Redis and this host; 0 when there is none, and
// before the first Reset. A life of the store begins ten seconds ahead of the
// clock: until then a lag looks shorter than it is, but is one.
func (l *Log) Lag(ctx context.Context) (time.Duration, error) {
	at := l.Position()
	if at.IsZero() || at.Ms == math.MaxUint64 {
		return 0, nil
	}
	next, err := l.rdb.XRangeN(ctx, l.logKey(), "("+at.String(), "+", 1).Result()
	if err != nil {
		return 0, fmt.Errorf("looking beyond %v in the log: %w", at, err)
	}
	if len(next) == 0 {
		return 0, nil
	}
	first, err := event.ParsePosition(next[0].ID)
	if err != nil {
		return 0, fmt.Errorf("looking beyond %v in the log: entry %q: %w", at, next[0].ID, err)
	}
	return max(time.Since(time.UnixMilli(int64(first.Ms))), time.Millisecond), nil
}
