package tasks

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/rules"
)

// Status is where an event is in its life.
type Status string

// The statuses. Done, Failed and Ignored are final; a failed event runs again
// when its delivery is repeated or an operator says so.
const (
	Queued   Status = "queued"
	Running  Status = "running"
	Retrying Status = "retrying"
	Done     Status = "done"
	Failed   Status = "failed"
	Ignored  Status = "ignored" // no rule wanted it
)

// Record is the life of one event, as GET /admin/events shows it. It holds no payload.
type Record struct {
	ID           string       `json:"id"`
	Status       Status       `json:"status"`
	Event        string       `json:"event"` // "<type>.<action>"
	Source       string       `json:"source"`
	Name         string       `json:"name,omitempty"`
	Type         string       `json:"type"`
	Action       event.Action `json:"action"`
	Entity       string       `json:"entity,omitempty"`
	Slug         string       `json:"slug,omitempty"`
	PreviousSlug string       `json:"previous_slug,omitempty"`
	Locale       string       `json:"locale,omitempty"`
	Environment  string       `json:"environment,omitempty"`
	Version      string       `json:"version,omitempty"`
	DeliveryID   string       `json:"delivery_id,omitempty"`
	Tags         []string     `json:"tags,omitempty"`      // that the CMS named
	ReplayOf     string       `json:"replay_of,omitempty"` // the event that this one repeats
	Follows      string       `json:"follows,omitempty"`   // the event for which this one looks again whether the origin shows it
	ReceivedAt   time.Time    `json:"received_at"`
	Attempts     int          `json:"attempts"`  // how often a worker began it
	Delivered    int          `json:"delivered"` // streams of all nodes that were told, as far as is known; who got it merged with others is not counted

	Outcome
}

// Outcome is what the latest attempt found.
type Outcome struct {
	Note     string         `json:"note,omitempty"`  // why nothing was done, such as "no rule"
	Error    string         `json:"error,omitempty"` // why it failed, or is tried again
	Problems []string       `json:"problems,omitempty"`
	Plan     *RecordedPlan  `json:"plan,omitempty"`
	Seq      uint64         `json:"seq,omitempty"` // in the ledger
	Nodes    int            `json:"nodes,omitempty"`
	WaitedMS float64        `json:"waited_ms,omitempty"` // at the barrier
	Deleted  int            `json:"deleted,omitempty"`   // entries, before anybody was told
	Targets  []TargetResult `json:"targets,omitempty"`
	Refilled int            `json:"refilled,omitempty"` // entries, before anybody was told
	Awaited  *Awaited       `json:"awaited,omitempty"`  // where there was something to wait for at the origin
	Degraded bool           `json:"degraded,omitempty"` // a target was given up, or the origin still showed the old version
	Position string         `json:"position,omitempty"` // in the log of changes

	Recalled   *Recalled `json:"recalled,omitempty"`   // also in Slug and PreviousSlug, and in the tags of Plan
	Superseded bool      `json:"superseded,omitempty"` // a newer version of the entity was known

	Steps []StepTime `json:"steps"`
}

// Awaited is what the wait for the origin came to.
type Awaited struct {
	Shown    bool    `json:"shown"` // the origin shows what was announced
	MS       float64 `json:"ms"`
	Note     string  `json:"note,omitempty"`      // why it does not
	FollowUp string  `json:"follow_up,omitempty"` // the event that looks again
}

// RecordedPlan is a Plan with lists cut at 100 items; Counts has their true lengths.
type RecordedPlan struct {
	Rules    []int          `json:"rules"`
	Tags     []string       `json:"tags,omitempty"`
	Keys     []string       `json:"keys,omitempty"`
	Patterns []string       `json:"patterns,omitempty"`
	Paths    []string       `json:"paths,omitempty"`
	All      bool           `json:"all,omitempty"`
	Targets  []string       `json:"targets,omitempty"`
	Channels []string       `json:"channels,omitempty"`
	Counts   map[string]int `json:"counts"`
	Capped   bool           `json:"capped,omitempty"`
}

// TargetResult is how one target took the news.
type TargetResult struct {
	Name     string  `json:"name"`
	OK       bool    `json:"ok"`
	Attempts int     `json:"attempts"`
	MS       float64 `json:"ms"`
	Error    string  `json:"error,omitempty"`
}

// StepTime is when a step was over: received, queued, started, planned,
// gathered (where a rule coalesces), invalidated, settled (at the barrier),
// awaited (the origin), reclaimed, refilled, told, published, done.
type StepTime struct {
	Step string    `json:"step"`
	At   time.Time `json:"at"`
	MS   float64   `json:"ms"` // since the webhook came in
}

const (
	maxListed = 100
	maxText   = 500 // bytes of an error or problem
)

func recordPlan(p rules.Plan) *RecordedPlan {
	r := &RecordedPlan{
		Rules: head(p.Rules), Tags: head(p.Purge.Tags), Keys: head(p.Purge.Keys), Patterns: head(p.Purge.Patterns), Paths: head(p.Purge.Paths),
		All: p.Purge.All, Targets: head(p.Targets), Channels: head(p.Channels), Capped: p.Capped,
		Counts: map[string]int{},
	}
	for name, n := range map[string]int{"tags": len(p.Purge.Tags), "keys": len(p.Purge.Keys), "patterns": len(p.Purge.Patterns),
		"paths": len(p.Purge.Paths), "targets": len(p.Targets), "channels": len(p.Channels)} {
		if n > 0 {
			r.Counts[name] = n
		}
	}
	if r.Rules == nil {
		r.Rules = []int{}
	}
	return r
}

func head[T any](list []T) []T { return list[:min(len(list), maxListed)] }

func cut(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "…"
	}
	return s
}

// step notes that a step is over.
func (o *Outcome) step(name string, at, received time.Time) {
	o.Steps = append(o.Steps, StepTime{Step: name, At: at.UTC().Truncate(time.Microsecond), MS: millis(at.Sub(received))})
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// remembered is a mark as the record keeps it for later attempts. It stands for
// one purge only: after a change of the rules an event may mean another one.
type remembered struct {
	Mark
	Purge   string `json:"purge"`
	Settled bool   `json:"settled,omitempty"` // made after the origin showed what was announced
}

func remember(m Mark, p event.Purge) remembered { return remembered{Mark: m, Purge: digest(p)} }

// prior returns the mark if it stands for p.
func (r remembered) prior(p event.Purge) Mark {
	if r.Purge != digest(p) {
		return Mark{}
	}
	return r.Mark
}

func digest(p event.Purge) string {
	b, _ := json.Marshal(p) // lists of strings and a bool
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// opening is what an attempt learns when it opens the record.
type opening struct {
	position string // not empty: published already
	mark     remembered
	attempt  int // 0: the record could not be opened
}

// queuedAtOnce is how many records one script writes.
const queuedAtOnce = 64

// queued notes that evs wait. Like all writes of records it is a courtesy: its
// failure is counted and logged, and stops nothing.
func (r *Records) queued(ctx context.Context, at time.Time, evs ...event.Event) {
	r.queuedFor(ctx, at, nil, evs...)
}

// queuedFor notes that evs wait: with a follow, the event that follows up another.
func (r *Records) queuedFor(ctx context.Context, at time.Time, follow *followUp, evs ...event.Event) {
	var calls []call
	for part := range slices.Chunk(evs, queuedAtOnce) {
		c := call{script: queuedScript, keys: []string{r.keys.index()},
			args: []any{at.UnixMicro(), int(r.cfg.RecordTTL.Seconds()), r.tooOld(), r.cfg.RecordCap, r.keys.record("")}}
		for _, ev := range part {
			doc, err := recorded(ev, follow)
			if err != nil {
				r.lost(ctx, ev.ID, err)
				continue
			}
			c.keys = append(c.keys, r.keys.record(ev.ID))
			c.args = append(c.args, doc, member(ev.ReceivedAt, ev.ID))
		}
		calls = append(calls, c)
	}
	replies, err := r.pipes.run(ctx, calls)
	for _, reply := range replies {
		err = cmp.Or(err, reply.Err())
	}
	if err != nil {
		r.metrics.recordErrors.Add(float64(len(evs)))
		r.log.WarnContext(ctx, "event records not kept", "events", len(evs), "err", err)
	}
}

// begin notes that an attempt at ev begins.
func (r *Records) begin(ctx context.Context, ev event.Event, follow *followUp, queuedAt time.Time) opening {
	o, err := r.open(ctx, ev, follow, queuedAt)
	if err != nil {
		r.lost(ctx, ev.ID, err)
	}
	return o
}

func (r *Records) open(ctx context.Context, ev event.Event, follow *followUp, queuedAt time.Time) (opening, error) {
	doc, err := recorded(ev, follow)
	if err != nil {
		return opening{}, err
	}
	reply, err := beginScript.Run(ctx, r.rdb,
		[]string{r.keys.record(ev.ID), r.keys.index(), r.keys.seen(ev.ID)},
		doc, queuedAt.UnixMicro(), int(r.cfg.RecordTTL.Seconds()),
		member(ev.ReceivedAt, ev.ID), r.tooOld(), r.cfg.RecordCap, r.keys.record("")).Slice()
	if err != nil {
		return opening{}, err
	}
	if len(reply) != 3 {
		return opening{}, fmt.Errorf("begin script answered %d values, want 3", len(reply))
	}
	var o opening
	o.position, _ = reply[0].(string)
	attempt, _ := reply[2].(int64)
	o.attempt = int(attempt)
	if mark, _ := reply[1].(string); mark != "" {
		if err := json.Unmarshal([]byte(mark), &o.mark); err != nil {
			r.lost(ctx, ev.ID, fmt.Errorf("reading its mark: %w", err))
			o.mark = remembered{}
		}
	}
	return o, nil
}

// tooOld is a member of the index below which records have ended.
func (r *Records) tooOld() string { return member(time.Now().Add(-r.cfg.RecordTTL), "") }

// recordedEvent is what a record keeps of an event: not its payload.
type recordedEvent struct {
	event.Event
	Follows string `json:"follows,omitempty"`
}

func recorded(ev event.Event, follow *followUp) ([]byte, error) {
	ev.Payload = nil
	if ev.Purge != nil && purgeBytes(*ev.Purge) > maxRecordedPurge {
		ev.Purge = &event.Purge{} // says that there was one
	}
	doc := recordedEvent{Event: ev}
	if follow != nil {
		doc.Follows = follow.Of
	}
	return json.Marshal(doc)
}

const maxRecordedPurge = 4 << 10

func purgeBytes(p event.Purge) int {
	n := 0
	for _, list := range [][]string{p.Tags, p.Keys, p.Patterns, p.Paths} {
		for _, s := range list {
			n += len(s)
		}
	}
	return n
}

// update writes what attempt n of the event has found so far. A nil mark leaves
// the remembered one alone; a zero one forgets it.
func (r *Records) update(ctx context.Context, id string, n int, status Status, o *Outcome, mark *remembered) {
	doc, err := json.Marshal(o)
	if err != nil {
		r.lost(ctx, id, err)
		return
	}
	args := []any{n, "status", string(status), "run", doc}
	if mark != nil {
		var text []byte
		if *mark != (remembered{}) {
			text, _ = json.Marshal(mark) // numbers and strings
		}
		args = append(args, "mark", text)
	}
	if err := updateScript.Run(ctx, r.rdb, []string{r.keys.record(id)}, args...).Err(); err != nil {
		r.lost(ctx, id, err)
	}
}

func (r *Records) lost(ctx context.Context, id string, err error) {
	r.metrics.recordErrors.Inc()
	r.log.WarnContext(ctx, "event record not kept", "event_id", id, "err", err)
}

// member is an event's entry in the index: sorted as text it is sorted by time.
func member(received time.Time, id string) string {
	return fmt.Sprintf("%016d-%s", max(0, received.UnixMicro()), id)
}
