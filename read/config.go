package read

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// RouteConfig is one entry of "routes" in freshwire.yaml. Durations and sizes
// that are zero take their default, save those that say otherwise.
type RouteConfig struct {
	Path string `yaml:"path" required:"true" example:"/api/posts/{id}" desc:"address that browsers ask for; {name} stands for one segment, {name:pattern} for what the pattern matches"`
	// Origin's host never comes from a request: names stand in its path or query only.
	Origin  string            `yaml:"origin" required:"true" example:"${CMS_URL}/posts/{id}" desc:"where the content comes from on a miss; {name} is a name of the path"`
	Headers map[string]string `yaml:"headers" secret:"true" desc:"headers sent to the origin with every request, such as Authorization"`
	Key     string            `yaml:"key" example:"post:{id}" desc:"name of the entry, as rules purge it; by default the path. With query, each query is an entry of its own, and a purge of the key voids them all"`
	Tags    []string          `yaml:"tags" example:"posts, post:{id}" desc:"names of what the content was made from; purging one voids the entry"`
	Query   []string          `yaml:"query" desc:"query parameters that make a difference; all others are dropped before the origin sees them"`

	TTL                  time.Duration `yaml:"ttl" default:"5m" desc:"how long an entry is fresh when nothing purges it"`
	StaleWhileRevalidate time.Duration `yaml:"stale_while_revalidate" default:"0s" desc:"how long after its ttl an entry is still served while a new one is fetched; never after a purge"`
	StaleIfError         time.Duration `yaml:"stale_if_error" default:"0s" desc:"how long after its ttl an entry is served when the origin fails; never after a purge"`
	NegativeTTL          time.Duration `yaml:"negative_ttl" default:"10s" desc:"how long a 404 of the origin is kept; 0 turns it off"`
	CacheControl         string        `yaml:"cache_control" default:"public, max-age=0, must-revalidate" desc:"Cache-Control of the answers; the default lets browsers keep a copy, but ask each time whether it is still good"`

	MaxBody int64         `yaml:"max_body" default:"8MiB" unit:"bytes" desc:"largest body taken from the origin"`
	Timeout time.Duration `yaml:"timeout" default:"10s" desc:"how long the origin may take for a whole answer"`

	Version   string     `yaml:"version" later:"announced versions" desc:"where the body tells its version, as a JSON path"`
	LearnTags *LearnTags `yaml:"learn_tags" later:"tags from the origin's answers" desc:"where the origin's answers tell their tags"`
}

// LearnTags says where an answer of the origin tells its tags.
type LearnTags struct {
	Headers []string `yaml:"headers" desc:"names of headers that list tags"`
	JSON    []string `yaml:"json" desc:"paths in the body, each with the tag it makes"`
}

const (
	defaultCacheControl = "public, max-age=0, must-revalidate"
	defaultTTL          = 5 * time.Minute
	defaultTimeout      = 10 * time.Second
	defaultMaxBody      = 8 << 20
	largestBody         = 64 << 20
	longestTTL          = 365 * 24 * time.Hour
	longestTimeout      = 2 * time.Minute
)

func (c RouteConfig) withDefaults() RouteConfig {
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.MaxBody == 0 {
		c.MaxBody = defaultMaxBody
	}
	if c.CacheControl == "" {
		c.CacheControl = defaultCacheControl
	}
	return c
}

// Mistake is one mistake in a RouteConfig.
type Mistake struct {
	Path string // of the key, from the route on, such as "tags[1]"
	Err  error
}

// YAMLPath tells where in the route the mistake is.
func (m *Mistake) YAMLPath() string { return m.Path }

func (m *Mistake) Error() string { return m.Path + ": " + m.Err.Error() }
func (m *Mistake) Unwrap() error { return m.Err }

// Validate returns all mistakes of c, joined; each is a *Mistake.
func (c RouteConfig) Validate() error {
	_, err := compile(c)
	return err
}

// compiled is a RouteConfig whose texts have been read.
type compiled struct {
	origin      template // up to the query
	originQuery template // from the "?" on; empty when there is none
	key         template // nil: path and query
	tags        []template
	query       []string
	headers     http.Header // sent to the origin
}

func compile(c RouteConfig) (*compiled, error) {
	var errs []error
	wrong := func(path string, err error) {
		if err != nil {
			errs = append(errs, &Mistake{path, err})
		}
	}
	out := &compiled{query: c.Query}

	names, err := pathNames(c.Path)
	wrong("path", err)
	if err == nil { // without its names, every template would look wrong
		out.origin, out.originQuery, err = parseOrigin(c.Origin, names)
		wrong("origin", err)
		if c.Key != "" {
			out.key, err = parseTemplate(c.Key, names)
			wrong("key", err)
			if err == nil {
				wrong("key", keyTellsApart(c, out))
			}
		}
		for i, tag := range c.Tags {
			t, err := parseTemplate(tag, names)
			if err == nil && tag == "" {
				err = errors.New("an empty tag")
			}
			wrong(fmt.Sprintf("tags[%d]", i), err)
			out.tags = append(out.tags, t)
		}
	}
	for i, q := range c.Query {
		at := fmt.Sprintf("query[%d]", i)
		switch {
		case q == "" || hasControl(q):
			wrong(at, fmt.Errorf("%q is not the name of a parameter", q))
		case slices.Contains(c.Query[:i], q):
			wrong(at, fmt.Errorf("%q stands there twice", q))
		case originSets(c.Origin, q):
			wrong(at, fmt.Errorf("%q is set by origin already", q))
		}
	}
	out.headers, err = originHeaders(c.Headers)
	wrong("headers", err)

	wrong("ttl", between(c.TTL, 0, longestTTL))
	wrong("stale_while_revalidate", between(c.StaleWhileRevalidate, 0, longestTTL))
	wrong("stale_if_error", between(c.StaleIfError, 0, longestTTL))
	wrong("negative_ttl", between(c.NegativeTTL, 0, longestTTL))
	wrong("timeout", between(c.Timeout, 0, longestTimeout))
	if c.MaxBody < 0 || c.MaxBody > largestBody {
		wrong("max_body", fmt.Errorf("%d bytes, want at most %d", c.MaxBody, largestBody))
	}
	if !isHeaderValue(c.CacheControl) {
		wrong("cache_control", fmt.Errorf("%q is not the value of a header", c.CacheControl))
	}
	if c.Version != "" {
		wrong("version", errLater)
	}
	if c.LearnTags != nil {
		wrong("learn_tags", errLater)
	}
	return out, errors.Join(errs...)
}

var errLater = errors.New("known, but this version does not do it yet")

// parseOrigin reads the URL of the origin, and refuses names where the host
// could be changed with them.
func parseOrigin(s string, names []string) (path, query template, err error) {
	if s == "" {
		return nil, nil, errors.New("missing: where does the content come from?")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != "http" && scheme != "https" {
		return nil, nil, errors.New("want a URL that begins with http:// or https://")
	}
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, "?")
	if strings.ContainsAny(host, "{}") {
		return nil, nil, errors.New("a name in the host would let a request choose whom to ask")
	}
	u, err := url.Parse(scheme + "://" + host)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return nil, nil, errors.New("the URL has no valid host")
	}
	if u.User != nil {
		return nil, nil, errors.New("a user or password in the URL: send it with headers: {Authorization: …}")
	}
	if strings.Contains(rest, "#") {
		return nil, nil, errors.New("a fragment (#) is never sent")
	}
	before, after, hasQuery := strings.Cut(s, "?")
	if path, err = parseTemplate(before, names); err != nil {
		return nil, nil, err
	}
	if hasQuery {
		if query, err = parseTemplate(after, names); err != nil {
			return nil, nil, err
		}
	}
	// With every name filled in, it must be a URL.
	try := path.fillEscaped(nil, func(string) string { return "x" })
	if _, err := http.NewRequest(http.MethodGet, try, nil); err != nil {
		return nil, nil, errors.New("not a valid URL")
	}
	return path, query, nil
}

// originSets reports whether the origin's URL has the parameter already.
func originSets(origin, name string) bool {
	_, query, _ := strings.Cut(origin, "?")
	values, _ := url.ParseQuery(query)
	return values.Has(name)
}

// keyTellsApart reports what makes the origin's answers differ, but not their
// key: two contents would fight for one entry.
func keyTellsApart(c RouteConfig, out *compiled) error {
	inKey := out.key.names()
	for _, n := range append(out.origin.names(), out.originQuery.names()...) {
		if !slices.Contains(inKey, n) {
			return fmt.Errorf("{%s} is in origin but not in the key: different content would have one name", n)
		}
	}
	return nil
}

// originHeaders checks the headers that the config sends along.
func originHeaders(headers map[string]string) (http.Header, error) {
	out := http.Header{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		value := headers[name]
		switch canonical := http.CanonicalHeaderKey(name); {
		case !isToken(name):
			errs = append(errs, fmt.Errorf("%q is not the name of a header", name))
		case !isHeaderValue(value):
			errs = append(errs, fmt.Errorf("the value of %s is not one of a header", name)) // maybe secret: not shown
		case slices.Contains(ownHeaders, canonical):
			errs = append(errs, fmt.Errorf("%s is set by freshwire", canonical))
		default:
			out.Set(canonical, value)
		}
	}
	return out, errors.Join(errs...)
}

// ownHeaders are the headers to the origin that a config cannot set.
var ownHeaders = []string{"Accept-Encoding", "Connection", "Content-Length", "Host", "If-Match", "If-Modified-Since",
	"If-None-Match", "If-Range", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "X-Request-Id"}

func between(d, low, high time.Duration) error {
	if d < low || d > high {
		return fmt.Errorf("%v, want between %v and %v", d, low, high)
	}
	return nil
}

// isToken reports whether s may be the name of a header or of a directive.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// isHeaderValue reports whether s may be the value of a header.
func isHeaderValue(s string) bool { return !hasControl(s) }

// hasControl reports whether s holds control characters.
func hasControl(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c == 0x7f {
			return true
		}
	}
	return false
}
