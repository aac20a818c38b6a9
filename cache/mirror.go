package cache

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	hard    scopeSet
	soft    scopeSet // what they cover is stale, not void
	want    map[string]announced
	pruneAt int // number of scopes at which those below the floor are dropped

	left   bool          // no lease any more
	synced bool          // a lease was granted in this epoch
	since  instant       // when the sync that granted it began; no earlier one may grant another
	cold   time.Duration // monotonic; not usable before, see merge

	view atomic.Pointer[view] // of the above, for readers; made anew with each change
	gen  uint64               // of the view
}

// scopeSet says up to which event things are void.
type scopeSet struct {
	floor  uint64 // everything older
	scopes map[string]uint64
	globs  []glob // newest first, at most maxGlobs
}

// view is what a read needs of a mirror that has not changed since the entry
// was last judged: no lock, and no look at a scope.
type view struct {
	gen   uint64 // another one: something may be void that was not
	epoch string
	token uint64

	granted bool // the lease
	since   instant
	cold    time.Duration
}

// publish makes the view anew; void says that something may be void that was not.
func (m *mirror) publish(void bool) {
	if void {
		m.gen++
	}
	m.view.Store(&view{m.gen, m.epoch, m.token, m.synced && !m.left, m.since, m.cold})
}

// running reports whether the lease runs.
func (v *view) running(at instant, lease time.Duration) bool {
	mono, wall := at.mono-v.since.mono, at.wall.Sub(v.since.wall)
	return v.granted && at.mono >= v.cold && mono >= 0 && mono < lease && wall >= 0 && wall < lease
}

func newMirror(lease time.Duration, now func() instant) *mirror {
	m := &mirror{lease: lease, now: now, hard: newScopeSet(), soft: newScopeSet(), want: map[string]announced{}, pruneAt: pruneMin}
	m.publish(true)
	return m
}

func newScopeSet() scopeSet { return scopeSet{scopes: map[string]uint64{}} }

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
	v := m.view.Load()
	return position{v.epoch, v.token}
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
func (m *mirror) usable() bool { return m.view.Load().running(m.now(), m.lease) }

// judge reports which kind of scope voids what was filled for key at a
// position, "" none, and then whether the mirror could tell.
func (m *mirror) judge(key string, filled position, lists ...[]string) (void string, usable bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.voids(key, filled, lists), m.usable()
}

// judgement is what the mirror says of an entry.
type judgement struct {
	void   string // kind of scope, "" none
	soft   bool   // stale by a soft purge
	usable bool   // the mirror could tell
	gen    uint64 // of the mirror
}

// judgeAll is judge, and tells soft purges, too.
func (m *mirror) judgeAll(key string, filled position, lists ...[]string) judgement {
	m.mu.RLock()
	defer m.mu.RUnlock()
	j := judgement{void: m.voids(key, filled, lists), gen: m.gen}
	if j.void == "" {
		j.soft = m.soft.covers(key, filled.token, lists) != ""
	}
	j.usable = m.usable()
	return j
}

func (m *mirror) voids(key string, filled position, lists [][]string) string {
	if filled.epoch != m.epoch {
		return "epoch"
	}
	return m.hard.covers(key, filled.token, lists)
}

// covers returns the kind of scope under which something newer than token
// happened, "" none.
func (set *scopeSet) covers(key string, token uint64, lists [][]string) string {
	if token < set.floor {
		return "all"
	}
	if len(set.scopes) > 0 {
		var buf [64]byte
		if set.scopes[string(append(append(buf[:0], keyScope...), key...))] > token {
			return "key"
		}
		for _, scopes := range lists {
			for _, s := range scopes {
				if set.scopes[s] > token {
					return scopeKind(s)
				}
			}
		}
	}
	for _, g := range set.globs {
		if g.seq <= token {
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
	want         []stamp // announcements
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
	void := a.epoch != m.epoch
	if void {
		m.begin(a.epoch) // the answer is of everything
	}
	// A node that had no lease when the ledger moved to another server may meet
	// entries whose event is still to be given back by one that had.
	if !m.usableAt(t0) && a.cold > a.now {
		m.cold = max(m.cold, t1.mono+time.Duration(a.cold-a.now)*time.Microsecond)
	}
	for _, s := range a.scopes {
		news = news || s.scope != "@"
	}
	floor := m.hard.floor
	m.add(a.scopes)
	m.announce(a.want)
	m.hard.floor = max(m.hard.floor, a.floor)
	m.token = max(m.token, a.token)
	if a.whole {
		m.proved(q, a.newest)
	}
	if t0.mono >= m.since.mono {
		m.synced, m.since = true, t0
	}
	m.prune()
	m.publish(void || news || m.hard.floor != floor)
	return news || !m.synced, true
}

// usableAt is usable for who holds the lock: the view may be of before.
func (m *mirror) usableAt(at instant) bool {
	v := view{granted: m.synced && !m.left, since: m.since, cold: m.cold}
	return v.running(at, m.lease)
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
func (m *mirror) learn(mark Mark, scopes, want []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mark.Epoch != m.epoch {
		m.synced, m.since = false, m.now()
		m.publish(false)
		return
	}
	m.add(stampAll(scopes, mark.Seq))
	m.announce(stampAll(want, mark.Seq))
	if mark.Seq > max(memberSeq(m.newest), memberSeq(m.wrote)) {
		m.wrote = mark.Member
	}
	m.publish(true)
}

func stampAll(names []string, seq uint64) []stamp {
	stamps := make([]stamp, len(names))
	for i, s := range names {
		stamps[i] = stamp{s, seq}
	}
	return stamps
}

// begin forgets everything: what another ledger said is void, and so is what
// was filled under it.
func (m *mirror) begin(epoch string) {
	m.epoch, m.token, m.newest, m.wrote = epoch, 0, "", ""
	m.hard, m.soft, m.want, m.pruneAt = newScopeSet(), newScopeSet(), map[string]announced{}, pruneMin
	m.synced = false
}

func (m *mirror) add(stamps []stamp) {
	for _, s := range stamps {
		if scope, soft := strings.CutPrefix(s.scope, softly); soft {
			m.soft.add(scope, s.seq)
		} else {
			m.hard.add(scope, s.seq)
		}
	}
}

func (set *scopeSet) add(scope string, seq uint64) {
	switch pattern, isGlob := strings.CutPrefix(scope, globScope); {
	case scope == "@":
	case scope == everyone:
		set.floor = max(set.floor, seq)
	case isGlob:
		set.addGlob(glob{pattern, seq})
	default:
		set.scopes[scope] = max(set.scopes[scope], seq)
	}
}

func (set *scopeSet) addGlob(g glob) {
	if i := slices.IndexFunc(set.globs, func(h glob) bool { return h.pattern == g.pattern }); i >= 0 {
		g.seq = max(g.seq, set.globs[i].seq)
		set.globs = slices.Delete(set.globs, i, i+1)
	}
	i, _ := slices.BinarySearchFunc(set.globs, g, func(a, b glob) int { return cmp.Compare(b.seq, a.seq) })
	set.globs = slices.Insert(set.globs, i, g)
	if last := len(set.globs) - 1; last == maxGlobs {
		set.floor = max(set.floor, set.globs[last].seq)
		set.globs = set.globs[:last]
	}
}

// prune drops what the floor says already, and announcements that are over.
func (m *mirror) prune() {
	if len(m.hard.scopes)+len(m.soft.scopes)+len(m.want) < m.pruneAt {
		return
	}
	m.hard.prune(m.hard.floor)
	m.soft.prune(m.hard.floor)
	for tag, a := range m.want {
		if a.over(m.token) {
			delete(m.want, tag)
		}
	}
	m.pruneAt = max(pruneMin, 2*(len(m.hard.scopes)+len(m.soft.scopes)+len(m.want)))
}

func (set *scopeSet) prune(floor uint64) {
	for s, seq := range set.scopes {
		if seq <= floor {
			delete(set.scopes, s)
		}
	}
	set.globs = slices.DeleteFunc(set.globs, func(g glob) bool { return g.seq <= floor })
}

// recent returns what events named from a seq on, as the ledger spells it.
func (m *mirror) recent(from uint64) []stamp {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return append(m.hard.recent(from, ""), m.soft.recent(from, softly)...)
}

func (set *scopeSet) recent(from uint64, prefix string) []stamp {
	var out []stamp
	for s, seq := range set.scopes {
		if seq >= from {
			out = append(out, stamp{prefix + s, seq})
		}
	}
	for _, g := range set.globs {
		if g.seq >= from {
			out = append(out, stamp{prefix + globScope + g.pattern, g.seq})
		}
	}
	if set.floor > 0 && set.floor >= from {
		out = append(out, stamp{prefix + everyone, set.floor})
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
	m.publish(false)
}

func (m *mirror) size() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.hard.scopes) + len(m.hard.globs) + len(m.soft.scopes) + len(m.soft.globs)
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
