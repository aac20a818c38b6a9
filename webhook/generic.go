package webhook

import "cmp"

// Any sender whose body names its parts at fixed paths. The usual body:
//
//	{"type":"post.updated","data":{"id":"1","slug":"hello","locale":"en"}}
var genericCMS = &cms{
	name:     "generic",
	defaults: genericDefaults,
	decode:   decodeGeneric,
	sample:   `{"type":"post.updated","data":{"id":"1","slug":"hello","locale":"en"}}`,
}

func genericDefaults(cfg *SourceConfig) {
	cfg.EventFrom = cmp.Or(cfg.EventFrom, "body:type")
	p := &cfg.Paths
	p.ID = cmp.Or(p.ID, "data.id")
	p.Slug = cmp.Or(p.Slug, "data.slug")
	p.Locale = cmp.Or(p.Locale, "data.locale")
}

func decodeGeneric(s *Source, d Delivery, body value) (message, error) {
	name := cmp.Or(s.eventName(d, body), body.text("type"))
	p := s.cfg.Paths
	it := Item{
		Event:        name,
		Action:       actionOf(name),
		ContentType:  cmp.Or(body.text(p.Type), typeOf(name)),
		ID:           body.text(p.ID),
		Slug:         body.text(p.Slug),
		PreviousSlug: body.text(p.PreviousSlug),
		Locale:       body.text(p.Locale),
		Environment:  body.text(p.Environment),
		Version:      body.text(p.Version),
	}
	if it.PreviousSlug == it.Slug {
		it.PreviousSlug = ""
	}
	return message{Item: it}, nil
}
