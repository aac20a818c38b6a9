//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/freshwire/freshwire/feed"
)

// publishFunc publishes one message and returns when the server has replied.
type publishFunc func(ctx context.Context, body []byte) error

// publisher returns who publishes to a target, with a connection of its own.
func (t target) publisher() (publishFunc, func(), error) {
	if t.Redis != "" {
		// As the worker does: one script that appends to the log.
		rdb := redis.NewClient(&redis.Options{Addr: t.Redis, PoolSize: 1,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
		log := feed.New(rdb, slog.New(slog.DiscardHandler), feed.Config{MaxLen: t.LogLen})
		return func(ctx context.Context, body []byte) error {
			_, err := log.AppendRaw(ctx, []string{channel}, body)
			return err
		}, func() { rdb.Close() }, nil
	}
	conn, err := net.Dial("tcp", t.Addr)
	if err != nil {
		return nil, nil, err
	}
	head := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", t.PublishPath, t.Addr, messageSize)
	in := bufio.NewReader(conn)
	return func(_ context.Context, body []byte) error {
		if _, err := conn.Write(append(head[:len(head):len(head)], body...)); err != nil {
			return err
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		if res.StatusCode/100 != 2 {
			return fmt.Errorf("publishing: %s", res.Status)
		}
		return nil
	}, func() { conn.Close() }, nil
}

// channel is what everybody listens to.
const channel = "bench"

// press publishes by several publishers at a time.
type press struct {
	target target
	stop   context.CancelFunc
	wg     sync.WaitGroup

	published atomic.Int64
	mu        sync.Mutex
	counts    [maxPublishers]int // messages, by publisher
	replies   histogram          // of messages sent since from
	from      time.Time
	err       error
}

// startPress lets every publisher publish whenever next allows; next returns
// false when there is no more.
func startPress(t target, next func(ctx context.Context) bool, from time.Time) (*press, error) {
	ctx, stop := context.WithCancel(context.Background())
	p := &press{target: t, stop: stop, from: from}
	for i := range maxPublishers {
		publish, closeIt, err := t.publisher()
		if err != nil {
			p.end()
			return nil, err
		}
		p.wg.Go(func() {
			defer closeIt()
			if err := p.run(ctx, i, publish, next); err != nil {
				p.mu.Lock()
				p.err = err
				p.mu.Unlock()
			}
		})
	}
	return p, nil
}

func (p *press) run(ctx context.Context, i int, publish publishFunc, next func(context.Context) bool) error {
	for n := 0; next(ctx); n++ {
		sent := time.Now()
		// Not ctx: what is counted as published must be.
		if err := publish(context.Background(), message{i, n, sent}.encode()); err != nil {
			return err
		}
		reply := time.Since(sent)
		p.published.Add(1)
		p.mu.Lock()
		p.counts[i]++
		if !sent.Before(p.from) {
			p.replies.add(int64(reply))
		}
		p.mu.Unlock()
	}
	return nil
}

// end stops publishing and waits until what is under way is published.
func (p *press) end() error {
	p.stop()
	p.wg.Wait()
	return p.err
}
