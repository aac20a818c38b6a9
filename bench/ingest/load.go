package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const secret = "bench-secret-of-32-characters-ok"

// measure is what one load found.
type measure struct {
	rate            float64 // acknowledged per second
	p50, p99, worst time.Duration
	refused         int // answered 503; not in the others
}

// deliveries numbers the deliveries of the whole run: each has an id of its own.
var deliveries atomic.Int64

// load sends deliveries to addr and measures from the first byte sent to the
// last byte of the answer. rate 0: as fast as they are answered.
func load(ctx context.Context, addr string, o options, rate int) (measure, error) {
	ctx, cancel := context.WithTimeout(ctx, o.length+30*time.Second)
	defer cancel()
	var mu sync.Mutex
	var took []time.Duration
	var refused int
	var failures []error
	var wg sync.WaitGroup
	start := time.Now()
	for i := range o.callers {
		wg.Go(func() {
			c := &caller{size: o.size}
			if rate > 0 {
				c.every = time.Duration(o.callers) * time.Second / time.Duration(rate)
				c.next = start.Add(c.every * time.Duration(i) / time.Duration(o.callers))
			}
			err := c.run(ctx, addr, start.Add(o.length))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, c.took...)
			refused += c.refused
			if err != nil {
				failures = append(failures, err)
			}
		})
	}
	wg.Wait()
	if len(failures) > 0 {
		return measure{}, fmt.Errorf("%d callers failed, such as: %w", len(failures), failures[0])
	}
	if len(took) == 0 {
		return measure{}, errors.New("nothing was acknowledged")
	}
	slices.Sort(took)
	return measure{rate: float64(len(took)) / o.length.Seconds(), p50: took[len(took)/2], p99: took[len(took)*99/100], worst: took[len(took)-1], refused: refused}, nil
}

// caller is one connection. It writes requests byte by byte itself: net/http's
// client costs as much as a server, and would hide what is measured.
type caller struct {
	size    int
	every   time.Duration // 0: at once
	next    time.Time
	took    []time.Duration
	refused int
}

func (c *caller) run(ctx context.Context, addr string, until time.Time) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	in := bufio.NewReader(conn)
	mac := hmac.New(sha256.New, []byte(secret))
	filler := strings.Repeat("lorem ipsum dolor sit amet ", c.size/27+1)
	var body, request bytes.Buffer
	for time.Now().Before(until) {
		if c.every > 0 {
			select {
			case <-time.After(time.Until(c.next)):
				c.next = c.next.Add(c.every)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		n := deliveries.Add(1)
		body.Reset()
		fmt.Fprintf(&body, `{"type":"post.updated","data":{"id":"%d","slug":"post-%d","updatedAt":"2026-11-23T12:00:00Z","text":"`, n, n)
		body.WriteString(filler[:max(0, c.size-body.Len()-3)])
		body.WriteString(`"}}`)
		mac.Reset()
		mac.Write(body.Bytes())
		request.Reset()
		fmt.Fprintf(&request, "POST /webhooks/shop HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Delivery-Id: bench-%d\r\nX-Webhook-Signature: sha256=%s\r\n\r\n",
			addr, body.Len(), n, hex.EncodeToString(mac.Sum(nil)))
		request.Write(body.Bytes())

		start := time.Now()
		if _, err := conn.Write(request.Bytes()); err != nil {
			return err
		}
		status, err := readAnswer(in)
		if err != nil {
			return err
		}
		switch status {
		case 200:
			c.took = append(c.took, time.Since(start))
		case 503:
			c.refused++
		default:
			return fmt.Errorf("answered %d", status)
		}
	}
	return nil
}

// readAnswer reads one HTTP/1.1 answer with a Content-Length.
func readAnswer(in *bufio.Reader) (status int, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("answer begins with %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length := -1
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return 0, err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			break
		}
		if name, value, _ := strings.Cut(string(line), ":"); strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("an answer without Content-Length")
	}
	_, err = io.CopyN(io.Discard, in, int64(length))
	return status, err
}
