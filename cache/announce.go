package cache

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/internal/version"
)

// An announcement is a member of the sorted set "want", its score the seq of
// the event. It is dropped after wantSpan: by then the origin shows the version,
// or something newer, or the thing was restored to something older.
const (
	wantSpan  = 10 * time.Minute
	maxWanted = 100 // announcements of one event

	wantVersion = '='
	wantGone    = '-'
)

// announced is the newest word on a tag.
type announced struct {
	Announcement
	seq uint64
}

// over reports whether a is too old to be held against a fill at token.
func (a announced) over(token uint64) bool {
	return a.seq+uint64(wantSpan.Microseconds()) < token
}

// member is a as the ledger keeps it.
func (a Announcement) member() string {
	kind := wantVersion
	if a.Gone {
		kind = wantGone
	}
	return strconv.Itoa(len(a.Tag)) + ":" + a.Tag + string(kind) + a.Version
}

// parseAnnouncement is the inverse of member.
func parseAnnouncement(member string) (a Announcement, ok bool) {
	digits, rest, _ := strings.Cut(member, ":")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n >= len(rest) {
		return a, false
	}
	a = Announcement{Tag: rest[:n], Version: rest[n+1:], Gone: rest[n] == wantGone}
	return a, rest[n] == wantGone || rest[n] == wantVersion
}

// wanted are p's announcements as the ledger keeps them. What no entry can
// carry is left out.
func wanted(p Purge) []string {
	var out []string
	for _, a := range p.Announced {
		if a.Tag != "" && len(a.Tag) <= MaxTag && len(a.Version) <= MaxTag && len(out) < maxWanted {
			out = append(out, a.member())
		}
	}
	return out
}

// announce takes in announcements. Of two on one tag the later event counts, and
// of two versions that have an order the higher one: two workers may have
// written the events of two edits the wrong way round.
func (m *mirror) announce(stamps []stamp) {
	for _, s := range stamps {
		a, ok := parseAnnouncement(s.scope)
		if !ok {
			continue
		}
		held, known := m.want[a.Tag]
		switch {
		case !known || held.over(m.token) || !outranked(a, held.Announcement):
			if s.seq >= held.seq {
				m.want[a.Tag] = announced{a, s.seq}
			} else if outranked(held.Announcement, a) {
				m.want[a.Tag] = announced{a, held.seq}
			}
		case s.seq > held.seq:
			m.want[a.Tag] = announced{held.Announcement, s.seq}
		}
	}
}

// outranked reports whether a's version is certainly below b's.
func outranked(a, b Announcement) bool {
	if a.Gone || b.Gone {
		return false
	}
	low, high := version.Rank(a.Version), version.Rank(b.Version)
	return low != "" && high != "" && low[0] == high[0] && low < high
}

// announced returns the newest word on a tag, of the last minutes.
func (m *mirror) announced(tag string) (announced, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	a, ok := m.want[tag]
	return a, ok && !a.over(m.token)
}

// recentWant returns the announcements since a seq, as the ledger spells them.
func (m *mirror) recentWant(from uint64) []stamp {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []stamp
	for _, a := range m.want {
		if a.seq >= from {
			out = append(out, stamp{a.member(), a.seq})
		}
	}
	return out
}

// Told notes that somebody is about to be told of p's announcements: from now
// on, a read that meets an old view asks the origin again. Call it before the
// notice goes out.
func (s *Store) Told(ctx context.Context, p Purge, m Mark) error {
	if len(p.Announced) == 0 {
		return nil
	}
	var keys []string
	args := []any{m.Seq, wantSpan.Milliseconds()}
	for _, a := range p.Announced[:min(len(p.Announced), maxWanted)] {
		keys = append(keys, s.names.told(a.Tag))
		args = append(args, a.member())
	}
	if err := s.scripts.tell.Run(ctx, s.rdb, keys, args...).Err(); err != nil {
		return fmt.Errorf("noting who was told: %w", err)
	}
	return nil
}
