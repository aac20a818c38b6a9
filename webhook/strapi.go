package webhook

import (
	"cmp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// Strapi (strapi.io) 4 and 5 send what the operator writes into the webhook's
// headers, and cannot sign. Version 5 names an entry by documentId, which its
// draft and its published row share; version 4 by the row's id.
//
//	{"event":"entry.publish","uid":"api::article.article","entry":{"documentId":"a1b2","slug":"hello"}}
var strapiCMS = &cms{
	name:   "strapi",
	scheme: "token",
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "header:X-Strapi-Event")
	},
	decode: decodeStrapi,
	sample: `{"event":"entry.publish","createdAt":"2026-11-20T11:59:59.100Z","model":"article","uid":"api::article.article",` +
		`"entry":{"id":12,"documentId":"a1b2c3d4e5f6g7h8i9j0klmn","title":"Hello","slug":"hello","locale":"en",` +
		`"createdAt":"2026-11-01T08:00:00.000Z","updatedAt":"2026-11-20T11:59:58.900Z","publishedAt":"2026-11-20T11:59:58.950Z"}}`,
}

// strapiActions maps what follows the last dot of an event's name.
var strapiActions = map[string]event.Action{
	"create":           event.Create,
	"update":           event.Update,
	"delete":           event.Delete,
	"publish":          event.Publish,
	"unpublish":        event.Unpublish,
	"draft-discard":    event.Update, // the draft is the published version again
	"updateEntryStage": event.Update,
	"trigger-test":     event.Ping,
}

func decodeStrapi(s *Source, d Delivery, body value) (message, error) {
	name := cmp.Or(s.eventName(d, body), body.text("event"))
	entity, kind := body.object("entry"), ""
	for _, other := range []string{"media", "release", "entity"} { // review-workflows tell of an entity
		if !entity.exists() {
			entity = body.object(other)
			if other == "media" && entity.exists() {
				kind = "media"
			}
		}
	}
	it := Item{
		Event:       name,
		Action:      lastWord(strapiActions, name),
		ContentType: cmp.Or(body.text("uid"), body.text("model"), kind),
		ID:          cmp.Or(entity.text("documentId"), entity.text("id")),
		Slug:        entity.text("slug"),
		Locale:      entity.text("locale"),
	}
	if shows(it.Action) && !entity.isNull("publishedAt") { // null: a draft, which readers do not see
		it.Version = entity.text("updatedAt")
	}
	return message{Item: it}, nil
}

// shows reports whether readers find the entity with its new content afterwards.
func shows(a event.Action) bool {
	return a == event.Create || a == event.Update || a == event.Publish
}

// isNull reports whether null stands at path, rather than nothing.
func (v value) isNull(path string) bool {
	v = v.at(path)
	return len(v.raw) > 0 && !v.exists()
}

// lastWord maps an event's name by what follows its last dot; anything else is
// other. No name, no action.
func lastWord(actions map[string]event.Action, name string) event.Action {
	if name == "" {
		return ""
	}
	return cmp.Or(actions[name[strings.LastIndexByte(name, '.')+1:]], event.Other)
}
