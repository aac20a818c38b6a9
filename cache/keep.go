package cache

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// entryOf makes an entry of what the origin answered.
func (s *Store) entryOf(w errand, r response) *Entry {
	e := s.newEntry(w.Request, w.want, r.Fill, r.at)
	e.Took = r.took
	return e
}

// headOf is the entry of an answer whose body still comes.
func (s *Store) headOf(w errand, r response) *Entry {
	e := s.entryOf(w, r)
	e.body.absent = true
	return e
}

func (s *Store) newEntry(req Request, want []string, a Fill, at position) *Entry {
	scopes := slices.Clone(want)
	for _, t := range a.Tags {
		if scope := tagScope + t; t != "" && !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	none := a.nothing()
	if none || a.Incomplete {
		scopes = append(scopes, negative)
	}
	stored := s.now().wall
	until := stored.Add(s.shorten(a.TTL))
	e := &Entry{
		Status: a.Status, Header: a.Header, ETag: a.ETag, Negative: none,
		StoredAt: stored.Add(-a.Age), FreshUntil: until, StaleUntil: until.Add(a.SWR), ErrorUntil: until.Add(a.SIE),
		Target: req.Target, Position: req.Position, Token: at.token, Epoch: at.epoch, scopes: scopes,
	}
	e.setBody(a.Body, s.packable(a))
	return e
}

// nothing reports whether f says that there is nothing.
func (f Fill) nothing() bool { return f.Negative || f.Status == 404 || f.Status == 410 }

// Entry returns f as a read gets it that the cache does not keep.
func (f Fill) Entry() *Entry {
	now := time.Now()
	e := &Entry{
		Status: f.Status, Header: f.Header, ETag: f.ETag, Negative: f.nothing(),
		StoredAt: now.Add(-f.Age), FreshUntil: now, StaleUntil: now, ErrorUntil: now,
	}
	e.setBody(f.Body, false)
	return e
}

// refusalOf says why an answer of the origin is not stored, "" where it is.
func (s *Store) refusalOf(key string, e *Entry, r response) string {
	reason := s.refusal(key, e, r.Fill)
	switch {
	case reason != "":
		return reason
	case r.body != nil:
		return "body"
	case r.old && !s.faults.oldViewsStored:
		return "old-view"
	}
	return ""
}

// refusal says why e is not stored, "" where it is.
func (s *Store) refusal(key string, e *Entry, a Fill) string {
	switch {
	case a.NoStore:
		return "no-store"
	case a.Status >= 500:
		return "status"
	case a.TTL+max(a.SWR, a.SIE) < time.Millisecond:
		return "no-ttl"
	case int64(len(a.Body)) > s.cfg.MaxBody:
		return "body"
	case slices.ContainsFunc(e.scopes, func(s string) bool { return len(s) > MaxTag+len(tagScope) && s[0] == tagScope[0] }):
		return "tag"
	case e.Epoch == "":
		return "no-ledger"
	}
	if kind, _ := s.mirror.judge(key, position{e.Epoch, e.Token}, e.scopes); kind != "" {
		return "void"
	}
	return ""
}

// store keeps e, and ends the fill. Failing costs a miss.
func (s *Store) store(ctx context.Context, key string, e *Entry, nonce string) bool {
	blob, err := e.encode()
	if err != nil {
		s.metrics.refused.WithLabelValues("header").Inc()
		s.log.WarnContext(ctx, "answer not stored", "key", key, "err", err)
		return false
	}
	now := s.now().wall
	life := min(e.end().Sub(now), s.cfg.Retain)
	stored, err := s.scripts.store.Run(ctx, s.rdb, []string{s.names.entry(key), s.names.lease(key)},
		blob, life.Milliseconds(), nonce, fmt.Sprintf(tokenPattern, e.Token), e.Epoch, s.names.wake(key)).Bool()
	switch {
	case err != nil:
		s.metrics.refused.WithLabelValues("error").Inc()
		s.log.WarnContext(ctx, "answer not stored", "key", key, "err", err)
		return false
	case !stored:
		s.metrics.refused.WithLabelValues("newer").Inc()
		return false
	}
	s.memory.keep(key, e)
	pipe := s.rdb.Pipeline()
	s.indexAdd(ctx, pipe, key, e.scopes, now.Add(life))
	if _, err := pipe.Exec(ctx); err != nil {
		s.log.DebugContext(ctx, "entry not indexed, it will expire by itself", "key", key, "err", err)
	}
	return true
}
