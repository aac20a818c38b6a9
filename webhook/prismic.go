package webhook

import (
	"cmp"

	"github.com/freshwire/freshwire/event"
)

// Prismic (prismic.io) puts the secret into the body and names the documents
// that changed by nothing but their ids:
//
//	{"type":"api-update","documents":["XkJf"],"domain":"my-repository","secret":"…"}
//
// Each document becomes an item of type document. A delivery that names none,
// neither itself nor in its releases, tells of custom types or tags: then
// anything may have changed.
var prismicCMS = &cms{
	name:   "prismic",
	scheme: "body-secret",
	decode: decodePrismic,
	sample: `{"type":"api-update","masterRef":"X3n2zBMAACIAqcEL~X3n2","releases":{},"masks":{},"tags":{},` +
		`"documents":["XkJfwBMAACEAqLk1","XkJfwBMAACEAqLk2"],"domain":"my-repository","apiUrl":"https://my-repository.cdn.prismic.io/api/v2"}`,
}

func decodePrismic(s *Source, d Delivery, body value) (message, error) {
	m := message{Item: Item{Event: cmp.Or(s.eventName(d, body), body.text("type")), Environment: body.text("domain")}}
	switch m.Event {
	case "":
		return m, nil
	case "test-trigger":
		m.Action = event.Ping
		return m, nil
	case "api-update":
		m.Action = event.Update
	default:
		m.Action = event.Other
	}
	ids := texts(body.list("documents"))
	if len(ids) == 0 {
		// Nothing is published; who previews a release sees its documents change.
		for _, change := range []string{"addition", "update", "deletion"} {
			for _, release := range body.list("releases." + change) {
				ids = append(ids, texts(release.list("documents"))...)
			}
		}
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if seen[id] || len(m.batch) > maxEvents { // more stand for everything
			continue
		}
		seen[id] = true
		it := m.Item
		it.ContentType, it.ID = "document", id
		m.batch = append(m.batch, it)
	}
	m.All = m.batch == nil && m.Action == event.Update
	return m, nil
}

// texts are the strings and numbers of a list.
func texts(list []value) []string {
	var all []string
	for _, v := range list {
		if text := v.string(); text != "" {
			all = append(all, text)
		}
	}
	return all
}
