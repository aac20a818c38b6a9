// Package event is the vocabulary that the parts of freshwire share: an Event
// is what a CMS said, a Change is what we tell browsers, a Position is a place
// in the log of changes.
//
// It imports nothing but the standard library, so every package may use it. A
// value of these types is checked where it enters (webhook, feed) and trusted
// afterwards.
package event

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Action is what happened to a piece of content, the same word for every CMS.
type Action string

// The actions, as in docs/cms.md. Other is anything a CMS says that is none of these.
const (
	Create     Action = "create"
	Update     Action = "update"
	Publish    Action = "publish"
	Unpublish  Action = "unpublish"
	Delete     Action = "delete"
	Archive    Action = "archive"
	Unarchive  Action = "unarchive"
	Invalidate Action = "invalidate"
	Ping       Action = "ping"
	Other      Action = "other"
)

// Event is one thing that a CMS said about one entity. A delivery that speaks
// of several entities becomes several events.
type Event struct {
	ID           string          `json:"id"`     // 26 characters, see NewID; also the id of the task
	Source       string          `json:"source"` // name in freshwire.yaml
	Name         string          `json:"name"`   // the CMS's own event name, such as post.updated
	Type         string          `json:"type"`   // content type, such as post
	Action       Action          `json:"action"`
	Entity       string          `json:"entity,omitempty"` // id of the entity, always text
	Slug         string          `json:"slug,omitempty"`
	PreviousSlug string          `json:"previous_slug,omitempty"`
	Locale       string          `json:"locale,omitempty"`
	Environment  string          `json:"environment,omitempty"`
	Version      string          `json:"version,omitempty"`     // as the CMS announces it: number, time or hash
	DeliveryID   string          `json:"delivery_id,omitempty"` // empty when the CMS sends none
	Payload      json.RawMessage `json:"payload,omitempty"`     // the verified body; never leaves for browsers
	ReceivedAt   time.Time       `json:"received_at"`

	// Guessed says that nothing but equal bytes tells this delivery from a repeat
	// of an earlier one: an editor may as well have saved twice.
	Guessed bool `json:"guessed,omitempty"`

	// Tags are cache tags that the CMS itself names: exact texts, never patterns.
	// At most MaxTags; a delivery with more becomes several events.
	Tags []string `json:"tags,omitempty"`

	// Purge, when not nil, is what to purge in place of the rules' plan. Set for
	// /api/revalidate, where the caller says it, and for a delivery that may have
	// changed anything.
	Purge *Purge `json:"purge,omitempty"`

	// Keep is how long the payload is kept after the event is over, so that it can
	// be replayed as it was. Zero: not.
	Keep time.Duration `json:"keep,omitempty"`

	// ReplayOf is the id of the event that this one repeats at an operator's word.
	ReplayOf string `json:"replay_of,omitempty"`
}

// Kind returns "<type>.<action>", the name that rules match and browsers see.
func (e Event) Kind() string { return e.Type + "." + string(e.Action) }

// Limits of an event's fields, in bytes. Longer ones are refused by Validate:
// what a stranger sends must not decide the size of our keys and log entries.
const (
	MaxName  = 256
	MaxField = 1024
	MaxTags  = 500 // of one event
)

// ErrInvalid is wrapped by every error of Validate.
var ErrInvalid = errors.New("event: invalid")

// Validate reports whether e may enter: an id, a source, a type and an action
// are there, and every text is bounded, valid UTF-8, without control characters.
func (e Event) Validate() error {
	for _, f := range []struct {
		name, value string
		limit       int
		required    bool
	}{
		{"id", e.ID, 64, true},
		{"source", e.Source, MaxName, true},
		{"name", e.Name, MaxName, false},
		{"type", e.Type, MaxName, true},
		{"action", string(e.Action), 32, true},
		{"entity", e.Entity, MaxField, false},
		{"slug", e.Slug, MaxField, false},
		{"previous slug", e.PreviousSlug, MaxField, false},
		{"locale", e.Locale, MaxName, false},
		{"environment", e.Environment, MaxName, false},
		{"version", e.Version, MaxName, false},
		{"delivery id", e.DeliveryID, MaxField, false},
		{"replayed event", e.ReplayOf, 64, false},
	} {
		if f.required && f.value == "" {
			return fmt.Errorf("%w: no %s", ErrInvalid, f.name)
		}
		if err := validText(f.name, f.value, f.limit); err != nil {
			return err
		}
	}
	if len(e.Tags) > MaxTags {
		return fmt.Errorf("%w: %d tags, at most %d", ErrInvalid, len(e.Tags), MaxTags)
	}
	for _, tag := range e.Tags {
		if err := validText("tag", tag, MaxName); err != nil {
			return err
		}
	}
	return nil
}

func validText(name, value string, limit int) error {
	switch {
	case len(value) > limit:
		return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrInvalid, name, len(value), limit)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, isControl):
		return fmt.Errorf("%w: %s holds control characters or broken UTF-8", ErrInvalid, name)
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID derives an event's id from what identifies its delivery: the source
// and, say, the delivery id and the number within a batch. The same parts give
// the same id, so a repeated delivery is recognised. Parts are joined with a
// zero byte, each preceded by its length, so no two lists of parts collide.
func NewID(source string, parts ...string) string {
	size := len(source) + 24
	for _, p := range parts {
		size += len(p) + 24
	}
	joined := appendPart(make([]byte, 0, size), source)
	for _, p := range parts {
		joined = appendPart(joined, p)
	}
	sum := sha256.Sum256(joined)
	var text [52]byte
	idEncoding.Encode(text[:], sum[:])
	return string(text[:26])
}

func appendPart(b []byte, part string) []byte {
	b = append(strconv.AppendInt(b, int64(len(part)), 10), 0)
	return append(append(b, part...), 0)
}

// Purge is what to make void. The zero value names nothing.
type Purge struct {
	Tags     []string `json:"tags,omitempty"`
	Keys     []string `json:"keys,omitempty"`
	Patterns []string `json:"patterns,omitempty"` // Redis globs over keys
	Paths    []string `json:"paths,omitempty"`    // "/a" that path; "/a/*" it and all below
	All      bool     `json:"all,omitempty"`
}

// Empty reports whether p names nothing.
func (p Purge) Empty() bool {
	return !p.All && len(p.Tags)+len(p.Keys)+len(p.Patterns)+len(p.Paths) == 0
}

// Everybody is the channel of a change that is on too many channels to name:
// all subscribers hear of it, whatever they listen to. Nobody can ask for it.
const Everybody = "*"

// Change is what subscribers are told: that something is different now, and
// what to read again. It never holds content, save fields that a rule names.
type Change struct {
	ID         string         `json:"id"`  // of the event
	Seq        uint64         `json:"seq"` // position in the ledger; send it back as Freshwire-After
	Event      string         `json:"event"`
	Source     string         `json:"source"`
	Type       string         `json:"type"`
	Action     Action         `json:"action"`
	Entity     string         `json:"entity"`
	Slug       string         `json:"slug,omitempty"`
	Locale     string         `json:"locale,omitempty"`
	Tags       []string       `json:"tags"`
	Paths      []string       `json:"paths"`
	Channels   []string       `json:"channels"`
	At         time.Time      `json:"at"` // when the webhook came in
	Degraded   bool           `json:"degraded,omitempty"`
	Superseded bool           `json:"superseded,omitempty"`
	IDs        []string       `json:"ids,omitempty"` // events merged into this one, newest last
	Fields     map[string]any `json:"fields,omitempty"`
}

// MarshalJSON writes At with milliseconds and lists that are never null.
func (c Change) MarshalJSON() ([]byte, error) {
	type plain Change
	if c.Tags == nil {
		c.Tags = []string{}
	}
	if c.Paths == nil {
		c.Paths = []string{}
	}
	if c.Channels == nil {
		c.Channels = []string{}
	}
	return json.Marshal(struct {
		plain
		At string `json:"at"`
	}{plain(c), c.At.UTC().Format("2006-01-02T15:04:05.000Z")})
}
