// Package tasks runs events through Asynq: a Queue takes what a CMS said, a
// Worker makes the old content void, waits until every reader knows, tells the
// targets and appends the change to the log; Records tells how each event fared.
//
// The queue may run an event twice: a worker dies, an answer is lost. So the
// steps stand in one order and each may be repeated:
//
//	recall → plan → invalidate → barrier → settle → reclaim → refill, tell → append
//
// Recall fills in what earlier events told of the entity: its last slug, and
// whether a newer version is known; plan adds the tags that it had before, for
// the lists that it has left. Where a rule coalesces, a burst of events on
// one entity waits after its plans and goes on as one, see coalescer; what
// events tell the same target at the same time becomes one call, see desk.
//
// Settle waits until the origin shows what the event announced: a CMS may send
// its webhook before its API, or the edge in front of it, has the new content.
// When the wait is over in vain the change goes out as degraded, and a follow-up
// event looks again later and tells of it once the origin shows it, see followUp.
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

	// Invalidate makes the purge of s void, under prior if that still stands, and
	// returns the mark under which it did. It is called for every event that a
	// rule matched, also when the purge is empty.
	Invalidate func(ctx context.Context, s Subject, prior Mark) (Mark, error)

	// Barrier returns once every reader knows m. It returns the mark that counts
	// now: another one if the store had lost m.
	Barrier func(ctx context.Context, s Subject, m Mark) (Mark, Report, error)

	// Settles reports whether there is anything to wait for at the origin of s.
	// It is asked for news only. Nil means that there is whenever Settle is set.
	Settles func(s Subject) bool

	// Settle returns once the origin of s shows what it announced, or the bound of
	// the wait is over. Where readers may have filled in again from an origin that
	// lagged, it makes void once more, and returns the mark of that, which every
	// reader knows by then. It holds up no other event. Nil: nothing is waited for.
	Settle func(ctx context.Context, s Subject, m Mark) (Mark, Settlement, error)

	// Hottest returns how to ask for the n most read of the entries that p made
	// void, while they are still known, and Refill fills them again before anybody
	// is told; it returns how many it did. Each has a second or two, and its error
	// is noted, and stops nothing. Nil: nothing is filled.
	Hottest func(ctx context.Context, p event.Purge, n int) ([]string, error)
	Refill  func(ctx context.Context, entries []string) (filled int, err error)

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

// Subject is what a run is about.
type Subject struct {
	Event event.Event // of several that coalesced, the newest
	Purge event.Purge

	// News says that Event is the newest word on its entity: it is no replay, and
	// nothing newer is known. Only then does its version announce anything.
	News bool
}

// Settlement is what a wait for the origin came to.
type Settlement struct {
	Settled bool
	Waited  time.Duration
	Note    string // for people: why it did not settle
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
