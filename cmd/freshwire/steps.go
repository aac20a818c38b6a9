package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/journal"
	"github.com/freshwire/freshwire/read"
	"github.com/freshwire/freshwire/rules"
	"github.com/freshwire/freshwire/target"
	"github.com/freshwire/freshwire/tasks"
)

// steps joins the worker's steps to the parts that do them.
func (a *app) steps() tasks.Steps {
	return tasks.Steps{
		Plan:       a.plan,
		Invalidate: a.invalidate,
		Barrier:    a.barrier,
		Reclaim:    a.reclaim,
		Tell:       a.tell,
		Append: func(ctx context.Context, c event.Change) (string, bool, error) {
			at, added, err := a.changes.Append(ctx, c)
			return at.String(), added, err
		},
	}
}

// revalidateSource is the source of events that /api/revalidate makes. No
// source of the config file can have this name: it holds a blank.
const revalidateSource = "api revalidate"

// plan says what ev means. A revalidation is told on the channels named like
// its tags, too, which are the default channels of what has these tags.
func (a *app) plan(ev event.Event) rules.Plan {
	p := a.site.rules.Plan(ev)
	if ev.Source != revalidateSource {
		return p
	}
	told := slices.DeleteFunc(slices.Clone(ev.Purge.Tags), func(tag string) bool { return !feed.ValidChannel(tag) })
	p = rules.Merge(p, rules.Plan{Channels: told})
	// A delivery id is the id of an event of ours: the site that we told calls
	// back, and telling it again would go round for ever.
	if ev.DeliveryID != "" {
		p.Targets = nil
	}
	return p
}

func cachePurge(p event.Purge) cache.Purge {
	return cache.Purge{Tags: p.Tags, Keys: p.Keys, Patterns: p.Patterns, Paths: spellings(p.Paths), All: p.All}
}

// spellings returns paths as entries know them, decoded and without a query,
// and as they were given, which may be meant literally.
func spellings(paths []string) []string {
	out := slices.Clone(paths)
	for _, p := range paths {
		plain, _, _ := strings.Cut(p, "?")
		if decoded, err := url.PathUnescape(plain); err == nil && decoded != p {
			out = append(out, decoded)
		}
	}
	return out
}

// announcing is the purge of s with what its event announces.
func announcing(s tasks.Subject) cache.Purge {
	p := cachePurge(s.Purge)
	p.Announced, p.By = announced(s), s.Event.ID
	return p
}

func (a *app) invalidate(ctx context.Context, s tasks.Subject, prior tasks.Mark) (tasks.Mark, error) {
	p := announcing(s)
	m, err := a.cache.Invalidate(ctx, p, cache.Mark(prior))
	if errors.Is(err, cache.ErrPurge) {
		// A value made a pattern that Redis cannot match as it is written.
		// Too much is safe, too little is not, and trying again changes nothing.
		a.log.WarnContext(ctx, "a pattern cannot be matched; everything is void", "patterns", p.Patterns, "err", err)
		m, err = a.cache.Invalidate(ctx, cache.Purge{All: true, Announced: p.Announced, By: p.By}, cache.Mark(prior))
	}
	return tasks.Mark(m), err
}

func (a *app) barrier(ctx context.Context, s tasks.Subject, m tasks.Mark) (tasks.Mark, tasks.Report, error) {
	now, report, err := a.cache.Barrier(ctx, announcing(s), cache.Mark(m))
	return tasks.Mark(now), tasks.Report{Nodes: report.Nodes, Waited: report.Waited, Settled: report.Settled}, err
}

// reclaim deletes other programs' keys before browsers are told, and leaves
// our own entries, which nobody is served any more, to the background.
func (a *app) reclaim(ctx context.Context, p event.Purge, m tasks.Mark) (deleted int, left []string, err error) {
	deleted, left, err = a.cache.DeleteForeign(ctx, cachePurge(p))
	a.cache.ReclaimLater(cachePurge(p), cache.Mark(m))
	return deleted, left, err
}

func (a *app) tell(ctx context.Context, name string, n tasks.Notice) error {
	t, ok := a.site.targets[name]
	if !ok {
		return fmt.Errorf("%w: there is no target %q in this worker's config", tasks.ErrGiveUp, name)
	}
	if err := t.Tell(ctx, target.Notice{EventID: n.Event.ID, Tags: n.Purge.Tags, Paths: n.Purge.Paths, All: n.Purge.All}); err != nil {
		if errors.Is(err, target.ErrContent) {
			return gaveUp{err, tasks.ErrRefused}
		}
		return gaveUp{err, tasks.ErrGiveUp} // the target has tried again itself
	}
	return nil
}

// gaveUp is an error that reads as it is and is a tasks.ErrGiveUp, too.
type gaveUp struct {
	error
	kind error
}

func (e gaveUp) Error() string   { return e.error.Error() }
func (e gaveUp) Unwrap() []error { return []error{e.kind, e.error} }

// revalidate makes tags and paths void, and queues the news of it for the
// site and browsers. cause is the id of our event that made the caller call.
func (a *app) revalidate(ctx context.Context, tags, paths []string, cause string) error {
	p := event.Purge{Tags: tags, Paths: paths}
	purge := cachePurge(p)
	purge.By = byRevalidate
	m, err := a.cache.Invalidate(ctx, purge, cache.Mark{})
	if err != nil {
		return err
	}
	if _, _, err = a.cache.Barrier(ctx, purge, m); err != nil {
		return err
	}
	_, left, err := a.cache.DeleteForeign(ctx, cachePurge(p))
	if err != nil {
		return err
	}
	if len(left) > 0 {
		a.log.WarnContext(ctx, "foreign keys left", "complaints", left)
	}
	ev := event.Event{
		ID: event.NewID(revalidateSource, m.Member, m.Epoch), Source: revalidateSource, Name: "revalidate", Type: "revalidate",
		Action: event.Invalidate, DeliveryID: cause, ReceivedAt: time.Now().UTC(), Purge: &p,
	}
	if err := ev.Validate(); err != nil {
		return err
	}
	if _, err = a.intake.accept(ctx, []event.Event{ev}); errors.Is(err, tasks.ErrBusy) || errors.Is(err, journal.ErrFull) {
		return fmt.Errorf("%w: %w", read.ErrAway, err)
	}
	return err
}
