package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/read"
	"github.com/freshwire/freshwire/tasks"
)

// announced are the versions that the event of s announces: that of its entity,
// or that it is gone.
//
// An event about one language announces nothing: the tag of its entity is on the
// pages of the others, too, which have versions of their own and are not gone.
func announced(s tasks.Subject) []cache.Announcement {
	ev := s.Event
	if !s.News || ev.Entity == "" || ev.Locale != "" {
		return nil
	}
	a := cache.Announcement{Tag: ev.Type + ":" + ev.Entity, Version: ev.Version}
	switch ev.Action {
	case event.Delete, event.Unpublish, event.Archive:
		a.Version, a.Gone = "", true
	default:
		if a.Version == "" {
			return nil
		}
	}
	return []cache.Announcement{a}
}

// readsOrigins are the steps that ask origins, through reader.
func (a *app) readsOrigins(st *tasks.Steps, reader *read.Reader) {
	st.Hottest = a.hottest
	st.Refill = func(ctx context.Context, targets []string) (int, error) { return refill(ctx, targets, reader.Refill) }

	sources := a.site.file.Sources
	s := &settler{
		invalidate: a.invalidate,
		barrier:    a.barrier,
		probe:      reader.Probe,
		places:     a.places,
		told: func(ctx context.Context, s tasks.Subject, m tasks.Mark) error {
			return a.cache.Told(ctx, announcing(s), cache.Mark(m))
		},
		lag: func(source string) time.Duration { return sources[source].Settle },
	}
	if slices.ContainsFunc(a.site.file.Routes, func(r read.RouteConfig) bool { return r.Version != "" }) {
		s.timeout = a.configs.Tasks.SettleTimeout
	}
	lags := false
	for _, source := range sources {
		lags = lags || source.Settle > 0
	}
	if lags || s.timeout > 0 { // else no event waits, and a worker takes as many as it runs
		st.Settles, st.Settle = s.settles, s.settle
	}
}

// hottest names the most read entries of p by what they are asked for with.
func (a *app) hottest(ctx context.Context, p event.Purge, n int) ([]string, error) {
	hot, err := a.cache.Hottest(ctx, cachePurge(p), n)
	targets := make([]string, len(hot))
	for i, h := range hot {
		targets[i] = h.Target
	}
	return targets, err
}

// maxPlaces is how many places of a thing are looked at, besides those that its
// tag leads to by itself: each is a request to the origin, again and again.
const maxPlaces = 4

// places are where readers find the thing of a tag, such as a page by its slug.
// Not to know them costs a look at them, so an error is none of the event's.
func (a *app) places(ctx context.Context, tag string) []string {
	targets, err := a.hottest(ctx, event.Purge{Tags: []string{tag}}, maxPlaces)
	if err != nil {
		a.log.WarnContext(ctx, "places of a tag not found", "tag", tag, "err", err)
	}
	return targets
}

// settler waits for origins that lag behind what their CMS says.
type settler struct {
	timeout time.Duration                     // of the wait for a version; 0: no route tells versions
	lag     func(source string) time.Duration // of a CMS that tells no version
	places  func(ctx context.Context, tag string) []string

	probe      func(ctx context.Context, tag string, places ...string) (read.Shown, error)
	invalidate func(ctx context.Context, s tasks.Subject, prior tasks.Mark) (tasks.Mark, error)
	barrier    func(ctx context.Context, s tasks.Subject, m tasks.Mark) (tasks.Mark, tasks.Report, error)
	told       func(ctx context.Context, s tasks.Subject, m tasks.Mark) error
}

// settles reports whether there is anything to wait for.
func (s *settler) settles(about tasks.Subject) bool {
	return s.lag(about.Event.Source) > 0 || s.timeout > 0 && len(announced(about)) > 0
}

// settle waits until the origin shows what the event announced, and as long as
// its CMS may lag. Lists tell no version of what is new in them: what was filled
// in during a wait is made void once more.
func (s *settler) settle(ctx context.Context, about tasks.Subject, m tasks.Mark) (tasks.Mark, tasks.Settlement, error) {
	start := time.Now()
	over := func(note string, err error) (tasks.Mark, tasks.Settlement, error) {
		return m, tasks.Settlement{Settled: note == "" && err == nil, Waited: time.Since(start), Note: note}, err
	}
	lagged := false
	announced := announced(about)
	if s.timeout > 0 {
		for _, a := range announced {
			late, note := s.shown(ctx, a)
			if note != "" {
				return over(note, nil)
			}
			lagged = lagged || late
		}
	}
	if lag := s.lag(about.Event.Source); lag > 0 {
		if !pause(ctx, lag-time.Since(start)) {
			return over("", ctx.Err())
		}
		lagged = true
	}
	if lagged {
		var report tasks.Report
		var err error
		if m, err = s.invalidate(ctx, about, tasks.Mark{}); err != nil {
			return over("", err)
		}
		if m, report, err = s.barrier(ctx, about, m); err != nil {
			return over("", err)
		}
		if !report.Settled {
			return over("", fmt.Errorf("readers did not all confirm seq %d within %v", m.Seq, report.Waited))
		}
	}
	if s.timeout > 0 && len(announced) > 0 {
		if err := s.told(ctx, about, m); err != nil {
			return over("", err)
		}
	}
	return over("", nil)
}

const (
	firstLook = 50 * time.Millisecond // pause after the first look; doubles
	laterLook = time.Second
)

// shown looks until the origin shows a, or no route tells. It reports whether
// an earlier look has found something older; a note says why the wait ended
// in vain.
func (s *settler) shown(ctx context.Context, a cache.Announcement) (late bool, note string) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	places := s.places(ctx, a.Tag)
	for wait := firstLook; ; wait = min(2*wait, laterLook) {
		shown, err := s.probe(ctx, a.Tag, places...)
		switch {
		case err == nil && shown != read.ShownOld:
			return late, ""
		case err == nil || shown == read.ShownOld:
			late, note = true, fmt.Sprintf("the origin still shows an older version of %s than %q", a.Tag, a.Version)
			if a.Gone {
				note = "the origin still shows " + a.Tag
			}
		case ctx.Err() == nil || note == "":
			late, note = true, "the origin does not tell: "+err.Error() // it may have shown anything meanwhile
		}
		if !pause(ctx, wait) {
			return late, note
		}
	}
}

// pause reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// refillsAtOnce is how many entries are asked of origins at a time for one event.
const refillsAtOnce = 8

// refill fills entries again, and returns how many it did. What stood under
// another config is left out.
func refill(ctx context.Context, targets []string, fill func(ctx context.Context, target string) error) (filled int, err error) {
	errs := make([]error, len(targets))
	var group errgroup.Group
	group.SetLimit(refillsAtOnce)
	for i, target := range targets {
		group.Go(func() error {
			if errs[i] = ctx.Err(); errs[i] == nil {
				errs[i] = fill(ctx, target)
			}
			return nil
		})
	}
	group.Wait() // errs has the errors
	failed := 0
	for _, e := range errs {
		switch {
		case e == nil:
			filled++
		case !errors.Is(e, read.ErrTarget):
			if failed++; err == nil {
				err = e
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("%d of %d entries: %w", failed, len(targets), err)
	}
	return filled, err
}
