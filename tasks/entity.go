package tasks

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
)

// entity is a hash of what is known of one entity, see entity.lua. Its name is
// one of the parts that identify it, each with its length.
func (ns keys) entity(ev event.Event) string {
	return ns.own("ent:" + event.NewID(ev.Source, ev.Environment, ev.Type, ev.Entity, ev.Locale))
}

const (
	entityTTL  = 30 * 24 * time.Hour
	maxRenames = 8 // remembered at a time: an event that is tried again purges the page that it renamed
)

//go:embed entity.lua
var entityLua string

var entityScript = redis.NewScript(entityLua)

// Recalled is what earlier events of the same entity tell about an event.
type Recalled struct {
	Slug         string `json:"slug,omitempty"`          // the event itself names none
	PreviousSlug string `json:"previous_slug,omitempty"` // its CMS does not say that the slug changed
}

// recall fills into the event what its CMS does not tell and earlier events
// did, and finds out whether a newer version of the entity is known. It may be
// repeated, also when other events have come between.
//
// A superseded event is run like any other, but what it tells of the entity is
// not believed. A replay is old news, too: the entity is not what it says.
func (r *run) recall(ctx context.Context) error {
	if r.ev.Entity == "" || r.ev.Purge != nil {
		return nil
	}
	learn := 1
	if r.ev.ReplayOf != "" {
		learn = 0
	}
	reply, err := entityScript.Run(ctx, r.w.rdb, []string{r.w.keys.entity(r.ev)},
		r.ev.ID, rank(r.ev.Version), r.ev.Slug, string(r.ev.Action), learn, int(entityTTL.Seconds()), maxRenames).Slice()
	if err != nil {
		return err
	}
	if len(reply) != 3 {
		return fmt.Errorf("entity script answered %d values, want 3", len(reply))
	}
	superseded, _ := reply[0].(int64)
	slug, _ := reply[1].(string)
	before, _ := reply[2].(string)

	var got Recalled
	if r.ev.Slug == "" {
		r.ev.Slug, got.Slug = slug, slug
	}
	if r.ev.PreviousSlug == "" {
		r.ev.PreviousSlug, got.PreviousSlug = before, before
	}
	if got != (Recalled{}) {
		r.outcome.Recalled = &got
	}
	r.outcome.Superseded = superseded == 1
	return nil
}

// rank returns a text by which versions of one kind are in order: whole
// numbers of any length, and RFC 3339 times. Its first letter is the kind. A
// version of any other kind, such as a hash, has no rank.
func rank(version string) string {
	if version != "" && strings.Trim(version, "0123456789") == "" {
		digits := strings.TrimLeft(version, "0")
		return fmt.Sprintf("n%03d%s", len(digits), digits)
	}
	if t, err := time.Parse(time.RFC3339, version); err == nil {
		if t = t.UTC(); t.Year() >= 0 && t.Year() <= 9999 {
			return "t" + t.Format("20060102150405") + fmt.Sprintf("%09d", t.Nanosecond())
		}
	}
	return ""
}
