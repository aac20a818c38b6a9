package tasks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// A process needs three clients of one Redis, since a webhook must fail fast, a
// worker may wait, and a blocked read holds its connection. Build the shared
// options once, and apply one of the three functions to a copy:
//
//	o := *shared
//	tasks.IngestOptions(&o)
//	queue := tasks.NewQueue(redis.NewUniversalClient(&o), log, cfg)
//
// None of them repeats a command by itself: a repeated enqueue would find its
// own task and call it a conflict, a repeated dequeue would lose one.

// IngestOptions sets o up for NewQueue: every command has failed or succeeded
// within about half a second, or earlier when its context ends. Only sending
// may take longer: the largest bodies need that on a slow line.
func IngestOptions(o *redis.UniversalOptions) {
	noRepeats(o)
	o.DialTimeout = 250 * time.Millisecond
	o.ReadTimeout = 500 * time.Millisecond
	o.WriteTimeout = 3 * time.Second
	o.PoolTimeout = 500 * time.Millisecond
	o.ContextTimeoutEnabled = true
}

// WorkerOptions sets o up for NewWorker and what its steps use.
func WorkerOptions(o *redis.UniversalOptions) {
	noRepeats(o)
	o.ReadTimeout = 3 * time.Second
	o.WriteTimeout = 3 * time.Second
}

// TailOptions sets o up for blocking reads of about a second: a pool of its own.
func TailOptions(o *redis.UniversalOptions) {
	noRepeats(o)
	o.ReadTimeout = 3 * time.Second
	o.WriteTimeout = 3 * time.Second
	o.PoolSize = 4
}

func noRepeats(o *redis.UniversalOptions) {
	o.MaxRetries = -1
	o.DialerRetries = 1
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// guard paces Asynq's loop, which asks again at once after an error: without a
// pause an absent Redis costs more than half a core. (TestAbsentRedisIsAskedSeldom)
type guard struct {
	redis.UniversalClient
}

const guardPause = 200 * time.Millisecond

func (g guard) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	cmd := g.UniversalClient.EvalSha(ctx, sha, keys, args...)
	if unexpected(cmd.Err()) {
		pause := time.NewTimer(guardPause)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	return cmd
}

// unexpected reports whether err is none of the answers that Asynq's scripts
// give in the course of things.
func unexpected(err error) bool {
	return err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "NOSCRIPT") && !redis.HasErrorPrefix(err, "NOT FOUND")
}

// isRedisError reports whether err says that Redis cannot be used now, so that
// the same command may well succeed later.
func isRedisError(err error) bool {
	if err == nil || errors.Is(err, redis.Nil) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrPoolTimeout) {
		return true
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	word, _, _ := strings.Cut(reply.Error(), " ")
	switch word {
	case "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "NOREPLICAS", "MISCONF", "NOAUTH", "WRONGPASS", "MOVED", "ASK":
		return true
	}
	return strings.HasPrefix(reply.Error(), "ERR max number of clients")
}

// LogRedis sends what the Redis client itself has to say, such as failed dials,
// to log instead of standard error. It is one setting for the whole process.
func LogRedis(log *slog.Logger) { redis.SetLogger(redisLog{log}) }

type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.WarnContext(ctx, "redis client", "says", fmt.Sprintf(format, args...))
}

// asynqLog is Asynq's Logger over slog. Its chatter about starting and stopping is for debugging.
type asynqLog struct{ log *slog.Logger }

func (l asynqLog) Debug(args ...any) { l.say(slog.LevelDebug, args) }
func (l asynqLog) Info(args ...any)  { l.say(slog.LevelDebug, args) }
func (l asynqLog) Warn(args ...any)  { l.say(slog.LevelWarn, args) }
func (l asynqLog) Error(args ...any) { l.say(slog.LevelError, args) }
func (l asynqLog) Fatal(args ...any) { l.say(slog.LevelError, args) } // a library does not end our process

func (l asynqLog) say(level slog.Level, args []any) {
	l.log.Log(context.Background(), level, "asynq", "says", fmt.Sprint(args...))
}
