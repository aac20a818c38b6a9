// Package webhook is the door for a CMS: a delivery comes in, is bounded,
// verified over its raw bytes, understood, and handed on as an event.Event.
//
// A Source is one configured sender: what it signs with, and how its bodies
// read. NewSource refuses every setting that would let strangers in. A Handler
// answers the webhook URLs of all sources; its Enqueue makes events durable.
//
//	blog, err := webhook.NewSource("blog", webhook.SourceConfig{CMS: "ghost", Secret: secret})
//	hooks := webhook.NewHandler([]*webhook.Source{blog}, queue.Enqueue, log, webhook.Config{})
//
// Nothing derived from an unverified request leaves this package: a 2xx means
// that the sender proved a secret and that Enqueue took every event of the
// delivery. Bodies and secrets are never logged and never echoed.
//
// A CMS is a row of the table in cms.go and one file; a way to prove a secret
// is a row of the table in scheme.go.
package webhook

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Delivery is one request as it came in, or as it is to be sent: nothing
// parsed, nothing trusted.
type Delivery struct {
	Method string
	Target string // raw request target: path and query
	Header http.Header
	Body   []byte // the exact bytes
}

// NewRequest returns d as a request to the server at base, such as
// http://127.0.0.1:8080.
func (d Delivery) NewRequest(ctx context.Context, base string) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, d.Method, strings.TrimSuffix(base, "/")+d.Target, strings.NewReader(string(d.Body)))
	if err != nil {
		return nil, err
	}
	r.Header = d.Header.Clone()
	return r, nil
}

// header returns the trimmed value of a header, and how many values it has:
// a header that proves something must not stand there twice.
func (d Delivery) header(name string) (value string, n int) {
	values := d.Header.Values(name)
	if len(values) == 0 {
		return "", 0
	}
	return strings.Trim(values[0], " \t"), len(values)
}

func (d Delivery) query() url.Values {
	_, raw, _ := strings.Cut(d.Target, "?")
	values, _ := url.ParseQuery(raw) // what does not parse is left out
	return values
}

// Reason says why a delivery is refused, in one word for logs, metrics and scripts.
type Reason string

// The reasons. The first eight are answered 401, MalformedBody 400.
const (
	MissingSignature   Reason = "missing_signature"   // absent or empty, or a signed header is
	MalformedSignature Reason = "malformed_signature" // not of the form that the scheme writes
	BadSignature       Reason = "bad_signature"       // no secret made it
	MissingToken       Reason = "missing_token"
	BadToken           Reason = "bad_token"
	StaleTimestamp     Reason = "stale_timestamp"
	FutureTimestamp    Reason = "future_timestamp"
	MalformedBody      Reason = "malformed_body" // verified, but nothing that this CMS sends
)

// Result is what a source makes of one delivery.
type Result struct {
	Reason      Reason // empty when the delivery is valid
	Err         error  // the reason at length, for logs and terminals; never for the sender
	SignatureOK bool   // the sender knows a secret, whatever else is wrong
	Secret      int    // which one: 0 is secret, 1 the first of previous_secrets, after these come secrets; -1 is none
	SecretLabel string // its name in the configuration: secret, previous_secrets[0], or its label; empty for none

	DeliveryID string        // as the CMS sent it; empty when it sends none
	Whole      Item          // what the delivery says as a whole, in the CMS's words
	Batch      []Item        // what it says of each entity; nil for a sender whose deliveries speak of one
	Ping       bool          // a test of the connection; there is nothing to do
	Events     []event.Event // what there is to act upon, each one valid; none for a ping
}

// Valid reports whether the delivery is verified and understood.
func (r Result) Valid() bool { return r.Reason == "" }

// Status is the HTTP status to answer, provided that the events can be queued.
func (r Result) Status() int {
	switch {
	case r.Reason == "", r.Ping:
		return http.StatusOK
	case r.Reason == MalformedBody:
		return http.StatusBadRequest
	default:
		return http.StatusUnauthorized
	}
}

// Item is what a delivery says of one entity. A field is empty when the CMS
// does not tell it.
type Item struct {
	Event        string // the CMS's own name, such as post.updated
	Action       event.Action
	ContentType  string
	ID           string
	Slug         string
	PreviousSlug string
	Locale       string
	Environment  string
	Version      string   // as the origin tells it too: number, time or hash
	Path         string   // of a file in a repository
	Ref          string   // branch or tag of a repository
	EventID      string   // of what happened, when several deliveries may tell of it
	Tags         []string // cache tags that the CMS names: exact texts
	All          bool     // anything may have changed

	payload []byte // JSON, of the one entity of a batch; nil: the whole body
}

// Verify says who sent d and what it means. The signature is checked before
// the age and the age before the body, so a reason tells a stranger nothing
// that needs the secret.
func (s *Source) Verify(d Delivery, now time.Time) Result {
	c := s.scheme.verify(s, d)
	res := Result{Reason: c.reason, Err: c.err, SignatureOK: c.reason == "", Secret: c.secret}
	if c.reason != "" {
		res.Secret = -1
		res.Ping = c.reason == MissingSignature && s.cms.isPing != nil && s.cms.isPing(d)
		return res
	}
	if res.Reason, res.Err = s.expired(c.secret, now); res.Reason != "" {
		res.SignatureOK, res.Secret = false, -1
		return res
	}
	res.SecretLabel = s.label(c.secret)
	if res.Reason, res.Err = s.age(c.sentAt, now); res.Reason != "" {
		return res
	}
	m, events, err := s.read(d, c.sentAt, now)
	if err != nil {
		res.Reason, res.Err = MalformedBody, err
		return res
	}
	res.DeliveryID, res.Whole, res.Batch, res.Events = m.deliveryID, m.Item, m.batch, events
	res.Ping = m.Action == event.Ping
	return res
}

// Decode returns the events of d without asking who sent it: for looking at a
// captured body, never for acting upon one.
func (s *Source) Decode(d Delivery, now time.Time) ([]event.Event, error) {
	_, events, err := s.read(d, time.Time{}, now)
	return events, err
}
