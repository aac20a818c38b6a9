package webhook

import (
	"cmp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// Umbraco (umbraco.com) names the event in a header. What the body holds
// depends on the payload type that the server is set to:
//
//	{"Id":"c192…","ContentType":"homePage","Route":{"Path":"/home/"},"Cultures":{"en-US":{"Path":"/en/home/"}}}  Legacy, Extended
//	{"Id":"c192…","Cultures":[{"Culture":"en-US"}]}                                                              Minimal
//
// Version 14 began its property names with small letters; both are read.
// Content in several cultures becomes an item each. Of what is unpublished or
// deleted any payload may tell the id alone: that means everything, unless
// earlier events told what has this id.
var umbracoCMS = &cms{
	name:   "umbraco",
	scheme: "token",
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "header:"+umbracoEvent)
		ownTokenHeader(cfg)
	},
	decode:      decodeUmbraco,
	sampleEvent: "Umbraco.ContentPublish",
	sample: `{"Name":"Home","CreateDate":"2026-10-01T08:00:00Z","UpdateDate":"2026-11-20T11:59:58Z",` +
		`"Route":{"Path":"/home/","StartItem":{"Id":"f1922956-7855-4fa0-8f2c-7af149a92135","Path":"home"}},` +
		`"Id":"c1922956-7855-4fa0-8f2c-7af149a92135","ContentType":"homePage","Properties":{"title":"Hello"},"Cultures":{}}`,
}

const umbracoEvent = "Umb-Webhook-Event"

// umbracoActions maps an alias without "Umbraco." and the ending of the past:
// the server sends ContentPublish, its documentation prints ContentPublished.
var umbracoActions = map[string]event.Action{
	"ContentPublish":           event.Publish,
	"ContentUnpublish":         event.Unpublish,
	"ContentSave":              event.Update,
	"ContentMove":              event.Update,
	"ContentSort":              event.Update,
	"ContentRollBack":          event.Update,
	"ContentMoveToRecycleBin":  event.Delete,
	"ContentEmptiedRecycleBin": event.Delete,
	"ContentDelete":            event.Delete,
	"MediaSave":                event.Update,
	"MediaMove":                event.Update,
	"MediaMoveToRecycleBin":    event.Delete,
	"MediaEmptiedRecycleBin":   event.Delete,
	"MediaDelete":              event.Delete,
}

// umbracoPast undoes the past tense of an alias.
var umbracoPast = strings.NewReplacer("ublished", "ublish", "Deleted", "Delete", "Saved", "Save", "Moved", "Move", "Sorted", "Sort", "RolledBack", "RollBack")

func umbracoAction(name string) event.Action {
	if name == "" {
		return ""
	}
	return cmp.Or(umbracoActions[umbracoPast.Replace(strings.TrimPrefix(name, "Umbraco."))], event.Other)
}

func decodeUmbraco(s *Source, d Delivery, body value) (message, error) {
	name := s.eventName(d, body)
	m := message{Item: Item{
		Event:       name,
		Action:      umbracoAction(name),
		ContentType: cmp.Or(body.text(s.cfg.Paths.Type), body.eitherCase("ContentType"), body.eitherCase("MediaType")),
		ID:          body.eitherCase("Id"),
		Slug:        body.eitherCase("Route.Path"),
	}}
	if shows(m.Action) {
		m.Version = body.eitherCase("UpdateDate") // updateDate of the Delivery API
	}
	m.All = m.ContentType == "" && takesAway(m.Action)
	cultures := umbracoCultures(body)
	for _, c := range cultures[:min(len(cultures), maxEvents+1)] { // more stand for everything
		it := m.Item
		it.Locale, it.Slug = c.name, cmp.Or(c.path, it.Slug)
		m.batch = append(m.batch, it)
	}
	if m.batch != nil {
		m.Locale = m.batch[0].Locale
	}
	if len(m.batch) == 1 && cmp.Or(m.Slug, m.batch[0].Slug) == m.batch[0].Slug {
		m.Item, m.batch = m.batch[0], nil
	}
	return m, nil
}

// takesAway reports whether readers no longer find the entity afterwards.
func takesAway(a event.Action) bool {
	return a == event.Unpublish || a == event.Delete || a == event.Archive
}

type culture struct{ name, path string }

// umbracoCultures reads the cultures of either form of body.
func umbracoCultures(body value) (all []culture) {
	cultures := body.at("Cultures")
	if !cultures.exists() {
		cultures = body.at("cultures")
	}
	for _, name := range cultures.keys() {
		all = append(all, culture{name, cultures.child(name).eitherCase("Path")})
	}
	for _, c := range cultures.list("") {
		if name := cmp.Or(c.string(), c.eitherCase("Culture")); name != "" {
			all = append(all, culture{name: name})
		}
	}
	return all
}

// eitherCase returns the text at path, whose names may begin with a capital or not.
func (v value) eitherCase(path string) string {
	steps := strings.Split(path, ".")
	for i, step := range steps {
		steps[i] = strings.ToLower(step[:1]) + step[1:]
	}
	return cmp.Or(v.text(path), v.text(strings.Join(steps, ".")))
}

// ownTokenHeader has the token in a header of its own rather than in
// Authorization, unless the source says something else.
func ownTokenHeader(cfg *SourceConfig) {
	if cfg.Scheme == "token" && cfg.Header == "" && cfg.Prefix == "" {
		cfg.Header = "X-Freshwire-Token"
	}
}
