package tasks

import (
	"context"
	"fmt"
	"time"
)

// reapLimit is how often a task is given back before Asynq's own, slower
// recovery takes over.
const reapLimit = 3

// reap gives tasks of dead workers back, every reapInterval until ctx ends.
// Asynq alone would take one to two minutes and count a failure; the lease of a
// dead worker runs out 25 to 30 s after it died.
//
// It writes keys of Asynq: TestReaperKnowsAsynqsKeys holds the layout.
func (w *Worker) reap(ctx context.Context) {
	tick := time.NewTicker(w.reapEvery)
	defer tick.Stop()
	var bare []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		given, found, dropped, err := w.reapOnce(ctx, bare)
		if err != nil {
			if ctx.Err() == nil {
				w.log.WarnContext(ctx, "dead workers' tasks not looked for", "err", err)
			}
			bare = nil // an id counts as bare when two looks in a row saw it
			continue
		}
		bare = found
		if len(given) > 0 {
			w.metrics.reaped.Add(float64(len(given)))
			w.log.WarnContext(ctx, "tasks of dead workers given back", "event_ids", given)
		}
		if len(dropped) > 0 {
			w.log.ErrorContext(ctx, "tasks without a body dropped: Redis has lost or evicted them", "event_ids", dropped)
		}
	}
}

// reapOnce returns the tasks that it gave back, those that are active without a
// lease, and those that it dropped. Tasks in bare that still have no lease are
// given back, too.
func (w *Worker) reapOnce(ctx context.Context, bare []string) (given, found, dropped []string, err error) {
	now := time.Now()
	// Also here, since Asynq's clients register their queue only once.
	if err := w.rdb.SAdd(ctx, asynqQueues, w.cfg.Namespace).Err(); err != nil {
		return nil, nil, nil, err
	}
	args := []any{now.Unix() - 2, w.keys.task(""), reapLimit, now.UnixNano()}
	for _, id := range bare {
		args = append(args, id)
	}
	reply, err := reapScript.Run(ctx, w.rdb, []string{w.keys.lease(), w.keys.active(), w.keys.pending()}, args...).Slice()
	if err != nil {
		return nil, nil, nil, err
	}
	if len(reply) != 3 {
		return nil, nil, nil, fmt.Errorf("reap script answered %d values, want 3", len(reply))
	}
	return texts(reply[0]), texts(reply[1]), texts(reply[2]), nil
}

// texts returns the strings of a Lua reply.
func texts(v any) []string {
	list, _ := v.([]any)
	out := make([]string, 0, len(list))
	for _, x := range list {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
