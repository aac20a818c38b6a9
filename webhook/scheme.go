package webhook

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/internal/nearest"
)

// scheme is one way to prove a secret.
type scheme struct {
	name string
	uses []string // keys of SourceConfig that mean something here, beyond those of every source

	// prepare fills in what the source leaves out and complains about the rest.
	prepare func(s *Source, complain complaints)

	// key makes a secret of the configuration ready for use; nil: its bytes.
	key func(s *Source, secret string) ([]byte, error)

	verify func(s *Source, d Delivery) check

	// sign adds to d what proves the current secret.
	sign func(s *Source, d *Delivery, now time.Time) error

	// redact returns body without the secret; nil when bodies hold none.
	redact func(s *Source, body value) json.RawMessage
}

// schemes are all ways to prove a secret. Adding one: its row and its name here.
var schemes = []*scheme{
	hmacScheme,
	tokenScheme,
	basicScheme,
	queryTokenScheme,
	bodySecretScheme,
	standardWebhooksScheme,
	ghostScheme,
	contentfulScheme,
	sanityScheme,
	hygraphScheme,
	webflowScheme,
	contentstackScheme,
	contentstackRSAScheme,
	kontentScheme,
	storyblokScheme,
	wooCommerceScheme,
	shopifyScheme,
	githubScheme,
	noneScheme,
}

func findScheme(name string) (*scheme, error) {
	var names []string
	for _, sc := range schemes {
		if sc.name == name {
			return sc, nil
		}
		names = append(names, sc.name)
	}
	known := strings.Join(names, ", ")
	if name == "" {
		return nil, fmt.Errorf("missing: say how the sender proves itself, one of %s (none accepts anybody)", known)
	}
	if near := nearest.Word(name, names); near != "" {
		return nil, fmt.Errorf("unknown scheme %q (did you mean %q?)", name, near)
	}
	return nil, fmt.Errorf("unknown scheme %q; one of %s", name, known)
}

// check is what a scheme found. An empty reason means that the sender knows a secret.
type check struct {
	reason Reason
	err    error
	secret int       // index of the secret that matched
	sentAt time.Time // zero when the scheme signs no time
}

func refuse(r Reason, format string, args ...any) check {
	return check{reason: r, err: fmt.Errorf(format, args...)}
}

// parseTime reads a Unix time in the given unit: digits only.
func parseTime(text string, unit time.Duration) (time.Time, error) {
	if text == "" || len(text) > 16 || strings.Trim(text, "0123456789") != "" {
		return time.Time{}, errors.New("not a Unix time")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, errors.New("not a Unix time")
	}
	if unit == time.Millisecond {
		return time.UnixMilli(n), nil
	}
	return time.Unix(n, 0), nil
}

// decodeBase64 accepts both alphabets, padded or not.
func decodeBase64(text string) ([]byte, error) {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	return base64.RawStdEncoding.DecodeString(text)
}

// isToken reports whether name can be a header's name (RFC 9110, token).
func isToken(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && !('0' <= c && c <= '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}
