package webhook

import (
	"cmp"
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Sign returns body as a delivery that this sender makes now, with the
// current secret. name is the CMS's own event name for senders that tell it
// outside of the body; empty: derived from the body where that can be done, or
// else that of the sample.
func (s *Source) Sign(body []byte, name string, now time.Time) (Delivery, error) {
	d := Delivery{
		Method: http.MethodPost,
		Target: "/webhooks/" + s.name,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   body,
	}
	parsed, _ := s.parse(d) // nothing can be derived from a body that is no object
	if place, key, _ := strings.Cut(s.cfg.EventFrom, ":"); place != "body" {
		if name == "" && parsed.exists() {
			if m, err := s.cms.decode(s, d, parsed); err == nil {
				name = m.Event
			}
		}
		name = cmp.Or(name, s.cms.sampleEvent)
		switch {
		case name == "":
		case place == "query":
			d.addQuery(key, name)
		case place == "header":
			d.Header.Set(key, name)
		}
	}
	if h := s.cfg.DeliveryIDHeader; h != "" {
		d.Header.Set(h, "msg_"+rand.Text())
	}
	if s.cms.headers != nil {
		s.cms.headers(s, &d, parsed)
	}
	if err := s.scheme.sign(s, &d, now); err != nil {
		return Delivery{}, err
	}
	return d, nil
}

// Sample is a body as this sender writes it, for examples and tests.
func (s *Source) Sample() []byte { return []byte(s.cms.sample) }

// addQuery adds a parameter to the request target.
func (d *Delivery) addQuery(name, value string) {
	separator := "?"
	if strings.Contains(d.Target, "?") {
		separator = "&"
	}
	d.Target += separator + url.QueryEscape(name) + "=" + url.QueryEscape(value)
}
