package read

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
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
)

// response is a whole answer of the origin.
type response struct {
	status     int
	header     http.Header
	body       []byte // identity coding
	decoded    bool   // body was gzip: the origin's validators do not fit it
	redirected bool
}

const maxRedirects = 3

// newClient returns the client for all origins. It follows redirects within
// one scheme and host, keeps no cookies, and never decodes by itself.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	transport.MaxConnsPerHost = 128 // an origin is a CMS: a cold cache must not be its end
	transport.MaxIdleConnsPerHost = 32
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
// exception is authorization, not empty only for answers that are never stored.
func (rt *Route) ask(ctx context.Context, p place, authorization, requestID string) (response, error) {
	if err := rt.outage.err(); err != nil {
		rt.metrics.asked("skipped", 0)
		return response{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, rt.cfg.Timeout)
	defer cancel()
	start := time.Now()
	res, err := rt.roundTrip(ctx, p, authorization, requestID)
	if !errors.Is(err, context.Canceled) { // a client that left says nothing of the origin
		rt.outage.note(err)
	}
	took := time.Since(start)
	outcome := outcomeOf(res, err)
	rt.metrics.asked(outcome, took)
	if err != nil && !errors.Is(err, context.Canceled) {
		rt.log.WarnContext(ctx, "origin failed", "route", rt.cfg.Path, "key", p.key, "outcome", outcome,
			"request_id", requestID, "took", took, "err", err)
	}
	return res, err
}

func (rt *Route) roundTrip(ctx context.Context, p place, authorization, requestID string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.origin, nil)
	if err != nil {
		return response{}, errNowhere // the template was tried at start, so the values do not make a URL
	}
	req.Header.Set("Accept", "*/*")
	req.Header.Set("User-Agent", "freshwire")
	for name, values := range rt.compiled.headers {
		req.Header[name] = values
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("X-Request-Id", requestID)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := rt.client.Do(req)
	if err != nil {
		return response{}, transportError(ctx, err)
	}
	defer res.Body.Close()
	out := response{status: res.StatusCode, header: res.Header, redirected: res.Request.URL.String() != req.URL.String()}
	switch {
	case res.StatusCode >= 500:
		return response{}, fmt.Errorf("%w: status %d", errOriginFailed, res.StatusCode)
	case res.StatusCode == http.StatusTooManyRequests:
		return response{}, errOriginBusy
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return response{}, fmt.Errorf("%w: status %d leads to another host, or too far; set origin to the final address", errStrange, res.StatusCode)
	case res.StatusCode == http.StatusPartialContent:
		return response{}, fmt.Errorf("%w: status 206 to a request for the whole", errStrange)
	}
	out.body, out.decoded, err = readBody(res, rt.cfg.MaxBody)
	if err != nil {
		return response{}, transportError(ctx, err)
	}
	return out, nil
}

// readBody reads at most limit bytes, counted after decoding.
func readBody(res *http.Response, limit int64) (body []byte, decoded bool, err error) {
	from := io.Reader(res.Body)
	switch coding := strings.ToLower(strings.TrimSpace(res.Header.Get("Content-Encoding"))); coding {
	case "", "identity":
		if res.ContentLength > limit {
			return nil, false, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, res.ContentLength, limit)
		}
	case "gzip", "x-gzip": // not asked for, but some send nothing else
		zip, err := gzip.NewReader(res.Body)
		if err != nil {
			return nil, false, fmt.Errorf("%w: broken gzip: %w", errStrange, err)
		}
		from, decoded = zip, true
	default:
		return nil, false, fmt.Errorf("%w: content coding %q, which was not asked for", errStrange, coding)
	}
	var buf bytes.Buffer
	if res.ContentLength > 0 && !decoded {
		buf.Grow(int(res.ContentLength) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(from, limit+1))
	switch {
	case n > limit:
		return nil, false, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	case err != nil:
		return nil, false, err
	}
	return buf.Bytes(), decoded, nil
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
