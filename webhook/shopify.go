package webhook

import (
	"cmp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// Shopify (shopify.com) tells in headers what happened; the body is the thing
// itself, or little more than its id after a deletion.
//
//	X-Shopify-Topic: products/update
//	{"id":788032119674292922,"handle":"example-t-shirt",…}
//
// The headers of its newer events have the same names without X-. It repeats
// a delivery for four hours as it was; no time is signed.
var shopifyCMS = &cms{
	name:   "shopify",
	scheme: "shopify",
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "header:X-Shopify-Topic")
		cfg.DeliveryIDHeader = cmp.Or(cfg.DeliveryIDHeader, "X-Shopify-Webhook-Id")
	},
	decode: decodeShopify,
	headers: func(_ *Source, d *Delivery, _ value) {
		d.Header.Set("X-Shopify-Shop-Domain", "fresh.myshopify.com")
		d.Header.Set("X-Shopify-API-Version", "2026-10")
	},
	sampleEvent: "products/update",
	sample:      `{"id":788032119674292922,"title":"Example T-Shirt","handle":"example-t-shirt","status":"active","updated_at":"2026-11-20T06:59:58-05:00"}`,
}

// X-Shopify-Hmac-Sha256: <base64>.
var shopifyScheme = namedHMAC("shopify", SourceConfig{Header: "X-Shopify-Hmac-Sha256", Encoding: "base64"}, "Shopify-Hmac-Sha256")

var shopifyActions = map[string]event.Action{
	"create":  event.Create,
	"update":  event.Update,
	"updated": event.Update,
	"edited":  event.Update,
	"delete":  event.Delete,
	"publish": event.Publish,
	"add":     event.Publish,   // product_listings/add: to a sales channel
	"remove":  event.Unpublish, // from it
}

func decodeShopify(s *Source, d Delivery, body value) (message, error) {
	topic := cmp.Or(s.eventName(d, body), shopifyHeader(d, "Topic"))
	kind, verb, _ := strings.Cut(topic, "/")
	it := Item{
		Event:       topic,
		Action:      cmp.Or(shopifyActions[verb], event.Other),
		ContentType: kind,
		ID:          body.text("id"),
		Slug:        body.text("handle"),
		Environment: shopifyHeader(d, "Shop-Domain"),
		EventID:     shopifyHeader(d, "Event-Id"),
	}
	if it.Action != event.Delete {
		it.Version = body.text("updated_at") // as all its APIs show it
	}
	m := message{Item: it, deliveryID: cmp.Or(s.deliveryID(d), shopifyHeader(d, "Webhook-Id"))}
	if it.EventID != "" {
		// Several subscriptions may tell of one event, each with an id of its own.
		// One event may also touch several things, and reach several topics.
		m.dedupe = strings.Join([]string{it.EventID, it.Environment, it.Event, it.ID}, " ")
	}
	return m, nil
}

func shopifyHeader(d Delivery, name string) string {
	old, _ := d.header("X-Shopify-" + name)
	now, _ := d.header("Shopify-" + name)
	return cmp.Or(old, now)
}
