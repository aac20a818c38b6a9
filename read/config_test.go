package read

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestRouteSaysAllItsMistakesAtOnce(t *testing.T) {
	good := RouteConfig{Path: "/api/posts/{id}", Origin: "http://cms.local/posts/{id}"}
	with := func(change func(*RouteConfig)) RouteConfig {
		c := good
		change(&c)
		return c
	}
	for name, tc := range map[string]struct {
		cfg  RouteConfig
		want []string // path: part of the message
	}{
		"good": {good, nil},
		"good with all": {with(func(c *RouteConfig) {
			c.Key, c.Tags = "post:{id}", []string{"posts", "post:{id}"}
			c.Origin, c.Headers = "https://cms.local:8443/posts?id={id}&v=1", map[string]string{"authorization": "Bearer x"}
		}), nil},
		"a pattern with braces":        {with(func(c *RouteConfig) { c.Path = "/api/posts/{id:[0-9]{1,9}}" }), nil},
		"a rest with slashes":          {RouteConfig{Path: "/c/{rest:.*}", Origin: "http://cms.local/{rest}"}, nil},
		"nothing":                      {RouteConfig{}, []string{"path: does not begin with a slash"}},
		"no origin":                    {RouteConfig{Path: "/a"}, []string{"origin: missing"}},
		"name in host":                 {with(func(c *RouteConfig) { c.Origin = "http://{id}.cms.local/" }), []string{"origin: let a request choose"}},
		"name as host":                 {with(func(c *RouteConfig) { c.Origin = "http://{id}/x" }), []string{"origin: let a request choose"}},
		"name as port":                 {with(func(c *RouteConfig) { c.Origin = "http://cms:{id}/x" }), []string{"origin: let a request choose"}},
		"name before the path":         {with(func(c *RouteConfig) { c.Origin = "http://cms.local{id}" }), []string{"origin: let a request choose"}},
		"name in the user":             {with(func(c *RouteConfig) { c.Origin = "http://cms.local@{id}/x" }), []string{"origin: let a request choose"}},
		"whole origin":                 {with(func(c *RouteConfig) { c.Origin = "{id}" }), []string{"origin: begins with http"}},
		"file":                         {with(func(c *RouteConfig) { c.Origin = "file:///etc/passwd" }), []string{"origin: begins with http"}},
		"no host":                      {with(func(c *RouteConfig) { c.Origin = "http:///posts" }), []string{"origin: no valid host"}},
		"password in origin":           {with(func(c *RouteConfig) { c.Origin = "http://me:secret@cms.local/" }), []string{"origin: headers"}},
		"fragment":                     {with(func(c *RouteConfig) { c.Origin = "http://cms.local/#a" }), []string{"origin: fragment"}},
		"control in origin":            {with(func(c *RouteConfig) { c.Origin = "http://cms.local/a\nb" }), []string{"origin: not a valid URL"}},
		"misspelt name":                {with(func(c *RouteConfig) { c.Key = "post:{idd}" }), []string{"key: did you mean {id}"}},
		"an expression":                {with(func(c *RouteConfig) { c.Tags = []string{"posts", "{payload.data.id}"} }), []string{"tags[1]: not a name of the path"}},
		"brace not closed":             {with(func(c *RouteConfig) { c.Key = "post:{id" }), []string{"key: not closed"}},
		"brace not opened":             {with(func(c *RouteConfig) { c.Key = "post:id}" }), []string{"key: without an opening"}},
		"key that tells nothing apart": {with(func(c *RouteConfig) { c.Key = "post" }), []string{"key: {id} is in origin but not in the key"}},
		"query twice":                  {with(func(c *RouteConfig) { c.Query = []string{"a", "a"} }), []string{"query[1]: twice"}},
		"query that origin sets":       {with(func(c *RouteConfig) { c.Origin += "?token=1"; c.Query = []string{"token"} }), []string{"query[0]: set by origin"}},
		"name twice":                   {with(func(c *RouteConfig) { c.Path = "/{id}/{id}" }), []string{"path: twice"}},
		"bad pattern":                  {with(func(c *RouteConfig) { c.Path = "/{id:[}" }), []string{"path: missing closing"}},
		"capturing group":              {with(func(c *RouteConfig) { c.Path = "/{id:(a|b)}" }), []string{"path: capturing groups"}},
		"odd name":                     {with(func(c *RouteConfig) { c.Path = "/{a-b}" }), []string{"path: letters, digits"}},
		"header of ours":               {with(func(c *RouteConfig) { c.Headers = map[string]string{"accept-encoding": "br"} }), []string{"headers: Accept-Encoding is set by freshwire"}},
		"header with a newline":        {with(func(c *RouteConfig) { c.Headers = map[string]string{"X-A": "a\r\nb"} }), []string{"headers: the value of X-A"}},
		"cache_control with a newline": {with(func(c *RouteConfig) { c.CacheControl = "a\nb" }), []string{"cache_control: not the value"}},
		"numbers": {with(func(c *RouteConfig) {
			c.TTL, c.StaleIfError, c.StaleWhileRevalidate, c.NegativeTTL, c.Timeout, c.MaxBody = -1, -1, -1, -1, time.Hour, -1
		}), []string{"ttl: want between", "stale_while_revalidate: want", "stale_if_error: want", "negative_ttl: want", "timeout: want", "max_body: want"}},
	} {
		err := tc.cfg.Validate()
		got := mistakes(err)
		if len(got) != len(tc.want) {
			t.Errorf("%s: Validate() = %v, want %d mistakes", name, err, len(tc.want))
			continue
		}
		for i, want := range tc.want {
			path, text, _ := strings.Cut(want, ": ")
			if got[i].YAMLPath() != path || !strings.Contains(got[i].Error(), text) {
				t.Errorf("%s: mistake %d = %v, want %s at %s", name, i, got[i], text, path)
			}
		}
	}
}

// mistakes unfolds a joined error.
func mistakes(err error) []*Mistake {
	var out []*Mistake
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			var m *Mistake
			if errors.As(e, &m) {
				out = append(out, m)
			}
		}
	}
	return out
}

func TestMistakeNeverShowsASecret(t *testing.T) {
	err := RouteConfig{Path: "/a", Origin: "http://me:hunter2@cms.local/", Headers: map[string]string{"Authorization": "Bearer hunter2\n"}}.Validate()
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Validate() = %v, want errors without the secret", err)
	}
}

func TestOnlyExactCORSOriginsAreTaken(t *testing.T) {
	for origin, ok := range map[string]bool{
		"https://example.com": true, "http://localhost:3000": true,
		"*": false, "null": false, "https://example.com/": false, "https://*.example.com:x": false, "example.com": false, "https://Example.com": false, "": false, "https://a@example.com": false,
	} {
		if err := (Config{CORSOrigins: []string{origin}}).Validate(); (err == nil) != ok {
			t.Errorf("CORS origin %q: Validate() = %v, want ok = %v", origin, err, ok)
		}
	}
}
