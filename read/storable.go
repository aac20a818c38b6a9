package read

import (
	"net/http"
	"slices"
	"strings"
)

// notStorable returns why res belongs to one client alone, or must not be
// kept: a word for Cache-Status, or "" when it may be stored.
//
// The origin's no-cache does not count: purges say when an entry is not good
// any more.
func (c *compiled) notStorable(res response) string {
	switch res.status {
	case http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNotFound, http.StatusGone:
	default:
		return "status"
	}
	if res.redirected {
		// The final place has another name than the route's tags say, so an
		// edit there would not purge this entry.
		return "redirect"
	}
	if len(res.header["Set-Cookie"]) > 0 {
		return "set-cookie"
	}
	said := controlOf(res.header)
	for _, d := range []string{"private", "no-store"} {
		if said.says(d) {
			return d
		}
	}
	if c.varies(res.header) {
		return "vary"
	}
	return ""
}

// sentAlike are request headers that the origin never sees differ: we ask for
// one coding, and answer for other origins (CORS) ourselves.
var sentAlike = []string{"accept-encoding", "origin", "access-control-request-method", "access-control-request-headers"}

// varies reports whether the origin would have answered other clients of the
// same variant otherwise.
func (c *compiled) varies(h http.Header) bool {
	for _, line := range h["Vary"] {
		for _, field := range splitList(line) {
			keyed := slices.ContainsFunc(c.vary, func(v varyHeader) bool { return strings.EqualFold(v.name, field) })
			if !keyed && !slices.Contains(sentAlike, strings.ToLower(field)) {
				return true
			}
		}
	}
	return false
}

// splitList splits the value of a list header at commas outside of quotes,
// and drops empty members.
func splitList(s string) []string {
	var out []string
	quoted, escaped, from := false, false, 0
	add := func(member string) {
		if member = strings.TrimSpace(member); member != "" {
			out = append(out, member)
		}
	}
	for i := range len(s) {
		switch c := s[i]; {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			add(s[from:i])
			from = i + 1
		}
	}
	add(s[from:])
	return out
}

// passedOn are the origin's headers that clients get. Others are about the
// connection, about caching, which the route decides, or instructions to
// servers in between (X-Accel-Redirect), which are not the origin's to give.
var passedOn = []string{
	"Content-Disposition", "Content-Language", "Content-Security-Policy", "Content-Type", "Deprecation", "Last-Modified", "Link",
	"Permissions-Policy", "Referrer-Policy", "Sunset", "X-Frame-Options", "X-Robots-Tag", "X-Total-Count", "X-Wp-Total", "X-Wp-Totalpages",
}

const maxPassedOn = 16 << 10 // bytes of all header values together

// keptHeaders returns those headers of h that are passed on.
func keptHeaders(h http.Header) http.Header {
	out := make(http.Header, 4)
	size := 0
	for _, name := range passedOn {
		for _, v := range h[name] {
			if size += len(v); size <= maxPassedOn {
				out[name] = append(out[name], v)
			}
		}
	}
	return out
}
