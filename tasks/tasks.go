// Package tasks runs events through Asynq: a Queue takes what a CMS said, a
// Worker makes the old content void, waits until every reader knows, tells the
// targets and appends the change to the log; Records tells how each event fared.
//
// The queue may run an event twice: a worker dies, an answer is lost. So the
// steps stand in one order and each may be repeated:
//
//	recall → plan → invalidate → barrier → reclaim → tell → append
//
// Recall fills in what earlier events told of the entity: its last slug, and
// whether a newer version is known. Where a rule coalesces, a burst of events on
// one entity waits after its plans and goes on as one, see coalescer; what
// events tell the same target at the same time becomes one call, see desk.
//
// What may be lost or repeated between them is closed by two memories: the mark
// of the invalidation, kept with the event's record, and the key "seen", written
// with the entry in the log. An event that is seen is over.
//
// An event that Enqueue accepted is run until it is published, ignored because
// no rule wants it, or has failed 25 times over about two hours; then it rests,
// and the same delivery sent again runs it again.
//
// The package knows neither cache nor log nor HTTP: they come as Steps.
package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/rules"
)

// Steps are what a worker does with an event. All but Plan may be called again
// for the same event, also at the same time from another process. Each returns
// soon after its context has ended.
type Steps struct {
	// Plan says what an event means. No matched rule and no Purge of the event's
	// own means that nobody wants it.
	Plan func(ev event.Event) rules.Plan

	// Invalidate makes p void, under prior if that still stands, and returns the
	// mark under which it did. It is called for every event that a rule matched,
	// also when p is empty.
	Invalidate func(ctx context.Context, p event.Purge, prior Mark) (Mark, error)

	// Barrier returns once every reader knows m. It returns the mark that counts
	// now: another one if the store had lost m.
	Barrier func(ctx context.Context, p event.Purge, m Mark) (Mark, Report, error)

	// Reclaim deletes what other programs may read before it returns, and may
	// leave our own entries to the background. It returns how many it deleted.
	// What cannot be deleted, however often one tries, it names in left: then
	// browsers are told all the same, and that the change is degraded.
	Reclaim func(ctx context.Context, p event.Purge, m Mark) (deleted int, left []string, err error)

	// Tell tells one target. An error that wraps ErrGiveUp is not tried again,
	// one that wraps ErrRefused only in parts.
	Tell func(ctx context.Context, target string, n Notice) error

	// Append adds c to the log unless an entry of c.ID is there, and returns the
	// position of the entry and whether it is new. In the same moment it keeps
	// the position for later runs in the key "<ns>:{<ns>}:seen:<id>", for c.ID
	// and all of c.IDs.
	Append func(ctx context.Context, c event.Change) (position string, added bool, err error)
}

// Mark identifies one invalidation in the ledger. The zero Mark is none.
type Mark struct {
	Seq    uint64 `json:"seq"`
	Member string `json:"member,omitempty"`
	Epoch  string `json:"epoch,omitempty"`
}

// Report is what a barrier saw. An event whose barrier did not settle is tried again.
type Report struct {
	Nodes   int
	Waited  time.Duration
	Settled bool
}

// Notice is what a target is told: of one event, or of several at once. Then
// Event is the newest of them, and Fields are its own.
type Notice struct {
	Event  event.Event
	Purge  event.Purge
	Seq    uint64
	Fields map[string]any
}

var (
	// ErrBusy is returned by Enqueue when too many events wait. The sender
	// should try again later.
	ErrBusy = errors.New("tasks: too many events wait")

	// ErrGiveUp is wrapped by an error of Tell that trying again cannot change.
	ErrGiveUp = errors.New("tasks: trying again cannot help")

	// ErrRefused is wrapped by an error of Tell that is about the notice: another
	// one may be welcome. What was told together is told apart then, so that
	// one event cannot spoil the call of others. It is an ErrGiveUp.
	ErrRefused = fmt.Errorf("%w: the target refuses it", ErrGiveUp)

	// ErrPaused is wrapped by an error of a step that is the fault of neither the
	// event nor the step, such as an open breaker: trying again costs no attempt.
	ErrPaused = errors.New("tasks: not now")

	// ErrNotFound is returned by Records.Get for an event without a record.
	ErrNotFound = errors.New("tasks: no such event")

	// ErrCursor is returned by Records.List for a cursor that it did not give out.
	ErrCursor = errors.New("tasks: not a cursor")
)
