package webhook

import (
	"cmp"

	"github.com/freshwire/freshwire/event"
)

// Directus (directus.io) sends from a Flow: an event hook, and an operation
// that requests our URL with {{$trigger}} as its body.
//
//	{"event":"posts.items.update","payload":{"slug":"hello"},"keys":[3,4],"collection":"posts"}
//
// An update or delete speaks of all its keys, a create of its key.
var directusCMS = &cms{
	name:   "directus",
	scheme: "token",
	decode: decodeDirectus,
	sample: `{"event":"posts.items.update","payload":{"status":"published","slug":"hello","date_updated":"2026-11-20T11:59:58.000Z"},` +
		`"keys":[3],"collection":"posts"}`,
}

var directusActions = map[string]event.Action{
	"create":  event.Create,
	"upload":  event.Create, // of a file
	"update":  event.Update,
	"sort":    event.Update,
	"promote": event.Update, // a version becomes the item
	"delete":  event.Delete,
}

func decodeDirectus(s *Source, d Delivery, body value) (message, error) {
	name := cmp.Or(s.eventName(d, body), body.text("event"))
	payload := body.object("payload") // of a delete it is the list of keys
	keys := texts(body.list("keys"))
	m := message{Item: Item{
		Event:       name,
		Action:      lastWord(directusActions, name),
		ContentType: body.text("collection"),
		ID:          body.text("key"),
		Slug:        payload.text("slug"),
		Version:     payload.text("date_updated"), // as the API returns it; a delete has none
	}}
	if len(keys) == 0 && m.ID == "" {
		keys = texts(body.list("payload"))
	}
	for _, key := range keys[:min(len(keys), maxEvents+1)] { // more stand for everything
		it := m.Item
		it.ID = key
		m.batch = append(m.batch, it)
	}
	if len(keys) > 0 {
		m.ID = keys[0]
	}
	return m, nil
}
