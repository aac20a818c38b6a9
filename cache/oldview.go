package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/internal/version"
)

// ErrOldView is returned where the origin kept on showing less than readers
// were told of already.
var ErrOldView = errors.New("cache: the origin shows an older version than was announced")

// Pauses before the origin is asked again: while a reader waits, and for the
// next one.
const (
	askAgainMin = 20 * time.Millisecond
	askAgainMax = 250 * time.Millisecond

	followMin  = 100 * time.Millisecond
	followMax  = 2 * time.Second
	followSpan = 30 * time.Second
	maxFollows = 64 // keys at a time
)

// ask calls the origin, and calls it again as long as it shows less than
// somebody was told of. begin is called before each call.
//
// Who was told is asked after the call. So an old view is given away only where
// nobody had been told when the last of those came who get it.
func (s *Store) ask(ctx context.Context, w errand, held *Entry, begin func()) (response, error) {
	until := time.Now().Add(s.cfg.FillTimeout)
	for pause := askAgainMin; ; pause = min(2*pause, askAgainMax) {
		begin()
		r, err := s.call(ctx, w, held, time.Until(until))
		if err == nil && r.body != nil && r.Finish != nil && r.Versions != nil {
			err = r.gather(s.faults) // the versions are in the body
		}
		if err != nil {
			r.end()
			return response{}, err
		}
		if !s.mirror.usable() && (r.Versions != nil || r.nothing()) {
			s.resync(ctx) // for what was announced meanwhile
		}
		r.blind = !s.mirror.usable() // asked first: an event whose barrier has ended by now is known below
		old := s.behind(r, w.want)
		if r.old = len(old) > 0; !r.old {
			return r, nil
		}
		if !s.wasTold(ctx, r, w.want, old) {
			s.metrics.oldViews.WithLabelValues("served").Inc()
			return r, nil
		}
		s.metrics.oldViews.WithLabelValues("asked again").Inc()
		r.end()
		if pause >= time.Until(until) {
			return response{}, fmt.Errorf("%w: %q", ErrOldView, old[0])
		}
		if err := sleep(ctx, pause); err != nil {
			return response{}, err
		}
	}
}

// behind returns the tags whose announcements an answer does not show yet.
func (s *Store) behind(r response, want []string) (tags []string) {
	if r.Status >= 500 {
		return nil
	}
	lacks := func(tag string) bool {
		a, ok := s.mirror.announced(tag)
		return ok && r.lacks(a.Announcement, want)
	}
	for tag := range r.Versions {
		if lacks(tag) {
			tags = append(tags, tag)
		}
	}
	for _, scope := range want {
		tag, ok := strings.CutPrefix(scope, tagScope)
		if _, seen := r.Versions[tag]; ok && !seen && lacks(tag) {
			tags = append(tags, tag)
		}
	}
	return tags
}

// lacks reports whether an answer shows less than a. An answer that tells no
// version of a thing shows it, unless it says that there is nothing at all.
func (r response) lacks(a Announcement, want []string) bool {
	shown, tells := r.Versions[a.Tag]
	switch {
	case r.nothing():
		return !a.Gone && slices.Contains(want, tagScope+a.Tag)
	case a.Gone:
		return tells || r.Versions != nil && slices.Contains(want, tagScope+a.Tag)
	}
	return tells && version.Older(shown, a.Version)
}

// wasTold reports whether somebody was told of more than an answer shows, which
// is behind on these tags: perhaps of an earlier event than the newest. Where
// Redis does not say, somebody may have been.
func (s *Store) wasTold(ctx context.Context, r response, want, tags []string) bool {
	if s.faults.toldUnchecked {
		return false
	}
	keys := make([]string, len(tags))
	for i, tag := range tags {
		keys[i] = s.names.told(tag)
	}
	v, err := s.scripts.told.Run(ctx, s.rdb, keys).Slice()
	if err != nil {
		return true
	}
	for _, told := range v {
		if text, ok := told.(string); ok {
			_, member, _ := strings.Cut(text, ":")
			if a, ok := parseAnnouncement(member); !ok || r.lacks(a, want) {
				return true
			}
		}
	}
	return false
}

// follow asks the origin again for what it showed an old view of, so that the
// next reader finds what was announced. It returns at once.
func (s *Store) follow(ctx context.Context, w errand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follows[w.Key] || len(s.follows) >= maxFollows {
		return
	}
	s.follows[w.Key] = true
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), followSpan)
		defer cancel()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.follows, w.Key)
		}()
		w.anew = false
		for pause := followMin; sleep(ctx, pause) == nil && s.stillOld(ctx, w); pause = min(2*pause, followMax) {
		}
	}()
}

// stillOld asks once, unless another has stored it by now.
func (s *Store) stillOld(ctx context.Context, w errand) bool {
	if s.turns.gone() {
		return false
	}
	w.NoBody = nil
	e, state := s.find(ctx, w.Request, w.want)
	if state == current {
		return false
	}
	w.seen = e
	t, err := s.join(ctx, w, false)
	if err != nil {
		return true // too many fetches
	}
	select {
	case <-t.done:
		return t.err != nil || t.detail == DetailOriginLag
	case <-ctx.Done():
		return false
	}
}

// gone reports whether this node has left.
func (t *turns) gone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.left
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
