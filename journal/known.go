package journal

import (
	"hash/maphash"
	"time"
)

// knownIDs remembers which IDs were appended lately: a hash of each, for a
// time, and only so many; the oldest go first.
type knownIDs struct {
	seed   maphash.Seed
	keep   time.Duration
	newest map[uint64]int64 // :: hash of ID → unix µs of its newest record
	queue  []knownID        // a ring, oldest at head
	head   int
	size   int
}

type knownID struct {
	hash uint64
	at   int64
}

func newKnownIDs(most int, keep time.Duration) *knownIDs {
	return &knownIDs{seed: maphash.MakeSeed(), keep: keep, newest: map[uint64]int64{}, queue: make([]knownID, most)}
}

// add remembers id, and reports whether it was remembered already.
func (k *knownIDs) add(id string, at time.Time) (known bool) {
	now := at.UnixMicro()
	for k.size > 0 && k.queue[k.head].at < now-k.keep.Microseconds() {
		k.drop()
	}
	hash := maphash.String(k.seed, id)
	_, known = k.newest[hash]
	if k.size == len(k.queue) {
		k.drop()
	}
	k.newest[hash] = now
	k.queue[(k.head+k.size)%len(k.queue)] = knownID{hash, now}
	k.size++
	return known
}

// drop forgets the oldest one.
func (k *knownIDs) drop() {
	old := k.queue[k.head]
	if k.newest[old.hash] == old.at {
		delete(k.newest, old.hash)
	}
	k.head = (k.head + 1) % len(k.queue)
	k.size--
}
