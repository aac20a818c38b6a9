package webhook

import (
	"cmp"

	"github.com/freshwire/freshwire/event"
)

// DatoCMS (datocms.com) sends basic authentication or headers of the
// operator's choice. Besides records it tells which of its own cache tags are
// void: any text may be one, so they are never read as patterns.
//
//	{"entity_type":"item","event_type":"publish","entity":{"id":"1","attributes":{"slug":"hello"},…},"related_entities":[…]}
//	{"entity_type":"cda_cache_tags","event_type":"invalidate","entity":{"attributes":{"tags":["N*r;L"]}}}
var datoCMS = &cms{
	name:   "datocms",
	scheme: "basic",
	decode: decodeDato,
	sample: `{"webhook_call_id":"103216210","event_triggered_at":"2026-11-20T11:59:59Z","attempted_auto_retries_count":0,"webhook_id":"28374",` +
		`"site_id":"205","environment":"main","is_environment_primary":true,"entity_type":"item","event_type":"publish",` +
		`"entity":{"id":"348295724","type":"item","attributes":{"title":"Hello","slug":"hello"},` +
		`"relationships":{"item_type":{"data":{"id":"7690234","type":"item_type"}}},` +
		`"meta":{"status":"published","updated_at":"2026-11-20T11:59:58.000Z","published_at":"2026-11-20T11:59:58.000Z"}},` +
		`"related_entities":[{"id":"7690234","type":"item_type","attributes":{"api_key":"blog_post","name":"Blog post"}}]}`,
}

var datoActions = map[string]event.Action{
	"create":     event.Create,
	"update":     event.Update,
	"delete":     event.Delete,
	"publish":    event.Publish,
	"unpublish":  event.Unpublish,
	"invalidate": event.Invalidate,
}

func decodeDato(s *Source, d Delivery, body value) (message, error) {
	kind, what := body.text("entity_type"), body.text("event_type")
	entity := body.object("entity")
	it := Item{
		Event:       cmp.Or(s.eventName(d, body), joinDot(kind, what)),
		ContentType: datoType(body),
		ID:          entity.text("id"),
		Slug:        anyLocale(entity.at("attributes.slug")),
		Environment: body.text("environment"),
		Tags:        texts(entity.list("attributes.tags")),
		All:         kind == "environment" && what == "promote", // another copy of everything
	}
	it.Action = lastWord(datoActions, it.Event)
	if it.Action != event.Invalidate {
		it.Tags = nil // a field that the operator calls tags
	}
	if it.Action == event.Publish || entity.text("meta.status") == "published" {
		it.Version = entity.text("meta.updated_at") // _updatedAt of the Content Delivery API, which shows no drafts
	}
	if old := anyLocale(body.at("previous_entity.attributes.slug")); old != it.Slug {
		it.PreviousSlug = old
	}
	return message{Item: it, deliveryID: body.text("webhook_call_id")}, nil
}

// datoType returns the api_key of the record's model, which stands among the
// related entities; else the model's id; what is no record has its kind as type.
func datoType(body value) string {
	model := body.text("entity.relationships.item_type.data.id")
	if model == "" {
		return body.text("entity_type")
	}
	for _, related := range body.list("related_entities") {
		if related.text("id") == model && related.text("type") == "item_type" {
			return cmp.Or(related.text("attributes.api_key"), model)
		}
	}
	return model
}

// anyLocale returns a text, or the first text of an object with one a language.
func anyLocale(v value) string {
	if !v.isObject() {
		return v.string()
	}
	for _, locale := range v.keys() {
		if text := v.child(locale).string(); text != "" {
			return text
		}
	}
	return ""
}

// joinDot joins the halves of an event's name; one alone stands alone.
func joinDot(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "." + b
}
