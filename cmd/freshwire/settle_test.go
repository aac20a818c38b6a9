package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/read"
	"github.com/freshwire/freshwire/tasks"
)

// about returns what a run on post 42 at version 7 is about.
func about(changes ...func(*tasks.Subject)) tasks.Subject {
	s := tasks.Subject{News: true, Event: event.Event{ID: "e1", Source: "blog", Type: "post", Action: event.Update, Entity: "42", Version: "7"},
		Purge: event.Purge{Tags: []string{"posts", "post:42"}}}
	for _, c := range changes {
		c(&s)
	}
	return s
}

func TestEventAnnouncesTheVersionOfItsEntity(t *testing.T) {
	version, gone := []cache.Announcement{{Tag: "post:42", Version: "7"}}, []cache.Announcement{{Tag: "post:42", Gone: true}}
	for name, tc := range map[string]struct {
		change func(*tasks.Subject)
		want   []cache.Announcement
	}{
		"an edit":              {func(*tasks.Subject) {}, version},
		"a removal":            {func(s *tasks.Subject) { s.Event.Action = event.Delete }, gone},
		"a removal by id":      {func(s *tasks.Subject) { s.Event.Action, s.Event.Version = event.Unpublish, "" }, gone},
		"no version":           {func(s *tasks.Subject) { s.Event.Version = "" }, nil},
		"no entity":            {func(s *tasks.Subject) { s.Event.Entity = "" }, nil},
		"old news":             {func(s *tasks.Subject) { s.News = false }, nil},
		"one language of some": {func(s *tasks.Subject) { s.Event.Locale = "de" }, nil},
		"gone in one language": {func(s *tasks.Subject) { s.Event.Locale, s.Event.Action = "de", event.Delete }, nil},
	} {
		if got := announced(about(tc.change)); !slices.Equal(got, tc.want) {
			t.Errorf("%s announces %+v, want %+v", name, got, tc.want)
		}
	}
	if p := announcing(about()); !slices.Equal(p.Announced, version) || p.By != "e1" || !slices.Equal(p.Tags, []string{"posts", "post:42"}) {
		t.Errorf("purge = %+v, want the tags, what is announced, and by whom", p)
	}
}

// look is what one look at the origin finds.
type look struct {
	shown read.Shown
	err   error
}

func TestNotificationWaitsUntilTheOriginShowsTheVersion(t *testing.T) {
	old, current, unknown := look{shown: read.ShownOld}, look{shown: read.ShownCurrent}, look{}
	down := look{err: errors.New("502")}
	noVersion := func(s *tasks.Subject) { s.Event.Version = "" }
	for _, tc := range []struct {
		name    string
		looks   []look // the last one holds on
		change  func(*tasks.Subject)
		lag     time.Duration
		settles bool
		settled bool
		again   int // times that it is made void once more
		told    bool
		note    string
		waited  time.Duration
		looked  int
	}{
		{name: "current at once", looks: []look{current}, settles: true, settled: true, told: true, looked: 1},
		{name: "no route tells", looks: []look{unknown}, settles: true, settled: true, told: true, looked: 1},
		{name: "late", looks: []look{old, old, current}, settles: true, settled: true, again: 1, told: true, waited: 150 * time.Millisecond, looked: 3},
		{name: "down for a moment", looks: []look{down, current}, settles: true, settled: true, again: 1, told: true, waited: 50 * time.Millisecond, looked: 2},
		{name: "very late", looks: []look{old}, settles: true, note: `the origin still shows an older version of post:42 than "7"`, waited: 30 * time.Second, looked: 34},
		{name: "down", looks: []look{down}, settles: true, note: "the origin does not tell: 502", waited: 30 * time.Second, looked: 34},
		{name: "one of two routes is down", looks: []look{{read.ShownCurrent, errors.New("502")}}, settles: true, note: "the origin does not tell: 502", waited: 30 * time.Second, looked: 34},
		{name: "not removed", looks: []look{old}, change: func(s *tasks.Subject) { s.Event.Action = event.Delete }, settles: true, note: "the origin still shows post:42", waited: 30 * time.Second, looked: 34},
		{name: "nothing to wait for", change: noVersion},
		{name: "a lag, no version", change: noVersion, lag: 2 * time.Second, settles: true, settled: true, again: 1, waited: 2 * time.Second},
		{name: "a lag, and a version", looks: []look{old, current}, lag: 2 * time.Second, settles: true, settled: true, again: 1, told: true, waited: 2 * time.Second, looked: 2},
		{name: "later than its lag", looks: []look{old, old, old, old, current}, lag: 500 * time.Millisecond, settles: true, settled: true, again: 1, told: true, waited: 750 * time.Millisecond, looked: 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				looked, again, told := 0, 0, tasks.Mark{}
				s := &settler{
					timeout: 30 * time.Second,
					lag:     func(source string) time.Duration { return map[string]time.Duration{"blog": tc.lag}[source] },
					places:  func(context.Context, string) []string { return []string{"/blog/hello"} },
					probe: func(_ context.Context, tag string, places ...string) (read.Shown, error) {
						if tag != "post:42" || !slices.Equal(places, []string{"/blog/hello"}) {
							t.Errorf("looked at %s in %q, want post:42 in its places", tag, places)
						}
						l := tc.looks[min(looked, len(tc.looks)-1)]
						looked++
						return l.shown, l.err
					},
					invalidate: func(_ context.Context, _ tasks.Subject, prior tasks.Mark) (tasks.Mark, error) {
						if again++; prior != (tasks.Mark{}) {
							t.Errorf("made void under %v once more, want a new mark", prior)
						}
						return tasks.Mark{Seq: 2}, nil
					},
					barrier: func(_ context.Context, _ tasks.Subject, m tasks.Mark) (tasks.Mark, tasks.Report, error) {
						return m, tasks.Report{Settled: true}, nil
					},
					told: func(_ context.Context, _ tasks.Subject, m tasks.Mark) error { told = m; return nil },
				}
				subject := about()
				if tc.change != nil {
					tc.change(&subject)
				}
				if got := s.settles(subject); got != tc.settles {
					t.Fatalf("settles = %v, want %v", got, tc.settles)
				}
				if !tc.settles {
					return
				}
				m, got, err := s.settle(t.Context(), subject, tasks.Mark{Seq: 1})
				wantMark := tasks.Mark{Seq: uint64(1 + tc.again)}
				wantTold := tasks.Mark{}
				if tc.told {
					wantTold = wantMark
				}
				if err != nil || got.Settled != tc.settled || got.Waited != tc.waited || got.Note != tc.note || m != wantMark || told != wantTold || again != tc.again {
					t.Errorf("settle = %v, %+v, %v after %d times void and told %v, want settled %v after %v, %q, under %v, told %v",
						m, got, err, again, told, tc.settled, tc.waited, tc.note, wantMark, wantTold)
				}
				if looked < tc.looked-1 || looked > tc.looked+1 {
					t.Errorf("looked %d times, want %d", looked, tc.looked)
				}
			})
		})
	}
}

func TestWaitForAnOriginEndsWithItsContextAndItsErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("redis is away")
		ok := settler{
			timeout: 30 * time.Second,
			lag:     func(string) time.Duration { return time.Second },
			places:  func(context.Context, string) []string { return nil },
			probe: func(context.Context, string, ...string) (read.Shown, error) {
				return read.ShownCurrent, nil
			},
			invalidate: func(_ context.Context, _ tasks.Subject, m tasks.Mark) (tasks.Mark, error) { return m, nil },
			barrier: func(_ context.Context, _ tasks.Subject, m tasks.Mark) (tasks.Mark, tasks.Report, error) {
				return m, tasks.Report{Settled: true}, nil
			},
			told: func(context.Context, tasks.Subject, tasks.Mark) error { return nil },
		}
		for name, edit := range map[string]func(*settler){
			"invalidate": func(s *settler) {
				s.invalidate = func(context.Context, tasks.Subject, tasks.Mark) (tasks.Mark, error) { return tasks.Mark{}, broken }
			},
			"barrier": func(s *settler) {
				s.barrier = func(context.Context, tasks.Subject, tasks.Mark) (tasks.Mark, tasks.Report, error) {
					return tasks.Mark{}, tasks.Report{}, broken
				}
			},
			"a node that does not confirm": func(s *settler) {
				s.barrier = func(context.Context, tasks.Subject, tasks.Mark) (tasks.Mark, tasks.Report, error) {
					return tasks.Mark{}, tasks.Report{}, nil
				}
			},
			"told": func(s *settler) { s.told = func(context.Context, tasks.Subject, tasks.Mark) error { return broken } },
		} {
			s := ok
			edit(&s)
			if _, got, err := s.settle(t.Context(), about(), tasks.Mark{}); err == nil || got.Settled {
				t.Errorf("%s: settle = %+v, %v, want an error", name, got, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if _, got, err := ok.settle(ctx, about(), tasks.Mark{}); err == nil || got.Settled || time.Since(begin) > 100*time.Millisecond {
			t.Errorf("settle with 100ms = %+v, %v after %v, want an error at once", got, err, time.Since(begin))
		}
	})
}

func TestRefillAsksEightAtATimeAndCountsWhatItFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		var targets []string
		for i := range 20 {
			targets = append(targets, fmt.Sprint("/", i))
		}
		begin := time.Now()
		filled, err := refill(t.Context(), targets, func(_ context.Context, target string) error {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-time.After(time.Second)
			switch target {
			case "/3":
				return errors.New("502")
			case "/4":
				return fmt.Errorf("%w: /4", read.ErrTarget)
			}
			return nil
		})
		if filled != 18 || err == nil || !strings.Contains(err.Error(), "1 of 20 entries: 502") {
			t.Errorf("refill = %d, %v, want 18, and the one that failed", filled, err)
		}
		if took := time.Since(begin); took != 3*time.Second || most.Load() != refillsAtOnce {
			t.Errorf("took %v with %d at a time, want 3s with %d", took, most.Load(), refillsAtOnce)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if filled, err := refill(ctx, targets, func(context.Context, string) error { t.Error("asked"); return nil }); filled != 0 || err == nil {
			t.Errorf("refill without time = %d, %v, want 0 and an error", filled, err)
		}
	})
}
