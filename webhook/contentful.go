package webhook

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Contentful (contentful.com) tells in a header what happened. A published
// entry holds all its languages:
//
//	X-Contentful-Topic: ContentManagement.Entry.publish
//	{"sys":{"type":"Entry","id":"5KsD","contentType":{"sys":{"id":"post"}},…},"fields":{"slug":{"en-US":"hello"}}}
//
// After unpublish and delete, sys is all that is left. Bodies can be transformed
// in its settings; paths then tells where things are.
var contentfulCMS = &cms{
	name:   "contentful",
	scheme: "contentful",
	uses:   []string{"auto_save"},
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "header:X-Contentful-Topic")
		cfg.DeliveryIDHeader = cmp.Or(cfg.DeliveryIDHeader, "X-Contentful-Idempotency-Key")
	},
	decode: decodeContentful,
	headers: func(_ *Source, d *Delivery, _ value) {
		d.Header.Set("Content-Type", "application/vnd.contentful.management.v1+json")
		d.Header.Set("X-Contentful-Webhook-Name", "freshwire")
	},
	sampleEvent: "ContentManagement.Entry.publish",
	sample: `{"sys":{"type":"Entry","id":"5KsDBWseXY6QegucYAoacS","space":{"sys":{"type":"Link","linkType":"Space","id":"fw7space01ab"}},` +
		`"environment":{"sys":{"type":"Link","linkType":"Environment","id":"master"}},"contentType":{"sys":{"type":"Link","linkType":"ContentType","id":"post"}},` +
		`"revision":3,"createdAt":"2026-11-01T08:00:00.000Z","updatedAt":"2026-11-20T11:59:58.120Z"},` +
		`"fields":{"title":{"en-US":"Hello"},"slug":{"en-US":"hello"}}}`,
}

const (
	contentfulSignature = "X-Contentful-Signature"
	contentfulSigned    = "X-Contentful-Signed-Headers"
	contentfulTimestamp = "X-Contentful-Timestamp"
)

// X-Contentful-Signature is the hex HMAC of the request in this form, where the
// headers are those that X-Contentful-Signed-Headers lists, sorted, and the
// time is in milliseconds:
//
//	POST
//	/webhooks/blog
//	x-contentful-signed-headers:…;x-contentful-timestamp:…;x-contentful-topic:…
//	<body>
var contentfulScheme = &scheme{
	name: "contentful",
	uses: []string{"secret", "previous_secrets", "tolerance", "signed_path"},
	prepare: func(s *Source, complain complaints) {
		s.newHash = sha256.New
		if p := s.cfg.SignedPath; p != "" && (p[0] != '/' || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f })) {
			complain("signed_path", "%q is not the path of a URL, such as /hooks/blog", p)
		}
	},
	key: func(s *Source, secret string) ([]byte, error) {
		if len(secret) != 64 {
			s.warn("secret", "has %d characters; those of Contentful have 64", len(secret))
		}
		return []byte(secret), nil
	},
	verify: verifyContentful,
	sign:   signContentful,
}

func verifyContentful(s *Source, d Delivery) check {
	for _, name := range []string{contentfulSignature, contentfulSigned, contentfulTimestamp} {
		switch value, n := d.header(name); {
		case value == "":
			return refuse(MissingSignature, "no header %s", name)
		case n > 1:
			return refuse(MalformedSignature, "%d headers %s", n, name)
		}
	}
	timestamp, _ := d.header(contentfulTimestamp)
	sentAt, err := parseTime(timestamp, time.Millisecond)
	if err != nil {
		return refuse(MalformedSignature, "header %s: %v", contentfulTimestamp, err)
	}
	head, problem := contentfulHead(s, d)
	if problem.reason != "" {
		return problem
	}
	signature, _ := d.header(contentfulSignature)
	mac, err := hex.DecodeString(signature)
	if err != nil {
		return refuse(BadSignature, "header %s is not hex", contentfulSignature)
	}
	secret, ok := s.match([][]byte{mac}, head, d.Body)
	if !ok {
		return refuse(BadSignature, "made by none of our %d secrets over this request; behind a proxy that rewrites paths, set signed_path", len(s.keys))
	}
	return check{secret: secret, sentAt: sentAt}
}

func signContentful(s *Source, d *Delivery, now time.Time) error {
	d.Header.Set(contentfulTimestamp, strconv.FormatInt(now.UnixMilli(), 10))
	d.Header.Set(contentfulSigned, "")
	d.Header.Del(contentfulSignature)
	var names []string
	for name := range d.Header {
		names = append(names, strings.ToLower(name))
	}
	slices.Sort(names)
	d.Header.Set(contentfulSigned, strings.Join(names, ","))
	head, problem := contentfulHead(s, *d)
	if problem.reason != "" {
		return problem.err
	}
	d.Header.Set(contentfulSignature, hex.EncodeToString(s.mac(s.keys[0], head, d.Body)))
	return nil
}

// contentfulHead returns all that is signed before the body.
func contentfulHead(s *Source, d Delivery) (head []byte, problem check) {
	names := contentfulList(d)
	for _, required := range []string{contentfulSigned, contentfulTimestamp} {
		// Who could change the list unseen could read signed text as other headers.
		if !slices.Contains(names, strings.ToLower(required)) {
			return nil, refuse(MalformedSignature, "header %s does not list %s", contentfulSigned, strings.ToLower(required))
		}
	}
	var headers []string
	for _, name := range names {
		value, n := d.header(name)
		switch {
		case !isToken(name):
			return nil, refuse(MalformedSignature, "header %s lists %q, which cannot be a header's name", contentfulSigned, name)
		case n == 0:
			return nil, refuse(MissingSignature, "no header %s, which is signed", name)
		case n > 1:
			return nil, refuse(MalformedSignature, "%d headers %s", n, name)
		}
		headers = append(headers, name+":"+value)
	}
	target := cmp.Or(s.cfg.SignedPath, d.Target)
	return fmt.Appendf(nil, "%s\n%s\n%s\n", d.Method, contentfulPath(target), strings.Join(headers, ";")), check{}
}

// contentfulList returns the names of the signed headers in the order of signing.
func contentfulList(d Delivery) []string {
	list, _ := d.header(contentfulSigned)
	names := strings.Split(strings.ToLower(list), ",")
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// contentfulPath escapes a request target as Contentful does, in JavaScript:
// encodeURI(path + "?" + encodeURIComponent(query)). What is escaped already
// is escaped once more.
func contentfulPath(target string) string {
	path, query, _ := strings.Cut(target, "?")
	if query != "" {
		path += "?" + percentEscape(query, uriMarks)
	}
	return percentEscape(path, uriMarks+";,/?:@&=+$#")
}

const uriMarks = "-_.!~*'()" // with letters and digits, what encodeURIComponent leaves as it is

// percentEscape escapes all but letters, digits and the bytes of keep.
func percentEscape(text, keep string) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		if 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// contentfulActions maps the last word of a topic.
var contentfulActions = map[string]event.Action{
	"create":    event.Create,
	"save":      event.Update,
	"auto_save": event.Update,
	"archive":   event.Archive,
	"unarchive": event.Unarchive,
	"publish":   event.Publish,
	"unpublish": event.Unpublish,
	"delete":    event.Delete,
}

func decodeContentful(s *Source, d Delivery, body value) (message, error) {
	topic := contentfulTopic(s, d, body)
	kind, verb, _ := strings.Cut(strings.TrimPrefix(topic, "ContentManagement."), ".")
	sys := body.object("sys")
	it := Item{
		Event:       topic,
		Action:      cmp.Or(contentfulActions[verb], event.Other),
		ContentType: cmp.Or(sys.text("contentType.sys.id"), strings.TrimPrefix(sys.text("type"), "Deleted"), kind),
		ID:          sys.text("id"),
		Slug:        contentfulSlug(body.at("fields.slug")),
		Environment: sys.text("environment.sys.id"),
		All:         kind == "EnvironmentAlias", // readers of the alias see another environment now
	}
	switch verb {
	case "publish": // the delivery API shows it as sys.revision; saving changes nothing there
		it.Version = sys.text("revision")
	case "auto_save":
		if !s.cfg.AutoSave {
			return message{Item: it, batch: []Item{}}, nil
		}
	}
	return message{Item: it}, nil
}

// contentfulTopic returns the event's name. One that the sender did not sign
// may be anybody's.
func contentfulTopic(s *Source, d Delivery, body value) string {
	place, header, _ := strings.Cut(s.cfg.EventFrom, ":")
	if s.scheme.name == "contentful" && place == "header" && !slices.Contains(contentfulList(d), strings.ToLower(header)) {
		return ""
	}
	return s.eventName(d, body)
}

// contentfulSlug returns the slug of the first language that has one.
func contentfulSlug(v value) string {
	for _, language := range v.keys() {
		if slug := v.child(language).string(); slug != "" {
			return slug
		}
	}
	return v.string() // of a transformed body
}
