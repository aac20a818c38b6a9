package webhook

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Senders that follow www.standardwebhooks.com: the body of generic, signed
// with an id and a time.
var standardWebhooksCMS = &cms{
	name:     "standardwebhooks",
	scheme:   "standardwebhooks",
	defaults: genericDefaults,
	decode:   decodeGeneric,
	sample:   `{"type":"post.updated","timestamp":"2026-11-20T11:59:59Z","data":{"id":"1","slug":"hello","locale":"en"}}`,
}

// Headers webhook-id, webhook-timestamp (seconds), and webhook-signature with
// any number of v1,<base64> apart by spaces. Signed is <id>.<timestamp>.<body>;
// the key is what the secret holds after whsec_, base64-decoded.
var standardWebhooksScheme = &scheme{
	name: "standardwebhooks",
	uses: []string{"secret", "previous_secrets", "tolerance", "header_prefix"},
	prepare: func(s *Source, complain complaints) {
		s.newHash = sha256.New
		if s.cfg.HeaderPrefix == "" {
			s.cfg.HeaderPrefix = "webhook"
		}
		if !isToken(s.cfg.HeaderPrefix) {
			complain("header_prefix", "%q cannot begin a header's name", s.cfg.HeaderPrefix)
		}
		if s.cfg.DeliveryIDHeader == "" {
			s.cfg.DeliveryIDHeader = s.cfg.HeaderPrefix + "-id"
		}
	},
	key: func(s *Source, secret string) ([]byte, error) {
		key, err := decodeBase64(strings.TrimPrefix(secret, "whsec_"))
		switch {
		case err != nil:
			return nil, errors.New("is not base64 after whsec_")
		case len(key) == 0:
			return nil, errors.New("is empty after whsec_")
		}
		return key, nil
	},
	verify: verifyStandardWebhooks,
	sign:   signStandardWebhooks,
}

func verifyStandardWebhooks(s *Source, d Delivery) check {
	prefix := s.cfg.HeaderPrefix
	var values [3]string
	for i, part := range []string{"-signature", "-id", "-timestamp"} {
		value, n := d.header(prefix + part)
		switch {
		case value == "":
			return refuse(MissingSignature, "no header %s", prefix+part)
		case n > 1:
			return refuse(MalformedSignature, "%d headers %s", n, prefix+part)
		}
		values[i] = value
	}
	signature, id, timestamp := values[0], values[1], values[2]

	sentAt, err := parseTime(timestamp, time.Second)
	if err != nil {
		return refuse(MalformedSignature, "header %s-timestamp: %v", prefix, err)
	}
	var given [][]byte
	for entry := range strings.FieldsSeq(signature) {
		version, text, ok := strings.Cut(entry, ",")
		if !ok {
			return refuse(MalformedSignature, "header %s-signature is not v1,<base64>", prefix)
		}
		if mac, err := decodeBase64(text); version == "v1" && err == nil {
			given = append(given, mac)
		}
	}
	secret, ok := s.match(given, []byte(id), dot, []byte(timestamp), dot, d.Body)
	if !ok {
		return refuse(BadSignature, "%d v1 signatures, none made by our %d secrets over this body", len(given), len(s.keys))
	}
	return check{secret: secret, sentAt: sentAt}
}

var dot = []byte(".")

func signStandardWebhooks(s *Source, d *Delivery, now time.Time) error {
	prefix := s.cfg.HeaderPrefix
	id := cmp.Or(d.Header.Get(prefix+"-id"), "msg_"+rand.Text()) // there, unless delivery_id_header names another
	timestamp := strconv.FormatInt(now.Unix(), 10)
	mac := s.mac(s.keys[0], []byte(id), dot, []byte(timestamp), dot, d.Body)
	d.Header.Set(prefix+"-id", id)
	d.Header.Set(prefix+"-timestamp", timestamp)
	d.Header.Set(prefix+"-signature", fmt.Sprintf("v1,%s", base64.StdEncoding.EncodeToString(mac)))
	return nil
}
