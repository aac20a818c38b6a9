package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// purgeSoftly is an operator who makes things stale.
func (r *race) purgeSoftly(ctx context.Context, rng *rand.Rand) {
	for ; ctx.Err() == nil; idle(ctx, time.Duration(rng.IntN(40))*time.Millisecond) {
		p, _ := r.purge(rng)
		p.Soft = true
		r.nodes[1+rng.IntN(raceNodes-1)].Invalidate(ctx, p, Mark{})
	}
}

// loseKeys makes Redis forget a key of the ledger about twice a second.
func (r *race) loseKeys(ctx context.Context, rdb redis.UniversalClient, rng *rand.Rand) {
	n := r.nodes[0].names
	keys := []string{n.ledger(), n.ledger(), n.ledger(), n.meta(), n.seqs(), n.ack(), n.live()}
	pause := 400
	if r.mix.loseLeases {
		keys, pause = []string{n.live()}, 50
	}
	for idle(ctx, 300*time.Millisecond); ctx.Err() == nil; idle(ctx, time.Duration(pause+rng.IntN(300))*time.Millisecond) {
		rdb.Del(ctx, keys[rng.IntN(len(keys))])
	}
}

// moveLedger moves the ledger's slot from master to master, slowly.
func (r *race) moveLedger(ctx context.Context, t *testing.T, rdb *redis.ClusterClient) {
	for ; ctx.Err() == nil; idle(ctx, 300*time.Millisecond) {
		rdb.ReloadState(ctx)
		err := testkit.MoveSlot(ctx, rdb, r.nodes[0].names.ledger(), func() { idle(ctx, 20*time.Millisecond) })
		if err != nil && ctx.Err() == nil {
			t.Errorf("moving the ledger: %v", err)
			return
		}
		r.moves.Add(1)
	}
}

// lag holds the replica's line half of the time, and now and then the whole replica.
func (r *race) lag(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		r.line.Hold()
		idle(ctx, time.Duration(50+rng.IntN(250))*time.Millisecond)
		r.line.Release()
		idle(ctx, time.Duration(50+rng.IntN(250))*time.Millisecond)
		if rng.IntN(5) == 0 {
			r.replicaServer.Signal(syscall.SIGSTOP)
			idle(ctx, 100*time.Millisecond)
			r.replicaServer.Signal(syscall.SIGCONT)
		}
	}
}

// watch sees to it that no stored entry is replaced by one of an older fetch.
func (r *race) watch(ctx context.Context, rdb redis.UniversalClient) {
	for ; ctx.Err() == nil; idle(ctx, time.Millisecond) {
		for _, at := range r.things[:r.keys()] {
			head, err := rdb.GetRange(ctx, r.nodes[0].names.entry(at.req.Key), 0, prefixLen-1).Bytes()
			token, epoch, _, bad := decodePrefix(head)
			if err != nil || bad != nil {
				continue
			}
			was := r.tokens[at.req.Key]
			if was.epoch == epoch && token < was.token {
				if r.fell.Add(1); r.stopWhenCaught {
					r.stop()
				}
			}
			r.tokens[at.req.Key] = watermark{epoch, token}
		}
	}
}

// partition is a node that reaches the entries, but not the ledger.
type partition struct{ cut atomic.Bool }

var errCut = errors.New("cut off")

func (p *partition) flap(ctx context.Context) {
	for idle(ctx, 300*time.Millisecond); ctx.Err() == nil; idle(ctx, 300*time.Millisecond) {
		p.cut.Store(!p.cut.Load())
	}
	p.cut.Store(false)
}

func (p *partition) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *partition) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		for _, arg := range cmd.Args() {
			if s, ok := arg.(string); ok && strings.HasSuffix(s, "}:ledger") && p.cut.Load() {
				cmd.SetErr(errCut)
				return errCut
			}
		}
		return next(ctx, cmd)
	}
}

func (p *partition) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// scopesOf makes a node read the scopes of the ledger from a replica, and all
// else from the master: what a client would do that sends reads to replicas,
// had the ledger been read by plain commands.
func scopesOf(replica *redis.Client, ns string) redis.Hook {
	return hook{func(ctx context.Context, cmd redis.Cmder, send func() error) error {
		err := send()
		answer, ok := cmd.(*redis.Cmd)
		if !ok || err != nil {
			return err
		}
		if list, ok := answer.Val().([]any); ok && len(list) == 10 {
			token := fmt.Sprint(cmd.Args()[9])
			scopes, _ := replica.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{
				Key: names{ns: ns}.ledger(), Start: "(" + token, Stop: "+inf", ByScore: true}).Result()
			flat := []any{}
			for _, z := range scopes {
				flat = append(flat, z.Member, strconv.FormatFloat(z.Score, 'f', 0, 64))
			}
			list[8] = flat
			answer.SetVal(list)
		}
		return err
	}}
}
