package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
)

// book is what was published: change n is entries[n-1], in the order of the
// log, since one publisher writes them one after the other.
type book struct {
	mu      sync.Mutex
	entries []entry
}

type entry struct {
	pos      event.Position // zero until the log has acknowledged it
	channels uint64         // bit n is the channel n
	sent     time.Time
}

func channelName(n int) string { return fmt.Sprint("c", n) }

// bits is the set of the channels.
func bits(channels ...int) (set uint64) {
	for _, n := range channels {
		set |= 1 << n
	}
	return set
}

// begin writes down the next change, which is about to be published.
func (b *book) begin(channels ...int) (int, event.Change) {
	b.mu.Lock()
	b.entries = append(b.entries, entry{channels: bits(channels...), sent: time.Now()})
	n := len(b.entries)
	b.mu.Unlock()
	c := event.Change{ID: fmt.Sprint("e", n), Seq: uint64(n), Event: "post.update", Source: "cms", Type: "post", Action: event.Update,
		Entity: fmt.Sprint(n), Tags: []string{"posts", fmt.Sprint("post:", n)}, Paths: []string{fmt.Sprint("/blog/", n)}, At: time.Now()}
	for _, ch := range channels {
		c.Channels = append(c.Channels, channelName(ch))
	}
	return n, c
}

// acknowledged writes down where the log has change n.
func (b *book) acknowledged(n int, at event.Position) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries[n-1].pos = at
}

// publish appends the next change to the log, again and again until that is
// acknowledged, and returns its number. pad is added to it as a field.
func (b *book) publish(ctx context.Context, log *feed.Log, pad string, channels ...int) (int, error) {
	n, c := b.begin(channels...)
	if pad != "" {
		c.Fields = map[string]any{"pad": pad}
	}
	for {
		at, _, err := log.Append(ctx, c)
		if err == nil {
			b.acknowledged(n, at)
			return n, nil
		}
		if ctx.Err() != nil {
			return n, err
		}
		rest(ctx, 20*time.Millisecond) // the publisher's pause before it tries again
	}
}

// sent returns when change n was handed to the log.
func (b *book) sent(n int32) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 1 || int(n) > len(b.entries) {
		return time.Time{}
	}
	return b.entries[n-1].sent
}

func (b *book) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.entries)
}

// last returns the position of the newest change on one of the channels.
func (b *book) last(channels uint64) (at event.Position) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range slices.Backward(b.entries) {
		if e.channels&channels != 0 && !e.pos.IsZero() {
			return e.pos
		}
	}
	return at
}

// note is one thing that a client was told, in the order told.
type note struct {
	pos  event.Position // id of the event
	n    int32          // number of the change; 0: none
	kind noteKind
}

type noteKind uint8

const (
	noteChange noteKind = iota
	noteReady
	noteReset
)

// account is what one client has to show for its life.
type account struct {
	channels uint64
	start    event.Position // it must be told of everything after that
	notes    []note
}

// verdict is what a judge found in an account that holds.
type verdict struct{ told, repeats, resets, excused int }

// judge proves from the numbers of the changes that a client was told of all
// changes of its channels, in order, or was sent a reset in between. The error
// tells the first that is wrong.
func (b *book) judge(a account) (v verdict, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var want []int32
	for i, e := range b.entries {
		if e.channels&a.channels != 0 && e.pos.Compare(a.start) > 0 {
			want = append(want, int32(i+1))
		}
	}
	at := a.start
	for i, n := range a.notes {
		if n.pos.Compare(at) < 0 && n.kind != noteReset { // a store that forgot goes back, and says so
			return v, fmt.Errorf("note %d: from %v back to %v", i, at, n.pos)
		}
		at = n.pos
		switch {
		case n.kind == noteReset:
			v.resets++
			for len(want) > 0 && b.entries[want[0]-1].pos.Compare(n.pos) <= 0 {
				want = want[1:]
				v.excused++
			}
		case n.kind == noteReady:
		case n.n < 1 || int(n.n) > len(b.entries):
			return v, fmt.Errorf("note %d: told of change %d, which nobody published", i, n.n)
		case b.entries[n.n-1].channels&a.channels == 0:
			return v, fmt.Errorf("note %d: told of change %d, which is on none of its channels", i, n.n)
		case len(want) > 0 && n.n == want[0]:
			v.told++
			want = want[1:]
		case len(want) > 0 && n.n > want[0]:
			return v, fmt.Errorf("note %d: told of change %d at %v, before change %d at %v", i, n.n, n.pos, want[0], b.entries[want[0]-1].pos)
		default:
			v.repeats++
		}
	}
	if len(want) > 0 {
		return v, fmt.Errorf("%d changes never told, the first is %d at %v; it ends at %v", len(want), want[0], b.entries[want[0]-1].pos, at)
	}
	return v, nil
}

// A judge that cannot find fault proves nothing.
func TestStreamJudgeFindsHolesSwapsAndMissingTails(t *testing.T) {
	at := func(ms int) event.Position { return event.Position{Ms: uint64(ms)} }
	b := &book{}
	for n := 1; n <= 6; n++ { // change n is at 10n, all on channel 0, the last two also on 1
		b.entries = append(b.entries, entry{pos: at(10 * n), channels: bits(0)})
	}
	b.entries[4].channels, b.entries[5].channels = bits(0, 1), bits(0, 1)
	b.entries = append(b.entries, entry{pos: at(70), channels: bits(2)})

	tell := func(ns ...int) (notes []note) {
		for _, n := range ns {
			notes = append(notes, note{pos: at(10 * n), n: int32(n)})
		}
		return notes
	}
	moved := func(kind noteKind, ms int) []note { return []note{{pos: at(ms), kind: kind}} }
	merged := []note{{at(60), 3, noteChange}, {at(60), 4, noteChange}, {at(60), 5, noteChange}, {at(60), 6, noteChange}}
	join := slices.Concat[[]note]

	for _, tc := range []struct {
		name     string
		channels uint64
		start    int
		notes    []note
		wrong    string // of the error; empty: it holds
	}{
		{"all", bits(0), 0, tell(1, 2, 3, 4, 5, 6), ""},
		{"all after the start", bits(0), 35, tell(4, 5, 6), ""},
		{"of one channel", bits(1), 0, tell(5, 6), ""},
		{"of two channels, each once", bits(1, 2), 0, tell(5, 6, 7), ""},
		{"merged", bits(0), 0, join(tell(1, 2), merged), ""},
		{"a repeat", bits(0), 0, join(tell(1, 2), tell(2), tell(3, 4, 5, 6)), ""},
		{"a reset in a gap", bits(0), 0, join(tell(1, 2), moved(noteReset, 45), moved(noteReady, 45), tell(5, 6)), ""},
		{"a reset to an earlier position", bits(0), 0, join(tell(1, 2, 3, 4), moved(noteReset, 30), moved(noteReady, 30), tell(4, 5, 6)), ""},
		{"a reset over the end", bits(0), 0, join(tell(1), moved(noteReset, 60)), ""},
		{"ready alone where nothing is missing", bits(1), 0, join(moved(noteReady, 45), tell(5, 6)), ""},

		{"a hole", bits(0), 0, tell(1, 2, 4, 5, 6), "before change 3"},
		{"a swap", bits(0), 0, tell(1, 3, 2, 4, 5, 6), "before change 2"},
		{"a missing head", bits(0), 0, tell(2, 3, 4, 5, 6), "before change 1"},
		{"a missing tail", bits(0), 0, tell(1, 2, 3, 4, 5), "1 changes never told"},
		{"nothing", bits(0), 0, nil, "6 changes never told"},
		{"a silent jump", bits(0), 0, join(tell(1, 2), moved(noteReady, 45), tell(5, 6)), "before change 3"},
		{"a reset that leaves a hole", bits(0), 0, join(tell(1, 2), moved(noteReset, 35), tell(5, 6)), "before change 4"},
		{"a hole in what was merged", bits(0), 0, join(tell(1, 2), merged[1:]), "before change 3"},
		{"back in time", bits(0), 0, join(tell(1, 2, 3), moved(noteReady, 10)), "back to"},
		{"a foreign change", bits(1), 0, tell(4, 5, 6), "none of its channels"},
		{"an invented change", bits(0), 0, tell(1, 2, 3, 4, 5, 6, 8), "nobody published"},
	} {
		_, err := b.judge(account{tc.channels, at(tc.start), tc.notes})
		if tc.wrong == "" && err != nil || tc.wrong != "" && (err == nil || !strings.Contains(err.Error(), tc.wrong)) {
			t.Errorf("%s: judged %v, want %q", tc.name, err, tc.wrong)
		}
	}
}
