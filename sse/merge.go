package sse

import (
	"bytes"
	"encoding/json"
	"sync"

	"github.com/freshwire/freshwire/event"
)

// Bounds of a merged change. What is larger becomes a reset: whoever would be
// told of so much refetches all of it anyway.
const (
	maxMergedNames = 2000    // tags, and paths
	maxMergedBytes = 1 << 20 // encoded
)

// decoded is the change within a frame, read when it is first merged.
type decoded struct {
	once   sync.Once
	change event.Change
	ok     bool
}

// change returns the change that f carries. ok is false for an application's
// own news, of which only the application knows what may be left out.
func (f *frame) change() (c event.Change, ok bool) {
	f.dec.once.Do(func() {
		d := json.NewDecoder(bytes.NewReader(f.data))
		d.DisallowUnknownFields()
		err := d.Decode(&f.dec.change)
		c := f.dec.change
		f.dec.ok = err == nil && c.ID != "" && c.Source != "" && c.Event != "" && !c.At.IsZero()
	})
	return f.dec.change, f.dec.ok
}

// appendMerged appends frames to dst, each run of changes as one change; a run
// of one as it is, with its fields. Of
// the channels it names only those that the subscriber listens to. ok is false
// when the result would be too large.
func appendMerged(dst []byte, frames []*frame, v *view) (out []byte, ok bool) {
	var m merger
	start := len(dst)
	for _, f := range frames {
		c, isChange := f.change()
		if isChange {
			m.add(f, c, v)
			continue
		}
		dst = append(m.flush(dst), f.wire...)
		if len(dst)-start > maxMergedBytes {
			return dst, false
		}
	}
	dst = m.flush(dst)
	return dst, !m.tooMany && len(dst)-start <= maxMergedBytes
}

// merger gathers a run of changes.
type merger struct {
	n        int
	first    *frame
	at       event.Position
	sum      event.Change
	tags     set
	paths    set
	channels set
	tooMany  bool
}

func (m *merger) add(f *frame, c event.Change, v *view) {
	ids := c.IDs
	if len(ids) == 0 {
		ids = []string{c.ID}
	}
	if m.n++; m.n == 1 {
		m.first, m.sum = f, c
		m.sum.IDs = nil
	}
	m.at = f.pos
	sum := &m.sum
	// What all agree on stays; the rest says that it is mixed.
	sum.Source = agreed(sum.Source, c.Source, "")
	sum.Type = agreed(sum.Type, c.Type, "*")
	sum.Action = agreed(sum.Action, c.Action, event.Invalidate)
	sum.Entity = agreed(sum.Entity, c.Entity, "")
	sum.Slug = agreed(sum.Slug, c.Slug, "")
	sum.Locale = agreed(sum.Locale, c.Locale, "")
	sum.ID, sum.At = c.ID, c.At
	sum.Seq = max(sum.Seq, c.Seq)
	sum.Degraded = sum.Degraded || c.Degraded
	sum.Superseded = sum.Superseded && c.Superseded
	sum.IDs = append(sum.IDs, ids...)
	sum.Fields = nil
	m.tags.add(c.Tags)
	m.paths.add(c.Paths)
	for _, ch := range f.channels {
		if v.listens(ch) || ch == event.Everybody {
			m.channels.add([]string{ch})
		}
	}
	m.tooMany = m.tooMany || m.n > 1 && (len(m.tags.list) > maxMergedNames || len(m.paths.list) > maxMergedNames)
}

func agreed[T comparable](a, b, mixed T) T {
	if a == b {
		return a
	}
	return mixed
}

// flush appends the run as one event and begins another.
func (m *merger) flush(dst []byte) []byte {
	switch m.n {
	case 0:
		return dst
	case 1: // nothing to merge
		dst = append(dst, m.first.wire...)
	default:
		c := m.sum
		c.Event = c.Type + "." + string(c.Action)
		c.Tags, c.Paths, c.Channels = m.tags.list, m.paths.list, m.channels.list
		data, _ := json.Marshal(c) // without Fields it is texts and numbers
		dst, _ = appendEvent(dst, m.at.String(), "", data)
	}
	*m = merger{tooMany: m.tooMany}
	return dst
}

// set keeps the first of equal names, in order.
type set struct {
	list []string
	has  map[string]struct{}
}

func (s *set) add(names []string) {
	if s.has == nil {
		s.has = map[string]struct{}{}
	}
	for _, n := range names {
		if _, ok := s.has[n]; !ok {
			s.has[n] = struct{}{}
			s.list = append(s.list, n)
		}
	}
}
