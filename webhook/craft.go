package webhook

import (
	"cmp"

	"github.com/freshwire/freshwire/event"
)

// Craft (craftcms.com) sends by the plugin Webhooks, which passes on PHP
// events: the class that fired one, its name, and the element that it is about.
//
//	{"name":"afterSave","senderClass":"craft\\elements\\Entry","sender":{"id":77,"slug":"hello"},"event":{"isNew":false}}
var craftCMS = &cms{
	name:     "craft",
	scheme:   "token",
	defaults: ownTokenHeader,
	decode:   decodeCraft,
	sample: `{"time":"2026-11-20T11:59:58+00:00","user":{"id":1,"username":"ada"},"name":"afterSave","senderClass":"craft\\elements\\Entry",` +
		`"sender":{"id":77,"slug":"hello","siteId":1,"sectionId":2,"typeId":3,"uri":"news/hello","status":"live","dateUpdated":"2026-11-20T11:59:58+00:00"},` +
		`"eventClass":"craft\\events\\ModelEvent","event":{"isNew":false}}`,
}

var craftActions = map[string]event.Action{
	"afterSave":                 event.Update,
	"afterPropagate":            event.Update,
	"afterMoveInStructure":      event.Update,
	"afterRestore":              event.Create,
	"afterDelete":               event.Delete,
	"afterSaveElement":          event.Update, // these are of the service craft\services\Elements
	"afterUpdateSlugAndUri":     event.Update,
	"afterMoveElement":          event.Update,
	"afterRestoreElement":       event.Create,
	"afterDeleteElement":        event.Delete,
	"afterDeleteElementForSite": event.Delete,
}

func decodeCraft(s *Source, d Delivery, body value) (message, error) {
	kind, name := body.text("senderClass"), body.text("name")
	element := body.object("sender")
	if element.text("id") == "" { // a service speaks, and its event tells of what
		element = body.object("event.element")
	}
	it := Item{
		Event:       cmp.Or(s.eventName(d, body), joinDot(kind, name)),
		ContentType: kind,
		ID:          element.text("id"),
		Slug:        element.text("slug"),
	}
	it.Action = lastWord(craftActions, it.Event)
	if it.Action == event.Update && body.isTrue("event.isNew") {
		it.Action = event.Create
	}
	if shows(it.Action) && !element.at("draftId").exists() {
		it.Version = element.text("dateUpdated")
	}
	return message{Item: it}, nil
}
