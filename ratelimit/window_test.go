package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

var someone = netip.MustParseAddr("192.0.2.1")

// clockedScript is take.lua with the time, and the rest of the key's life, told
// by the test.
func clockedScript(t testing.TB, edits ...string) *redis.Script {
	t.Helper()
	source := takeLua
	edits = append(edits, "redis.call('TIME')", "{ARGV[3], ARGV[4]}", "redis.call('PTTL', KEYS[1])", "tonumber(ARGV[5])")
	for pair := range slices.Chunk(edits, 2) {
		if strings.Count(source, pair[0]) != 1 {
			t.Fatalf("take.lua holds %q %d times, want once", pair[0], strings.Count(source, pair[0]))
		}
		source = strings.Replace(source, pair[0], pair[1], 1)
	}
	return redis.NewScript(source)
}

// clocked is one client's count under a script, at times of the test's choice.
type clocked struct {
	t      testing.TB
	rdb    *redis.Client
	script *redis.Script
	rate   Rate
	last   int64 // ms of the last admitted request
}

func (c *clocked) take(at time.Time) Decision {
	c.t.Helper()
	ms, size := at.UnixMilli(), c.rate.Per.Milliseconds()
	if ms-c.last >= size { // Redis would have dropped the key
		if err := c.rdb.Del(c.t.Context(), "k").Err(); err != nil {
			c.t.Fatal(err)
		}
	}
	reply, err := c.script.Run(c.t.Context(), c.rdb, []string{"k"}, c.rate.Count, size, ms/1000, ms%1000*1000, c.last+size-1-ms).Int64Slice()
	if err != nil {
		c.t.Fatal(err)
	}
	d := Decision{OK: reply[0] == 1, Remaining: int(reply[1]), Wait: time.Duration(reply[2]) * time.Millisecond, Reset: time.UnixMilli(reply[3])}
	if d.OK {
		c.last = ms
	}
	return d
}

// judge says what is wrong with the times, in ms, at which requests were
// admitted: more in some interval than the package promises.
func judge(r Rate, admitted []int64) error {
	slices.Sort(admitted)
	size := r.Per.Milliseconds()
	for i, from := range admitted {
		for j := i; j < len(admitted) && admitted[j]-from <= size; j++ {
			d, n := admitted[j]-from, int64(j-i+1)
			if n*size > int64(r.Count)*(size+d) {
				return fmt.Errorf("%d admitted within %dms, promised at most %d × (1 + %d/%d)", n, d, r.Count, d, size)
			}
		}
	}
	return nil
}

func TestNoMoreIsAdmittedThanPromised(t *testing.T) {
	rdb, rate := testkit.Redis(t), Rate{100, time.Minute}
	edge := time.UnixMilli(1_700_000_040_000) // where two windows meet
	attacks := map[string]func(take func(time.Time)){
		"a burst before and after the edge": func(take func(time.Time)) {
			for _, at := range []time.Duration{-time.Millisecond, 0, time.Millisecond, time.Second} {
				for range 150 {
					take(edge.Add(at))
				}
			}
		},
		"hammering for five windows": func(take func(time.Time)) {
			for at := edge; at.Before(edge.Add(5 * time.Minute)); at = at.Add(97 * time.Millisecond) {
				take(at)
			}
		},
		"bursts whenever one is admitted": func(take func(time.Time)) {
			for at := edge.Add(-time.Second); at.Before(edge.Add(5 * time.Minute)); at = at.Add(time.Duration(rand.IntN(8000)) * time.Millisecond) {
				for range rand.IntN(60) {
					take(at)
				}
			}
		},
	}
	under := func(t *testing.T, script *redis.Script, attack func(func(time.Time))) error {
		c := &clocked{t: t, rdb: rdb, script: script, rate: rate}
		rdb.FlushAll(t.Context())
		var admitted []int64
		attack(func(at time.Time) {
			if c.take(at).OK {
				admitted = append(admitted, at.UnixMilli())
			}
		})
		if len(admitted) < rate.Count {
			t.Errorf("%d admitted, fewer than the limit %d", len(admitted), rate.Count)
		}
		return judge(rate, admitted)
	}
	for name, attack := range attacks {
		if err := under(t, clockedScript(t), attack); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A fixed window forgets at the edge: the judge must see it.
	fixed := clockedScript(t, "prev * (size - passed)", "0")
	if err := under(t, fixed, attacks["a burst before and after the edge"]); err == nil {
		t.Error("the judge finds nothing wrong with a fixed window")
	} else {
		t.Log("a fixed window:", err)
	}
}

func TestRedisAndNodesAloneCountAlike(t *testing.T) {
	rdb, script := testkit.Redis(t), clockedScript(t)
	for _, rate := range []Rate{{1, time.Second}, {2, time.Minute}, {7, 13 * time.Second}, {100, time.Minute}, {maxCount, maxPer}} {
		rdb.FlushAll(t.Context())
		shared, alone := &clocked{t: t, rdb: rdb, script: script, rate: rate}, newLocal(rate)
		each := rate.Per / time.Duration(min(rate.Count, 100))
		at := time.UnixMilli(1_700_000_000_000)
		for range 1500 {
			switch rand.IntN(20) {
			case 0:
				at = at.Add(rand.N(3 * rate.Per))
			case 1, 2, 3, 4:
				at = at.Add(rand.N(2 * each))
			}
			want, got := shared.take(at), alone.take(someone, at)
			if got != want {
				t.Fatalf("%v at %v: a node alone says %+v, Redis %+v", rate, at.UnixMilli(), got, want)
			}
			if (want.Wait > 0) != (want.Remaining == 0) {
				t.Fatalf("%v: %+v, want a wait when none remain, and only then", rate, want)
			}
		}
	}
}

// Whoever waits as long as told is admitted, and not much earlier.
func TestWaitIsAsLongAsNeeded(t *testing.T) {
	for _, rate := range []Rate{{1, time.Second}, {3, 10 * time.Second}, {100, time.Minute}} {
		l, at := newLocal(rate), time.UnixMilli(1_700_000_000_123)
		for range 2000 {
			at = at.Add(rand.N(2 * rate.Per / time.Duration(rate.Count)))
			d := l.take(someone, at)
			for d.OK && d.Remaining > 0 && rand.IntN(2) == 0 {
				d = l.take(someone, at)
			}
			if d.Remaining > 0 {
				continue
			}
			if d.Wait <= 0 || d.Wait > rate.Per {
				t.Fatalf("%v: told to wait %v", rate, d.Wait)
			}
			if early := l.take(someone, at.Add(d.Wait-time.Millisecond)); early.OK {
				t.Fatalf("%v: told to wait %v, admitted before", rate, d.Wait)
			}
			at = at.Add(d.Wait)
			if again := l.take(someone, at); !again.OK {
				t.Fatalf("%v: waited %v as told, and refused: %+v", rate, d.Wait, again)
			}
		}
	}
}

func TestQuietWindowFreesTheWholeLimit(t *testing.T) {
	rate := Rate{5, 10 * time.Second}
	l, at := newLocal(rate), time.UnixMilli(1_700_000_009_500)
	var d Decision
	for range 5 {
		if d = l.take(someone, at); !d.OK {
			t.Fatalf("refused within the limit: %+v", d)
		}
	}
	if want := at.Add(rate.Per); !d.Reset.Equal(want) {
		t.Errorf("reset %v after the last admitted request, want %v", d.Reset.Sub(at), rate.Per)
	}
	at = at.Add(rate.Per)
	if d = l.take(someone, at); !d.OK || d.Remaining != 4 {
		t.Errorf("after a quiet window: %+v, want admitted and 4 remaining", d)
	}
}

func TestNodeAloneKnowsOnlySoManyClients(t *testing.T) {
	l, at := newLocal(Rate{1, time.Minute}), time.UnixMilli(1_700_000_000_000)
	client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range maxClients + 1000 {
		if !l.take(client(i), at).OK {
			t.Fatalf("client %d refused at its first request", i)
		}
	}
	if len(l.cur) != maxClients {
		t.Errorf("%d clients known, want %d", len(l.cur), maxClients)
	}
	if l.take(client(0), at).OK {
		t.Error("a client that was known is not limited any more")
	}
	var r refusals
	for i := range 3 * maxClients {
		r.add(client(i), at, Decision{Wait: time.Minute})
	}
	if n := len(r.young) + len(r.old); n > 2*maxClients {
		t.Errorf("%d refusals kept, want at most %d", n, 2*maxClients)
	}
	if _, ok := r.find(client(3*maxClients-1), at); !ok {
		t.Error("the latest refusal is forgotten")
	}
}
