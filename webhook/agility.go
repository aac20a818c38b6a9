package webhook

import (
	"cmp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// Agility (agilitycms.com) sends neither signatures nor headers of the
// operator's choice, so the token stands in the URL.
//
//	{"state":"Published","instanceGuid":"046a","languageCode":"en-us","referenceName":"posts","contentID":39,"contentVersionID":300}
//	{"state":"Published","instanceGuid":"046a","languageCode":"en-us","pageID":2,"pageVersionID":76}
var agilityCMS = &cms{
	name:   "agility",
	scheme: "query-token",
	decode: decodeAgility,
	sample: `{"state":"Published","instanceGuid":"046a1a87","languageCode":"en-us","referenceName":"posts","contentID":39,` +
		`"contentVersionID":300,"changeDateUTC":"2026-11-20T11:59:58.9905899Z"}`,
}

var agilityActions = map[string]event.Action{
	"saved":       event.Update,
	"published":   event.Publish,
	"unpublished": event.Unpublish,
	"deleted":     event.Delete,
}

func decodeAgility(s *Source, d Delivery, body value) (message, error) {
	it := Item{
		ContentType: body.text("referenceName"),
		ID:          body.text("contentID"),
		Locale:      body.text("languageCode"),
		Environment: body.text("instanceGuid"),
	}
	kind, version := "content", "contentVersionID"
	if page := body.text("pageID"); page != "" && it.ID == "" {
		kind, version = "page", "pageVersionID"
		it.ContentType, it.ID = "page", page
	}
	if state := body.text("state"); state != "" {
		it.Event = kind + "." + state
	}
	it.Event = cmp.Or(s.eventName(d, body), it.Event)
	it.Action = lastWord(agilityActions, strings.ToLower(it.Event))
	if it.Action == event.Publish {
		it.Version = body.text(version) // properties.versionID of the Fetch API, which shows nothing that is only saved
	}
	return message{Item: it}, nil
}
