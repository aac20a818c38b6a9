package webhook

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Hygraph (hygraph.com) names the environment in its signature:
//
//	gcms-signature: sign=…, env=master, t=…
//	{"operation":"publish","data":{"__typename":"Post","id":"ckw1","stage":"PUBLISHED","slug":"hello"}}
//
// Its payload can be switched off; then nothing says what changed.
var hygraphCMS = &cms{
	name:    "hygraph",
	scheme:  "hygraph",
	methods: []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodGet},
	json:    emptyIsObject,
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "body:operation")
	},
	decode: decodeHygraph,
	sample: `{"operation":"publish","data":{"__typename":"Post","id":"ckw1abc0001","stage":"PUBLISHED","slug":"hello","title":"Hello",` +
		`"updatedAt":"2026-11-20T11:59:57.652216+00:00","publishedAt":"2026-11-20T11:59:57.702044+00:00"}}`,
}

// gcms-signature: sign=<base64>, env=<environment>, t=<ms>. Signed is
//
//	{"Body":"<body as a string>","EnvironmentName":"<environment>","TimeStamp":<ms>}
//
// as JavaScript writes it.
var hygraphScheme = &scheme{
	name:    "hygraph",
	uses:    []string{"secret", "previous_secrets", "tolerance"},
	prepare: func(s *Source, _ complaints) { s.newHash = sha256.New },
	verify:  verifyHygraph,
	sign: func(s *Source, d *Delivery, now time.Time) error {
		const environment = "master"
		mac := s.mac(s.keys[0], hygraphSigned(d.Body, environment, now))
		d.Header.Set(hygraphHeader, fmt.Sprintf("sign=%s, env=%s, t=%d", base64.StdEncoding.EncodeToString(mac), environment, now.UnixMilli()))
		return nil
	},
}

const hygraphHeader = "gcms-signature"

var hygraphSignature = regexp.MustCompile(`^sign=([^,\s]+),\s*env=([^,]*),\s*t=(\S+)$`)

func verifyHygraph(s *Source, d Delivery) check {
	value, n := d.header(hygraphHeader)
	if value == "" {
		return refuse(MissingSignature, "no header %s", hygraphHeader)
	}
	parts := hygraphSignature.FindStringSubmatch(value)
	if n > 1 || parts == nil {
		return refuse(MalformedSignature, "header %s is not sign=<base64>, env=<environment>, t=<ms>", hygraphHeader)
	}
	text, environment := parts[1], parts[2]
	sentAt, err := parseTime(parts[3], time.Millisecond)
	if err != nil {
		return refuse(MalformedSignature, "t in header %s: %v", hygraphHeader, err)
	}
	mac, err := decodeBase64(text)
	if err != nil {
		return refuse(BadSignature, "sign in header %s is not base64", hygraphHeader)
	}
	secret, ok := s.match([][]byte{mac}, hygraphSigned(d.Body, environment, sentAt))
	if !ok {
		return refuse(BadSignature, "made by none of our %d secrets over this body and environment", len(s.keys))
	}
	return check{secret: secret, sentAt: sentAt}
}

func hygraphSigned(body []byte, environment string, t time.Time) []byte {
	b := make([]byte, 0, len(body)+len(body)/8+128)
	b = append(b, `{"Body":`...)
	b = appendJSString(b, string(body))
	b = append(b, `,"EnvironmentName":`...)
	b = appendJSString(b, environment)
	b = append(b, `,"TimeStamp":`...)
	b = strconv.AppendInt(b, t.UnixMilli(), 10)
	return append(b, '}')
}

// appendJSString appends text as JSON.stringify writes it. encoding/json would
// escape more: < > & when asked, U+2028 and U+2029 always.
func appendJSString(b []byte, text string) []byte {
	const short = "\b\t\n\f\r\"\\"
	b = append(b, '"')
	for i := range len(text) {
		switch c := text[i]; {
		case strings.IndexByte(short, c) >= 0:
			b = append(b, '\\', `btnfr"\`[strings.IndexByte(short, c)])
		case c < 0x20:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

var hygraphActions = map[string]event.Action{
	"create":    event.Create,
	"update":    event.Update,
	"publish":   event.Publish,
	"unpublish": event.Unpublish,
	"delete":    event.Delete,
}

func decodeHygraph(s *Source, d Delivery, body value) (message, error) {
	var environment string
	signature, _ := d.header(hygraphHeader)
	if parts := hygraphSignature.FindStringSubmatch(signature); parts != nil {
		environment = parts[2]
	}
	name := s.eventName(d, body)
	data := body.object("data")
	if !data.exists() {
		return message{Item: Item{Event: name, Action: cmp.Or(hygraphActions[name], event.Invalidate), Environment: environment, All: true}}, nil
	}
	it := Item{
		Event:       name,
		Action:      cmp.Or(hygraphActions[name], event.Other),
		ContentType: data.text("__typename"),
		ID:          data.text("id"),
		Slug:        data.text("slug"),
		Environment: environment,
	}
	if it.Action == event.Publish { // the stage PUBLISHED shows it; drafts change nothing there
		it.Version = cmp.Or(data.text("publishedAt"), data.text("updatedAt"))
	}
	return message{Item: it}, nil
}
