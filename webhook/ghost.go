package webhook

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Ghost (ghost.org) says in neither headers nor body what happened, so the
// webhook's URL does: /webhooks/blog?event=post.published. Each of Ghost's
// events has a webhook of its own. Without the parameter the event is derived
// from the body:
//
//	{"post":{"current":{…},"previous":{only what changed}}}
var ghostCMS = &cms{
	name:   "ghost",
	scheme: "ghost",
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "query:event")
	},
	decode: decodeGhost,
	sample: `{"post":{"current":{"id":"1","slug":"hello","status":"published"},"previous":{"status":"draft"}}}`,
}

// X-Ghost-Signature: sha256=<hex>, t=<ms>. Signed is <body><t>; before 5.87.1
// the body alone, which legacy_body_only accepts too.
var ghostScheme = &scheme{
	name: "ghost",
	uses: []string{"secret", "previous_secrets", "header", "tolerance", "legacy_body_only"},
	prepare: func(s *Source, complain complaints) {
		s.newHash = sha256.New
		s.cfg.Header = cmp.Or(s.cfg.Header, "X-Ghost-Signature")
	},
	verify: verifyGhost,
	sign: func(s *Source, d *Delivery, now time.Time) error {
		t := strconv.FormatInt(now.UnixMilli(), 10)
		mac := s.mac(s.keys[0], d.Body, []byte(t))
		d.Header.Set(s.cfg.Header, fmt.Sprintf("sha256=%s, t=%s", hex.EncodeToString(mac), t))
		return nil
	},
}

var ghostSignature = regexp.MustCompile(`^sha256=([^,\s]+),\s*t=(\S+)$`)

func verifyGhost(s *Source, d Delivery) check {
	value, n := d.header(s.cfg.Header)
	if value == "" {
		return refuse(MissingSignature, "no header %s", s.cfg.Header)
	}
	parts := ghostSignature.FindStringSubmatch(value)
	if n > 1 || parts == nil {
		return refuse(MalformedSignature, "header %s is not sha256=<hex>, t=<ms>", s.cfg.Header)
	}
	text, timestamp := parts[1], parts[2]
	sentAt, err := parseTime(timestamp, time.Millisecond)
	if err != nil {
		return refuse(MalformedSignature, "t in header %s: %v", s.cfg.Header, err)
	}
	mac, err := hex.DecodeString(text)
	if err != nil {
		return refuse(BadSignature, "header %s is not hex", s.cfg.Header)
	}
	given := [][]byte{mac}
	if secret, ok := s.match(given, d.Body, []byte(timestamp)); ok {
		return check{secret: secret, sentAt: sentAt}
	}
	if s.cfg.LegacyBodyOnly {
		if secret, ok := s.match(given, d.Body); ok {
			return check{secret: secret} // its t is not signed, so it proves no age
		}
	}
	return refuse(BadSignature, "made by none of our %d secrets over this body", len(s.keys))
}

// ghostActions maps what follows the type in an event's name.
var ghostActions = map[string]event.Action{
	"added":            event.Create,
	"edited":           event.Update,
	"deleted":          event.Delete,
	"published":        event.Publish,
	"published.edited": event.Update,
	"unpublished":      event.Unpublish,
	"scheduled":        event.Update,
	"unscheduled":      event.Update,
	"rescheduled":      event.Update,
	"tag.attached":     event.Update,
	"tag.detached":     event.Update,
	"changed":          event.Update,
	"ping":             event.Ping,
}

func decodeGhost(s *Source, d Delivery, body value) (message, error) {
	name := s.eventName(d, body)
	if len(body.keys()) == 0 { // site.changed has nothing to say
		name = cmp.Or(name, "site.changed")
		return message{Item: Item{Event: name, Action: ghostAction(name)}}, nil
	}
	kind, err := ghostKind(name, body)
	if err != nil {
		return message{}, err
	}
	both := body.object(kind)
	current, previous := both.object("current"), both.object("previous")
	if !current.exists() {
		return message{}, errors.New("body has no current version of its entity")
	}
	name = cmp.Or(name, kind+"."+ghostVerb(kind, current, previous))
	it := Item{
		Event:       name,
		Action:      ghostAction(name),
		ContentType: kind,
		ID:          cmp.Or(current.text("id"), previous.text("id")),
		Slug:        cmp.Or(current.text("slug"), previous.text("slug")),
		Version:     current.text("updated_at"),
	}
	if old := previous.text("slug"); old != it.Slug {
		it.PreviousSlug = old
	}
	return message{Item: it}, nil
}

// ghostKind returns the single key of the body. Should there be several one
// day, the event's name tells which is meant.
func ghostKind(name string, body value) (string, error) {
	keys := body.keys()
	if len(keys) == 1 {
		return keys[0], nil
	}
	kind, _, _ := strings.Cut(name, ".")
	if !body.object(kind).exists() {
		return "", fmt.Errorf("body has %d keys, and no event name tells which to read", len(keys))
	}
	return kind, nil
}

func ghostAction(name string) event.Action {
	_, verb, _ := strings.Cut(name, ".")
	return cmp.Or(ghostActions[verb], event.Other)
}

// ghostVerb tells what happened from what changed. It cannot see tags being
// attached, and takes an entity without earlier values for new only when it
// was never updated.
func ghostVerb(kind string, current, previous value) string {
	published := current.text("status") == "published"
	switch was, now := previous.text("status"), current.text("status"); {
	case len(current.keys()) == 0:
		return "deleted"
	case was != "" && was != now && published:
		return "published"
	case was == "published" && was != now:
		return "unpublished"
	case was != "" && was != now && now == "scheduled":
		return "scheduled"
	case was == "scheduled" && was != now:
		return "unscheduled"
	case len(previous.keys()) == 0 && current.text("created_at") != "" && current.text("created_at") == current.text("updated_at"):
		return "added"
	case published && (kind == "post" || kind == "page"):
		return "published.edited"
	}
	return "edited"
}
