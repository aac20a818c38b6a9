package webhook

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/nearest"
)

// cms is one kind of sender: how it proves itself unless the source says
// otherwise, and how its deliveries read.
type cms struct {
	name   string
	scheme string // used when the source names none; empty: the source must

	// defaults fills in headers and paths that the source leaves out.
	defaults func(cfg *SourceConfig)

	// decode says what a delivery means. It is given a body that parsed, and
	// returns at least one item, or an error.
	decode func(s *Source, d Delivery, body object) ([]Item, error)

	sample string // a body as this CMS sends it
}

// cmses are the senders that this version knows. Adding one: a file with its
// row, the row's name here, a page in the docs, and recorded deliveries in testdata.
var cmses = []*cms{
	genericCMS,
	standardWebhooksCMS,
	ghostCMS,
}

// laterCMSes are senders that have a row in docs/cms.md and no code yet, each
// with the scheme that reaches it meanwhile through cms: generic.
var laterCMSes = map[string]string{
	"agility": "query-token", "buttercms": "token", "contentful": "token", "contentstack": "token",
	"craft": "token", "datocms": "basic", "directus": "token", "drupal": "hmac", "github": "hmac",
	"hygraph": "token", "kontent": "hmac", "prismic": "body-secret", "sanity": "token",
	"shopify": "hmac", "storyblok": "hmac", "strapi": "token", "svix": "standardwebhooks",
	"umbraco": "token", "webflow": "hmac", "woocommerce": "hmac",
}

func findCMS(name string) (*cms, error) {
	var names []string
	for _, c := range cmses {
		if c.name == name {
			return c, nil
		}
		names = append(names, c.name)
	}
	if name == "" {
		return nil, fmt.Errorf("missing; this version knows %s", strings.Join(names, ", "))
	}
	if scheme := laterCMSes[name]; scheme != "" {
		return nil, fmt.Errorf("this version does not know cms %q yet; use cms: generic with scheme: %s", name, scheme)
	}
	hint := ""
	for later := range laterCMSes {
		names = append(names, later)
	}
	slices.Sort(names)
	if near := nearest.Word(name, names); near != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", near)
	}
	return nil, fmt.Errorf("this version does not know cms %q yet; use cms: generic with scheme: hmac, or another%s", name, hint)
}

// verbs are the last words of event names that mean the same everywhere.
var verbs = map[string]event.Action{
	"created":     event.Create,
	"updated":     event.Update,
	"published":   event.Publish,
	"unpublished": event.Unpublish,
	"deleted":     event.Delete,
	"archived":    event.Archive,
	"ping":        event.Ping,
}

// actionOf maps an event's name by what follows its last dot. No name, no action.
func actionOf(name string) event.Action {
	if name == "" {
		return ""
	}
	return cmp.Or(verbs[name[strings.LastIndexByte(name, '.')+1:]], event.Other)
}

// eventName looks where event_from or event_header says, such as query:event.
func (s *Source) eventName(d Delivery, body object) string {
	place, name, _ := strings.Cut(s.cfg.EventFrom, ":")
	switch place {
	case "query":
		return d.query().Get(name)
	case "header":
		value, _ := d.header(name)
		return value
	case "body":
		return body.text(name)
	}
	return ""
}
