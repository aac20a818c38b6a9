package webhook

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Sanity (sanity.io) tells in headers what happened to which document. The
// body is a GROQ projection that its operator writes, such as
//
//	{_id, _type, _updatedAt, slug, language}
//
// paths tells where another one has these.
//
// A draft has an id of its own, drafts.<id> or versions.<release>.<id>, and is
// an entity of its own here: what readers see changes when the document
// without prefix does. Drafts come only when the webhook is told to send them.
var sanityCMS = &cms{
	name:    "sanity",
	scheme:  "sanity",
	methods: []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodGet},
	json:    emptyIsObject,
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "header:sanity-operation")
		cfg.DeliveryIDHeader = cmp.Or(cfg.DeliveryIDHeader, "idempotency-key")
	},
	decode: decodeSanity,
	headers: func(_ *Source, d *Delivery, body value) {
		d.Header.Set("sanity-dataset", "production")
		if id := body.text("_id"); id != "" {
			d.Header.Set("sanity-document-id", id)
		}
	},
	sampleEvent: "update",
	sample:      `{"_id":"post-42","_type":"post","_rev":"Zx1","_updatedAt":"2026-11-20T11:59:58Z","slug":{"_type":"slug","current":"hello"},"title":"Hello"}`,
}

// sanity-webhook-signature: t=<ms>,v1=<base64url without padding>. Signed is <t>.<body>.
var sanityScheme = &scheme{
	name:    "sanity",
	uses:    []string{"secret", "previous_secrets", "tolerance"},
	prepare: func(s *Source, _ complaints) { s.newHash = sha256.New },
	verify:  verifySanity,
	sign: func(s *Source, d *Delivery, now time.Time) error {
		t := strconv.FormatInt(now.UnixMilli(), 10)
		mac := s.mac(s.keys[0], []byte(t), dot, d.Body)
		d.Header.Set(sanityHeader, fmt.Sprintf("t=%s,v1=%s", t, base64.RawURLEncoding.EncodeToString(mac)))
		return nil
	},
}

const sanityHeader = "sanity-webhook-signature"

var sanitySignature = regexp.MustCompile(`^t=(\d+)[, ]+v1=([^, ]+)$`)

func verifySanity(s *Source, d Delivery) check {
	value, n := d.header(sanityHeader)
	if value == "" {
		return refuse(MissingSignature, "no header %s", sanityHeader)
	}
	parts := sanitySignature.FindStringSubmatch(value)
	if n > 1 || parts == nil {
		return refuse(MalformedSignature, "header %s is not t=<ms>,v1=<base64>", sanityHeader)
	}
	timestamp, text := parts[1], parts[2]
	sentAt, err := parseTime(timestamp, time.Millisecond)
	if err != nil {
		return refuse(MalformedSignature, "t in header %s: %v", sanityHeader, err)
	}
	mac, err := decodeBase64(text)
	if err != nil {
		return refuse(BadSignature, "header %s is not base64", sanityHeader)
	}
	secret, ok := s.match([][]byte{mac}, []byte(timestamp), dot, d.Body)
	if !ok {
		return refuse(BadSignature, "made by none of our %d secrets over this body", len(s.keys))
	}
	return check{secret: secret, sentAt: sentAt}
}

var sanityActions = map[string]event.Action{"create": event.Create, "update": event.Update, "delete": event.Delete}

func decodeSanity(s *Source, d Delivery, body value) (message, error) {
	dataset, _ := d.header("sanity-dataset")
	it := Item{Event: s.eventName(d, body), Environment: cmp.Or(dataset, body.text("dataset"))}
	it.Action = cmp.Or(sanityActions[it.Event], event.Other)
	if ids := body.object("ids"); ids.exists() && len(ids.list("all"))+len(ids.list("created"))+len(ids.list("updated"))+len(ids.list("deleted")) > 0 {
		return sanityBatch(it, ids), nil
	}
	id, _ := d.header("sanity-document-id")
	it.ID = cmp.Or(id, body.text("_id"))
	it.ContentType = cmp.Or(body.text("_type"), body.text("type"))
	it.Slug = cmp.Or(body.text("slug.current"), body.text("slug"))
	it.Locale = cmp.Or(body.text("language"), body.text("locale"))
	it.All = it.Action == event.Delete && cmp.Or(it.ContentType, body.text(s.cfg.Paths.Type)) == "" // of an unknown id
	if it.Action != event.Delete {
		it.Version = cmp.Or(body.text("_updatedAt"), body.text("_rev")) // in every query's result; the time tells older from newer
	}
	return message{Item: it}, nil
}

// sanityBatch reads the form of earlier webhooks, which a projection can still
// write: {"ids":{"created":[…],"updated":[…],"deleted":[…],"all":[…]}}.
func sanityBatch(whole Item, ids value) message {
	batch := []Item{}
	seen := map[string]bool{}
	for _, list := range []struct {
		key    string
		event  string
		action event.Action
	}{{"created", "create", event.Create}, {"updated", "update", event.Update}, {"deleted", "delete", event.Delete}, {"all", whole.Event, whole.Action}} {
		for _, v := range ids.list(list.key) {
			id := v.string()
			if id == "" || seen[id] || len(batch) > maxEvents { // more stand for everything
				continue
			}
			seen[id] = true
			it := whole
			it.Event, it.Action, it.ID = list.event, list.action, id
			batch = append(batch, it)
		}
	}
	if len(batch) > 0 {
		whole = batch[0]
	}
	return message{Item: whole, batch: batch}
}

// emptyIsObject is for senders whose payload can be switched off.
func emptyIsObject(d Delivery) ([]byte, error) {
	if len(bytes.TrimSpace(d.Body)) == 0 {
		return []byte("{}"), nil
	}
	return d.Body, nil
}
