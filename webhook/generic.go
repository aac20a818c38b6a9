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
	return message{Item: Item{Event: name, Action: actionOf(name), ContentType: typeOf(name)}}, nil // the rest stands where paths says
}
