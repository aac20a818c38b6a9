package webhook

import (
	"cmp"
	"errors"

	"github.com/freshwire/freshwire/event"
)

// Kontent.ai (kontent.ai) collects what happened into notifications; their
// order means nothing. It tells no slugs.
//
//	{"notifications":[{"data":{"system":{"id":"aa7f","type":"article","language":"en-US",…}},
//	  "message":{"environment_id":"…","object_type":"content_item","action":"published","delivery_slot":"published"}}]}
//
// Its legacy webhooks send one notification of another shape:
//
//	{"data":{"items":[{"id":"…","type":"article","language":"en-US"}],"taxonomies":[…]},
//	 "message":{"id":"…","project_id":"…","type":"content_item_variant","operation":"publish"}}
var kontentCMS = &cms{
	name:   "kontent",
	scheme: "kontent",
	decode: decodeKontent,
	sample: `{"notifications":[{"data":{"system":{"id":"aa7f127f-1920-4454-a89a-0609aba8ea6f","name":"Hello","codename":"hello","collection":"default",` +
		`"workflow":"default","workflow_step":"published","language":"en-US","type":"article","last_modified":"2026-11-20T11:59:50.0563735Z"}},` +
		`"message":{"environment_id":"0f5b6cb2-ea82-014e-ac74-f71e7e8b6aee","object_type":"content_item","action":"published","delivery_slot":"published"}}]}`,
}

// X-Kontent-ai-Signature: <base64>, X-KC-Signature from legacy webhooks. The
// secret looks like base64, but its text is the key.
var kontentScheme = namedHMAC("kontent", SourceConfig{Header: "X-Kontent-ai-Signature", Encoding: "base64"}, "X-KC-Signature")

// kontentActions maps actions, and below the operations of legacy webhooks. A
// new step in a workflow is Other: it changes nothing but itself.
var kontentActions = map[string]event.Action{
	"created":          event.Create,
	"changed":          event.Update,
	"metadata_changed": event.Update,
	"published":        event.Publish,
	"unpublished":      event.Unpublish,
	"deleted":          event.Delete,
	"term_created":     event.Update, // of the taxonomy
	"term_changed":     event.Update,
	"term_deleted":     event.Update,
	"terms_moved":      event.Update,

	"create":    event.Create,
	"upsert":    event.Update,
	"publish":   event.Publish,
	"unpublish": event.Unpublish,
	"archive":   event.Archive,
	"restore":   event.Unarchive,
	"delete":    event.Delete,
}

func decodeKontent(_ *Source, _ Delivery, body value) (message, error) {
	notifications := body.list("notifications")
	if notifications == nil {
		return decodeKontentLegacy(body)
	}
	m := message{batch: []Item{}}
	for _, n := range notifications[:min(len(notifications), maxEvents+1)] { // more stand for everything
		told, system := n.object("message"), n.object("data.system")
		if !told.exists() {
			return message{}, errors.New("body has a notification without a message")
		}
		it := kontentItem(told.text("object_type"), told.text("action"))
		it.ID = system.text("id")
		it.ContentType = system.text("type")
		it.Locale = system.text("language")
		it.Environment = told.text("environment_id")
		if told.text("delivery_slot") == "published" && it.Action != event.Unpublish && it.Action != event.Delete {
			it.Version = system.text("last_modified") // the delivery API shows it; the preview slot runs ahead
		}
		it.payload = n.raw
		m.batch = append(m.batch, it)
	}
	if len(m.batch) > 0 {
		m.Item = m.batch[0]
	}
	return m, nil
}

func kontentItem(kind, verb string) Item {
	return Item{Event: joinDot(kind, verb), Action: cmp.Or(kontentActions[verb], event.Other)}
}

func decodeKontentLegacy(body value) (message, error) {
	told := body.object("message")
	if !told.exists() {
		return message{}, errors.New("body has no notifications and no message")
	}
	whole := kontentItem(told.text("type"), told.text("operation"))
	whole.Environment = told.text("project_id")
	m := message{Item: whole, batch: []Item{}, deliveryID: told.text("id")}
	for _, key := range []string{"items", "taxonomies"} {
		list := body.list("data." + key)
		for _, v := range list[:min(len(list), maxEvents+1)] {
			it := whole
			it.ID = cmp.Or(v.text("id"), v.text("item.id"))
			it.ContentType = v.text("type")
			it.Locale = cmp.Or(v.text("language"), v.text("language.id"))
			m.batch = append(m.batch, it)
		}
	}
	if len(m.batch) > 0 {
		m.Item = m.batch[0]
	}
	return m, nil
}
