package webhook

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash"
	"log/slog"
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
	keys     [][]byte         // of secret and previous_secrets, in this order, ready to compare or to key an HMAC
	newHash  func() hash.Hash // of schemes with an HMAC
	signed   []part           // signed_payload of scheme hmac
	warnings []string
}

// Name is the source's name in the configuration and in its URL.
func (s *Source) Name() string { return s.name }

// Warnings are remarks on settings that work but are weak, each with its key.
func (s *Source) Warnings() []string { return s.warnings }

// MaxBody is the largest body that the source accepts, in bytes.
func (s *Source) MaxBody() int64 { return s.cfg.MaxBody }

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

// read parses the body and makes events of it.
func (s *Source) read(d Delivery, sentAt, now time.Time) ([]Item, []event.Event, error) {
	body, err := parseObject(d.Body)
	if err != nil {
		return nil, nil, err
	}
	items, err := s.cms.decode(s, d, body)
	if err != nil {
		return nil, nil, err
	}
	payload := json.RawMessage(d.Body)
	if s.scheme.redact != nil {
		payload = s.scheme.redact(s, body)
	}
	var events []event.Event
	for n, it := range items {
		if it.Action == event.Ping {
			continue
		}
		id, guessed := s.eventID(d, it.Event, n, sentAt, now)
		ev := event.Event{
			ID:           id,
			Guessed:      guessed,
			Source:       s.name,
			Name:         it.Event,
			Type:         cmp.Or(it.ContentType, typeOf(it.Event), it.Event, "unknown"),
			Action:       cmp.Or(it.Action, event.Other),
			Entity:       it.ID,
			Slug:         it.Slug,
			PreviousSlug: it.PreviousSlug,
			Locale:       it.Locale,
			Environment:  it.Environment,
			Version:      it.Version,
			DeliveryID:   s.deliveryID(d),
			Payload:      payload,
			ReceivedAt:   now.UTC(),
		}
		if err := ev.Validate(); err != nil {
			return nil, nil, err
		}
		events = append(events, ev)
	}
	return items, events, nil
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
func (s *Source) eventID(d Delivery, name string, n int, sentAt, now time.Time) (id string, guessed bool) {
	index := strconv.Itoa(n)
	if id := s.deliveryID(d); id != "" {
		return event.NewID(s.name, id, index), false
	}
	when := "w" + strconv.FormatInt(now.UnixMilli()/s.cfg.DedupeWindow.Milliseconds(), 10)
	guessed = true
	if !sentAt.IsZero() {
		when = "t" + strconv.FormatInt(sentAt.UnixMilli(), 10)
		guessed = sentAt.Equal(sentAt.Truncate(time.Second))
	}
	return event.NewID(s.name, name, when, string(d.Body), index), guessed
}

// typeOf returns what stands before the last dot of an event's name.
func typeOf(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i]
	}
	return ""
}
