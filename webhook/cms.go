package webhook

import (
	"cmp"
	"fmt"
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

	// uses are keys of SourceConfig that mean something with this sender alone.
	uses []string

	// methods are the methods that it sends with; nil: POST alone.
	methods []string

	// json returns the JSON object within a body that is none by itself, such as
	// a form's; nil: the body is one.
	json func(d Delivery) ([]byte, error)

	// decode says what a delivery means. It is given a body that parsed.
	decode func(s *Source, d Delivery, body value) (message, error)

	// isPing reports whether an unsigned request is the test of the connection
	// that this CMS sends without a signature, and wants answered 200.
	isPing func(d Delivery) bool

	sample      string // a body as this CMS sends it
	sampleEvent string // what happened there, for senders that tell it in a header

	// headers adds to a delivery that is being made what this CMS writes into
	// headers besides the event's name and the delivery's id; nil: nothing.
	headers func(s *Source, d *Delivery, body value)
}

// message is what a delivery says.
type message struct {
	Item // of the delivery as a whole

	batch      []Item // of a delivery that can speak of several entities; else nil
	deliveryID string // when it stands elsewhere than in the source's header
	dedupe     string // what names the delivery to us, when that is not its id
}

// items are what there is to act upon.
func (m message) items() []Item {
	if m.batch != nil {
		return m.batch
	}
	return []Item{m.Item}
}

// cmses are the senders that this version knows. Adding one: a file with its
// row, the row's name here, a page in the docs, and recorded deliveries in testdata.
var cmses = []*cms{
	genericCMS,
	standardWebhooksCMS,
	svixCMS,
	ghostCMS,
	contentfulCMS,
	sanityCMS,
	hygraphCMS,
	webflowCMS,
	contentstackCMS,
	kontentCMS,
	storyblokCMS,
	wooCommerceCMS,
	shopifyCMS,
	githubCMS,
	drupalCMS,
	strapiCMS,
	prismicCMS,
	datoCMS,
	directusCMS,
	umbracoCMS,
	agilityCMS,
	butterCMS,
	craftCMS,
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
	hint := ""
	if near := nearest.Word(name, names); near != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", near)
	}
	return nil, fmt.Errorf("this version does not know cms %q; use cms: generic with the scheme that it signs with%s", name, hint)
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
func (s *Source) eventName(d Delivery, body value) string {
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
