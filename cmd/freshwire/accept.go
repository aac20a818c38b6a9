package main

import (
	"context"

	"github.com/freshwire/freshwire/event"
)

// accept makes the events of one delivery durable.
func (a *app) accept(ctx context.Context, evs []event.Event) (added []bool, err error) {
	for _, ev := range evs {
		ok, err := a.queue.Enqueue(ctx, ev)
		if err != nil {
			return nil, err
		}
		added = append(added, ok)
	}
	return added, nil
}
