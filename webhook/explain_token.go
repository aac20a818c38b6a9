package webhook

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// secretMiscopied tries the ways in which a secret changes between two screens.
func (x *inquiry) secretMiscopied() string {
	for _, secret := range x.s.secrets() {
		for _, v := range miscopies(secret) {
			if len(v.key) > 0 && x.accepts(x.s.withKeys([]byte(x.userOf(v.key))), x.d) {
				return v.why
			}
		}
	}
	return ""
}

// secrets are the secrets as the configuration writes them.
func (s *Source) secrets() []string {
	all := append([]string{s.cfg.Secret}, s.cfg.PreviousSecrets...)
	for _, listed := range s.cfg.Secrets {
		all = append(all, listed.Secret)
	}
	return slices.DeleteFunc(all, func(text string) bool { return text == "" })
}

// userOf puts the user before a password.
func (x *inquiry) userOf(key string) string {
	if x.s.scheme == basicScheme && x.s.cfg.Username != "" {
		return x.s.cfg.Username + ":" + key
	}
	return key
}

type miscopy struct{ key, why string }

func miscopies(secret string) []miscopy {
	const here = " in the configuration"
	trimmed := strings.TrimSpace(secret)
	bare := strings.TrimPrefix(trimmed, "whsec_")
	list := []miscopy{
		{secret + "\n", "The sender's secret ends with a newline that ours lacks: it was copied with it. Enter it again at the sender."},
		{secret + "\r\n", "The sender's secret ends with a newline that ours lacks: it was copied with it. Enter it again at the sender."},
		{secret + " ", "The sender's secret ends with a blank that ours lacks. Enter it again at the sender."},
		{" " + secret, "The sender's secret begins with a blank that ours lacks. Enter it again at the sender."},
		{`"` + secret + `"`, "The sender's secret stands in quotes, which are taken for part of it. Enter it without them at the sender."},
		{html.EscapeString(secret), "The sender signs with the secret as HTML writes it (&amp; for &). Choose a secret of letters and digits."},
		{"whsec_" + secret, "The secret" + here + " lacks whsec_, which the sender takes for part of it. Write it with whsec_."},
	}
	if trimmed != secret {
		list = append(list, miscopy{trimmed, "The secret" + here + " begins or ends with white space that the sender's lacks. Remove it; a file's last newline counts, too."})
	}
	if unquoted := strings.Trim(trimmed, `"'`); unquoted != trimmed {
		list = append(list, miscopy{unquoted, "The secret" + here + " stands in quotes, which are taken for part of it. Remove them."})
	}
	if plain := html.UnescapeString(secret); plain != secret {
		list = append(list, miscopy{plain, "The secret" + here + " is written as HTML writes it (&amp; for &). Write the characters themselves."})
	}
	// Schemes that decode the secret, and senders that do not, and the other way round.
	list = append(list,
		miscopy{secret, "The sender signs with the text of the secret, and this scheme base64-decodes it first. Use scheme: hmac, or a sender that follows Standard Webhooks."},
		miscopy{bare, "The sender signs with the text of the secret after whsec_. Write it without whsec_ if the scheme allows, or use scheme: hmac."})
	if key, err := decodeBase64(bare); err == nil && len(key) >= 8 {
		list = append(list, miscopy{string(key), "The sender base64-decodes the secret, and this scheme takes it as text. Check which of its secrets was copied, and which scheme the sender uses."})
	}
	if key, err := hex.DecodeString(trimmed); err == nil && len(key) >= 8 {
		list = append(list, miscopy{string(key), "The sender reads the secret as hex, and this scheme takes it as text. Check which scheme the sender uses."})
	}
	return append(list, miscopy{base64.StdEncoding.EncodeToString([]byte(secret)), "The sender uses the secret base64-encoded. Enter the plain text at the sender, or the encoded one here."})
}

// found is a text of the request that may be a token.
type found struct{ where, text string }

// otherPlace looks for the token where the scheme does not.
func (x *inquiry) otherPlace() string {
	for _, f := range x.tokens() {
		d, ok := x.present(f.text)
		if !ok || !x.accepts(x.s, d) {
			continue
		}
		if strings.EqualFold(f.where, "header "+x.s.cfg.Header) && x.s.scheme == tokenScheme {
			value, _ := x.d.header(x.s.cfg.Header)
			before := strings.TrimSuffix(value, f.text)
			if len(before) > 16 {
				before = ""
			}
			return fmt.Sprintf("The token is right, but before it %s has %q where %q is expected. Change it at the sender, or set header: %s and prefix: %q.",
				f.where, before, x.s.cfg.Prefix, x.s.cfg.Header, before)
		}
		return fmt.Sprintf("The token is right, but it comes in %s, where scheme %s looks in %s. Change the scheme, or what the sender writes.", f.where, x.s.scheme.name, x.expected())
	}
	return ""
}

// tokens are all texts of the request that may be the token, with their places.
func (x *inquiry) tokens() (all []found) {
	add := func(where, text string) {
		if text = strings.TrimSpace(text); text != "" && len(text) <= 4096 && len(all) < 256 {
			all = append(all, found{where, text})
		}
	}
	for _, name := range x.d.headers() {
		value, _ := x.d.header(name)
		add("header "+name, value)
		add("header "+name, strings.Trim(value, `"'`))
		if kind, rest, ok := strings.Cut(value, " "); ok {
			add("header "+name, rest)
			if text, err := decodeBase64(strings.TrimSpace(rest)); err == nil && strings.EqualFold(kind, "Basic") {
				add("header "+name, string(text))
				_, password, _ := strings.Cut(string(text), ":")
				add("the password of header "+name, password)
			}
		}
		if plain, err := url.QueryUnescape(value); err == nil && plain != value {
			add("header "+name+", escaped as in a URL", plain)
		}
	}
	query := x.d.query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		add(fmt.Sprintf("the URL's parameter %q", clipped(name)), query.Get(name))
	}
	if body, err := parseObject(x.d.Body); err == nil {
		for _, key := range body.keys()[:min(len(body.keys()), 32)] {
			if v := body.child(key); v.isText() {
				add(fmt.Sprintf("the body's field %q", clipped(key)), v.string())
			}
		}
	}
	return all
}

// present is the delivery with token where the scheme wants it.
func (x *inquiry) present(token string) (Delivery, bool) {
	d := x.d
	switch x.s.scheme {
	case tokenScheme:
		return d.withHeader(x.s.cfg.Header, x.s.cfg.Prefix+token), true
	case basicScheme:
		return d.withHeader("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(token))), true
	case queryTokenScheme:
		d.Target, _, _ = strings.Cut(d.Target, "?")
		d.addQuery(x.s.cfg.Param, token)
		return d, true
	case bodySecretScheme:
		body, err := parseObject(d.Body)
		if err == nil {
			d.Body, err = body.with(x.s.cfg.Path, token)
		}
		return d, err == nil
	}
	return d, false
}

// expected is where the scheme looks for the token.
func (x *inquiry) expected() string {
	switch x.s.scheme {
	case tokenScheme:
		return "header " + x.s.cfg.Header
	case queryTokenScheme:
		return fmt.Sprintf("the URL's parameter %q", x.s.cfg.Param)
	case bodySecretScheme:
		return fmt.Sprintf("the body's field %q", x.s.cfg.Path)
	}
	return "header Authorization"
}

// nearToken compares the token that came with ours, without telling either.
func (x *inquiry) nearToken() string {
	for _, f := range x.tokens() {
		for _, key := range x.s.keys {
			ours := string(key)
			if user, password, ok := strings.Cut(ours, ":"); ok && x.s.scheme == basicScheme {
				givenUser, givenPassword, _ := strings.Cut(f.text, ":")
				switch {
				case givenUser == user && givenPassword != password && strings.Contains(f.text, ":"):
					return "The user is right, the password is not. Copy it again, on both sides."
				case givenPassword == password && givenUser != user:
					return "The password is right, the user is not. Set username: to the one at the sender."
				}
			}
			switch {
			case strings.EqualFold(f.text, ours):
				return "The token differs from ours in capital and small letters only. Copy it again, on both sides."
			case len(f.text) >= 8 && len(f.text) >= len(ours)/2 && strings.HasPrefix(ours, f.text):
				return fmt.Sprintf("The token in %s is the beginning of ours, cut off after %d characters. Enter it again at the sender.", f.where, len(f.text))
			case len(ours) >= 8 && strings.HasPrefix(f.text, ours):
				return fmt.Sprintf("The token in %s begins with ours and goes on. Enter it again, on both sides.", f.where)
			}
		}
	}
	return ""
}

func (x *inquiry) wrongToken() string {
	return "The request holds a token in " + x.expected() + ", and it is none of ours. Copy it again, on both sides; who else knows this URL?"
}
