package webhook

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/http"
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
