package tasks

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/version"
	"github.com/freshwire/freshwire/rules"
)

// entity is a hash of what is known of one entity in one locale, and identity
// one of what is known of an id in all types and locales; see entity.lua. The
// name of either is one of the parts that identify it, each with its length.
func (ns keys) entity(ev event.Event) string {
	return ns.own("ent:" + event.NewID(ev.Source, ev.Environment, ev.Type, ev.Entity, ev.Locale))
}

func (ns keys) identity(ev event.Event) string {
	return ns.own("ent:" + event.NewID(ev.Source, ev.Environment, ev.Entity))
}

func (ns keys) recalledTags(id string) string { return ns.own("rect:" + id) } // string: a JSON list of tags, likewise
func (ns keys) recalled(id string) string     { return ns.own("rec:" + id) }  // string: what an event recalled, for its later attempts

const (
	entityTTL   = 30 * 24 * time.Hour
	recalledTTL = 24 * time.Hour // longer than an event is tried
	maxRenames  = 8              // remembered at a time: an event that is tried again purges the page that it renamed
	maxLocales  = 32             // whose slugs are remembered; an event that would need more of them purges everything
)

//go:embed entity.lua
var entityLua string

var entityScript = redis.NewScript(entityLua)

// Recalled is what earlier events of the same entity tell about an event.
type Recalled struct {
	Type         string   `json:"type,omitempty"`          // the event itself tells none
	Slug         string   `json:"slug,omitempty"`          // the event itself names none
	PreviousSlug string   `json:"previous_slug,omitempty"` // its CMS does not say that the slug changed
	Pages        []Page   `json:"pages,omitempty"`         // of an event that is about all locales
	Tags         []string `json:"tags,omitempty"`          // that the entity had before, and the event does not name
}

// Page is where an entity stands, or stood, in one locale.
type Page struct {
	Locale       string `json:"locale,omitempty"`
	Slug         string `json:"slug"`
	PreviousSlug string `json:"previous_slug,omitempty"` // a draft was renamed: readers still find this one
}

// recall fills into the event what its CMS does not tell and earlier events
// did, and finds out whether a newer version of the entity is known. It may be
// repeated, also when other events have come between.
//
// A superseded event is run like any other, but what it tells of the entity is
// not believed. A replay is old news, too: the entity is not what it says.
func (r *run) recall(ctx context.Context) error {
	narrow := mayBeAnything(r.ev)
	if r.ev.Entity == "" || r.ev.Purge != nil && !narrow {
		return nil
	}
	keys := []string{r.w.keys.entity(r.ev), r.w.keys.identity(r.ev), r.w.keys.recalled(r.ev.ID), r.w.keys.recalledTags(r.ev.ID)}
	reply, err := entityScript.Run(ctx, r.w.rdb, keys,
		r.ev.ID, version.Rank(r.ev.Version), r.ev.Slug, string(r.ev.Action), digit(r.ev.ReplayOf == ""), int(entityTTL.Seconds()), maxRenames,
		r.ev.Type, digit(!namedType(r.ev)), r.ev.Locale, digit(takesAway(r.ev.Action)), digit(narrow), maxLocales, int(recalledTTL.Seconds()), r.ev.ReceivedAt.UnixMicro()).Slice()
	if err != nil {
		return err
	}
	if len(reply) != 9 {
		return fmt.Errorf("entity script answered %d values, want 9", len(reply))
	}
	text := func(i int) string { s, _ := reply[i].(string); return s }
	yes := func(i int) bool { n, _ := reply[i].(int64); return n == 1 }

	var got Recalled
	pages := parsePages(text(6))
	if r.ev.Slug == "" {
		got.Slug = text(1)
		if at := slices.IndexFunc(pages, func(p Page) bool { return p.Locale == r.ev.Locale }); got.Slug == "" && at >= 0 {
			got.Slug = pages[at].Slug // under its remembered type
		}
		r.ev.Slug = got.Slug
	}
	if r.ev.PreviousSlug == "" {
		got.PreviousSlug = text(2)
		r.ev.PreviousSlug = got.PreviousSlug
	}
	for _, p := range pages {
		here := p.Locale == r.ev.Locale && p.Slug == r.ev.Slug
		if !here || p.PreviousSlug != "" && p.PreviousSlug != r.ev.PreviousSlug {
			got.Pages = append(got.Pages, p)
		}
	}
	if narrow && !yes(4) {
		r.ev.Purge = nil // it is known what it may be
	}
	if as := text(3); as != "" {
		r.unnamed = r.ev.Type
		r.ev.Type, got.Type = as, as
	}
	if got.Type+got.Slug+got.PreviousSlug != "" || got.Pages != nil {
		r.outcome.Recalled = &got
	}
	r.pages, r.forgotten = got.Pages, yes(5)
	if r.tagsBefore, err = parseTags(text(7), text(8)); err != nil {
		return err
	}
	r.outcome.Superseded = yes(0)
	return nil
}

func digit(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func takesAway(a event.Action) bool {
	return a == event.Unpublish || a == event.Delete || a == event.Archive
}

// mayBeAnything reports whether ev takes away something of which its CMS tells
// the id alone. It means everything, unless earlier events told the type of
// that id, or told none either. An event that means everything for another
// reason tells its type, or no id.
func mayBeAnything(ev event.Event) bool {
	p := ev.Purge
	return p != nil && p.All && len(p.Tags)+len(p.Keys)+len(p.Patterns)+len(p.Paths) == 0 && takesAway(ev.Action) && namedType(ev)
}

// namedType reports whether the type is what the event's name makes it, as it
// is where the CMS tells none.
func namedType(ev event.Event) bool {
	made := ev.Name
	if i := strings.LastIndexByte(made, '.'); i > 0 {
		made = made[:i]
	}
	return ev.Type == cmp.Or(made, "unknown")
}

// parsePages reads lines of "<locale>\t<slug>\t<slug that was published>".
func parsePages(lines string) (pages []Page) {
	for line := range strings.Lines(lines) {
		locale, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		slug, public, _ := strings.Cut(rest, "\t")
		if public == slug {
			public = ""
		}
		pages = append(pages, Page{locale, slug, public})
	}
	return pages
}

// planAll plans the event as it is, and once more for each page that it may be
// about, under either of its types. Browsers hear of it once.
func (r *run) planAll() rules.Plan {
	types := []string{r.ev.Type}
	if r.unnamed != "" {
		types = []string{r.unnamed, r.ev.Type}
	}
	var plans []rules.Plan
	for _, kind := range types {
		ev := r.ev
		ev.Type = kind
		for _, page := range r.pages {
			ev.Locale, ev.Slug, ev.PreviousSlug = page.Locale, page.Slug, page.PreviousSlug
			plan := r.w.steps.Plan(ev)
			plan.Fields = nil // the notification is not about this page alone
			plans = append(plans, plan)
		}
		ev = r.ev
		ev.Type = kind
		plan := r.w.steps.Plan(ev)
		if len(r.pages) > 0 {
			plan.Problems = nil // that it names no page is none
		}
		plans = append(plans, plan)
	}
	plan := rules.Merge(plans...)
	if r.forgotten && len(plan.Rules) > 0 {
		plan.Purge.All, plan.Capped = true, true
		plan.Problems = append(plan.Problems, fmt.Sprintf("slugs: of more than %d locales; everything is purged instead", maxLocales))
	}
	return plan
}
