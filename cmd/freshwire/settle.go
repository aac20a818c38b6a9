package main

import (
	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/event"
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
