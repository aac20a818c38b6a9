package webhook

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/internal/nearest"
)

// Explain tells a person why d was refused with res and what to do about it,
// in a few sentences; "" for a delivery that is valid. It tries: what a proxy
// may have made of the body, the secret copied with its newline, the secret of
// another source of ours (others), another header, path or encoding. What makes
// the delivery verify is what went wrong.
//
// It names no secret and no signature that would be right. It does work that a
// stranger must not be able to ask for: it is for terminals, not for handlers.
func (s *Source) Explain(d Delivery, now time.Time, res Result, others ...*Source) string {
	x := &inquiry{s: s, d: d, others: others}
	switch res.Reason {
	case "":
		return ""
	case StaleTimestamp, FutureTimestamp:
		return x.clock(now)
	case MalformedBody:
		return x.malformedBody()
	}
	if res.Ping {
		return "This is the unsigned test of the connection that is sent when the webhook is saved. It is answered 200, as the sender wants, and ignored; there is nothing to do."
	}
	if x.s.scheme.verify(x.s, d).reason == "" { // and yet refused
		return "The secret that made it is accepted no longer: " + res.Err.Error() + ". Give the sender the current one."
	}
	isToken := res.Reason == MissingToken || res.Reason == BadToken
	steps := []func() string{
		x.otherSource, x.otherCMS, x.secretMiscopied, x.otherHeader, x.otherEncoding, x.otherSettings,
		x.otherPath, x.otherTime, x.otherBytes, x.missing, x.wrong,
	}
	if isToken {
		steps = []func() string{
			x.otherSource, x.secretMiscopied, x.otherPlace, x.nearToken, x.otherCMS, x.missing, x.wrongToken,
		}
	}
	for _, step := range steps {
		if why := step(); why != "" {
			return why
		}
	}
	return ""
}

// inquiry is the search for what went wrong with one delivery.
type inquiry struct {
	s      *Source
	d      Delivery
	others []*Source
	spent  int // bytes read so far
}

// maxInquiry bounds the bytes that an inquiry reads, less than a second's work.
const maxInquiry = 32 << 20

// accepts reports whether s would take d.
func (x *inquiry) accepts(s *Source, d Delivery) bool {
	if x.spent += (len(d.Body) + 1024) * (len(s.keys) + 1); x.spent > maxInquiry {
		return false
	}
	return s.scheme.verify(s, d).reason == ""
}

// withKeys is s with other secrets.
func (s *Source) withKeys(keys ...[]byte) *Source {
	other := *s
	other.keys, other.accepted = keys, nil
	for range keys {
		other.accepted = append(other.accepted, new(secret))
	}
	return &other
}

// withHeader is d with one header set and nothing else of that name.
func (d Delivery) withHeader(name, value string) Delivery {
	d.Header = d.Header.Clone()
	if d.Header == nil {
		d.Header = http.Header{}
	}
	d.Header.Set(name, value)
	return d
}

// headers are the names of at most 64 headers, sorted.
func (d Delivery) headers() []string {
	names := slices.Sorted(maps.Keys(d.Header))
	return names[:min(len(names), 64)]
}

// clock explains a signed time that is too far from ours.
func (x *inquiry) clock(now time.Time) string {
	sentAt := x.s.scheme.verify(x.s, x.d).sentAt
	if near(now, time.UnixMilli(sentAt.Unix())) {
		return "The signed time is in milliseconds and was read as seconds. Is this really " + x.s.kind() + "? With scheme: hmac, set timestamp_unit: ms."
	}
	if near(now, time.Unix(sentAt.UnixMilli(), 0)) {
		return "The signed time is in seconds and was read as milliseconds. Is this really " + x.s.kind() + "? With scheme: hmac, set timestamp_unit: s."
	}
	off, direction := now.Sub(sentAt), "ago"
	if off < 0 {
		off, direction = -off, "ahead of our clock"
	}
	why := fmt.Sprintf("Signed %s %s; the tolerance is %s. ", forPeople(off), direction, forPeople(x.s.cfg.Tolerance))
	hours := off.Round(30 * time.Minute)
	switch {
	case hours > 0 && hours <= 14*time.Hour && (off-hours).Abs() < time.Minute:
		return why + "As this is about the difference of a time zone, the sender or this machine may take local time for UTC; else it was held up on its way, or is replayed."
	case direction != "ago":
		return why + "The clock of this machine or the sender's is off."
	case off > 24*time.Hour:
		return why + "It is an old delivery, sent again by hand or by somebody who recorded it; a captured request is judged by the time in its now_unix_ms."
	}
	return why + "The clock of this machine or the sender's is off, the delivery was held up on its way, or somebody replays it."
}

func near(a, b time.Time) bool { return a.Sub(b).Abs() < 365*24*time.Hour }

// forPeople writes seconds up to an hour, and beyond it what matters.
func forPeople(d time.Duration) string {
	switch {
	case d < time.Hour:
		return strconv.FormatInt(int64(d.Round(time.Second)/time.Second), 10) + " s"
	case d < 48*time.Hour:
		return strconv.FormatFloat(d.Hours(), 'f', 1, 64) + " hours"
	}
	return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + " days"
}

// malformedBody explains a body that is verified and not understood.
func (x *inquiry) malformedBody() string {
	body := bytes.TrimSpace(x.d.Body)
	kind, _ := x.d.header("Content-Type")
	switch {
	case len(body) == 0:
		return "The body is empty: the sender is set to send no payload, or something in front read it and handed on nothing."
	case bytes.HasPrefix(body, []byte{0x1f, 0x8b}):
		return "The body is compressed with gzip; let the sender or the proxy in front send it plain."
	case bytes.HasPrefix(body, []byte("\ufeff")):
		return "The body begins with a byte order mark, which JSON may not have; the sender has to leave it out."
	case bytes.IndexByte(body, 0) >= 0:
		return "The body holds zero bytes, as UTF-16 does; the sender has to write UTF-8."
	case strings.Contains(kind, "x-www-form-urlencoded"):
		return "The body is a form; set the content type to application/json at the sender."
	case body[0] == '[':
		return "The body is a list; " + x.s.kind() + " sends one object. Is the payload changed by a template at the sender?"
	case body[0] == '<':
		return "The body is HTML or XML, not JSON; set the format to JSON at the sender."
	case body[0] == '{' && body[len(body)-1] != '}':
		return fmt.Sprintf("The body breaks off after %d bytes: something on the way cut it, or the capture is not whole.", len(x.d.Body))
	}
	return "The sender knows the secret, but its body is not what " + x.s.kind() + " sends. Is the payload changed by a template at the sender, or is this another CMS?"
}

// kind is what a person calls the sender.
func (s *Source) kind() string { return factsOf(s.cms.name).Title }

// otherSource looks for the secrets of our other sources.
func (x *inquiry) otherSource() string {
	for _, o := range x.others {
		if o == x.s || o.name == x.s.name || len(o.keys) == 0 {
			continue
		}
		switch {
		case x.accepts(o, x.d):
			return fmt.Sprintf("This is a delivery for source %q, which accepts it: its webhook posts to the URL of source %q.", o.name, x.s.name)
		case len(x.s.keys) > 0 && x.accepts(x.s.withKeys(o.keys...), x.d):
			return fmt.Sprintf("This is the secret of source %q. The sender has the wrong secret, or posts to the wrong URL.", o.name)
		}
	}
	return ""
}

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
				return fmt.Sprintf("The sender signed the path %q, and the request arrived at %q: a proxy in front rewrites it.%s", path1(t), path1(x.d.Target), set)
			}
		}
	}
	return ""
}

// path1 bounds what an explanation repeats of a request.
func path1(s string) string {
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

// otherBytes tries what the body may have been before something re-encoded it.
func (x *inquiry) otherBytes() string {
	for form := range originals(x.d.Body) {
		d := x.d
		if d.Body = form.body; x.accepts(x.s, d) {
			return form.why
		}
		if x.spent > maxInquiry {
			break
		}
	}
	return ""
}

// otherCMS looks for the headers of another sender than the source's.
func (x *inquiry) otherCMS() string {
	own := factsOf(x.s.cms.name)
	if x.s.cms == genericCMS && x.d.Header.Get(x.s.cfg.Header) != "" {
		return "" // set up for such a sender on purpose
	}
	if slices.ContainsFunc(own.Headers, func(h string) bool { return x.d.Header.Get(h) != "" }) {
		return ""
	}
	for _, f := range Known() {
		for _, h := range f.Headers {
			if f.CMS == own.CMS || x.d.Header.Get(h) == "" {
				continue
			}
			why := fmt.Sprintf("The headers are those of %s (%s), and the source says cms: %s. Set cms: %s, or post to another source.", f.Title, h, own.CMS, f.CMS)
			if other, err := NewSource(x.s.name, SourceConfig{CMS: f.CMS, Secret: x.s.cfg.Secret}); err == nil && x.accepts(other, x.d) {
				why += " With that, the signature is right."
			}
			return why
		}
	}
	return ""
}

// missing explains a request that holds no proof at all.
func (x *inquiry) missing() string {
	reason := x.s.scheme.verify(x.s, x.d).reason
	if reason != MissingSignature && reason != MissingToken {
		return ""
	}
	var why string
	if want := x.s.cfg.Header; want != "" && x.d.Header.Get(want) == "" {
		if near := nearest.Word(want, x.d.headers()); near != "" {
			return fmt.Sprintf("There is no header %s, but one called %s: a mistake in writing, here or at the sender.", want, near)
		}
	}
	if x.s.scheme.name == x.s.cms.scheme {
		why = factsOf(x.s.cms.name).Unsigned
	}
	if reason == MissingToken {
		return cmp.Or(why, "The request holds no token. Enter the same one at the sender as here; a proxy in front may also drop it.")
	}
	return cmp.Or(why, "The request is not signed. Enter the secret at the sender; a proxy in front may also drop the header.")
}

func (x *inquiry) wrong() string {
	if len(x.d.Body) == 0 {
		return "The body is empty, and the signature is not one of an empty body: something read it before, or the capture is not whole."
	}
	if x.s.scheme.verify(x.s, x.d).reason == MalformedSignature {
		return "The header is not of the form that " + x.s.kind() + " writes. Did something on the way cut or change it, or is this another sender?"
	}
	if header := x.s.cfg.Header; header != "" && x.s.newHash != nil {
		value, _ := x.d.header(header)
		mac, err := decodeMAC(x.s.cfg.Encoding, strings.TrimPrefix(value, x.s.cfg.Prefix))
		if size := x.s.newHash().Size(); err == nil && len(mac) != size {
			return fmt.Sprintf("The signature in header %s has %d bytes, and one of this hash has %d: it was cut off, or made with another hash and secret.", header, len(mac), size)
		}
	}
	return "It was tried with the secret copied inexactly, with the secrets of the other sources, and over the body as it would be before a usual re-encoding; nothing fits. " +
		"Either the sender has another secret, or the body was changed. Copy the secret again, on both sides."
}
