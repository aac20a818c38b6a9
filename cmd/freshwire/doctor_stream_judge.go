package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/sse"
)

// unbuffer is what to do against something that holds a stream back.
const unbuffer = "nginx: proxy_buffering off, or no proxy_ignore_headers X-Accel-Buffering; elsewhere: no buffering of text/event-stream (docs/proxies.md)"

// unopened says why a stream that was asked for did not begin.
func (p *streamProbe) unopened(ctx context.Context, err error) finding {
	const check = "stream"
	if !errors.Is(err, context.Canceled) || ctx.Err() != nil {
		return fail(check, "%s does not answer: %v", bare(p.url), reasonOfCall(ctx, err, streamBound))
	}
	// Nothing came, not even headers. HEAD is answered without a stream.
	ctx, cancel := context.WithTimeout(ctx, headerBound)
	defer cancel()
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, p.url.String(), nil)
	if err != nil {
		return fail(check, "%v", err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return fail(check, "%s does not answer: neither the stream nor HEAD within %v", bare(p.url), headerBound)
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 || !isStream(resp.Header) {
		return fail(check, "%s does not answer within %v; HEAD says %s", bare(p.url), headerBound, resp.Status)
	}
	return fail("first event", "something buffers: HEAD is answered in %s, but of the stream nothing came within %v. %s", inMS(time.Since(start)), headerBound, unbuffer)
}

func isStream(h http.Header) bool {
	kind, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return kind == "text/event-stream"
}

// judgeAnswer tells what keeps the answer from being a stream.
func (p *streamProbe) judgeAnswer(resp *http.Response) (row finding, refused bool) {
	const check = "stream"
	at := bare(p.url)
	switch status := resp.StatusCode; {
	case status == http.StatusOK && isStream(resp.Header):
		return finding{}, false
	case status == http.StatusNotFound && p.direct:
		return fine(check, "%s: this process serves none (roles web and sse do)", at), true
	case status == http.StatusForbidden:
		return fail(check, "%s answers 403: a channel of it is private; ask for a public one", at), true
	case status/100 == 3:
		return fail(check, "%s answers %s: redirects are not followed here; give the final address", at, resp.Status), true
	case status == http.StatusTooManyRequests:
		return fail(check, "%s answers 429: too many requests from this address; see FRESHWIRE_RATE_LIMIT and FRESHWIRE_TRUSTED_PROXIES", at), true
	case status != http.StatusOK:
		return fail(check, "%s answers %s; EventSource gives up on anything but 200", at, resp.Status), true
	}
	return fail(check, "%s answers with Content-Type %q, which is no text/event-stream", at, resp.Header.Get("Content-Type")), true
}

// judgeTransport tells how the stream travels, and who stands between.
func judgeTransport(resp *http.Response) finding {
	const check = "stream"
	how := resp.Proto
	if resp.TLS != nil {
		how += " over TLS"
	}
	var between []string
	for _, name := range []string{"Server", "Via"} {
		if v := resp.Header.Get(name); v != "" {
			between = append(between, name+": "+v)
		}
	}
	if resp.Header.Get("X-Accel-Buffering") == "" {
		between = append(between, "X-Accel-Buffering was taken off on the way, as nginx does")
	}
	if len(between) > 0 {
		how += " (" + strings.Join(between, "; ") + ")"
	}
	if resp.TLS != nil && resp.ProtoMajor < 2 {
		return warn(check, "%s: browsers open six connections to a host, so with six tabs the seventh hangs; offer HTTP/2", how)
	}
	if resp.TLS == nil {
		how += "; browsers speak HTTP/2 with TLS alone, and open six connections to a host without"
	}
	return fine(check, "%s", how)
}

func judgeCaching(h http.Header) finding {
	const check = "caching"
	control := strings.ToLower(strings.Join(h.Values("Cache-Control"), ", "))
	has := func(word string) bool {
		return slices.ContainsFunc(strings.Split(control, ","), func(d string) bool { return strings.TrimSpace(d) == word })
	}
	var stored []string
	for _, name := range []string{"Age", "X-Cache", "X-Cache-Status", "Cf-Cache-Status"} {
		if v := h.Get(name); v != "" && (name == "Age" || strings.Contains(strings.ToUpper(v), "HIT")) {
			stored = append(stored, name+": "+v)
		}
	}
	switch {
	case len(stored) > 0:
		return fail(check, "the stream came out of a cache (%s): it is the end of somebody else's; exclude this path", strings.Join(stored, ", "))
	case !has("no-cache") && !has("no-store"):
		return warn(check, "Cache-Control is %q on arrival: something took no-cache off; caches on the way may keep the stream", control)
	case !has("no-transform"):
		return warn(check, "Cache-Control is %q on arrival: something took no-transform off; others may compress the stream", control)
	}
	return fine(check, "Cache-Control: %s", control)
}

// begin waits until the stream says that it is ready.
func (l *line) begin() (heard, finding) {
	const check = "first event"
	h, ok := l.next(beginBound, called("ready", "goaway"))
	took := h.at.Sub(l.opened)
	first := time.Duration(l.begun.Load())
	switch {
	case !ok && first == 0:
		return h, fail(check, "something buffers: the headers came after %s, and of the body nothing within %v. %s", inMS(l.headers), beginBound, unbuffer)
	case !ok:
		return h, fail(check, "the stream begins and does not become ready within %v: something holds back a part of it, or the server has no position yet", beginBound)
	case h.Name == "goaway":
		return h, fail(check, "the server asks to go away: %s", h.Data)
	case took > heldBack:
		return h, fail(check, "something buffers: ready came after %s (headers %s, first byte %s). %s", inMS(took), inMS(l.headers), inMS(first), unbuffer).took(took)
	}
	return h, fine(check, "ready after %s (headers %s, first byte %s)", inMS(took), inMS(l.headers), inMS(first)).took(took)
}

// slowChange is a delay that people see; what gathers writes makes it.
const slowChange = 100 * time.Millisecond

// deliver publishes changes and measures how long each takes until it is here.
func (p *streamProbe) deliver(ctx context.Context, l *line) (row finding, published int) {
	const check = "delivery"
	var times []time.Duration
	for i := range changeProbes {
		data := fmt.Sprint(p.channel, "/", i)
		start := time.Now()
		bound, cancel := context.WithTimeout(ctx, changeBound)
		err := p.publish(bound, data)
		cancel()
		if err != nil {
			return warn(check, "not measured: publishing at %s: %v", p.where, reasonOfCall(bound, err, changeBound)), published
		}
		published++
		h, ok := l.next(changeBound, func(m sse.Message) bool { return strings.Contains(m.Data, data) })
		switch {
		case !ok && i == 0 && !p.named:
			return warn(check, "not measured: what was published at %s did not arrive; --url or FRESHWIRE_URL says which freshwire is behind this stream", p.where), 0
		case !ok:
			return fail(check, "change %d published at %s did not arrive within %v: something holds it back, or that is another freshwire than the stream's. %s", i+1, p.where, changeBound, unbuffer), 0
		}
		times = append(times, h.at.Sub(start))
	}
	slices.Sort(times)
	p50, most := times[len(times)/2], times[len(times)-1]
	text := fmt.Sprintf("from publish to arrival %s p50, %s at most, of %d", inMS(p50), inMS(most), len(times))
	if p50 > slowChange {
		return warn(check, "%s: something gathers before it sends. %s", text, unbuffer).took(p50), published
	}
	return fine(check, "%s", text).took(p50), published
}

// resume comes back with a position, and with what is none: the server answers
// that with reset, so its silence shows that the header did not reach it.
func (p *streamProbe) resume(ctx context.Context, position string, published int) finding {
	const check = "resume"
	odd, err := p.open(ctx, "doctor", "identity")
	if err != nil {
		return fail(check, "a second connection was not answered: %v", err)
	}
	defer odd.close()
	if h, ok := odd.next(heldBack, called("reset", "goaway")); !ok {
		return fail(check, "Last-Event-ID does not reach the server: browsers that come back miss what happened meanwhile; let this request header pass")
	} else if h.Name == "goaway" {
		return warn(check, "not looked at: the server asks to go away: %s", h.Data)
	}

	again, err := p.open(ctx, position, "identity")
	if err != nil {
		return fail(check, "a third connection was not answered: %v", err)
	}
	defer again.close()
	if h, ok := again.next(heldBack, called("ready", "reset", "goaway")); !ok || h.Name != "ready" {
		return fail(check, "after %s the server says %q: its history does not reach back that far", position, strings.TrimSpace(h.Name+" "+h.Data))
	}
	for i := range published {
		data := fmt.Sprint(p.channel, "/", i)
		if _, ok := again.next(changeBound, func(m sse.Message) bool { return strings.Contains(m.Data, data) }); !ok {
			return fail(check, "of %d changes number %d was not replayed", published, i+1)
		}
	}
	if published > 0 {
		return fine(check, "Last-Event-ID arrives, and %d changes were replayed", published)
	}
	return fine(check, "Last-Event-ID arrives")
}

// awaitPing stays until the stream shows that it lives.
func (l *line) awaitPing() finding {
	const check = "ping"
	start, news := time.Now(), 0
	h, ok := l.next(pingBound, func(m sse.Message) bool {
		if m.Name == "" {
			news++
		}
		return m.Name == "ping" || m.Name == "goaway"
	})
	took := time.Since(start)
	ended := false
	if !ok {
		select {
		case _, open := <-l.events:
			ended = !open
		default:
		}
	}
	switch {
	case ok && h.Name == "goaway":
		return warn(check, "the server asked to go away: %s", h.Data)
	case ok:
		return fine(check, "came after %.1f s of quiet", took.Seconds()).took(took)
	case ended:
		return fail(check, "the stream was cut after %.1f s (%v): something between has a shorter idle timeout than our ping (15 s), or ends long answers", took.Seconds(), cmp.Or(l.err, io.EOF))
	case news > 0:
		return fine(check, "not needed: %d changes came within %v", news, pingBound)
	}
	return fail(check, "none within %v: something holds them back. %s", pingBound, unbuffer)
}
