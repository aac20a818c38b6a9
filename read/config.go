package read

import (
	"fmt"
	"strings"
	"time"
)

// RouteConfig is one entry of "routes" in freshwire.yaml. Durations and sizes
// that are zero take their default, save those that say otherwise.
type RouteConfig struct {
	Path string `yaml:"path" required:"true" example:"/api/posts/{id}" desc:"address that browsers ask for; {name} stands for one segment, {name:pattern} for what the pattern matches"`
	// Origin's host never comes from a request: names stand in its path or query only.
	Origin  string              `yaml:"origin" required:"true" example:"${CMS_URL}/posts/{id}" desc:"where the content comes from on a miss; {name} is a name of the path"`
	Headers map[string]string   `yaml:"headers" secret:"true" desc:"headers sent to the origin with every request, such as Authorization"`
	Key     string              `yaml:"key" example:"post:{id}" desc:"name of the entry, as rules purge it; by default the path. With query, each query is an entry of its own, and a purge of the key voids them all"`
	Tags    []string            `yaml:"tags" example:"posts, post:{id}" desc:"names of what the content was made from; purging one voids the entry"`
	Query   []string            `yaml:"query" desc:"query parameters that make a difference; all others are dropped before the origin sees them"`
	Vary    map[string][]string `yaml:"vary" desc:"request headers that make a difference, each with the values that do, such as Accept-Language: [en, de]. The first stands for all others; the origin is sent one of them. Accept-Language takes the nearest, others the same but for case. At most 32 combinations"`

	TTL                  time.Duration `yaml:"ttl" desc:"how long an entry is fresh when nothing purges it; by default as long as the origin says (max-age of CDN-Cache-Control, else s-maxage, max-age or Expires, where that is above zero), else 5m"`
	StaleWhileRevalidate time.Duration `yaml:"stale_while_revalidate" desc:"how long after its ttl an entry is still served while a new one is fetched; never after a purge. By default what the origin says beside its lifetime, else not at all"`
	StaleIfError         time.Duration `yaml:"stale_if_error" desc:"how long after its ttl an entry is served when the origin fails; never after a purge. By default what the origin says beside its lifetime, else not at all"`
	NegativeTTL          time.Duration `yaml:"negative_ttl" default:"10s" desc:"how long a 404 of the origin is kept; 0 turns it off"`
	CacheControl         string        `yaml:"cache_control" default:"public, max-age=0, must-revalidate" desc:"Cache-Control of the answers; the default lets browsers keep a copy, but ask each time whether it is still good"`

	MaxBody int64         `yaml:"max_body" default:"8MiB" unit:"bytes" desc:"largest body taken from the origin"`
	Timeout time.Duration `yaml:"timeout" default:"10s" desc:"how long the origin may take for a whole answer"`

	Version   string     `yaml:"version" example:"data.updatedAt" desc:"where the body tells its version, as a path in its JSON; items[*].updatedAt tells one for each item. An answer that is older than what a webhook announced is not kept, and the origin asked again"`
	VersionOf string     `yaml:"version_of" example:"post:{id}" desc:"tag that the version speaks for: {name} is a name of the path, and {} makes it a tag of learn_tags, such as post:{}. By default the learnt tag that is made from the id beside the version, else the key where it is a tag, too, else the tag with the last name of the path"`
	CacheBust string     `yaml:"cache_bust" example:"_v" desc:"query parameter that the origin ignores; with a random value it makes the caches in front of the origin look again, when their answer was too old"`
	LearnTags *LearnTags `yaml:"learn_tags" desc:"where the origin's answers tell their tags; in addition to tags"`
	User      bool       `yaml:"user" default:"false" desc:"the origin's answers depend on who asks: it is sent the userId of the visitor's session as X-User-Id, and nothing is kept or shared. A visitor's own X-User-Id is never sent on"`
	EmitTags  []string   `yaml:"emit_tags" example:"Surrogate-Key, Cache-Tag" desc:"headers that tell an entry's tags to the next cache; only sent to peers of FRESHWIRE_TRUSTED_PROXIES, cut at 16 KB"`
}

// LearnTags says where an answer of the origin tells its tags.
type LearnTags struct {
	Headers []string `yaml:"headers" example:"Surrogate-Key, Cache-Tag" desc:"names of headers that list tags"`
	JSON    []string `yaml:"json" example:"items[*].author.id → author:{}" desc:"paths in the body, each with the tag that its values make; -> is an arrow, too"`
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

// Warnings returns what is allowed in c, but does not keep content fresh in
// all cases.
func (c RouteConfig) Warnings() []string {
	var out []string
	if c.LearnTags != nil && len(c.Tags) == 0 {
		out = append(out, fmt.Sprintf("route %s: its tags are only learnt: what enters a list later has no tag there yet, so its event does not void the list; give it one of tags, too", c.Path))
	}
	return out
}

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

// isParameter reports whether s may be the name of a query parameter.
func isParameter(s string) bool { return s != "" && !hasControl(s) }

// hasControl reports whether s holds control characters.
func hasControl(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c == 0x7f {
			return true
		}
	}
	return false
}
