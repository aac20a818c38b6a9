package webhook

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
	"time"
)

// One header holds the HMAC of a template over the raw body.
var hmacScheme = &scheme{
	name: "hmac",
	uses: []string{"secret", "previous_secrets", "header", "hash", "encoding", "prefix",
		"signed_payload", "timestamp_header", "timestamp_unit", "tolerance"},
	prepare: prepareHMAC,
	verify:  verifyHMAC,
	sign:    signHMAC,
}

var hashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

// part is a piece of signed_payload: a name in braces, or text as it stands.
type part struct {
	name string // body, timestamp, id; empty for text
	text []byte
}

func prepareHMAC(s *Source, complain complaints) {
	c := &s.cfg
	c.Header = cmp.Or(c.Header, "X-Webhook-Signature")
	c.Hash = cmp.Or(c.Hash, "sha256")
	c.Encoding = cmp.Or(c.Encoding, "hex")
	c.SignedPayload = cmp.Or(c.SignedPayload, "{body}")
	c.TimestampUnit = cmp.Or(c.TimestampUnit, "s")

	if s.newHash = hashes[c.Hash]; s.newHash == nil {
		complain("hash", "%q is none of sha1, sha256, sha512", c.Hash)
	}
	if c.Encoding != "hex" && c.Encoding != "base64" {
		complain("encoding", "%q is none of hex, base64", c.Encoding)
	}
	if c.TimestampUnit != "s" && c.TimestampUnit != "ms" {
		complain("timestamp_unit", "%q is none of s, ms", c.TimestampUnit)
	}
	var err error
	if s.signed, err = parseTemplate(c.SignedPayload); err != nil {
		complain("signed_payload", "%v", err)
		return
	}
	signs := func(name string) bool {
		return slices.ContainsFunc(s.signed, func(p part) bool { return p.name == name })
	}
	if !signs("body") {
		complain("signed_payload", "%q does not sign {body}: anybody could change it", c.SignedPayload)
	}
	if signs("id") && c.DeliveryIDHeader == "" {
		complain("delivery_id_header", "missing: signed_payload needs it for {id}")
	}
	switch {
	case signs("timestamp"):
		c.TimestampHeader = cmp.Or(c.TimestampHeader, "X-Webhook-Timestamp")
	case c.TimestampHeader != "":
		complain("timestamp_header", "is not signed, so it proves no age; put {timestamp} into signed_payload, or remove the key")
	}
}

// parseTemplate splits "{timestamp}.{body}" into its parts.
func parseTemplate(template string) ([]part, error) {
	var parts []part
	rest := template
	for rest != "" {
		text, after, found := strings.Cut(rest, "{")
		if text != "" {
			parts = append(parts, part{text: []byte(text)})
		}
		if !found {
			break
		}
		name, after, found := strings.Cut(after, "}")
		if !found {
			return nil, fmt.Errorf("%q: a brace is not closed", template)
		}
		if name != "body" && name != "timestamp" && name != "id" {
			return nil, fmt.Errorf("%q: {%s} is none of {body}, {timestamp}, {id}", template, name)
		}
		parts = append(parts, part{name: name})
		rest = after
	}
	return parts, nil
}

// signedBytes fills the template in. problem is not empty when a signed header
// is missing or stands there twice.
func (s *Source) signedBytes(d Delivery) (parts [][]byte, sentAt time.Time, problem check) {
	for _, p := range s.signed {
		var header string
		switch p.name {
		case "":
			parts = append(parts, p.text)
			continue
		case "body":
			parts = append(parts, d.Body)
			continue
		case "timestamp":
			header = s.cfg.TimestampHeader
		case "id":
			header = s.cfg.DeliveryIDHeader
		}
		value, n := d.header(header)
		switch {
		case value == "":
			return nil, sentAt, refuse(MissingSignature, "no header %s, which is signed", header)
		case n > 1:
			return nil, sentAt, refuse(MalformedSignature, "%d headers %s", n, header)
		}
		if p.name == "timestamp" {
			unit := time.Second
			if s.cfg.TimestampUnit == "ms" {
				unit = time.Millisecond
			}
			var err error
			if sentAt, err = parseTime(value, unit); err != nil {
				return nil, sentAt, refuse(MalformedSignature, "header %s: %v", header, err)
			}
		}
		parts = append(parts, []byte(value))
	}
	return parts, sentAt, check{}
}

func verifyHMAC(s *Source, d Delivery) check { return s.verifyMAC(d, s.cfg.Header) }

// verifyMAC checks the signature in the given header.
func (s *Source) verifyMAC(d Delivery, header string) check {
	value, n := d.header(header)
	switch {
	case value == "":
		return refuse(MissingSignature, "no header %s", header)
	case n > 1:
		return refuse(MalformedSignature, "%d headers %s", n, header)
	}
	text, ok := strings.CutPrefix(value, s.cfg.Prefix)
	if !ok {
		return refuse(MalformedSignature, "header %s does not begin with %q", header, s.cfg.Prefix)
	}
	parts, sentAt, problem := s.signedBytes(d)
	if problem.reason != "" {
		return problem
	}
	given, err := decodeMAC(s.cfg.Encoding, text)
	if err != nil {
		return refuse(BadSignature, "header %s is not %s", header, s.cfg.Encoding)
	}
	secret, ok := s.match([][]byte{given}, parts...)
	if !ok {
		return refuse(BadSignature, "made by none of our %d secrets over this body", len(s.keys))
	}
	return check{secret: secret, sentAt: sentAt}
}

func decodeMAC(encoding, text string) ([]byte, error) {
	if encoding == "base64" {
		return decodeBase64(text)
	}
	return hex.DecodeString(text)
}

func signHMAC(s *Source, d *Delivery, now time.Time) error {
	if h := s.cfg.TimestampHeader; h != "" {
		t := now.Unix()
		if s.cfg.TimestampUnit == "ms" {
			t = now.UnixMilli()
		}
		d.Header.Set(h, strconv.FormatInt(t, 10))
	}
	parts, _, problem := s.signedBytes(*d)
	if problem.reason != "" {
		return problem.err
	}
	mac := s.mac(s.keys[0], parts...)
	text := hex.EncodeToString(mac)
	if s.cfg.Encoding == "base64" {
		text = base64.StdEncoding.EncodeToString(mac)
	}
	d.Header.Set(s.cfg.Header, s.cfg.Prefix+text)
	return nil
}

// namedHMAC is scheme hmac with the settings of one CMS, under its name.
// Without the header of these settings, a signature in otherHeader counts too:
// one that the CMS wrote in the past, or will.
func namedHMAC(name string, fixed SourceConfig, otherHeader string) *scheme {
	sc := &scheme{
		name: name,
		uses: []string{"secret", "previous_secrets"},
		prepare: func(s *Source, complain complaints) {
			c := &s.cfg
			c.Header, c.Prefix, c.Hash, c.Encoding = fixed.Header, fixed.Prefix, fixed.Hash, fixed.Encoding
			c.SignedPayload, c.TimestampHeader, c.TimestampUnit = fixed.SignedPayload, fixed.TimestampHeader, fixed.TimestampUnit
			prepareHMAC(s, complain)
		},
		verify: func(s *Source, d Delivery) check {
			if given, _ := d.header(fixed.Header); given == "" && otherHeader != "" {
				if other, _ := d.header(otherHeader); other != "" {
					return s.verifyMAC(d, otherHeader)
				}
			}
			return s.verifyMAC(d, fixed.Header)
		},
		sign: signHMAC,
	}
	if fixed.TimestampHeader != "" {
		sc.uses = append(sc.uses, "tolerance")
	}
	return sc
}
