package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

func (r *race) read(ctx context.Context, t *testing.T, rng *rand.Rand) {
	for ; ctx.Err() == nil; idle(ctx, time.Duration(rng.IntN(2000))*time.Microsecond) {
		node, burst := r.nodes[rng.IntN(raceNodes)], raceBurst
		if node.memory == nil {
			burst = raceBurst / 10
		}
		for ; burst > 0 && ctx.Err() == nil; burst-- {
			r.readOne(ctx, t, node, rng.IntN(r.keys()), rng)
		}
	}
}

// readInAHurry reads what is in memory, and leaves the rest to others.
func (r *race) readInAHurry(ctx context.Context, t *testing.T, rng *rand.Rand) {
	for ; ctx.Err() == nil; idle(ctx, time.Duration(rng.IntN(2000))*time.Microsecond) {
		node := r.nodes[rng.IntN(raceNodes)]
		for range raceHurry {
			id := rng.IntN(r.keys())
			req, position, want := r.ask(id)
			if res, ok := node.Peek(req); ok {
				r.check(t, id, res, want, position)
			}
		}
	}
}

// ask is what a reader asks for a thing, where the change log stands, and what
// it was told of the thing: both of before the look-up.
func (r *race) ask(id int) (req Request, position, want int64) {
	req, position = r.things[id].req, r.log.Load()
	req.Position = strconv.FormatInt(position, 10)
	return req, position, r.told[id].Load()
}

func (r *race) hurried() int {
	if r.mix.calm {
		return 8
	}
	return 0
}

// keys is how many keys readers ask for.
func (r *race) keys() int {
	if r.mix.slow {
		return 4
	}
	return raceKeys
}

var errOrigin = errors.New("the origin fails")

// readOne reads as package read does, and holds the answer against what its
// reader was told.
func (r *race) readOne(ctx context.Context, t *testing.T, node *Store, id int, rng *rand.Rand) {
	req, position, want := r.ask(id)
	how := rng.IntN(100)
	if r.mix.heads && how < 20 {
		req.NoBody = func(*Entry) bool { return true }
	}
	if e := r.event.Load(); e != nil && !r.mix.lose && !r.mix.lag && !r.mix.softEvents && how >= 95 {
		req.After, want = e.seq, max(want, e.versions[id]) // who knows the event before its notice
	}
	if res, ok := node.Peek(req); ok {
		r.check(t, id, res, want, position)
		return
	}
	if r.mix.peekOnly {
		node.Fetch(ctx, req, r.fill(id, rng))
		return
	}
	if r.mix.serveVoid {
		if e, st := node.look(ctx, req, req.wanted()); st == voided && time.Now().Before(e.StaleUntil) {
			r.check(t, id, node.result(req, e, Stale, ""), want, position)
		}
	}
	var res Result
	var err error
	if r.mix.puts && (how == 90 || how > 75 && r.mix.slow) {
		res, err = node.Fill(ctx, req, r.fill(id, rng))
	} else {
		res, err = node.Fetch(ctx, req, r.fill(id, rng))
	}
	switch {
	case err == nil:
		r.check(t, id, res, want, position)
	case !errors.Is(err, errOrigin) && ctx.Err() == nil:
		t.Errorf("reading: %v", err)
	}
}

func (r *race) fill(id int, rng *rand.Rand) FillFunc {
	span := 4 * time.Millisecond
	if r.mix.slow {
		span = 25 * time.Millisecond
	}
	before, after := time.Duration(rng.Int64N(int64(span))), time.Duration(rng.Int64N(int64(span)))
	fails := r.mix.fails && rng.IntN(30) == 0
	f := Fill{Status: 200, Tags: r.things[id].tags[2:], TTL: time.Minute}
	if id%20 == 19 && !r.mix.lag {
		f.Status = 404
	}
	lag := time.Duration(0) // of the edge that answers
	if r.mix.lag {
		lag = time.Duration(rng.IntN(100)) * time.Millisecond
	}
	if r.mix.expire {
		span := 400
		if r.mix.calm {
			span = 2000
		}
		ms := func() time.Duration { return time.Duration(20+rng.IntN(span)) * time.Millisecond }
		f.TTL, f.SWR, f.SIE = ms(), ms(), ms()
	}
	return func(ctx context.Context, _ *Entry) (Fill, error) {
		r.fills.Add(1)
		idle(ctx, before)
		v := r.shown(id, time.Now().Add(-lag))
		idle(ctx, after)
		if fails {
			return Fill{}, errOrigin
		}
		f.ETag = strconv.FormatInt(v, 10)
		if r.mix.lag {
			f.Versions = map[string]string{r.things[id].tag(): f.ETag}
		}
		f.Body = []byte(f.ETag + "\n")
		if id%4 == 0 {
			f.Body, f.Packable = append(f.Body, strings.Repeat("as large as content is\n", 100)...), true
		}
		return f, nil
	}
}

// shown is the version that the origin had at a time.
func (r *race) shown(id int, at time.Time) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.origin[id])
	for n > 0 && time.Time(r.origin[id][n-1]).After(at) {
		n--
	}
	return int64(n)
}

// check holds an answer against the newest version that its reader knew of.
func (r *race) check(t *testing.T, id int, res Result, want, position int64) {
	saw, err := strconv.ParseInt(res.Entry.ETag, 10, 64)
	if body, berr := res.Entry.Body(); err == nil && berr != ErrNoBody {
		text, _, _ := strings.Cut(string(body), "\n")
		if text != res.Entry.ETag || berr != nil {
			t.Errorf("head of version %d, body %q, %v", saw, text, berr)
		}
	}
	r.reads.Add(1)
	switch res.Verdict {
	case Hit:
		r.hits.Add(1)
	case Stale:
		r.expired.Add(1)
	}
	// What is not current says where it stood, and is at least as new as that.
	if stood, perr := strconv.ParseInt(res.Position, 10, 64); err != nil || perr != nil {
		t.Errorf("entry %+v at position %q, asked at %d", res.Entry, res.Position, position)
	} else if stood != position {
		want = max(want, r.toldAt(id, stood))
	}
	if r.mix.lag && res.Verdict == Bypass && res.Detail == DetailAway {
		r.blind.Add(1) // from an origin that lags, by a node that cannot know what was announced: it says so
		return
	}
	if saw < want {
		n := r.older.Add(1)
		if r.stopWhenCaught {
			r.stop()
		} else if n <= 5 {
			t.Logf("%s: version %d, told of %d: %s %q, token %d, stored %v before, position %s of %d",
				r.things[id].req.Key, saw, want, res.Verdict, res.Detail, res.Token, res.Age, res.Position, position)
		}
	}
}
