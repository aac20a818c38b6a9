package read

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/freshwire/freshwire/cache"
)

// Failures of an origin. All but errTooLarge and errStrange may be gone at the
// next try.
var (
	errOriginSlow   = errors.New("read: origin took too long")
	errOriginAway   = errors.New("read: origin cannot be reached")
	errOriginFailed = errors.New("read: origin failed")                       // 5xx
	errOriginBusy   = errors.New("read: origin wants fewer requests")         // 429
	errTooLarge     = errors.New("read: origin's answer is too large")        //
	errStrange      = errors.New("read: origin's answer cannot be passed on") // redirects away, unknown codings
	errOtherTag     = fmt.Errorf("%w: a 304 with another entity tag than was asked about", errStrange)
)

// response is an answer of the origin.
type response struct {
	status     int
	header     http.Header
	body       []byte      // identity coding
	stream     *originBody // in place of body, where that was asked for and is worth it
	size       int64       // of stream, where that is told, else below 0
	decoded    bool        // body was gzip: the origin's validators do not fit it
	redirected bool
	held       *cache.Entry // what a 304 said is still good
}

// question is how an origin is asked, besides for what.
type question struct {
	requestID     string
	authorization string       // not empty only for answers that are never stored
	user          string       // likewise
	held          *cache.Entry // whose validators are sent along; nil for none
	again         bool         // caches on the way must not answer
	stream        bool         // a long body may come later
}

const maxRedirects = 3

// newClient returns the client for all origins. It follows redirects within
// one scheme and host, keeps no cookies, and never decodes by itself.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	transport.MaxIdleConnsPerHost = 64
	transport.MaxResponseHeaderBytes = 64 << 10
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if first := via[0].URL; len(via) > maxRedirects || next.URL.Scheme != first.Scheme || next.URL.Host != first.Host {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

// ask fetches p from the origin. Only what p and the config say is sent: a
// header of the client's would make content differ that has one key. The
// exceptions are authorization and the user, whose answers have none.
func (rt *Route) ask(ctx context.Context, p *place, q question) (response, error) {
	if err := rt.outage.err(); err != nil {
		rt.metrics.asked("skipped", 0)
		return response{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, rt.cfg.Timeout)
	if err := rt.gate.enter(ctx); err != nil {
		cancel()
		rt.metrics.asked("crowded", 0)
		return response{}, err
	}
	start := time.Now()
	ended := func(res response, err error) {
		rt.gate.leave()
		cancel()
		if !errors.Is(err, context.Canceled) { // a client that left says nothing of the origin
			rt.outage.note(err)
		}
		took, outcome := time.Since(start), outcomeOf(res, err)
		rt.metrics.asked(outcome, took)
		if err != nil && !errors.Is(err, context.Canceled) {
			rt.log.WarnContext(ctx, "origin failed", "route", rt.cfg.Path, "key", p.key, "outcome", outcome,
				"request_id", q.requestID, "took", took, "err", err)
		}
	}
	res, err := rt.roundTrip(ctx, p, q)
	if res.stream != nil {
		res.stream.ended = func(err error) { ended(res, err) }
	} else {
		ended(res, err)
	}
	return res, err
}

func (rt *Route) roundTrip(ctx context.Context, p *place, q question) (response, error) {
	req, err := rt.request(ctx, p, q)
	if err != nil {
		return response{}, errNowhere // the template was tried at start, so the values do not make a URL
	}
	res, err := rt.client.Do(req)
	if err != nil {
		return response{}, transportError(ctx, err)
	}
	stays := false
	defer func() {
		if !stays {
			res.Body.Close()
		}
	}()
	out := response{status: res.StatusCode, header: res.Header, redirected: res.Request.URL.String() != req.URL.String()}
	switch {
	case res.StatusCode >= 500:
		return response{}, fmt.Errorf("%w: status %d", errOriginFailed, res.StatusCode)
	case res.StatusCode == http.StatusTooManyRequests:
		return response{}, errOriginBusy
	case res.StatusCode == http.StatusNotModified && q.held != nil && !out.redirected:
		return renewed(q.held, out)
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return response{}, fmt.Errorf("%w: status %d leads to another host, or too far; set origin to the final address", errStrange, res.StatusCode)
	case res.StatusCode == http.StatusPartialContent:
		return response{}, fmt.Errorf("%w: status 206 to a request for the whole", errStrange)
	}
	from, decoded, err := plainBody(res, rt.cfg.MaxBody)
	if err != nil {
		return response{}, transportError(ctx, err)
	}
	out.decoded, out.size = decoded, res.ContentLength
	if decoded {
		out.size = -1
	}
	first := rt.cfg.MaxBody
	if q.stream && out.status == http.StatusOK && rt.compiled.notStorable(out) == "" {
		if first = min(first, streamAbove); out.size > streamAbove {
			first = 0
		}
	}
	whole := false
	if out.body, whole, err = readBody(from, out.size, first); err != nil {
		return response{}, transportError(ctx, err)
	}
	switch {
	case whole:
	case first == rt.cfg.MaxBody:
		return response{}, fmt.Errorf("%w: more than %d bytes", errTooLarge, first)
	default:
		stays = true
		out.stream = &originBody{ctx: ctx, from: io.MultiReader(bytes.NewReader(out.body), from), closer: res.Body, left: rt.cfg.MaxBody}
		out.body = nil
	}
	return out, nil
}

// request makes the request that asks q.
func (rt *Route) request(ctx context.Context, p *place, q question) (*http.Request, error) {
	address := p.origin
	if q.again && rt.cfg.CacheBust != "" {
		separator := "?"
		if strings.Contains(address, "?") {
			separator = "&"
		}
		address += separator + url.QueryEscape(rt.cfg.CacheBust) + "=" + rand.Text()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "*/*")
	req.Header.Set("User-Agent", "freshwire")
	for _, h := range []http.Header{rt.compiled.headers, p.varied} {
		for name, values := range h {
			req.Header[name] = values
		}
	}
	if q.again {
		req.Header.Set("Cache-Control", "no-cache")
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("X-Request-Id", q.requestID)
	if q.authorization != "" {
		req.Header.Set("Authorization", q.authorization)
	}
	if q.user != "" {
		req.Header.Set(userHeader, q.user)
	}
	if q.held != nil {
		if tag := q.held.Header[validatorHeader]; len(tag) > 0 {
			req.Header.Set("If-None-Match", tag[0])
		}
	}
	return req, nil
}

// plainBody returns a reader of the body without its coding.
func plainBody(res *http.Response, limit int64) (from io.Reader, decoded bool, err error) {
	switch coding := strings.ToLower(strings.TrimSpace(res.Header.Get("Content-Encoding"))); coding {
	case "", "identity":
		if res.ContentLength > limit {
			return nil, false, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, res.ContentLength, limit)
		}
		return res.Body, false, nil
	case "gzip", "x-gzip": // not asked for, but some send nothing else
		zip, err := gzip.NewReader(res.Body)
		if err != nil {
			return nil, false, fmt.Errorf("%w: broken gzip: %w", errStrange, err)
		}
		return zip, true, nil
	default:
		return nil, false, fmt.Errorf("%w: content coding %q, which was not asked for", errStrange, coding)
	}
}

// readBody reads up to limit bytes, and one more, to see whether that is the
// whole. size is the length that was told, or negative.
func readBody(from io.Reader, size, limit int64) (body []byte, whole bool, err error) {
	if limit == 0 {
		return nil, false, nil
	}
	var buf bytes.Buffer
	if size > 0 {
		buf.Grow(int(size) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(from, limit+1))
	return buf.Bytes(), n <= limit, err
}

// streamAbove is the length from which bodies are handed on while they come
// in. Of one that does not tell its length, so much is read before: a short
// one goes out with its length and tag, and a failure as one.
const streamAbove = 64 << 10

// originBody is a body that still comes in. It holds the origin's place in the
// gate, and its time limit, until it is closed.
type originBody struct {
	ctx    context.Context // of the request that it answers
	from   io.Reader
	closer io.Closer
	left   int64 // bytes that it may still have
	err    error
	once   sync.Once
	ended  func(error)
}

func (b *originBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more, to see that it is more
	}
	n, err := b.from.Read(p)
	if b.left -= int64(n); b.left < 0 {
		n, err = 0, fmt.Errorf("%w: more than what the route allows", errTooLarge)
	}
	switch {
	case errors.Is(err, io.EOF):
		b.err = io.EOF
	case err != nil:
		b.err = transportError(b.ctx, err)
	}
	return n, b.err
}

// Close ends the request. A body that is closed before its end was given up.
func (b *originBody) Close() error {
	err := b.closer.Close()
	b.once.Do(func() {
		switch {
		case errors.Is(b.err, io.EOF):
			b.ended(nil)
		case b.err == nil:
			b.ended(context.Canceled)
		default:
			b.ended(b.err)
		}
	})
	return err
}

// transportError says which failure err is. The text of a url.Error holds the
// whole URL, with the query and its secrets, so only what is inside is kept.
func transportError(ctx context.Context, err error) error {
	if outer := (*url.Error)(nil); errors.As(err, &outer) {
		err = outer.Err
	}
	var timeout net.Error
	switch {
	case errors.Is(err, errTooLarge), errors.Is(err, errStrange):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%w: %w", errOriginAway, context.Canceled)
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errOriginSlow
	}
	return fmt.Errorf("%w: %w", errOriginAway, err)
}

func outcomeOf(res response, err error) string {
	switch {
	case err == nil:
		return strconv.Itoa(res.status/100) + "xx"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, errOriginSlow):
		return "timeout"
	case errors.Is(err, errOriginFailed):
		return "5xx"
	case errors.Is(err, errOriginBusy):
		return "429"
	case errors.Is(err, errTooLarge):
		return "too_large"
	case errors.Is(err, errStrange):
		return "strange"
	}
	return "unreachable"
}
