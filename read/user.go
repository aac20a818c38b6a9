package read

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// userHeader tells an origin whose request it answers. It holds what the
// session says, never what the client sent.
const userHeader = "X-User-Id"

// errUser is answered with 503: nobody may be taken for nobody.
var errUser = errors.New("read: who asks is not known")

// answerUser answers a route whose origin must know who asks. Nothing of it is
// looked up in the cache, stored or shared, also not what nobody in particular
// was told: who signs in must not be shown it from a cache in between.
func (rt *Route) answerUser(w http.ResponseWriter, r *http.Request, p *place, position string) (verdict, reason string, err error) {
	user, err := rt.user(r, w.Header())
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", errUser, err)
	}
	j := &errand{rt: rt, place: p, requestID: requestIDOf(w)}
	return j.pass(w, r, question{user: user, authorization: strings.Join(r.Header["Authorization"], ", ")}, reasonUser, position)
}

// keeps names the keys of c that are about what is kept.
func (c RouteConfig) keeps() []string {
	var set []string
	for _, k := range []struct {
		name string
		is   bool
	}{
		{"key", c.Key != ""}, {"tags", len(c.Tags) > 0}, {"ttl", c.TTL != 0}, {"stale_while_revalidate", c.StaleWhileRevalidate != 0},
		{"stale_if_error", c.StaleIfError != 0}, {"cache_control", c.CacheControl != "" && c.CacheControl != defaultCacheControl},
		{"version", c.Version != ""}, {"learn_tags", c.LearnTags != nil}, {"emit_tags", len(c.EmitTags) > 0},
	} {
		if k.is {
			set = append(set, k.name)
		}
	}
	return set
}
