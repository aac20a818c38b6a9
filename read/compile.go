package read

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gorilla/mux"
)

// compiled is a RouteConfig whose texts have been read.
type compiled struct {
	path        *mux.Route // makes addresses
	names       []string   // of the path
	origin      template   // up to the query
	originQuery template   // from the "?" on; empty when there is none
	key         template   // nil: path and query
	tags        []template
	query       []string
	headers     http.Header // sent to the origin
	vary        []varyHeader
	learn       learner
	version     *versionRule // nil: answers tell none
	emit        []tagHeader

	oneKey bool // see faults.variantsShared
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
		out.names, out.path = names, mux.NewRouter().Path(c.Path)
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
		case !isParameter(q):
			wrong(at, fmt.Errorf("%q is not the name of a parameter", q))
		case slices.Contains(c.Query[:i], q):
			wrong(at, fmt.Errorf("%q stands there twice", q))
		case originSets(c.Origin, q):
			wrong(at, fmt.Errorf("%q is set by origin already", q))
		}
	}
	out.headers, err = originHeaders(c.Headers)
	wrong("headers", err)
	out.vary, err = parseVary(c.Vary, out.headers)
	wrong("vary", err)
	if c.LearnTags != nil {
		out.learn.headers = parseLearntHeaders(c.LearnTags.Headers, wrong)
		out.learn.values = parseLearntValues(c.LearnTags.JSON, wrong)
	}
	out.emit = parseEmitted(c.EmitTags, wrong)
	switch {
	case c.Version != "" && out.path != nil:
		out.version = parseVersion(c, out, wrong)
	case c.Version == "" && c.VersionOf != "":
		wrong("version_of", errors.New("of which version? The route has none"))
	}
	switch {
	case c.CacheBust == "":
	case !isParameter(c.CacheBust):
		wrong("cache_bust", fmt.Errorf("%q is not the name of a parameter", c.CacheBust))
	case slices.Contains(c.Query, c.CacheBust) || originSets(c.Origin, c.CacheBust):
		wrong("cache_bust", fmt.Errorf("%q has a meaning already", c.CacheBust))
	}

	if c.User {
		for _, key := range c.keeps() {
			wrong(key, errors.New("nothing is kept of a route with user: true"))
		}
	}
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
	out.learn.plant(out.version)
	return out, errors.Join(errs...)
}

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

// ownHeaders are the headers to the origin that a config cannot set, nor let a
// client choose.
var ownHeaders = []string{"Accept-Encoding", "Connection", "Content-Length", "Host", "If-Match", "If-Modified-Since",
	"If-None-Match", "If-Range", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "X-Request-Id", userHeader}

// originHost is whom the origin's address leads to.
func (c *compiled) originHost() string {
	_, rest, _ := strings.Cut(c.origin[0].literal, "://")
	host, _, _ := strings.Cut(rest, "/")
	return strings.ToLower(host)
}
