package cache

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// instant is one look at both clocks of this machine. The monotonic one stands
// still while a machine is suspended or migrated, the wall clock can be set:
// a lease runs only while both say so.
type instant struct {
	mono time.Duration
	wall time.Time
}

var processStart = time.Now()

func now() instant {
	t := time.Now()
	return instant{mono: t.Sub(processStart), wall: t.Round(0)}
}

// mirror is what this process knows of the ledger. It only ever gains: merging
// is the maximum of two sets, so it does not matter how often or in which
// order answers come in.
type mirror struct {
	lease time.Duration  // fixed after New
	now   func() instant // fixed after New

	mu      sync.RWMutex
	epoch   string // of the ledger; empty before the first sync
	token   uint64 // every event up to it is in here
	newest  string // member of the newest event that a sync told; the ledger must know it too
	wrote   string // member of the newest event of this process that no sync told yet; likewise
	floor   uint64 // everything older is void
	scopes  map[string]uint64
	globs   []glob // newest first, at most maxGlobs
	pruneAt int    // number of scopes at which those below the floor are dropped

	left   bool          // no lease any more
	synced bool          // a lease was granted in this epoch
	since  instant       // when the sync that granted it began; no earlier one may grant another
	cold   time.Duration // monotonic; not usable before, see merge
}

type glob struct {
	pattern string
	seq     uint64
}

// maxGlobs bounds the patterns that each read is matched against. The oldest
// beyond it becomes part of the floor: it voids everything older than itself.
const maxGlobs = 64

// pruneMin is the number of scopes below which pruning is not worth a look.
const pruneMin = 1024

// position is a place in one ledger. Its parts are captured together: a token
// means nothing in another epoch.
type position struct {
	epoch string
	token uint64
}

func (m *mirror) position() position {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return position{m.epoch, m.token}
}

// question is what a sync asks with. The answer speaks only of what lies
// above the position, so it is taken in together with the question.
type question struct {
	position
	newest, wrote string // members of events, "" none
}

func (m *mirror) question() question {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return question{position{m.epoch, m.token}, m.newest, m.wrote}
}

// usable reports whether the lease runs: no barrier of an event that is not in
// here can have ended. Callers ask after they looked at the scopes.
func (m *mirror) usable() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.running(m.now())
}

func (m *mirror) running(at instant) bool {
	mono, wall := at.mono-m.since.mono, at.wall.Sub(m.since.wall)
	return m.synced && !m.left && at.mono >= m.cold &&
		mono >= 0 && mono < m.lease && wall >= 0 && wall < m.lease
}

// judge reports which kind of scope voids what was filled for key at a
// position, "" none, and then whether the mirror could tell.
func (m *mirror) judge(key string, filled position, lists ...[]string) (void string, usable bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	void = m.voids(key, filled, lists)
	return void, m.running(m.now())
}

func (m *mirror) voids(key string, filled position, lists [][]string) string {
	switch {
	case filled.epoch != m.epoch:
		return "epoch"
	case filled.token < m.floor:
		return "all"
	}
	var buf [64]byte
	if m.scopes[string(append(append(buf[:0], keyScope...), key...))] > filled.token {
		return "key"
	}
	for _, scopes := range lists {
		for _, s := range scopes {
			if m.scopes[s] > filled.token {
				return scopeKind(s)
			}
		}
	}
	for _, g := range m.globs {
		if g.seq <= filled.token {
			break
		}
		if matchGlob(g.pattern, key) || matchesAny(g.pattern, lists) {
			return "pattern"
		}
	}
	return ""
}

// matchesAny reports whether a glob matches one of the other keys whose purge
// voids an entry: a pattern that names "list" means "list?page=2", too.
func matchesAny(pattern string, lists [][]string) bool {
	for _, scopes := range lists {
		for _, s := range scopes {
			if base, ok := strings.CutPrefix(s, keyScope); ok && matchGlob(pattern, base) {
				return true
			}
		}
	}
	return false
}

func scopeKind(scope string) string {
	switch {
	case strings.HasPrefix(scope, tagScope):
		return "tag"
	case strings.HasPrefix(scope, pathScope):
		return "path"
	case scope == negative:
		return "negative"
	}
	return "other"
}

// answer is what the ledger told a sync.
type answer struct {
	token, floor uint64
	whole        bool
	epoch        string
	newest       string
	now, cold    uint64 // µs, server clock
	kept         uint64 // where not whole: seq of the event before the first that is lacking
	scopes       []stamp
}

type stamp struct {
	scope string
	seq   uint64
}

// merge takes in an answer to a question that was sent at t0 and came at t1.
// It reports whether there was news, which is to be acknowledged at once: also
// what this process wrote itself and knows already. Without a lease there is
// always something to ask.
//
// An answer is taken only by the mirror that asked. One that began another
// epoch meanwhile lacks what lies below the question; with the token of the
// answer it would seem to know that. Then nothing is taken, and no lease: ask
// again.
func (m *mirror) merge(q question, a answer, t0, t1 instant) (news, taken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if q.epoch != m.epoch || q.token > m.token {
		return true, false
	}
	if a.epoch != m.epoch {
		m.begin(a.epoch) // the answer is of everything
	}
	// A node that had no lease when the ledger moved to another server may meet
	// entries whose event is still to be given back by one that had.
	if !m.running(t0) && a.cold > a.now {
		m.cold = max(m.cold, t1.mono+time.Duration(a.cold-a.now)*time.Microsecond)
	}
	for _, s := range a.scopes {
		news = news || s.scope != "@"
	}
	m.add(a.scopes)
	m.floor = max(m.floor, a.floor)
	m.token = max(m.token, a.token)
	if a.whole {
		m.proved(q, a.newest)
	}
	if t0.mono >= m.since.mono {
		m.synced, m.since = true, t0
	}
	m.prune()
	return news || !m.synced, true
}

// proved notes that the ledger knows what q named, up to its newest event.
// What this process wrote since is still to be proved.
func (m *mirror) proved(q question, newest string) {
	m.newest = newest
	if m.wrote == q.wrote {
		m.wrote = ""
	}
}

// learn takes in an event that this process itself wrote, so that it can give
// it back should the ledger lose it before any node read it.
//
// It begins no epoch: one event does not tell what else a ledger holds, and
// the answer may be late, of a ledger that is gone. But one of the two is, so
// the lease ends until a sync that begins from now on tells which.
func (m *mirror) learn(mark Mark, scopes []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mark.Epoch != m.epoch {
		m.synced, m.since = false, m.now()
		return
	}
	stamps := make([]stamp, len(scopes))
	for i, s := range scopes {
		stamps[i] = stamp{s, mark.Seq}
	}
	m.add(stamps)
	if mark.Seq > max(memberSeq(m.newest), memberSeq(m.wrote)) {
		m.wrote = mark.Member
	}
}

// begin forgets everything: what another ledger said is void, and so is what
// was filled under it.
func (m *mirror) begin(epoch string) {
	m.epoch, m.token, m.newest, m.wrote, m.floor = epoch, 0, "", "", 0
	m.scopes, m.globs, m.pruneAt = make(map[string]uint64), nil, pruneMin
	m.synced = false
}

func (m *mirror) add(stamps []stamp) {
	for _, s := range stamps {
		switch pattern, isGlob := strings.CutPrefix(s.scope, globScope); {
		case s.scope == "@":
		case s.scope == everyone:
			m.floor = max(m.floor, s.seq)
		case isGlob:
			m.addGlob(glob{pattern, s.seq})
		default:
			m.scopes[s.scope] = max(m.scopes[s.scope], s.seq)
		}
	}
}

func (m *mirror) addGlob(g glob) {
	if i := slices.IndexFunc(m.globs, func(h glob) bool { return h.pattern == g.pattern }); i >= 0 {
		g.seq = max(g.seq, m.globs[i].seq)
		m.globs = slices.Delete(m.globs, i, i+1)
	}
	i, _ := slices.BinarySearchFunc(m.globs, g, func(a, b glob) int { return cmp.Compare(b.seq, a.seq) })
	m.globs = slices.Insert(m.globs, i, g)
	if last := len(m.globs) - 1; last == maxGlobs {
		m.floor = max(m.floor, m.globs[last].seq)
		m.globs = m.globs[:last]
	}
}

// prune drops what the floor says already.
func (m *mirror) prune() {
	if len(m.scopes) < m.pruneAt {
		return
	}
	for s, seq := range m.scopes {
		if seq <= m.floor {
			delete(m.scopes, s)
		}
	}
	m.globs = slices.DeleteFunc(m.globs, func(g glob) bool { return g.seq <= m.floor })
	m.pruneAt = max(pruneMin, 2*len(m.scopes))
}

// recent returns what events named from a seq on, as the ledger spells it.
func (m *mirror) recent(from uint64) []stamp {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []stamp
	for s, seq := range m.scopes {
		if seq >= from {
			out = append(out, stamp{s, seq})
		}
	}
	for _, g := range m.globs {
		if g.seq >= from {
			out = append(out, stamp{globScope + g.pattern, g.seq})
		}
	}
	if m.floor >= from {
		out = append(out, stamp{everyone, m.floor})
	}
	return out
}

// gaveBack notes that the ledger knows again what this node knows.
func (m *mirror) gaveBack(q question, epoch, newest string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch == epoch {
		m.proved(q, newest)
	}
}

// leave ends the lease for good: an answer that is still under way grants none.
func (m *mirror) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = true
}

func (m *mirror) size() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.scopes) + len(m.globs)
}

// age is how long ago the sync began that the mirror rests on.
func (m *mirror) age() time.Duration {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.synced {
		return 0
	}
	return m.now().mono - m.since.mono
}
