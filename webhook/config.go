package webhook

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SourceConfig is one entry of sources in freshwire.yaml. Which of the keys
// below scheme mean something depends on the scheme; one that means nothing
// there is refused, because its author believes that it protects something.
type SourceConfig struct {
	CMS    string `yaml:"cms" required:"true" example:"ghost" desc:"who sends: picks scheme, headers and field paths. One of generic, standardwebhooks, svix, ghost, contentful, sanity, hygraph, webflow, contentstack, kontent, storyblok, woocommerce, shopify, github, drupal, strapi, prismic, datocms, directus, umbraco, agility, buttercms, craft"`
	Scheme string `yaml:"scheme" enum:"hmac,token,basic,query-token,body-secret,standardwebhooks,ghost,contentful,sanity,hygraph,webflow,contentstack-hmac,contentstack-rsa-pss,kontent,storyblok,woocommerce,shopify,github,none" desc:"how the sender proves itself; picked by cms where the CMS has one of its own. none accepts anybody and must be written out"`

	Secret          string         `yaml:"secret" secret:"true" example:"${BLOG_SECRET}" desc:"what sender and we share; for basic without username: user:password"`
	PreviousSecrets []string       `yaml:"previous_secrets" secret:"true" dropempty:"true" desc:"secrets still accepted while the sender is moved to the new one"`
	Secrets         []SecretConfig `yaml:"secrets" desc:"secrets with a name and an end; any of them is accepted, beside secret or in its place"`
	Username        string         `yaml:"username" desc:"basic: the user, secret being the password"`
	Password        string         `yaml:"password" secret:"true" desc:"basic: another word for secret, beside username"`

	Header          string        `yaml:"header" desc:"header of the signature or token (hmac: X-Webhook-Signature, token: Authorization)"`
	HeaderPrefix    string        `yaml:"header_prefix" example:"svix" desc:"standardwebhooks: what the names of its three headers begin with (webhook)"`
	Prefix          string        `yaml:"prefix" example:"sha256=" desc:"what stands before the signature or token in the header (token without header: \"Bearer \")"`
	Hash            string        `yaml:"hash" enum:"sha1,sha256,sha512" desc:"hmac: the hash (sha256)"`
	Encoding        string        `yaml:"encoding" enum:"hex,base64" desc:"hmac: how the signature is written (hex)"`
	SignedPayload   string        `yaml:"signed_payload" example:"{timestamp}.{body}" desc:"hmac: what is signed, of {body}, {timestamp}, {id} and text ({body})"`
	TimestampHeader string        `yaml:"timestamp_header" desc:"hmac: header of the signed time (X-Webhook-Timestamp when signed_payload has {timestamp})"`
	TimestampUnit   string        `yaml:"timestamp_unit" enum:"s,ms" desc:"hmac: unit of the signed time (s)"`
	Tolerance       time.Duration `yaml:"tolerance" default:"5m" desc:"how far a signed time may be from our clock, both ways; at most 24h"`
	LegacyBodyOnly  bool          `yaml:"legacy_body_only" desc:"ghost: also accept Ghost before 5.87.1, which signs no time"`
	Param           string        `yaml:"param" desc:"query-token: the URL's parameter (token)"`
	Path            string        `yaml:"path" desc:"body-secret: where the body holds the secret (secret)"`

	MaxBody          int64         `yaml:"max_body" default:"1MiB" unit:"bytes" desc:"largest body accepted, at most 32MiB; larger ones are answered 413"`
	Allow            []string      `yaml:"allow" example:"192.0.2.0/24" desc:"addresses that may send, as CIDRs; others are answered 403, unread (all)"`
	Rate             Rate          `yaml:"rate" default:"1000/1s" desc:"verified deliveries that are taken in so long, the rest being answered 429; 0 is no limit"`
	Burst            int           `yaml:"burst" desc:"how many may come at once after a quiet time (five times the number of rate)"`
	DeliveryIDHeader string        `yaml:"delivery_id_header" example:"X-Delivery-Id" desc:"header whose value names the delivery; a repeat with the same value is a duplicate"`
	DedupeWindow     time.Duration `yaml:"dedupe_window" default:"10s" desc:"without delivery id and signed time: for how long the same bytes are called a duplicate; one that comes after its twin was begun is applied all the same; 1ms to 10m"`
	Keep             time.Duration `yaml:"keep" example:"24h" desc:"how long bodies are kept in Redis, so that an event can be replayed as it was; they may hold personal data; at most 7 days (0: not kept)"`
	Settle           time.Duration `yaml:"settle" example:"2s" desc:"for a CMS whose API may lag behind its webhooks, and that tells no version: what an event makes void is made void once more after so long, and only then is anybody told; at most 30s (0: the API is up to date)"`
	EventHeader      string        `yaml:"event_header" desc:"header of the event's name; short for event_from: header:NAME"`
	EventFrom        string        `yaml:"event_from" example:"query:event" desc:"where the event's name stands: query:NAME, header:NAME or body:PATH (generic: body:type, ghost: query:event)"`
	Paths            Paths         `yaml:"paths" desc:"where the body holds the parts of the event, if not where this CMS usually has them"`

	PublicKeyPEM string `yaml:"public_key_pem" example:"${CONTENTSTACK_KEY}" desc:"contentstack-rsa-pss: the public key in PEM, field signing-key of /.well-known/public-keys.json of your region; several after each other while it changes"`
	SignedPath   string `yaml:"signed_path" example:"/cms/contentful?site=blog" desc:"contentful: path and query of the URL as entered there, for a proxy in front that rewrites them (those that arrive here)"`
	AutoSave     bool   `yaml:"auto_save" desc:"contentful: act upon auto_save too, which it sends while somebody types (such deliveries are answered and ignored)"`
	ContentDir   string `yaml:"content_dir" example:"content" desc:"github: the folder of the content; files elsewhere are ignored (all files count)"`
	Branch       string `yaml:"branch" example:"main" desc:"github: the branch that is published; pushes to others are ignored (the repository's default branch)"`
}

// Paths says where a body holds the parts of an event: keys, apart by dots. A
// path that leads nowhere, and one left out, leave what the CMS's row found.
type Paths struct {
	Type         string `yaml:"type" example:"data.kind" desc:"content type (generic: what stands before the last dot of the event's name)"`
	ID           string `yaml:"id" example:"data.uuid" desc:"id of the entity (generic: data.id)"`
	Slug         string `yaml:"slug" example:"data.path" desc:"its slug (generic: data.slug)"`
	PreviousSlug string `yaml:"previous_slug" example:"data.previous_slug" desc:"its slug before the change"`
	Locale       string `yaml:"locale" example:"data.language" desc:"its language (generic: data.locale)"`
	Environment  string `yaml:"environment" desc:"environment or space of the CMS"`
	Version      string `yaml:"version" example:"data.updatedAt" desc:"its version, as the origin tells it too: number, time or hash. Nobody is told of it before the routes with a version show it, unless the event is about one locale: others share its tag"`
}

const (
	defaultTolerance    = 5 * time.Minute
	defaultDedupeWindow = 10 * time.Second
	defaultMaxBody      = 1 << 20

	maxTolerance    = 24 * time.Hour // delivery ids are remembered for longer
	maxDedupeWindow = 10 * time.Minute
	maxKeep         = 7 * 24 * time.Hour
	maxSettle       = 30 * time.Second // a worker's event has time for it
	maxBurst        = 1 << 20
	maxMaxBody      = 32 << 20 // bodies travel through the queue
	shortSecret     = 16       // bytes; shorter ones can be guessed
)

var defaultRate = Rate{1000, time.Second}

var sourceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// Mistake is one thing wrong with a source.
type Mistake struct {
	Path string // of the key in freshwire.yaml, such as sources.blog.secret
	Err  error
}

func (m *Mistake) Error() string    { return m.Path + ": " + m.Err.Error() }
func (m *Mistake) Unwrap() error    { return m.Err }
func (m *Mistake) YAMLPath() string { return m.Path }

// complaints collects what is wrong with a key.
type complaints func(key, format string, args ...any)

// NewSource checks cfg and returns the source. The error joins one Mistake for
// each thing that is wrong.
func NewSource(name string, cfg SourceConfig) (*Source, error) {
	var errs []error
	complain := func(key, format string, args ...any) {
		errs = append(errs, &Mistake{"sources." + name + "." + key, fmt.Errorf(format, args...)})
	}
	if !sourceName.MatchString(name) {
		return nil, &Mistake{"sources", fmt.Errorf("%q cannot be a source's name: use 1 to 64 letters, digits, '_', '-'", name)}
	}
	s := &Source{name: name, cfg: cfg}
	s.cfg.PreviousSecrets = slices.DeleteFunc(slices.Clone(cfg.PreviousSecrets), func(p string) bool { return p == "" })

	var err error
	if s.cms, err = findCMS(cfg.CMS); err != nil {
		complain("cms", "%w", err)
	} else {
		s.cfg.Scheme = cmp.Or(cfg.Scheme, s.cms.scheme)
	}
	s.prepareLimits(complain)
	s.prepareEvent(complain)

	// Without a CMS that we know, a missing scheme is not a mistake of its own.
	if s.cms != nil || cfg.Scheme != "" {
		if s.scheme, err = findScheme(s.cfg.Scheme); err != nil {
			complain("scheme", "%w", err)
		}
	}
	if s.scheme != nil {
		s.refuseIdleKeys(cfg, complain)
		if s.scheme.prepare != nil {
			s.scheme.prepare(s, complain)
		}
		s.prepareSecrets(complain)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

func (s *Source) prepareLimits(complain complaints) {
	c := &s.cfg
	c.Tolerance = cmp.Or(c.Tolerance, defaultTolerance)
	c.DedupeWindow = cmp.Or(c.DedupeWindow, defaultDedupeWindow)
	c.MaxBody = cmp.Or(c.MaxBody, defaultMaxBody)
	if c.Tolerance < 0 || c.Tolerance > maxTolerance {
		complain("tolerance", "%v is not between 0s and %v", c.Tolerance, maxTolerance)
	}
	if c.DedupeWindow < time.Millisecond || c.DedupeWindow > maxDedupeWindow {
		complain("dedupe_window", "%v is not between 1ms and %v", c.DedupeWindow, maxDedupeWindow)
	}
	if c.Keep < 0 || c.Keep > maxKeep {
		complain("keep", "%v is not between 0s and %v", c.Keep, maxKeep)
	}
	if c.Settle < 0 || c.Settle > maxSettle {
		complain("settle", "%v is not between 0s and %v", c.Settle, maxSettle)
	}
	if c.Rate == (Rate{}) {
		c.Rate = defaultRate
	}
	c.Burst = cmp.Or(c.Burst, 5*c.Rate.Count)
	if c.Burst < 0 && c.Rate != Unlimited || c.Burst > maxBurst {
		complain("burst", "%d is not between 1 and %d", c.Burst, maxBurst)
	}
	for i, cidr := range c.Allow {
		prefix, err := parseNetwork(cidr)
		if err != nil {
			complain(fmt.Sprintf("allow[%d]", i), "%q is neither an address nor a CIDR such as 192.0.2.0/24", cidr)
		}
		s.allow = append(s.allow, prefix)
	}
	if c.MaxBody < 0 || c.MaxBody > maxMaxBody {
		complain("max_body", "%d bytes is not between 1 and %d", c.MaxBody, maxMaxBody)
	}
}

func (s *Source) prepareEvent(complain complaints) {
	c := &s.cfg
	for _, h := range []struct{ key, name string }{
		{"header", c.Header}, {"timestamp_header", c.TimestampHeader},
		{"delivery_id_header", c.DeliveryIDHeader}, {"event_header", c.EventHeader},
	} {
		if h.name != "" && !isToken(h.name) {
			complain(h.key, "%q cannot be a header's name", h.name)
		}
	}
	if c.EventHeader != "" {
		if c.EventFrom != "" {
			complain("event_from", "stands beside event_header; write one of them")
		}
		c.EventFrom = "header:" + c.EventHeader
	}
	if place, name, _ := strings.Cut(c.EventFrom, ":"); c.EventFrom != "" &&
		(name == "" || !slices.Contains([]string{"query", "header", "body"}, place)) {
		complain("event_from", "%q is none of query:NAME, header:NAME, body:PATH", c.EventFrom)
	}
	if s.cms != nil && s.cms.defaults != nil {
		s.cms.defaults(c)
	}
}

// refuseIdleKeys complains about keys that the scheme does not look at.
func (s *Source) refuseIdleKeys(written SourceConfig, complain complaints) {
	var all []string
	for _, sc := range schemes {
		all = append(all, sc.uses...)
	}
	ofCMS := map[string]string{} // key → the CMS that it belongs to
	for _, c := range cmses {
		all = append(all, c.uses...)
		for _, key := range c.uses {
			ofCMS[key] = c.name
		}
	}
	uses := s.scheme.uses
	if s.cms != nil {
		uses = append(slices.Clone(uses), s.cms.uses...)
	}
	fields := reflect.ValueOf(written)
	for i := range fields.NumField() {
		key, value := fields.Type().Field(i).Tag.Get("yaml"), fields.Field(i)
		if !slices.Contains(all, key) || slices.Contains(uses, key) || value.IsZero() {
			continue
		}
		if key == "tolerance" && written.Tolerance == defaultTolerance {
			continue // the default, which the decoder of the file fills in
		}
		if key == "previous_secrets" && len(s.cfg.PreviousSecrets) == 0 {
			continue
		}
		if owner := ofCMS[key]; owner != "" {
			complain(key, "means nothing but with cms %s; remove it", owner)
			continue
		}
		complain(key, "means nothing with scheme %s; remove it", s.scheme.name)
	}
}

func (s *Source) warn(key, format string, args ...any) {
	s.warnings = append(s.warnings, "sources."+s.name+"."+key+": "+fmt.Sprintf(format, args...))
}
