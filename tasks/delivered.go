package tasks

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"
)

//go:embed delivered.lua
var deliveredLua string

var deliveredScript = redis.NewScript(deliveredLua)

// CountDelivered adds to the records of events how many more streams were told
// of each, by event id; the counts of all nodes add up. An event that has no
// record (any more) gets none. After an error some may be added and others not:
// trying again could count twice.
func (r *Records) CountDelivered(ctx context.Context, streams map[string]int) error {
	var calls []call
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(streams)), queuedAtOnce) {
		c := call{script: deliveredScript}
		for _, id := range ids {
			c.keys, c.args = append(c.keys, r.keys.record(id)), append(c.args, streams[id])
		}
		calls = append(calls, c)
	}
	replies, err := r.pipes.run(ctx, calls)
	for _, reply := range replies {
		if err == nil {
			err = reply.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("counting deliveries of %d events: %w", len(streams), err)
	}
	return nil
}
