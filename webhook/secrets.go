package webhook

import (
	"bytes"
	"crypto/hmac"
	"fmt"
	"hash"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// SecretConfig is a secret with a name and an end, one entry of secrets.
type SecretConfig struct {
	Label   string `yaml:"label" required:"true" example:"2026-11" desc:"its name in logs and metrics; never the secret itself"`
	Secret  string `yaml:"secret" secret:"true" example:"${BLOG_SECRET_2026_11}" desc:"the secret; an empty one is left out, with a warning"`
	Expires Expiry `yaml:"expires" example:"2026-12-31" desc:"the last day (UTC) on which it is accepted, or a time such as 2026-12-31T18:00:00Z; a warning is logged from 14 days before (never)"`
}

// Expiry is the end of a secret: a day, which counts to its end in UTC, or a
// time. The zero Expiry never comes.
type Expiry struct {
	text string
	end  time.Time // the first moment after it
}

// UnmarshalText reads 2026-12-31 and RFC 3339.
func (e *Expiry) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*e = Expiry{}
		return nil
	}
	day, err := time.Parse(time.DateOnly, string(text))
	end := day.AddDate(0, 0, 1)
	if err != nil {
		if end, err = time.Parse(time.RFC3339, string(text)); err != nil {
			return fmt.Errorf("%q is neither a day such as 2026-12-31 nor a time such as 2026-12-31T18:00:00Z", text)
		}
	}
	*e = Expiry{string(text), end}
	return nil
}

func (e Expiry) String() string { return e.text }

// over reports whether e has come.
func (e Expiry) over(now time.Time) bool { return !e.end.IsZero() && !now.Before(e.end) }

// secret is what a source knows of the key of the same index.
type secret struct {
	label   string // secret, previous_secrets[0], or as the configuration names it
	expires Expiry
	key     []byte
	macs    sync.Pool // of *keyed, by key
}

// keyed is an HMAC that has taken its key in. Taking it in costs as much as
// hashing 256 bytes.
type keyed struct {
	hash.Hash
	sum  [64]byte
	pool *sync.Pool // where it goes after use; nil: nowhere
}

// maxSecrets bounds each list of secrets: each one costs an HMAC a delivery.
const maxSecrets = 8

var secretLabel = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// prepareSecrets makes keys of all secrets that the source accepts. Those that
// are accepted for longer come first, and of several that match, the first
// counts; so a delivery is refused as made with an expired secret only when no
// other made it. The very first one signs.
func (s *Source) prepareSecrets(complain complaints) {
	c := &s.cfg
	if s.scheme == noneScheme {
		s.warn("scheme", "none accepts deliveries of anybody who finds the URL")
	}
	if !slices.Contains(s.scheme.uses, "secret") {
		if len(c.Secrets) > 0 {
			complain("secrets", "means nothing with scheme %s; remove it", s.scheme.name)
		}
		return
	}
	given := func(listed SecretConfig) bool { return listed.Secret != "" }
	if c.Secret == "" && !slices.ContainsFunc(c.Secrets, given) {
		complain("secret", "is empty; without a secret nothing can be verified (scheme: none accepts anybody)")
	}
	if len(c.PreviousSecrets) > maxSecrets {
		complain("previous_secrets", "holds %d, at most %d", len(c.PreviousSecrets), maxSecrets)
	}
	if len(c.Secrets) > maxSecrets {
		complain("secrets", "holds %d, at most %d", len(c.Secrets), maxSecrets)
	}
	type entry struct {
		at, label, secret string
		expires           Expiry
	}
	all := []entry{{at: "secret", label: "secret", secret: c.Secret}}
	for i, text := range c.PreviousSecrets {
		at := fmt.Sprintf("previous_secrets[%d]", i)
		all = append(all, entry{at: at, label: at, secret: text})
	}
	labels := []string{"secret"}
	for i, listed := range c.Secrets {
		at := fmt.Sprintf("secrets[%d]", i)
		switch {
		case !secretLabel.MatchString(listed.Label):
			complain(at+".label", "%q is not 1 to 64 letters, digits, '.', '_', '-'", listed.Label)
		case slices.Contains(labels, listed.Label):
			complain(at+".label", "%q names another secret already", listed.Label)
		}
		labels = append(labels, listed.Label)
		if listed.Secret == "" {
			s.warn(at, "%s is empty, and left out", listed.Label)
		}
		all = append(all, entry{at + ".secret", listed.Label, listed.Secret, listed.Expires})
	}
	slices.SortStableFunc(all, func(a, b entry) int {
		switch {
		case a.expires.end.IsZero() && b.expires.end.IsZero():
			return 0
		case a.expires.end.IsZero():
			return -1
		case b.expires.end.IsZero():
			return 1
		}
		return b.expires.end.Compare(a.expires.end)
	})
	for _, a := range all {
		if a.secret == "" {
			continue
		}
		key := []byte(a.secret)
		if s.scheme.key != nil {
			var err error
			if key, err = s.scheme.key(s, a.secret); err != nil {
				complain(a.at, "%w", err)
				continue
			}
		}
		s.keys = append(s.keys, key)
		s.accepted = append(s.accepted, &secret{label: a.label, expires: a.expires, key: key})
		if len(key) < shortSecret {
			s.warn(a.at, "has %d bytes; take at least %d random ones", len(key), shortSecret)
		}
		if strings.TrimSpace(a.secret) != a.secret {
			s.warn(a.at, "begins or ends with white space, which becomes part of it")
		}
	}
}

// label returns what logs and metrics call the secret of an index; empty for none.
func (s *Source) label(secret int) string {
	if secret < 0 || secret >= len(s.accepted) {
		return ""
	}
	return s.accepted[secret].label
}

// expired says so when the secret that made a delivery is accepted no longer.
func (s *Source) expired(secret int, now time.Time) (Reason, error) {
	if secret < 0 || secret >= len(s.accepted) || !s.accepted[secret].expires.over(now) {
		return "", nil
	}
	reason := BadSignature
	if s.newHash == nil {
		reason = BadToken
	}
	return reason, fmt.Errorf("made by the secret %s, which expired on %s", s.label(secret), s.accepted[secret].expires)
}

// expiryNotice is how long before its end a secret is warned of.
const expiryNotice = 14 * 24 * time.Hour

// ExpiryWarnings tells of secrets that end soon or have ended, as Warnings
// tells of what is weak at any time.
func (s *Source) ExpiryWarnings(now time.Time) []string {
	var warnings []string
	left := false
	for _, secret := range s.accepted {
		at := "sources." + s.name + ".secrets: " + secret.label
		switch e := secret.expires; {
		case e.over(now):
			warnings = append(warnings, fmt.Sprintf("%s expired on %s and is refused; remove it", at, e))
			continue
		case e.over(now.Add(expiryNotice)):
			warnings = append(warnings, fmt.Sprintf("%s expires on %s; give the sender the next one in time", at, e))
		}
		left = true
	}
	if !left && len(s.accepted) > 0 {
		warnings = append(warnings, "sources."+s.name+".secrets: all have expired; every delivery is refused")
	}
	return warnings
}

// mac returns the HMAC of the parts, one after the other.
func (s *Source) mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(s.newHash, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// match returns the first secret whose MAC of the parts is among given. It
// compares every secret with every signature, each in constant time, so that
// its duration tells nothing but their number.
func (s *Source) match(given [][]byte, parts ...[]byte) (secret int, ok bool) {
	for i := len(s.keys) - 1; i >= 0; i-- {
		h := s.keyed(i)
		for _, p := range parts {
			h.Write(p)
		}
		want := h.Sum(h.sum[:0])
		for _, g := range given {
			if hmac.Equal(want, g) {
				secret, ok = i, true
			}
		}
		if h.pool != nil {
			h.Reset()
			h.pool.Put(h)
		}
	}
	return secret, ok
}

// keyed returns an HMAC of a key, a used one when the source keeps some.
func (s *Source) keyed(i int) *keyed {
	key := s.keys[i]
	if i >= len(s.accepted) || !bytes.Equal(s.accepted[i].key, key) { // a source that tries keys of others
		return &keyed{Hash: hmac.New(s.newHash, key)}
	}
	pool := &s.accepted[i].macs
	if h, ok := pool.Get().(*keyed); ok {
		return h
	}
	return &keyed{Hash: hmac.New(s.newHash, key), pool: pool}
}
