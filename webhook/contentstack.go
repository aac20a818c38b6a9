package webhook

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/event"
)

// Contentstack (contentstack.com) has two ways to sign: an HMAC, and its own
// certificate (scheme: contentstack-rsa-pss).
//
//	{"triggered_at":"…","module":"entry","event":"publish","data":{"entry":{"uid":"blt1","url":"/blog/hello","locale":"en-us"},…}}
//
// Its fourth repeat comes 13 minutes after triggered_at; with the certificate,
// which signs no other time, a tolerance of 15m lets it in.
var contentstackCMS = &cms{
	name:   "contentstack",
	scheme: "contentstack-hmac",
	decode: decodeContentstack,
	sample: `{"triggered_at":"2026-11-20T11:59:59.000Z","module":"entry","api_key":"blt00000000000000a1","event":"publish",` +
		`"data":{"entry":{"title":"Hello","url":"/blog/hello","locale":"en-us","uid":"blt11111111111111b2","_version":4,"tags":[]},` +
		`"content_type":{"title":"Blog","uid":"blog_post"},"environment":{"name":"production","uid":"blt22222222222222c3"},` +
		`"action":"publish","status":"success","locale":"en-us"}}`,
}

// x-contentstack-hmac-signature: t=<s>,v1=<hex>, with more v1 while the key is
// changed. Signed is <t>.<body>.
var contentstackScheme = &scheme{
	name:    "contentstack-hmac",
	uses:    []string{"secret", "previous_secrets", "tolerance"},
	prepare: func(s *Source, _ complaints) { s.newHash = sha256.New },
	verify:  verifyContentstack,
	sign: func(s *Source, d *Delivery, now time.Time) error {
		t := strconv.FormatInt(now.Unix(), 10)
		mac := s.mac(s.keys[0], []byte(t), dot, d.Body)
		d.Header.Set(contentstackHeader, fmt.Sprintf("t=%s,v1=%s", t, hex.EncodeToString(mac)))
		return nil
	},
}

const contentstackHeader = "x-contentstack-hmac-signature"

func verifyContentstack(s *Source, d Delivery) check {
	value, n := d.header(contentstackHeader)
	if value == "" {
		return refuse(MissingSignature, "no header %s", contentstackHeader)
	}
	var timestamp string
	var given [][]byte
	var signatures int
	for entry := range strings.SplitSeq(value, ",") {
		switch key, text, _ := strings.Cut(strings.TrimSpace(entry), "="); {
		case key == "t" && timestamp == "":
			timestamp = text
		case key == "v1" && text != "":
			signatures++
			if mac, err := hex.DecodeString(text); err == nil {
				given = append(given, mac)
			}
		default:
			return refuse(MalformedSignature, "header %s is not t=<s>,v1=<hex>", contentstackHeader)
		}
	}
	if n > 1 || signatures == 0 {
		return refuse(MalformedSignature, "header %s is not t=<s>,v1=<hex>", contentstackHeader)
	}
	sentAt, err := parseTime(timestamp, time.Second)
	if err != nil {
		return refuse(MalformedSignature, "t in header %s: %v", contentstackHeader, err)
	}
	secret, ok := s.match(given, []byte(timestamp), dot, d.Body)
	if !ok {
		return refuse(BadSignature, "%d signatures, none made by our %d secrets over this body", signatures, len(s.keys))
	}
	return check{secret: secret, sentAt: sentAt}
}

// X-Contentstack-Request-Signature: v1=<base64> is RSASSA-PSS with SHA-256 over
// the body. The signed time is triggered_at in the body.
var contentstackRSAScheme = &scheme{
	name:    "contentstack-rsa-pss",
	uses:    []string{"public_key_pem", "tolerance"},
	prepare: prepareContentstackRSA,
	verify:  verifyContentstackRSA,
	sign: func(*Source, *Delivery, time.Time) error {
		return errors.New("only Contentstack has the private key of scheme contentstack-rsa-pss; to try it, use a source with scheme contentstack-hmac")
	},
}

func prepareContentstackRSA(s *Source, complain complaints) {
	// A variable of the environment often holds \n for the ends of lines.
	rest := []byte(strings.ReplaceAll(s.cfg.PublicKeyPEM, `\n`, "\n"))
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			complain("public_key_pem", "is not PEM: -----BEGIN RSA PUBLIC KEY----- …")
			return
		}
		key, err := parsePublicKey(block)
		if err != nil {
			complain("public_key_pem", "%w", err)
			return
		}
		s.public = append(s.public, key)
	}
	if len(s.public) == 0 {
		complain("public_key_pem", "is empty; without the key nothing can be verified")
	}
}

func parsePublicKey(block *pem.Block) (*rsa.PublicKey, error) {
	switch block.Type {
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "PUBLIC KEY":
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		if key, ok := key.(*rsa.PublicKey); ok {
			return key, nil
		}
		return nil, fmt.Errorf("holds a key of type %T, want RSA", key)
	}
	return nil, fmt.Errorf("holds a %s, want an RSA PUBLIC KEY or PUBLIC KEY", block.Type)
}

func verifyContentstackRSA(s *Source, d Delivery) check {
	const header = "X-Contentstack-Request-Signature"
	value, n := d.header(header)
	text, ok := strings.CutPrefix(value, "v1=")
	switch {
	case value == "":
		return refuse(MissingSignature, "no header %s", header)
	case n > 1 || !ok:
		return refuse(MalformedSignature, "header %s is not v1=<base64>", header)
	}
	signature, err := decodeBase64(text)
	if err != nil {
		return refuse(BadSignature, "header %s is not base64", header)
	}
	digest := sha256.Sum256(d.Body)
	for i, key := range s.public {
		if rsa.VerifyPSS(key, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: 32}) == nil {
			sentAt, _ := contentstackTime(d.Body) // a body without it is refused when it is read
			return check{secret: i, sentAt: sentAt}
		}
	}
	return refuse(BadSignature, "made by none of our %d keys over this body", len(s.public))
}

// contentstackTime returns when a signed body says that it was made.
func contentstackTime(text []byte) (time.Time, error) {
	body, err := parseObject(text)
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, body.text("triggered_at"))
}

// contentstackActions maps events. Those with publish.start and publish.fail
// leave what readers see as it was.
var contentstackActions = map[string]event.Action{
	"create":            event.Create,
	"update":            event.Update,
	"delete":            event.Delete,
	"publish":           event.Publish,
	"publish.success":   event.Publish,
	"unpublish":         event.Unpublish,
	"unpublish.success": event.Unpublish,
	"deploy":            event.Publish,
}

func decodeContentstack(s *Source, d Delivery, body value) (message, error) {
	module, name := body.text("module"), body.text("event")
	triggered := body.text("triggered_at")
	if s.scheme.name == "contentstack-rsa-pss" {
		if _, err := time.Parse(time.RFC3339, triggered); err != nil {
			return message{}, errors.New("body has no triggered_at, so its age is not known")
		}
	}
	data := body.object("data")
	entity := data.object(strings.ReplaceAll(module, " ", "_"))
	it := Item{
		Event:       joinDot(module, name),
		Action:      cmp.Or(contentstackActions[name], event.Other),
		ContentType: cmp.Or(data.text("content_type.uid"), module),
		ID:          entity.text("uid"),
		Slug:        entity.text("url"),
		Locale:      cmp.Or(entity.text("locale"), data.text("locale")),
		Environment: data.text("environment.name"),
	}
	if it.Action == event.Publish { // the delivery API shows it; other changes are not to be seen there
		it.Version = entity.text("_version")
	}
	m := message{Item: it}
	if triggered != "" { // a repeat may be signed anew, but says the same; a second save does not
		m.dedupe = string(d.Body)
	}
	return m, nil
}
