package cache

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// Each row is a way to end up with what an event made void, and the repair that
// closes it: as built it ends well, without the repair it does not.
func TestEachRepairIsNeeded(t *testing.T) {
	type change = func(*options)
	rows := []struct {
		name    string
		goesBad func(t *testing.T, rdb redis.UniversalClient, change ...change) bool
		without func(t *testing.T) change
	}{
		{"a node whose lease is longer than the barrier waits", leaseBeyondTheBarrier, func(*testing.T) change {
			return func(o *options) { o.lease = 10 * shortLease }
		}},
		{"a seq that a lost event had is given to another", seqGivenTwice, func(t *testing.T) change {
			return without(t, "invalidate", "local member = s .. ':' .. ARGV[3]", "local member = s .. ':'")
		}},
		{"a lost ledger begins below the tokens that it gave", ledgerBeginsBelow, func(t *testing.T) change {
			return skewed(edit(t, "clock", "epoch, f = ARGV[3], s", "epoch, f = string.rep('e', 16), s"))
		}},
		{"the server's clock goes back", clockGoesBack, func(t *testing.T) change {
			return skewed(edit(t, "clock", "math.max(now, base)", "now"))
		}},
		{"the heir of a master never saw the newest tokens", heirBehind, func(t *testing.T) change {
			return skewed(edit(t, "clock", "if moved then base = base + 60000000 end", ""))
		}},
		{"what was lost is given back under its old seq", givenBackBehind, func(t *testing.T) change {
			return without(t, "giveback", "add(KEYS[1], lost)",
				"for i = 7, last, 2 do redis.call('ZADD', KEYS[1], 'GT', ARGV[i + 1], ARGV[i]) end")
		}},
		{"each sync of a ledger that lacks nothing is an event", idleSyncsRing, func(t *testing.T) change {
			return without(t, "giveback", "if #lost == 0 then return {0, epoch, ''} end", "")
		}},
		{"scopes are forgotten, and what they void is not", forgottenScopes, func(t *testing.T) change {
			return skewed(
				edit(t, "invalidate", "redis.call('ZADD', KEYS[1], 'GT', cut, '*')", "local floor = redis.call('ZSCORE', KEYS[1], '*')"),
				edit(t, "invalidate", "'(' .. cut)\nlocal member", "'(' .. cut)\nredis.call('ZADD', KEYS[1], floor, '*')\nlocal member"))
		}},
		{"a seq loses its digits", lostDigits, func(t *testing.T) change {
			return skewed(edit(t, "clock", "local s = string.format('%.0f', math.max(now, base))", "local s = string.format('%.14g', math.max(now, base))"))
		}},
		{"not found stays though it was created", notFoundStays, func(t *testing.T) change {
			return without(t, "invalidate", "args[#args + 1] = ARGV[j]", "args[#args + 1] = ARGV[j] == 'n:' and 'x:' or ARGV[j]")
		}},
		{"a late store hides a newer entry", lateStoreHides, func(t *testing.T) change {
			return without(t, "store", "tonumber(string.sub(head, 3, 18)) > tonumber(ARGV[4])", "false")
		}},
		{"dead nodes are kept for ever", deadNodesKept, func(t *testing.T) change {
			return without(t, "barrier", "redis.call('ZREM', KEYS[1], unpack(gone))", "")
		}},
	}
	t.Parallel()
	rdb := testkit.Redis(t)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			judge := func(c ...change) bool {
				rdb.FlushAll(t.Context())
				return row.goesBad(t, rdb, c...)
			}
			if judge() {
				t.Error("it went wrong")
			}
			if out := row.without(t); !caught(func() bool { return judge(out) }) {
				t.Error("nothing goes wrong without the repair, so this proves nothing")
			}
		})
	}
}

// edit is without, for who takes more than one thing out.
func edit(t *testing.T, file, repair, instead string) func(name, source string) string {
	without(t, file, repair, instead) // fails where the repair is not there
	return func(name, source string) string {
		if name == file {
			return strings.ReplaceAll(source, repair, instead)
		}
		return source
	}
}

func leaseBeyondTheBarrier(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	worker := node(t, rdb)
	settled(t, worker)
	worker.leave(t.Context())
	reader := node(t, rdb, change...)
	held := hold(t, reader, "post:1", "posts")
	syncNow(t, reader)
	p := tag("posts")
	barrier(t, worker, p, invalidate(t, worker, p))
	return reader.state("post:1", held, nil).servable()
}

func seqGivenTwice(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	worker, reader := node(t, rdb, change...), node(t, rdb, change...)
	settled(t, worker)
	syncNow(t, reader)
	held := hold(t, reader, "post:1", "posts")
	before := copyLedger(t, rdb)
	lost := invalidate(t, worker, tag("posts"))
	before.restore(t, rdb)
	// Another process writes on the heir, which hands the seq out again.
	nonce := strings.TrimPrefix(lost.Member, fmt.Sprint(lost.Seq, ":"))
	if nonce != "" {
		nonce = strings.Repeat("f", 16)
	}
	n := worker.names
	rdb.ZAdd(t.Context(), n.seqs(), redis.Z{Score: float64(lost.Seq), Member: fmt.Sprint(lost.Seq, ":", nonce)})
	rdb.ZAdd(t.Context(), n.ledger(), redis.Z{Score: float64(lost.Seq), Member: "t:others"})
	syncNow(t, worker, reader)
	return reader.state("post:1", held, nil).servable()
}

func ledgerBeginsBelow(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	if len(change) == 0 {
		change = append(change, skewed())
	}
	s := node(t, rdb, change...)
	rdb.Set(t.Context(), "skew", "3600", 0)
	syncNow(t, s)
	held := hold(t, s, "post:1")
	rdb.Set(t.Context(), "skew", "0", 0)
	n := s.names
	rdb.Del(t.Context(), n.ledger(), n.seqs(), n.ack(), n.live(), n.meta())
	other := node(t, rdb, change...)
	syncNow(t, other)
	kind, _ := other.mirror.judge("post:1", position{held.Epoch, held.Token}, held.scopes)
	return kind == ""
}

func clockGoesBack(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	if len(change) == 0 {
		change = append(change, skewed())
	}
	worker, reader := node(t, rdb, change...), node(t, rdb, change...)
	rdb.Set(t.Context(), "skew", "3600", 0)
	syncNow(t, worker, reader)
	held := hold(t, reader, "post:1", "posts")
	rdb.Set(t.Context(), "skew", "0", 0)
	invalidate(t, worker, tag("posts"))
	syncNow(t, reader)
	kind, _ := reader.mirror.judge("post:1", position{held.Epoch, held.Token}, held.scopes)
	return kind == ""
}

func heirBehind(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	if len(change) == 0 {
		change = append(change, skewed())
	}
	worker, reader := node(t, rdb, change...), node(t, rdb, change...)
	syncNow(t, worker, reader)
	before := copyLedger(t, rdb)
	rdb.Set(t.Context(), "skew", "30", 0)
	syncNow(t, reader)
	held := hold(t, reader, "post:1", "posts")
	before.restore(t, rdb)
	otherHost(t, rdb)
	rdb.Set(t.Context(), "skew", "-5", 0)
	m := invalidate(t, worker, tag("posts"))
	return m.Seq <= held.Token
}

func givenBackBehind(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	worker, reader := node(t, rdb, change...), node(t, rdb, change...)
	settled(t, worker)
	syncNow(t, reader)
	held := hold(t, reader, "post:1", "posts")
	before := copyLedger(t, rdb)
	invalidate(t, worker, tag("posts"))
	before.restore(t, rdb)
	syncNow(t, reader) // reads past the lost seq
	syncNow(t, worker, reader)
	kind, _ := reader.mirror.judge("post:1", position{held.Epoch, held.Token}, held.scopes)
	return kind == ""
}

func idleSyncsRing(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	worker := node(t, rdb, change...)
	settled(t, worker)
	invalidate(t, worker, tag("posts"))
	syncNow(t, worker)
	rdb.ZRem(t.Context(), worker.names.seqs(), worker.mirror.question().newest) // its proof is gone, its scopes are not
	n := events(t, rdb)
	syncNow(t, worker)
	return events(t, rdb) > n
}

func forgottenScopes(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	if len(change) == 0 {
		change = append(change, skewed())
	}
	s := node(t, rdb, change...)
	s.cfg.Retain = 10 * time.Minute
	syncNow(t, s)
	held := hold(t, s, "post:1", "posts")
	invalidate(t, s, tag("posts"))
	rdb.Set(t.Context(), "skew", "601", 0)
	invalidate(t, s, tag("others")) // and the older is pruned
	fresh := node(t, rdb, change...)
	syncNow(t, fresh)
	kind, _ := fresh.mirror.judge("post:1", position{held.Epoch, held.Token}, held.scopes)
	return kind == ""
}

func lostDigits(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) (bad bool) {
	if len(change) == 0 {
		change = append(change, skewed())
	}
	rdb.Set(t.Context(), "skew", fmt.Sprint(200*365*24*3600), 0) // close to 2^53 µs
	s := node(t, rdb, change...)
	if err := s.turnAfter().wait(t.Context()); err != nil {
		return true
	}
	last := s.mirror.position().token
	for range 20 {
		m, err := s.Invalidate(t.Context(), tag("posts"), Mark{})
		if err != nil || m.Seq <= last || !strings.HasPrefix(m.Member, fmt.Sprint(m.Seq, ":")) {
			return true
		}
		last = m.Seq
	}
	score, err := rdb.ZScore(t.Context(), s.names.ledger(), "t:posts").Result()
	return err != nil || uint64(score) != last
}

func notFoundStays(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	worker, reader := node(t, rdb, change...), node(t, rdb, change...)
	settled(t, worker)
	syncNow(t, reader)
	req := Request{Key: "slug:hello"}
	fetch(t, reader, req, func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 404, Body: []byte("nothing"), TTL: time.Minute}, nil
	})
	p := tag("post:7") // which the 404 could not know
	m := invalidate(t, worker, p)
	syncNow(t, worker, reader)
	barrier(t, worker, p, m)
	syncNow(t, reader)
	return saw(fetch(t, reader, req, answers("new"))) != "new miss"
}

func lateStoreHides(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	s := node(t, rdb, change...)
	syncNow(t, s)
	at := s.mirror.position()
	for i, body := range []string{"new", "old"} {
		at.token -= uint64(i)
		e := s.newEntry(Request{Key: "k"}, nil, Fill{Status: 200, Body: []byte(body), TTL: time.Minute}, at)
		s.store(t.Context(), "k", e, "")
	}
	e, err := s.lookup(t.Context(), Request{Key: "k"})
	return err != nil || text(e) != "new"
}

func deadNodesKept(t *testing.T, rdb redis.UniversalClient, change ...func(*options)) bool {
	worker, dead := node(t, rdb, change...), node(t, rdb, change...)
	settled(t, worker)
	syncNow(t, dead)
	idle(t.Context(), shortLease+2*slack)
	steady(t, worker)
	p := tag("posts")
	m := invalidate(t, worker, p)
	syncNow(t, worker)
	barrier(t, worker, p, m)
	return rdb.ZScore(t.Context(), worker.names.ack(), dead.node).Err() == nil
}
