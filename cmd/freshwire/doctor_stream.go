package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/sse"
)

// streamProbe looks at a stream through whatever stands between it and us.
type streamProbe struct {
	url     *url.URL // with our channel among its channels
	channel string   // nobody else knows it
	client  *http.Client
	direct  bool // the stream is asked for at the process itself, and may be none of its roles
	wait    bool // stay until a ping

	publish func(ctx context.Context, data string) error // nil: deliveries are not measured
	where   string                                       // changes are published
	named   bool                                         // somebody said so
}

// Bounds of a probe.
const (
	headerBound  = 5 * time.Second
	beginBound   = 6 * time.Second  // for the first event; a server that starts may take 5 s
	heldBack     = 2 * time.Second  // a first event that takes longer was kept back
	changeBound  = 3 * time.Second  // for one change to arrive
	pingBound    = 25 * time.Second // pings are at most 20 s apart
	streamBound  = 45 * time.Second // all but the wait for a ping
	changeProbes = 9
)

// newStreamProbe returns a probe of the stream at raw, of the usual path where
// it names none.
func newStreamProbe(raw string) (*streamProbe, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usageError{fmt.Sprintf("--stream %q is not a URL such as https://example.com/api/events", raw)}
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/api/events"
	}
	p := &streamProbe{url: u, channel: "doctor:" + rand.Text()}
	query := u.Query()
	query.Add("channel", p.channel)
	u.RawQuery = query.Encode()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // what a proxy compresses is to be seen
	p.client = &http.Client{Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return p, nil
}

// publishThrough makes deliveries measurable: changes are published at r. The
// token goes there alone, never to the address of the stream.
func (p *streamProbe) publishThrough(r *remote, named bool) {
	p.where, p.named = r.base, named
	p.publish = func(ctx context.Context, data string) error {
		body, err := json.Marshal(map[string]any{"channels": []string{p.channel}, "data": map[string]string{"probe": data}})
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/admin/publish", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		r.authorize(req)
		_, err = r.do(req)
		return err
	}
}

// line is one open stream, as a browser has it.
type line struct {
	resp    *http.Response
	opened  time.Time
	headers time.Duration
	begun   atomic.Int64 // ns after opened, of the first byte
	events  chan heard   // closed when the stream ends
	err     error        // why; valid once events is closed
	cancel  context.CancelFunc
}

type heard struct {
	sse.Message
	at time.Time
}

// browserCodings are what browsers accept, also for streams.
const browserCodings = "gzip, deflate, br, zstd"

// open opens the stream, as EventSource does.
func (p *streamProbe) open(ctx context.Context, lastID, codings string) (*line, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &line{cancel: cancel, events: make(chan heard, 64), opened: time.Now()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url.String(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	for name, value := range map[string]string{"Accept": "text/event-stream", "Cache-Control": "no-cache", "Accept-Encoding": codings, "Last-Event-ID": lastID} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	patience := time.AfterFunc(headerBound, cancel)
	resp, err := p.client.Do(req)
	if !patience.Stop() && err == nil {
		resp.Body.Close()
		err = context.Canceled
	}
	if err != nil {
		cancel()
		return nil, err
	}
	l.resp, l.headers = resp, time.Since(l.opened)
	go l.read(ctx)
	return l, nil
}

// read hands out what comes until the stream ends.
func (l *line) read(ctx context.Context) {
	defer close(l.events)
	var body io.Reader = firstByte{l}
	if l.coding() == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			l.err = err
			return
		}
		body = unzipped
	}
	for events := sse.NewReader(body); ; {
		m, err := events.Next()
		if err != nil {
			l.err = err
			return
		}
		select {
		case l.events <- heard{m, time.Now()}:
		case <-ctx.Done():
			l.err = ctx.Err()
			return
		}
	}
}

// firstByte reads a line's body and notes when it begins.
type firstByte struct{ *line }

func (r firstByte) Read(b []byte) (int, error) {
	n, err := r.resp.Body.Read(b)
	if n > 0 {
		r.begun.CompareAndSwap(0, int64(time.Since(r.opened)))
	}
	return n, err
}

// coding is how the body is compressed; empty when it is not.
func (l *line) coding() string {
	if c := strings.ToLower(l.resp.Header.Get("Content-Encoding")); c != "identity" {
		return c
	}
	return ""
}

func (l *line) close() {
	l.cancel()
	l.resp.Body.Close()
}

// next waits for an event that is wanted. ok is false when none comes within
// bound, or the stream ends.
func (l *line) next(bound time.Duration, wanted func(sse.Message) bool) (h heard, ok bool) {
	timeout := time.NewTimer(bound)
	defer timeout.Stop()
	for {
		select {
		case h, open := <-l.events:
			if !open {
				return heard{}, false
			}
			if wanted(h.Message) {
				return h, true
			}
		case <-timeout.C:
			return heard{}, false
		}
	}
}

func called(names ...string) func(sse.Message) bool {
	return func(m sse.Message) bool { return slices.Contains(names, m.Name) }
}

// examine opens the stream and looks at what arrives.
func (p *streamProbe) examine(ctx context.Context) []finding {
	bound := streamBound
	if p.wait {
		bound += pingBound
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	defer p.client.CloseIdleConnections()
	l, err := p.open(ctx, "", browserCodings)
	if err != nil {
		return []finding{p.unopened(ctx, err)}
	}
	defer func() { l.close() }()
	if row, refused := p.judgeAnswer(l.resp); refused {
		return []finding{row}
	}
	rows := []finding{judgeTransport(l.resp), judgeCaching(l.resp.Header)}
	if coding := l.coding(); coding != "" {
		rows = append(rows, warn("compression", "something compresses the stream (%s) in spite of no-transform: it costs memory for each, and holds back what fills no block; exclude text/event-stream", coding))
		if coding != "gzip" { // which we cannot read
			l.close()
			if l, err = p.open(ctx, "", "identity"); err != nil {
				return append(rows, p.unopened(ctx, err))
			}
		}
	} else {
		rows = append(rows, fine("compression", "none"))
	}

	ready, row := l.begin()
	if rows = append(rows, row); ready.Name != "ready" {
		return rows
	}
	published := 0
	if p.publish != nil {
		row, published = p.deliver(ctx, l)
		rows = append(rows, row)
	}
	rows = append(rows, p.resume(ctx, ready.ID, published))
	if p.wait {
		rows = append(rows, l.awaitPing())
	}
	return rows
}
