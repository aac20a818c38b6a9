package webhook

import (
	"cmp"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Source is one configured sender. It is safe for use by many goroutines.
type Source struct {
	name string
	cfg  SourceConfig // defaults filled in; fixed after NewSource

	cms      *cms
	scheme   *scheme
	allow    []netip.Prefix   // who may send; empty: all
	keys     [][]byte         // of all secrets, those without an end first, ready to compare or to key an HMAC
	accepted []*secret        // one for each of keys
	newHash  func() hash.Hash // of schemes with an HMAC
	public   []*rsa.PublicKey // of schemes with a key pair
	signed   []part           // signed_payload of scheme hmac
	warnings []string
}

// Name is the source's name in the configuration and in its URL.
func (s *Source) Name() string { return s.name }

// Warnings are remarks on settings that work but are weak, each with its key.
func (s *Source) Warnings() []string { return s.warnings }

// MaxBody is the largest body that the source accepts, in bytes.
func (s *Source) MaxBody() int64 { return s.cfg.MaxBody }

// Methods are the HTTP methods that the source sends with; those of most when s is nil.
func (s *Source) Methods() []string {
	if s == nil || s.cms.methods == nil {
		return []string{http.MethodPost}
	}
	return s.cms.methods
}

// allows reports whether a delivery may come from addr.
func (s *Source) allows(addr netip.Addr) bool {
	return len(s.allow) == 0 || slices.ContainsFunc(s.allow, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parseNetwork reads a CIDR, or an address that stands for itself. Of an IPv4
// network written in IPv6 it returns the IPv4 network.
func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap()
		return addr.Prefix(addr.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	if err == nil && p.Addr().Is4In6() {
		return p.Addr().Unmap().Prefix(p.Bits() - 96) // an error for one that holds more than IPv4
	}
	return p, err
}

// String and LogValue keep the secrets of a source out of prints and logs.
func (s *Source) String() string       { return s.name }
func (s *Source) LogValue() slog.Value { return slog.StringValue(s.name) }

// age compares a signed time with the clock; equal to the tolerance is accepted.
func (s *Source) age(sentAt, now time.Time) (Reason, error) {
	switch tolerance := s.cfg.Tolerance; {
	case sentAt.IsZero():
		return "", nil
	case now.Sub(sentAt) > tolerance:
		return StaleTimestamp, fmt.Errorf("signed %v ago, the tolerance is %v", now.Sub(sentAt), tolerance)
	case sentAt.Sub(now) > tolerance:
		return FutureTimestamp, fmt.Errorf("signed %v ahead of our clock, the tolerance is %v", sentAt.Sub(now), tolerance)
	}
	return "", nil
}

func (s *Source) deliveryID(d Delivery) string {
	if s.cfg.DeliveryIDHeader == "" {
		return ""
	}
	id, _ := d.header(s.cfg.DeliveryIDHeader)
	return id
}

// maxEvents is how many events one delivery may become. One that says more is
// taken to say that anything may have changed.
const maxEvents = 1000

// read parses the body and makes events of it.
func (s *Source) read(d Delivery, sentAt, now time.Time) (message, []event.Event, error) {
	body, err := s.parse(d)
	if err != nil {
		return message{}, nil, err
	}
	m, err := s.cms.decode(s, d, body)
	if err != nil {
		return message{}, nil, err
	}
	if m.batch == nil {
		m.Item = s.cfg.Paths.over(m.Item, body)
	}
	if m.Event == "" && m.Action == event.Other { // no name, no action
		m.Action = ""
	}
	m.deliveryID = cmp.Or(m.deliveryID, s.deliveryID(d))
	items := splitTags(m.items())
	payload := json.RawMessage(body.raw)
	if s.scheme.redact != nil {
		payload = s.scheme.redact(s, body)
		for i := range items {
			items[i].payload = nil
		}
	}
	if len(items) > maxEvents || len(items) > 1 && payloadBytes(items, payload) > maxMaxBody {
		whole := m.Item
		whole.ID, whole.Tags, whole.All, whole.payload = "", nil, true, nil // not only the first of them
		items = []Item{whole}
	}
	base := event.Event{Source: s.name, DeliveryID: m.deliveryID, Payload: payload, ReceivedAt: now.UTC(), Keep: s.cfg.Keep}
	id, content := cmp.Or(m.dedupe, m.deliveryID), ""
	switch {
	case id != "":
	case len(items) == 1:
		content = string(d.Body)
	default: // hashed once, and not for each
		sum := sha256.Sum256(d.Body)
		content = string(sum[:])
	}
	var events []event.Event
	for n, it := range items {
		if it.Action == event.Ping {
			continue
		}
		ev := base
		ev.ID, ev.Guessed = s.eventID(id, content, it.Event, n, sentAt, now)
		ev.Name = it.Event
		ev.Type = cmp.Or(it.ContentType, typeOf(it.Event), it.Event, "unknown")
		ev.Action = cmp.Or(it.Action, event.Other)
		ev.Entity, ev.Slug, ev.PreviousSlug = it.ID, it.Slug, it.PreviousSlug
		ev.Locale, ev.Environment, ev.Version, ev.Tags = it.Locale, it.Environment, it.Version, it.Tags
		if it.payload != nil {
			ev.Payload = it.payload
		}
		if it.All {
			ev.Purge = &event.Purge{All: true}
		}
		if err := ev.Validate(); err != nil {
			return message{}, nil, err
		}
		events = append(events, ev)
	}
	return m, events, nil
}

// parse returns the JSON object that d carries.
func (s *Source) parse(d Delivery) (value, error) {
	if s.cms.json == nil {
		return parseObject(d.Body)
	}
	text, err := s.cms.json(d)
	if err != nil {
		return value{}, err
	}
	return parseObject(text)
}

// payloadBytes is what the payloads of all items take in the queue.
func payloadBytes(items []Item, whole json.RawMessage) (n int) {
	for _, it := range items {
		if it.payload == nil {
			n += len(whole)
		}
		n += len(it.payload)
	}
	return n
}

// over returns what the CMS's row found, with the parts that stand where p says.
func (p Paths) over(it Item, body value) Item {
	it.ContentType = cmp.Or(body.text(p.Type), it.ContentType)
	it.ID = cmp.Or(body.text(p.ID), it.ID)
	it.Slug = cmp.Or(body.text(p.Slug), it.Slug)
	it.PreviousSlug = cmp.Or(body.text(p.PreviousSlug), it.PreviousSlug)
	it.Locale = cmp.Or(body.text(p.Locale), it.Locale)
	it.Environment = cmp.Or(body.text(p.Environment), it.Environment)
	it.Version = cmp.Or(body.text(p.Version), it.Version)
	if it.PreviousSlug == it.Slug {
		it.PreviousSlug = ""
	}
	return it
}

// splitTags spreads an item with more tags than an event may have over several.
func splitTags(items []Item) []Item {
	var out []Item
	for _, it := range items {
		for len(it.Tags) > event.MaxTags {
			part := it
			part.Tags, it.Tags = it.Tags[:event.MaxTags], it.Tags[event.MaxTags:]
			out = append(out, part)
		}
		out = append(out, it)
	}
	return out
}

// eventID names the nth event of a delivery so that the same delivery, sent
// again, gets the same id. What tells two deliveries apart, best first:
//
//  1. The CMS's delivery id.
//  2. The signed time: a second save is signed anew, a replay is not.
//  3. The bytes, within a window of DedupeWindow. Beyond it the same bytes are
//     a second save: an editor may save the same content on purpose, and a
//     body such as {"type":"post.updated","data":{"id":"1"}} never differs.
//
// The windows of 3 follow each other on the clock and only the current one is
// looked at. So a repeat across an edge runs twice, which is harmless.
//
// guessed is true where equal bytes may be two saves as well: in 3, and in 2
// where the time has no more than seconds.
func (s *Source) eventID(deliveryID, content, name string, n int, sentAt, now time.Time) (id string, guessed bool) {
	index := strconv.Itoa(n)
	if deliveryID != "" {
		return event.NewID(s.name, deliveryID, index), false
	}
	when := "w" + strconv.FormatInt(now.UnixMilli()/s.cfg.DedupeWindow.Milliseconds(), 10)
	guessed = true
	if !sentAt.IsZero() {
		when = "t" + strconv.FormatInt(sentAt.UnixMilli(), 10)
		guessed = sentAt.Equal(sentAt.Truncate(time.Second))
	}
	return event.NewID(s.name, name, when, content, index), guessed
}

// typeOf returns what stands before the last dot of an event's name.
func typeOf(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i]
	}
	return ""
}
