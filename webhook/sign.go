package webhook

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Sign returns body as a delivery that this sender makes now, with the
// current secret. name is the CMS's own event name for senders that tell it
// outside of the body; empty: derived from the body where that can be done.
func (s *Source) Sign(body []byte, name string, now time.Time) (Delivery, error) {
	d := Delivery{
		Method: http.MethodPost,
		Target: "/webhooks/" + s.name,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   body,
	}
	if place, key, _ := strings.Cut(s.cfg.EventFrom, ":"); place != "body" {
		if name == "" {
			if obj, err := parseObject(body); err == nil {
				if m, err := s.cms.decode(s, d, obj); err == nil {
					name = m.Event
				}
			}
		}
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
