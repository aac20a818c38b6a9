package tasks

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	maxFlightCalls = 512             // each costs Redis some 20 µs, during which it answers nobody else
	maxFlightBytes = 1 << 20         // what a slow line carries within the client's timeout
	flightTimeout  = 3 * time.Second // the client's own timeouts are shorter
)

// pipelines sends what many callers ask for together: while one pipeline is
// under way, what comes in gathers for the next. Calls of one caller are sent
// in its order. (BenchmarkEnqueue)
type pipelines struct {
	rdb redis.UniversalClient

	mu      sync.Mutex
	flying  bool
	waiting []*passenger
}

// passenger is what one caller wants sent together.
type passenger struct {
	ctx   context.Context
	put   func(redis.Pipeliner)
	calls int
	bytes int
	left  bool // before its commands were sent
	done  chan struct{}
}

// do sends what put puts into a pipeline: about so many calls, and bytes. Once
// it returns nil each command has its reply, or an error of its own.
func (p *pipelines) do(ctx context.Context, calls, bytes int, put func(redis.Pipeliner)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	one := &passenger{ctx: ctx, put: put, calls: calls, bytes: bytes, done: make(chan struct{})}
	p.mu.Lock()
	p.waiting = append(p.waiting, one)
	if !p.flying {
		p.flying = true
		go p.fly()
	}
	p.mu.Unlock()
	select {
	case <-one.done:
		if one.left {
			return ctx.Err()
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fly sends pipelines until nobody waits. A caller that has left is not served:
// it was told that nothing may be counted on.
func (p *pipelines) fly() {
	for {
		flight := p.board()
		if flight == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), flightTimeout)
		pipe := p.rdb.Pipeline()
		for _, one := range flight {
			if one.left = one.ctx.Err() != nil; !one.left {
				one.put(pipe)
			}
		}
		if pipe.Len() > 0 {
			_, _ = pipe.Exec(ctx) // each reply is looked at by the one who asked
		}
		cancel()
		for _, one := range flight {
			close(one.done)
		}
	}
}

// board takes those who fly next; nil when nobody waits.
func (p *pipelines) board() []*passenger {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.flying, p.waiting = false, nil
		return nil
	}
	n, calls, bytes := 0, 0, 0
	for _, one := range p.waiting {
		calls, bytes = calls+one.calls, bytes+one.bytes
		if n > 0 && (calls > maxFlightCalls || bytes > maxFlightBytes) {
			break
		}
		n++
	}
	flight := p.waiting[:n:n]
	p.waiting = p.waiting[n:]
	return flight
}

// call is one run of a script.
type call struct {
	script *redis.Script
	keys   []string
	args   []any
	before []any // a command that goes out just before it, if any; nobody waits for its reply
}

func (c call) bytes() int {
	n := 128 // names, lengths
	for _, args := range [][]any{c.args, c.before} {
		for _, a := range args {
			switch a := a.(type) {
			case []byte:
				n += len(a)
			case string:
				n += len(a)
			}
		}
	}
	return n
}

// run runs scripts one after the other, and returns the reply of each. Those
// that Redis does not know (any more) are sent again with their source.
func (p *pipelines) run(ctx context.Context, calls []call) ([]*redis.Cmd, error) {
	replies := make([]*redis.Cmd, len(calls))
	todo := make([]int, len(calls))
	for i := range todo {
		todo[i] = i
	}
	if err := p.runSome(ctx, calls, todo, replies, nil); err != nil {
		return nil, err
	}
	todo = todo[:0]
	for i, r := range replies {
		if redis.HasErrorPrefix(r.Err(), "NOSCRIPT") {
			todo = append(todo, i)
		}
	}
	return replies, p.runSome(ctx, calls, todo, replies, map[*redis.Script]bool{})
}

// runSome runs calls[i] for each i of todo. A loaded that is not nil says which
// scripts have gone out with their source; the others do so now.
func (p *pipelines) runSome(ctx context.Context, calls []call, todo []int, replies []*redis.Cmd, loaded map[*redis.Script]bool) error {
	for len(todo) > 0 {
		n, bytes := 0, 0
		for n < min(len(todo), maxFlightCalls) {
			bytes += calls[todo[n]].bytes()
			if n > 0 && bytes > maxFlightBytes {
				break
			}
			n++
		}
		part := todo[:n]
		todo = todo[n:]
		sent := make([]*redis.Cmd, n) // not replies: who has left must not be written to
		err := p.do(ctx, n, bytes, func(pipe redis.Pipeliner) {
			for j, i := range part {
				c := calls[i]
				if c.before != nil {
					pipe.Do(ctx, c.before...)
				}
				if loaded != nil && !loaded[c.script] {
					loaded[c.script] = true
					sent[j] = c.script.Eval(ctx, pipe, c.keys, c.args...)
				} else {
					sent[j] = c.script.EvalSha(ctx, pipe, c.keys, c.args...)
				}
			}
		})
		if err != nil {
			return err
		}
		for j, i := range part {
			replies[i] = sent[j]
		}
	}
	return nil
}

// recorder is the client under Asynq's. With a context from record, the scripts
// that Asynq would run are written down instead, so that many of its enqueues
// go out in one pipeline: one by one each would cost a round trip.
type recorder struct {
	redis.UniversalClient
}

type recordingKey struct{}

func record(ctx context.Context) (context.Context, *[]call) {
	calls := new([]call)
	return context.WithValue(ctx, recordingKey{}, calls), calls
}

// EvalSha, when recording, makes Asynq tell the source of its script.
func (r recorder) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	if ctx.Value(recordingKey{}) == nil {
		return r.UniversalClient.EvalSha(ctx, sha, keys, args...)
	}
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(errNoScript{})
	return cmd
}

func (r recorder) Eval(ctx context.Context, source string, keys []string, args ...any) *redis.Cmd {
	calls, ok := ctx.Value(recordingKey{}).(*[]call)
	if !ok {
		return r.UniversalClient.Eval(ctx, source, keys, args...)
	}
	*calls = append(*calls, call{script: r.script(source), keys: keys, args: args})
	cmd := redis.NewCmd(ctx)
	cmd.SetVal(int64(1)) // as if it was done; the true reply comes with the pipeline
	return cmd
}

var scripts sync.Map // source → *redis.Script

func (recorder) script(source string) *redis.Script {
	if s, ok := scripts.Load(source); ok {
		return s.(*redis.Script)
	}
	s, _ := scripts.LoadOrStore(source, redis.NewScript(source))
	return s.(*redis.Script)
}

// errNoScript reads as Redis' own.
type errNoScript struct{}

func (errNoScript) Error() string { return "NOSCRIPT recorded, not run" }
func (errNoScript) RedisError()   {}

// answered returns the error of a command, if it is more than "nothing there".
func answered(cmd redis.Cmder) error {
	if err := cmd.Err(); !errors.Is(err, redis.Nil) {
		return err
	}
	return nil
}
