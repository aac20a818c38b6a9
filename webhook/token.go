package webhook

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// The schemes of this file send the secret itself: whoever reads one request
// can send any other. Only for senders that cannot sign, over TLS.

// A header holds the secret, as it is or after a prefix.
var tokenScheme = &scheme{
	name: "token",
	uses: []string{"secret", "previous_secrets", "header", "prefix"},
	prepare: func(s *Source, _ complaints) {
		if s.cfg.Header == "" {
			s.cfg.Header, s.cfg.Prefix = "Authorization", cmp.Or(s.cfg.Prefix, "Bearer ")
		}
	},
	verify: func(s *Source, d Delivery) check {
		value, n := d.header(s.cfg.Header)
		prefix := s.cfg.Prefix
		switch {
		case value == "", value == strings.TrimSpace(prefix):
			return refuse(MissingToken, "no token in header %s", s.cfg.Header)
		case n > 1:
			return refuse(BadToken, "%d headers %s", n, s.cfg.Header)
		case len(value) < len(prefix) || !strings.EqualFold(value[:len(prefix)], prefix):
			return refuse(BadToken, "header %s does not begin with %q", s.cfg.Header, prefix)
		}
		return s.matchToken(strings.TrimSpace(value[len(prefix):]))
	},
	sign: func(s *Source, d *Delivery, _ time.Time) error {
		d.Header.Set(s.cfg.Header, s.cfg.Prefix+string(s.keys[0]))
		return nil
	},
}

// Authorization: Basic holds user and password.
var basicScheme = &scheme{
	name: "basic",
	uses: []string{"secret", "previous_secrets", "username", "password"},
	prepare: func(s *Source, complain complaints) {
		c := &s.cfg
		switch {
		case c.Username == "" && c.Password != "":
			complain("username", "missing beside password")
		case c.Username != "" && c.Password != "" && c.Secret != "":
			complain("secret", "stands beside password; write one of them")
		case strings.Contains(c.Username, ":"):
			complain("username", "holds a colon, which basic authentication cannot carry")
		}
		c.Secret = cmp.Or(c.Secret, c.Password)
	},
	key: func(s *Source, secret string) ([]byte, error) {
		if s.cfg.Username != "" {
			return []byte(s.cfg.Username + ":" + secret), nil
		}
		if _, password, ok := strings.Cut(secret, ":"); !ok || password == "" {
			return nil, errors.New("is not user:password; or give username and password")
		}
		return []byte(secret), nil
	},
	verify: func(s *Source, d Delivery) check {
		value, n := d.header("Authorization")
		kind, text, _ := strings.Cut(value, " ")
		switch {
		case value == "":
			return refuse(MissingToken, "no header Authorization")
		case n > 1:
			return refuse(BadToken, "%d headers Authorization", n)
		case !strings.EqualFold(kind, "Basic"):
			return refuse(BadToken, "header Authorization does not begin with Basic")
		}
		given, err := decodeBase64(strings.TrimSpace(text))
		if err != nil {
			return refuse(BadToken, "header Authorization is not base64 after Basic")
		}
		return s.matchToken(string(given))
	},
	sign: func(s *Source, d *Delivery, _ time.Time) error {
		d.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString(s.keys[0]))
		return nil
	},
}

// A parameter of the URL holds the secret.
var queryTokenScheme = &scheme{
	name: "query-token",
	uses: []string{"secret", "previous_secrets", "param"},
	prepare: func(s *Source, _ complaints) {
		s.cfg.Param = cmp.Or(s.cfg.Param, "token")
	},
	verify: func(s *Source, d Delivery) check {
		values := d.query()[s.cfg.Param]
		switch {
		case len(values) == 0 || values[0] == "":
			return refuse(MissingToken, "no parameter %q in the URL", s.cfg.Param)
		case len(values) > 1:
			return refuse(BadToken, "%d parameters %q in the URL", len(values), s.cfg.Param)
		}
		return s.matchToken(values[0])
	},
	sign: func(s *Source, d *Delivery, _ time.Time) error {
		d.addQuery(s.cfg.Param, string(s.keys[0]))
		return nil
	},
}

// A field of the body holds the secret. The body is parsed before the sender
// is known, within the limits of parseObject; what is no object holds no secret.
var bodySecretScheme = &scheme{
	name: "body-secret",
	uses: []string{"secret", "previous_secrets", "path"},
	prepare: func(s *Source, complain complaints) {
		s.cfg.Path = cmp.Or(s.cfg.Path, "secret")
		if strings.Contains("."+s.cfg.Path+".", "..") {
			complain("path", "%q has an empty step", s.cfg.Path)
		}
	},
	verify: func(s *Source, d Delivery) check {
		body, err := parseObject(d.Body)
		if err != nil {
			return refuse(MissingToken, "%w, so it holds no secret", err)
		}
		switch v := body.at(s.cfg.Path); {
		case !v.exists():
			return refuse(MissingToken, "no field %q in the body", s.cfg.Path)
		case !v.isText():
			return refuse(BadToken, "field %q of the body is not text", s.cfg.Path)
		case v.string() == "":
			return refuse(MissingToken, "field %q of the body is empty", s.cfg.Path)
		default:
			return s.matchToken(v.string())
		}
	},
	sign: func(s *Source, d *Delivery, _ time.Time) error {
		body, err := parseObject(d.Body)
		if err != nil {
			return err
		}
		if d.Body, err = body.with(s.cfg.Path, string(s.keys[0])); err == nil {
			d.Header.Set("Content-Type", "application/json")
		}
		return err
	},
	redact: func(s *Source, body value) json.RawMessage {
		text, err := body.with(s.cfg.Path, "[redacted]")
		if err != nil { // the path led to the secret a moment ago
			return json.RawMessage("{}")
		}
		return text
	},
}

// Anybody may send. NewSource lets it pass only when it is written out.
var noneScheme = &scheme{
	name:   "none",
	verify: func(*Source, Delivery) check { return check{secret: -1} },
	sign:   func(*Source, *Delivery, time.Time) error { return nil },
}

// matchToken compares digests, so that neither the length nor the beginning
// of a secret shows in the time it takes.
func (s *Source) matchToken(given string) check {
	got := sha256.Sum256([]byte(given))
	found := -1
	for i := len(s.keys) - 1; i >= 0; i-- {
		want := sha256.Sum256(s.keys[i])
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return refuse(BadToken, "is none of our %d secrets", len(s.keys))
	}
	return check{secret: found}
}

// with returns v as JSON with text at path; objects on the way are made where
// nothing stands.
func (v value) with(path, text string) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(v.raw))
	dec.UseNumber()
	var tree map[string]any
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	whole, err := put(tree, strings.Split(path, "."), text)
	if err != nil {
		return nil, err
	}
	return json.Marshal(whole)
}

func put(in any, steps []string, text string) (any, error) {
	if len(steps) == 0 {
		return text, nil
	}
	var err error
	switch in := in.(type) {
	case nil:
		return put(map[string]any{}, steps, text)
	case map[string]any:
		in[steps[0]], err = put(in[steps[0]], steps[1:], text)
		return in, err
	case []any:
		if i, bad := strconv.Atoi(steps[0]); bad == nil && i >= 0 && i < len(in) {
			in[i], err = put(in[i], steps[1:], text)
			return in, err
		}
	}
	return nil, errors.New("the path of the secret leads through something that is not an object")
}
