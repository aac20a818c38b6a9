package webhook

import (
	"cmp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// Drupal (drupal.org) with the module Webhooks. What stands below entity, and
// where, is up to the site: paths tells where its id is.
//
//	X-Drupal-Webhooks-Event: entity:node:update
//	{"event":"entity:node:update","entity":{"nid":[{"value":12}],…}}
var drupalCMS = &cms{
	name:   "drupal",
	scheme: "hmac",
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "header:X-Drupal-Webhooks-Event")
		cfg.DeliveryIDHeader = cmp.Or(cfg.DeliveryIDHeader, "X-Drupal-Webhooks-Delivery")
		if cfg.Scheme == "hmac" {
			drupalSignature(cfg)
		}
	},
	decode:      decodeDrupal,
	sampleEvent: "entity:node:update",
	sample:      `{"event":"entity:node:update","entity":{"nid":[{"value":12}],"type":[{"target_id":"article"}],"title":[{"value":"Hello"}]}}`,
}

// drupalSignature fills in how the module signs: X-Hub-Signature: sha1=<hex>.
// With header: X-Drupal-Webhooks-Signature it is as another version of the
// module does, in base64 with SHA-256.
func drupalSignature(cfg *SourceConfig) {
	if strings.EqualFold(cfg.Header, "X-Drupal-Webhooks-Signature") {
		cfg.Encoding = cmp.Or(cfg.Encoding, "base64")
		return
	}
	if cfg.Header == "" {
		cfg.Header = "X-Hub-Signature"
		cfg.Prefix = cmp.Or(cfg.Prefix, "sha1=")
		cfg.Hash = cmp.Or(cfg.Hash, "sha1")
	}
}

var drupalActions = map[string]event.Action{
	"create": event.Create,
	"insert": event.Create,
	"update": event.Update,
	"delete": event.Delete,
}

func decodeDrupal(s *Source, d Delivery, body value) (message, error) {
	name := cmp.Or(s.eventName(d, body), body.text("event"))
	group, rest, _ := strings.Cut(name, ":")
	kind, verb, found := strings.Cut(rest, ":")
	if !found { // such as system:cron
		kind, verb = group, rest
	}
	return message{Item: Item{Event: name, Action: cmp.Or(drupalActions[verb], event.Other), ContentType: kind}}, nil
}
