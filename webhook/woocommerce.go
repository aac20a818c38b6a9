package webhook

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// WooCommerce (woocommerce.com) tells in headers what happened; the body is
// the thing itself, or {"id":794} after a deletion.
//
//	X-WC-Webhook-Topic: product.updated
//	{"id":794,"slug":"premium-quality",…}
//
// When a webhook is saved, it sends the form webhook_id=12 without a signature
// and wants exactly 200 back.
var wooCommerceCMS = &cms{
	name:   "woocommerce",
	scheme: "woocommerce",
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "header:X-WC-Webhook-Topic")
		cfg.DeliveryIDHeader = cmp.Or(cfg.DeliveryIDHeader, "X-WC-Webhook-Delivery-ID")
	},
	decode: decodeWooCommerce,
	isPing: func(d Delivery) bool { return wooCommercePing.Match(d.Body) },
	headers: func(s *Source, d *Delivery, body value) {
		resource, verb, _ := strings.Cut(s.eventName(*d, body), ".")
		d.Header.Set("X-WC-Webhook-Resource", resource)
		d.Header.Set("X-WC-Webhook-Event", verb)
		d.Header.Set("X-WC-Webhook-Source", "https://shop.example.com/")
	},
	sampleEvent: "product.updated",
	sample: `{"id":794,"name":"Premium Quality","slug":"premium-quality","permalink":"https:\/\/shop.example.com\/product\/premium-quality\/",` +
		`"date_modified_gmt":"2026-11-20T11:59:50","type":"simple","status":"publish","price":"21.99"}`,
}

// X-WC-Webhook-Signature: <base64>.
var wooCommerceScheme = namedHMAC("woocommerce", SourceConfig{Header: "X-WC-Webhook-Signature", Encoding: "base64"}, "")

var wooCommercePing = regexp.MustCompile(`^webhook_id=[0-9]{1,20}$`)

var wooCommerceActions = map[string]event.Action{
	"created":  event.Create,
	"updated":  event.Update,
	"deleted":  event.Delete, // moved to the trash, or gone
	"restored": event.Unarchive,
}

func decodeWooCommerce(s *Source, d Delivery, body value) (message, error) {
	topic := s.eventName(d, body)
	resource, verb, _ := strings.Cut(topic, ".")
	if told, _ := d.header("X-WC-Webhook-Resource"); told != "" {
		resource = told
	}
	shop, _ := d.header("X-WC-Webhook-Source")
	it := Item{
		Event:       topic,
		Action:      cmp.Or(wooCommerceActions[verb], event.Other),
		ContentType: resource,
		ID:          body.text("id"),
		Slug:        body.text("slug"),
		Environment: shop,
	}
	if it.Action != event.Delete {
		it.Version = body.text("date_modified_gmt") // as its REST API shows it
	}
	return message{Item: it}, nil
}
