package read

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// lifetime is how long an answer may be kept.
type lifetime struct {
	ttl time.Duration // fresh for
	swr time.Duration // then served while it is fetched again, for
	sie time.Duration // or served when the origin fails, for
	age time.Duration // that it had already when it came

	told bool // ttl is the origin's, so the age counts
}

// left is how long it is still fresh.
func (l lifetime) left() time.Duration {
	if l.told {
		return max(0, l.ttl-l.age)
	}
	return l.ttl
}

// lifetimeOf returns what the route says, and where it says nothing, what the
// origin does. A max-age of zero is meant for browsers: purges tell us what
// is old. One for shared caches (CDN-Cache-Control, s-maxage) is meant for us.
func (rt *Route) lifetimeOf(h http.Header, now time.Time) lifetime {
	out := lifetime{ttl: rt.cfg.TTL, swr: rt.cfg.StaleWhileRevalidate, sie: rt.cfg.StaleIfError, age: ageOf(h)}
	if out.ttl > 0 {
		return out
	}
	said := controlOf(h)
	for _, name := range said.lifetimes() {
		if d, ok := said.seconds(name); ok && (d > 0 || name != "max-age" || said.targeted) {
			out.ttl = d
			if d == 0 {
				return lifetime{age: out.age} // not to be kept by us
			}
			break
		}
	}
	if out.ttl == 0 && !said.targeted && !said.says("max-age") {
		out.ttl = expiry(h, now)
	}
	if out.told = out.ttl > 0; !out.told {
		out.ttl = defaultTTL
	}
	if d, ok := said.seconds("stale-while-revalidate"); ok && out.swr == 0 {
		out.swr = d
	}
	if d, ok := said.seconds("stale-if-error"); ok && out.sie == 0 {
		out.sie = d
	}
	return out
}

// tellsFreshness reports whether h says anything of freshness.
func tellsFreshness(h http.Header) bool {
	return len(h["Cdn-Cache-Control"]) > 0 || len(h["Cache-Control"]) > 0 || len(h["Expires"]) > 0
}

// control is what the origin says of caching, to caches such as this one.
type control struct {
	directives []string
	targeted   bool // by CDN-Cache-Control, which then says all: RFC 9213
}

func controlOf(h http.Header) control {
	if targeted := splitLines(h["Cdn-Cache-Control"]); len(targeted) > 0 {
		return control{targeted, true}
	}
	return control{splitLines(h["Cache-Control"]), false}
}

// splitLines splits all lines of a list header.
func splitLines(lines []string) (out []string) {
	for _, line := range lines {
		out = append(out, splitList(line)...)
	}
	return out
}

func (c control) lifetimes() []string {
	if c.targeted {
		return []string{"max-age", "s-maxage"}
	}
	return []string{"s-maxage", "max-age"}
}

// says reports whether a directive is there, with a value or without.
func (c control) says(name string) bool {
	_, ok := c.value(name)
	return ok
}

func (c control) value(name string) (string, bool) {
	for _, d := range c.directives {
		n, v, _ := strings.Cut(d, "=")
		if strings.EqualFold(strings.Trim(n, " \t"), name) {
			return strings.Trim(v, " \t\""), true
		}
	}
	return "", false
}

// seconds returns the value of a directive, if it has one that can be read.
func (c control) seconds(name string) (time.Duration, bool) {
	v, _ := c.value(name)
	return seconds(v)
}

// seconds reads a whole number, at most longestTTL.
func seconds(s string) (time.Duration, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > int64(longestTTL/time.Second) {
		return longestTTL, true
	}
	return time.Duration(n) * time.Second, true
}

// expiry is how far Expires is ahead of Date, zero when it is not.
func expiry(h http.Header, now time.Time) time.Duration {
	until, err := http.ParseTime(h.Get("Expires"))
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(0, until.Sub(now)), longestTTL)
}

// ageOf is the time that an answer spent in caches before us.
func ageOf(h http.Header) time.Duration {
	age, _ := seconds(strings.Trim(h.Get("Age"), " \t"))
	return age
}
