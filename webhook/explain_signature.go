package webhook

import (
	"cmp"
	"crypto/hmac"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// otherHeader looks for the signature under another name.
func (x *inquiry) otherHeader() string {
	want := x.s.cfg.Header
	if want == "" {
		return ""
	}
	for _, name := range x.d.headers() {
		value, _ := x.d.header(name)
		for _, v := range []string{value, x.s.cfg.Prefix + value} {
			if !strings.EqualFold(name, want) && x.accepts(x.s, x.d.withHeader(want, v)) {
				why := fmt.Sprintf("The signature is right, but it comes in header %s, where header %s is expected.", name, want)
				if slices.Contains(x.s.scheme.uses, "header") {
					why += " Set header: " + name + "."
				}
				return why
			}
		}
	}
	return ""
}

var (
	hexMAC    = regexp.MustCompile(`\b[0-9a-fA-F]{40,128}\b`)
	base64MAC = regexp.MustCompile(`[A-Za-z0-9+/_-]{27,86}={0,2}`)
)

// otherEncoding tries each signature in hex as base64 and the other way round.
func (x *inquiry) otherEncoding() string {
	for _, name := range x.d.headers() {
		value, _ := x.d.header(name)
		if at := hexMAC.FindStringIndex(value); at != nil {
			mac, _ := hex.DecodeString(value[at[0]:at[1]])
			if x.accepts(x.s, x.d.withHeader(name, value[:at[0]]+base64.StdEncoding.EncodeToString(mac)+value[at[1]:])) {
				return fmt.Sprintf("The signature is right, but header %s has it in hex where base64 is expected.%s", name, x.hint(" Set encoding: hex."))
			}
		}
		if at := base64MAC.FindStringIndex(value); at != nil {
			mac, err := decodeBase64(value[at[0]:at[1]])
			if err == nil && x.accepts(x.s, x.d.withHeader(name, value[:at[0]]+hex.EncodeToString(mac)+value[at[1]:])) {
				return fmt.Sprintf("The signature is right, but header %s has it in base64 where hex is expected.%s", name, x.hint(" Set encoding: base64."))
			}
		}
	}
	return ""
}

// hint is text for sources whose settings say how a signature is made.
func (x *inquiry) hint(text string) string {
	if x.s.scheme == hmacScheme {
		return text
	}
	return " Something between the sender and us writes it anew."
}

// otherSettings tries what else an HMAC may be made of.
func (x *inquiry) otherSettings() string {
	if x.s.scheme == ghostScheme && !x.s.cfg.LegacyBodyOnly {
		old := *x.s
		old.cfg.LegacyBodyOnly = true
		if x.accepts(&old, x.d) {
			return "The body alone is signed, without the time, as Ghost did before 5.87.1. Update Ghost, or set legacy_body_only: true."
		}
	}
	if x.s.scheme != hmacScheme {
		return x.bodyAlone()
	}
	value, _ := x.d.header(x.s.cfg.Header)
	prefixes := []string{x.s.cfg.Prefix}
	for _, p := range []string{"", "sha1=", "sha256=", "sha512=", "v1=", "v1,", "v0="} {
		if p != x.s.cfg.Prefix && strings.HasPrefix(value, p) {
			prefixes = append(prefixes, p)
		}
	}
	for _, prefix := range prefixes {
		for _, hash := range []string{"sha256", "sha1", "sha512"} {
			for _, encoding := range []string{"hex", "base64"} {
				for _, template := range x.templates() {
					if why := x.try(prefix, hash, encoding, template); why != "" {
						return why
					}
				}
			}
		}
	}
	return ""
}

// templates are what senders commonly sign, as far as the source has the headers for it.
func (x *inquiry) templates() []string {
	all := []string{x.s.cfg.SignedPayload}
	if x.s.cfg.SignedPayload != "{body}" {
		all = append(all, "{body}")
	}
	if x.s.cfg.TimestampHeader != "" || x.timeHeader() != "" {
		all = append(all, "{timestamp}.{body}", "{timestamp}:{body}", "{timestamp}{body}", "{body}{timestamp}", "v0:{timestamp}:{body}")
		if x.s.cfg.DeliveryIDHeader != "" {
			all = append(all, "{id}.{timestamp}.{body}")
		}
	}
	return all
}

// timeHeader is a header that holds a Unix time.
func (x *inquiry) timeHeader() string {
	for _, name := range x.d.headers() {
		value, _ := x.d.header(name)
		if _, err := parseTime(value, time.Second); err == nil && (len(value) == 10 || len(value) == 13) {
			return name
		}
	}
	return ""
}

func (x *inquiry) try(prefix, hash, encoding, template string) string {
	c := x.s.cfg
	signed, err := parseTemplate(template)
	if err != nil {
		return ""
	}
	other := x.s.withKeys(x.s.keys...) // which has no HMACs of the other hash at hand
	other.cfg.Prefix, other.cfg.Encoding, other.newHash, other.signed = prefix, encoding, hashes[hash], signed
	other.cfg.TimestampHeader = cmp.Or(c.TimestampHeader, x.timeHeader())
	if !x.accepts(other, x.d) {
		return ""
	}
	var settings []string
	for _, set := range []struct{ key, ours, theirs string }{
		{"prefix", c.Prefix, prefix}, {"hash", c.Hash, hash}, {"encoding", c.Encoding, encoding}, {"signed_payload", c.SignedPayload, template},
	} {
		if set.ours != set.theirs {
			settings = append(settings, fmt.Sprintf("%s: %q", set.key, set.theirs))
		}
	}
	if strings.Contains(template, "{timestamp}") && c.TimestampHeader == "" {
		settings = append(settings, "timestamp_header: "+other.cfg.TimestampHeader)
	}
	return "The secret is right, but the signature is made differently. Set " + strings.Join(settings, ", ") + "."
}

// bodyAlone looks for an HMAC of nothing but the body in any header.
func (x *inquiry) bodyAlone() string {
	if x.s.newHash == nil {
		return ""
	}
	for _, name := range x.d.headers() {
		value, _ := x.d.header(name)
		var given [][]byte
		for _, text := range hexMAC.FindAllString(value, 8) {
			mac, _ := hex.DecodeString(text)
			given = append(given, mac)
		}
		for _, text := range base64MAC.FindAllString(value, 8) {
			if mac, err := decodeBase64(text); err == nil {
				given = append(given, mac)
			}
		}
		x.spent += len(given) * len(x.s.keys) * len(x.d.Body)
		for _, key := range x.s.keys {
			want := x.s.mac(key, x.d.Body)
			if x.spent < maxInquiry && slices.ContainsFunc(given, func(mac []byte) bool { return hmac.Equal(mac, want) }) {
				return fmt.Sprintf("The secret is right, but header %s signs the body alone, and not what %s signs besides it. Is this really %s?", name, x.s.kind(), x.s.kind())
			}
		}
	}
	return ""
}

// otherPath tries the paths that a proxy may have rewritten.
func (x *inquiry) otherPath() string {
	const set = " Set signed_path to the path and query of the URL as it stands at the sender."
	if x.s.cfg.SignedPath != "" {
		other := *x.s
		other.cfg.SignedPath = ""
		if x.accepts(&other, x.d) {
			return "The path is signed as it arrives here: remove signed_path."
		}
		return ""
	}
	path, query, hasQuery := strings.Cut(x.d.Target, "?")
	targets := []string{path, path + "/", strings.TrimSuffix(path, "/"), "/webhooks/" + x.s.name, "/api/webhooks/cms", "/"}
	for rest := strings.TrimPrefix(path, "/"); len(targets) < 16; {
		_, after, found := strings.Cut(rest, "/")
		if !found {
			break
		}
		targets, rest = append(targets, "/"+after), after
	}
	for _, name := range []string{"X-Original-Uri", "X-Original-Url", "X-Rewrite-Url", "X-Forwarded-Uri", "X-Envoy-Original-Path"} {
		if value, _ := x.d.header(name); strings.HasPrefix(value, "/") {
			targets = append([]string{value}, targets...)
		}
	}
	if prefix, _ := x.d.header("X-Forwarded-Prefix"); prefix != "" {
		targets = append(targets, strings.TrimSuffix(prefix, "/")+path)
	}
	for _, target := range targets {
		candidates := []string{target}
		if hasQuery && !strings.Contains(target, "?") {
			candidates = append(candidates, target+"?"+query)
		}
		for _, t := range candidates {
			d := x.d
			if d.Target = t; t != x.d.Target && x.accepts(x.s, d) {
				return fmt.Sprintf("The sender signed the path %q, and the request arrived at %q: a proxy in front rewrites it.%s", clipped(t), clipped(x.d.Target), set)
			}
		}
	}
	return ""
}

// clipped bounds what an explanation repeats of a request.
func clipped(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

var unixTime = regexp.MustCompile(`\b\d{10}(\d{3})?\b`)

// otherTime tries each time in the other unit.
func (x *inquiry) otherTime() string {
	for _, name := range x.d.headers() {
		value, _ := x.d.header(name)
		at := unixTime.FindStringIndex(value)
		if at == nil {
			continue
		}
		t := value[at[0]:at[1]]
		other, has, signed := t+"000", "seconds", "milliseconds"
		if len(t) == 13 {
			other, has, signed = t[:10], "milliseconds", "seconds"
		}
		if x.accepts(x.s, x.d.withHeader(name, value[:at[0]]+other+value[at[1]:])) {
			return fmt.Sprintf("The time in header %s was changed on the way: it has %s where the sender signed %s.", name, has, signed)
		}
	}
	return ""
}
