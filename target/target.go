// Package target tells a site, after a purge, that what it cached itself is
// void too.
//
// New checks a target's configuration, Tell tells it of one event. It returns
// nil only when the site confirmed every call with a 2xx, and has then tried
// again by itself where that could help.
//
// A site is told over its own HTTP route, as in
//
//	POST {"secret": "…", "path": "/blog/hello", "tag": "post:42"}
//
// one path and one tag a call. Addresses come from the configuration alone and
// are checked again when the connection is made, so that a name that changes
// its mind cannot lead to a cloud's metadata service. The secret is never in
// an error.
package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config of a target, an entry under targets: in freshwire.yaml.
type Config struct {
	Kind   string `yaml:"kind" desc:"how it is told" enum:"nextjs" later_enum:"webhook,fastly,cloudflare,cloudfront,varnish" required:"true"`
	URL    string `yaml:"url" desc:"the site's revalidation route" required:"true" example:"https://example.com/api/revalidate"`
	Secret string `yaml:"secret" desc:"what the route compares" secret:"true" required:"true"`

	// Timeout bounds one call, its answer included. Zero means 5s.
	Timeout time.Duration `yaml:"timeout" default:"5s" desc:"bound of one call"`

	// Retries is how often one call is tried again. Nil means 2, at most 10.
	Retries *int `yaml:"retries" default:"2" desc:"how often a call is tried again after a network error, 429 or 5xx"`

	DenyPrivate bool `yaml:"deny_private" desc:"refuse private and loopback addresses, also when a name leads there"`

	// Metrics registers what the target counts. Nil counts nowhere.
	Metrics prometheus.Registerer `yaml:"-"`
}

// Notice is what a site is told of one event.
type Notice struct {
	EventID string
	Tags    []string
	Paths   []string
	All     bool // everything is void; a plain route understands its path "/"
}

// ErrRefused is wrapped by errors of Tell that trying again cannot change: the
// site refused the call, or the address is not allowed.
var ErrRefused = errors.New("target: refused")

// ErrContent is wrapped by an ErrRefused that is about what was told, not about
// who told it or where: another notice may be welcome.
var ErrContent = errors.New("target: content refused")

const (
	parallel      = 4 // calls of one Tell
	maxRetries    = 10
	maxRetryAfter = 10 * time.Second // a site that wants longer is given up for this event
	maxAnswer     = 64 << 10         // bytes read so that the connection can be used again
)

// Target is one site. It is safe for concurrent use.
type Target struct {
	name    string
	cfg     Config
	retries int
	client  *http.Client
	metrics *metrics
}

// New returns the target called name. Its error joins everything that is wrong
// with cfg, each with a YAMLPath below targets.
func New(name string, cfg Config) (*Target, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	retries := 2
	if cfg.Retries != nil {
		retries = *cfg.Retries
	}
	if err := cfg.check(name, retries); err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: cfg.Timeout, ControlContext: allowed(cfg.DenyPrivate)}
	return &Target{
		name: name, cfg: cfg, retries: retries, metrics: newMetrics(cfg.Metrics),
		client: &http.Client{
			Transport: &http.Transport{
				DialContext: dialer.DialContext, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: parallel, IdleConnTimeout: 90 * time.Second,
				TLSHandshakeTimeout: cfg.Timeout, MaxResponseHeaderBytes: maxAnswer,
			}, // no Proxy: behind one, the check of addresses would see the proxy's
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Error is a mistake in the configuration of a target. YAMLPath is where, such
// as targets.site.url.
type Error struct {
	Path string
	Err  error
}

func (e *Error) Error() string    { return e.Path + ": " + e.Err.Error() }
func (e *Error) Unwrap() error    { return e.Err }
func (e *Error) YAMLPath() string { return e.Path }

func (c Config) check(name string, retries int) error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, &Error{"targets." + name + "." + key, fmt.Errorf(format, args...)})
	}
	switch c.Kind {
	case "nextjs":
	case "":
		bad("kind", "is missing; it can be nextjs")
	default:
		bad("kind", "%q is not a kind that this version knows; it can be nextjs", c.Kind)
	}
	if err := checkURL(c.URL, c.DenyPrivate); err != nil {
		bad("url", "%w", err)
	}
	if c.Secret == "" {
		bad("secret", "is missing; the site's route compares it")
	}
	if c.Timeout < 0 || c.Timeout > time.Minute {
		bad("timeout", "%v is not between 0 and 1m", c.Timeout)
	}
	if retries < 0 || retries > maxRetries {
		bad("retries", "%d is not between 0 and %d", retries, maxRetries)
	}
	return errors.Join(errs...)
}

// checkURL never repeats the address: it may hold a secret.
func checkURL(s string, denyPrivate bool) error {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return errors.New("is missing")
	case err != nil:
		return errors.New("is not an address")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("must begin with https:// or http://")
	case u.Hostname() == "":
		return errors.New("names no host")
	case u.User != nil:
		return errors.New("holds a user name or password; sites are told the secret in the body")
	case u.Fragment != "":
		return errors.New("has a #fragment, which is never sent")
	case len(s) > 2048:
		return errors.New("is longer than 2048 bytes")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		return checkAddr(ip, denyPrivate)
	}
	return nil
}

// call is the body of one POST, in the order of the fields that the routes of
// Next.js guides read.
type call struct {
	Secret string `json:"secret"`
	Path   string `json:"path,omitempty"`
	Tag    string `json:"tag,omitempty"`
	All    bool   `json:"all,omitempty"`
}

// calls pairs the nth path with the nth tag.
func (t *Target) calls(n Notice) []call {
	paths, tags := unique(n.Paths), unique(n.Tags)
	out := make([]call, max(len(paths), len(tags)))
	for i := range out {
		out[i].Secret = t.cfg.Secret
		if i < len(paths) {
			out[i].Path = paths[i]
		}
		if i < len(tags) {
			out[i].Tag = tags[i]
		}
	}
	if n.All {
		out = append([]call{{Secret: t.cfg.Secret, Path: "/", All: true}}, out...)
	}
	return out
}

func unique(list []string) []string {
	seen := map[string]bool{"": true}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// Tell tells the site of n and returns when every call was confirmed, or when
// it has no more hope. A refusal or a dead line stops what is left; an answer
// that says one call went wrong does not.
func (t *Target) Tell(ctx context.Context, n Notice) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	calls := t.calls(n)
	next := make(chan call)
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		first  error
		failed int
	)
	for range min(parallel, len(calls)) {
		wg.Go(func() {
			for c := range next {
				err := t.call(ctx, n.EventID, c)
				if err == nil {
					continue
				}
				mu.Lock()
				failed++
				if first == nil {
					first = err
				}
				mu.Unlock()
				var answered *answerError
				if errors.Is(err, ErrRefused) || !errors.As(err, &answered) {
					stop(err)
				}
			}
		})
	}
	sent := 0
	for _, c := range calls {
		select {
		case next <- c:
			sent++
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wg.Wait()
	switch {
	case first == nil && sent < len(calls):
		return fmt.Errorf("telling %s: %w", t.name, context.Cause(ctx))
	case first != nil && len(calls) > 1:
		return fmt.Errorf("telling %s: %d of %d calls not done: %w", t.name, failed+len(calls)-sent, len(calls), first)
	case first != nil:
		return fmt.Errorf("telling %s: %w", t.name, first)
	}
	return nil
}

// Close drops idle connections.
func (t *Target) Close() { t.client.CloseIdleConnections() }

// call makes one call, again while that can help.
func (t *Target) call(ctx context.Context, eventID string, c call) error {
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("%w: the call cannot be written as JSON", ErrRefused)
	}
	for try := 0; ; try++ {
		start := time.Now()
		err := t.post(ctx, eventID, body)
		t.metrics.called(t.name, err, time.Since(start))
		if err == nil || errors.Is(err, ErrRefused) || try == t.retries || ctx.Err() != nil {
			return err
		}
		pause := backoff(try)
		var answered *answerError
		if errors.As(err, &answered) && answered.after > 0 {
			if answered.after > maxRetryAfter {
				return err
			}
			pause = answered.after
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause {
			return err // better the reason than "deadline exceeded"
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// backoff is 200ms before the first new try and 1s before every other, by up
// to a fifth more or less.
func backoff(try int) time.Duration {
	d := time.Second
	if try == 0 {
		d = 200 * time.Millisecond
	}
	return d - d/5 + rand.N(2*d/5)
}

var userAgent = func() string {
	version := "dev"
	if info, ok := debug.ReadBuildInfo(); ok && strings.HasPrefix(info.Main.Version, "v") {
		version = info.Main.Version[1:]
	}
	return "freshwire/" + version
}()

// post sends one body and reads the answer's status.
func (t *Target) post(ctx context.Context, eventID string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: the address cannot be used", ErrRefused)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Freshwire-Event", eventID) // lets a freshwire behind the route see a loop
	res, err := t.client.Do(req)
	if err != nil {
		return t.lineError(err)
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode/100 == 2 && err != nil {
		return t.lineError(err) // a site that fails in the middle of its answer may not have done it
	}
	return answer(res)
}

// lineError says what went wrong before an answer came, without the address.
func (t *Target) lineError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v: %w", t.cfg.Timeout, err)
	}
	return err
}

// answerError is an answer of the site that is no 2xx.
type answerError struct {
	status  string
	hint    string
	after   time.Duration // that the site asks to wait; 0: it does not say
	refused bool          // trying again cannot help
	content bool          // because of what was told
}

func (e *answerError) Is(err error) bool {
	return e.refused && err == ErrRefused || e.content && err == ErrContent
}

func (e *answerError) Error() string {
	if e.hint == "" {
		return e.status
	}
	return e.status + ": " + e.hint
}

// answer turns a status into nil or an error. What the site wrote is not
// repeated: it may hold what we sent.
func answer(res *http.Response) error {
	code := res.StatusCode
	e := &answerError{refused: true, status: strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))}
	switch {
	case code/100 == 2:
		return nil
	case code/100 == 3:
		e.hint = "redirects are not followed; the URL must be the final one"
		if to, err := res.Location(); err == nil && code != http.StatusNotModified {
			e.hint = fmt.Sprintf("the site redirects to %q, and redirects are not followed; the URL must be the final one", clip(to.Scheme+"://"+to.Host+to.Path))
		}
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		e.hint = "the site refused the secret"
	case code == http.StatusNotFound:
		e.hint = "the site has no such route"
	case code == http.StatusMethodNotAllowed:
		e.hint = "the route does not take POST"
	case code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge || code == http.StatusUnprocessableEntity:
		e.content = true
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code/100 == 5:
		e.refused = false
		e.after = retryAfter(res.Header.Get("Retry-After"))
	}
	return e
}

// retryAfter reads seconds or a date; 0 when there is neither.
func retryAfter(s string) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n > 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
