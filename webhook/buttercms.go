package webhook

import (
	"cmp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// ButterCMS (buttercms.com) sends headers of the operator's choice. What it
// calls id is the slug:
//
//	{"data":{"id":"hello","buttercms_id":5512,"page_type":"landing"},"webhook":{"event":"page.published"}}
var butterCMS = &cms{
	name:   "buttercms",
	scheme: "token",
	decode: decodeButter,
	sample: `{"data":{"id":"product-launch","buttercms_id":5512,"page_type":"landing","editor":"Ada","name":"Product launch","locale":"en",` +
		`"status":"published","updated":"2026-11-20T11:59:58Z","published":"2026-11-20T11:59:58Z","scheduled":null},` +
		`"webhook":{"event":"page.published","target":"https://example.com/webhooks/blog"}}`,
}

var butterActions = map[string]event.Action{
	"created":     event.Create,
	"draft":       event.Update, // a draft is saved
	"updated":     event.Update,
	"scheduled":   event.Update,
	"published":   event.Publish,
	"unpublished": event.Unpublish,
	"delete":      event.Delete,
	"deleted":     event.Delete,
}

func decodeButter(s *Source, d Delivery, body value) (message, error) {
	name := cmp.Or(s.eventName(d, body), body.text("webhook.event"))
	it := Item{
		Event:       name,
		Action:      lastWord(butterActions, name),
		ContentType: strings.Trim(body.text("data.page_type"), "*"), // * is a page without a type
		ID:          body.text("data.buttercms_id"),
		Slug:        body.text("data.id"),
		Locale:      body.text("data.locale"),
	}
	if it.Action == event.Publish {
		it.Version = body.text("data.updated")
	}
	return message{Item: it}, nil
}
