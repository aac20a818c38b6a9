package webhook

import (
	"cmp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// Webflow (webflow.com) signs the webhooks that are made through its API;
// those made in its dashboard need a token in the URL instead.
//
//	{"triggerType":"collection_item_changed","payload":{"id":"64d4","collectionId":"580e","fieldData":{"slug":"hello"}}}
var webflowCMS = &cms{
	name:   "webflow",
	scheme: "webflow",
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "body:triggerType")
	},
	decode: decodeWebflow,
	sample: `{"triggerType":"collection_item_published","payload":{"id":"64d4d0e6a1b2c3d4e5f60718","siteId":"65427cf400e02b306eaa049c",` +
		`"workspaceId":"625860a7a6c16d624927122f","collectionId":"580e63fc8c9a982ac9b8b745","cmsLocaleId":"653ad57de882f528b32e810e",` +
		`"lastPublished":"2026-11-20T11:59:58.200Z","lastUpdated":"2026-11-20T11:59:57.100Z","isArchived":false,"isDraft":false,` +
		`"fieldData":{"name":"Hello","slug":"hello"}}}`,
}

// Signed is <timestamp>:<body>, with the time in milliseconds.
var webflowScheme = namedHMAC("webflow", SourceConfig{
	Header: "x-webflow-signature", SignedPayload: "{timestamp}:{body}", TimestampHeader: "x-webflow-timestamp", TimestampUnit: "ms",
}, "")

// webflowActions maps what follows the last underscore of a trigger.
var webflowActions = map[string]event.Action{
	"created":     event.Create,
	"changed":     event.Update,
	"updated":     event.Update,
	"deleted":     event.Delete,
	"publish":     event.Publish,
	"published":   event.Publish,
	"unpublished": event.Unpublish,
}

func decodeWebflow(s *Source, d Delivery, body value) (message, error) {
	trigger := s.eventName(d, body)
	kind, verb := trigger, ""
	if i := strings.LastIndexByte(trigger, '_'); i >= 0 {
		kind, verb = trigger[:i], trigger[i+1:]
	}
	payload := body.object("payload")
	it := Item{
		Event:       trigger,
		Action:      cmp.Or(webflowActions[verb], event.Other),
		ContentType: cmp.Or(payload.text("collectionId"), strings.TrimSuffix(kind, "_metadata")),
		Environment: cmp.Or(payload.text("siteId"), payload.text("site")),
		All:         trigger == "site_publish", // it takes everything along that was staged, and names none of it
	}
	if items := payload.list("items"); items != nil {
		batch := []Item{}
		for _, item := range items[:min(len(items), maxEvents+1)] { // more stand for everything
			one := webflowItem(it, item)
			one.payload = item.raw
			batch = append(batch, one)
		}
		if len(batch) > 0 {
			it = batch[0]
		}
		return message{Item: it, batch: batch}, nil
	}
	return message{Item: webflowItem(it, payload)}, nil
}

// webflowItem adds to it what v says of one entity.
func webflowItem(it Item, v value) Item {
	it.ContentType = cmp.Or(v.text("collectionId"), it.ContentType)
	it.Environment = cmp.Or(v.text("siteId"), it.Environment)
	it.ID = cmp.Or(v.text("id"), v.text("_id"), v.text("pageId"), v.text("site"))
	it.Slug = v.text("fieldData.slug")
	it.Locale = v.text("cmsLocaleId")
	if it.Action == event.Publish { // live items show it; other changes are staged and not to be seen there
		it.Version = v.text("lastPublished")
	}
	return it
}
