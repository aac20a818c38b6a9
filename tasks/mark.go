package tasks

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// markUnused is how long the mark of a node is kept after its last use.
const markUnused = 30 * 24 * time.Hour

// Advance moves the mark of node, up to which its events are here, from one
// sequence number to another, and returns what stood there before (0: nothing).
// A mark that stood elsewhere than at from is left alone; from equal to to only
// reads. Since the mark is lost together with the events that came after it, a
// mark that went back tells from where to send them again.
func (q *Queue) Advance(ctx context.Context, node string, from, to uint64) (found uint64, err error) {
	now := time.Now()
	text, err := markScript.Run(ctx, q.rdb, []string{q.keys.marks(), q.keys.markUses()},
		node, strconv.FormatUint(from, 10), strconv.FormatUint(to, 10), now.Unix(), now.Add(-markUnused).Unix()).Text()
	if err != nil {
		return 0, fmt.Errorf("moving the mark of node %q: %w", node, err)
	}
	if found, err = strconv.ParseUint(text, 10, 64); err != nil {
		return 0, fmt.Errorf("the mark of node %q: %w", node, err)
	}
	return found, nil
}
