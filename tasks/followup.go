package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hibiken/asynq"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/version"
	"github.com/freshwire/freshwire/rules"
)

// followUp makes an event look again for another one, whose origin did not show
// in time what it announced. The event has an id of its own, so that subscribers
// and targets are told again, but only once the origin has it:
//
//	event 1: degraded → 1 min → event 2: still not → 5 min → event 3: shown → told
//
// It makes void what event 1 did. It is over without a word when something newer
// is known of the entity, which waits for the origin itself, and after the last
// of them.
type followUp struct {
	Of       string          `json:"of"` // the id of the first event
	N        int             `json:"n"`  // which of them it is, from 1
	Targets  []string        `json:"targets,omitempty"`
	Channels []string        `json:"channels,omitempty"`
	Fields   json.RawMessage `json:"fields,omitempty"`
	Refill   int             `json:"refill,omitempty"`
}

// followUpAfter is the pause before each of the follow-ups of an event.
var followUpAfter = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}

// followUp enqueues the next event that looks again. It may be repeated.
func (r *run) followUp(ctx context.Context, s Subject) error {
	next := followUp{Of: s.Event.ID, N: 1, Targets: r.plan.Targets, Channels: r.plan.Channels, Refill: r.plan.Refill}
	if r.follow != nil {
		next.Of, next.N = r.follow.Of, r.follow.N+1
	}
	if len(r.plan.Fields) > 0 {
		var err error
		if next.Fields, err = json.Marshal(r.plan.Fields); err != nil {
			return fmt.Errorf("encoding fields: %w", err)
		}
	}
	ev := s.Event
	ev.ID = event.NewID(ev.Source, "follow-up", next.Of, strconv.Itoa(next.N))
	ev.Payload, ev.Keep, ev.Guessed, ev.Tags, ev.Purge = nil, 0, false, nil, &s.Purge
	if err := r.w.queue.enqueueLater(ctx, ev, &next, r.w.pauses[next.N-1]); err != nil {
		return err
	}
	r.outcome.Awaited.FollowUp = ev.ID
	return nil
}

// enqueueLater adds an event of our own, unless its task is there. The queue's
// cap is for those that come from outside.
func (q *Queue) enqueueLater(ctx context.Context, ev event.Event, f *followUp, pause time.Duration) error {
	now := time.Now()
	payload, err := encodeEnvelope(envelope{Event: ev, EnqueuedAt: now, Follow: f})
	if err != nil {
		return err
	}
	_, err = q.client.EnqueueContext(ctx, asynq.NewTask(taskType, payload), append(q.cfg.taskOptions(ev.ID), asynq.ProcessIn(pause))...)
	switch {
	case errors.Is(err, asynq.ErrTaskIDConflict):
		return nil
	case err != nil:
		return err
	}
	q.records.queuedFor(ctx, now, f, ev)
	q.metrics.events.WithLabelValues(string(Queued)).Inc()
	return nil
}

// prepareFollowUp takes over the plan of the first event, and ends the attempt
// when something newer is known of its entity.
func (r *run) prepareFollowUp(ctx context.Context) error {
	r.begin("recall")
	newer, err := r.overtaken(ctx)
	if err != nil {
		return err
	}
	r.begin("plan")
	f := r.follow
	r.plan = rules.Plan{Purge: *r.ev.Purge, Targets: f.Targets, Channels: f.Channels, Refill: f.Refill}
	if len(f.Fields) > 0 {
		d := json.NewDecoder(bytes.NewReader(f.Fields))
		d.UseNumber() // numbers keep their digits
		if err := d.Decode(&r.plan.Fields); err != nil {
			return fmt.Errorf("decoding fields: %w: %w", err, asynq.SkipRetry)
		}
	}
	r.planned()
	r.end("planned")
	if newer {
		r.outcome.Superseded = true
		r.status, r.outcome.Note = Ignored, "something newer is known of the entity"
	}
	return nil
}

// overtaken reports whether an event after this one has told of the entity.
func (r *run) overtaken(ctx context.Context) (bool, error) {
	if r.ev.Entity == "" {
		return false, nil
	}
	known, err := r.w.rdb.HMGet(ctx, r.w.keys.entity(r.ev), "a", "v").Result()
	if err != nil {
		return false, err
	}
	at, _ := known[0].(string)
	newest, _ := known[1].(string)
	micros, _ := strconv.ParseInt(at, 10, 64) // 0: none
	mine := version.Rank(r.ev.Version)
	return micros > r.ev.ReceivedAt.UnixMicro() || mine != "" && newest != "" && mine[0] == newest[0] && mine < newest, nil
}

// rest ends a follow-up that has found nothing new, and leaves the matter to the
// next one, if there is one.
func (r *run) rest(ctx context.Context) error {
	r.begin("follow up")
	r.status, r.outcome.Note = Ignored, "the origin does not show it; nobody looks again"
	if r.follow.N < len(r.w.pauses) {
		if err := r.followUp(ctx, r.subject()); err != nil {
			return err
		}
		r.outcome.Note = "the origin does not show it yet"
	}
	return nil
}
