package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// ChannelConfig is one entry of "channels" in freshwire.yaml.
type ChannelConfig struct {
	Match    string `yaml:"match" required:"true" example:"user:{user}" desc:"name of the channel; {user} stands for the userId of the visitor's session, a * at the end of a wildcard for any text"`
	Session  bool   `yaml:"session" default:"false" desc:"only who has a session may listen; where match has {user}, only one whose userId stands there. A name that several entries match must satisfy all"`
	Wildcard bool   `yaml:"wildcard" default:"false" desc:"the name may be asked for as it stands, such as product:*, for all channels that begin so. None of them may need a session"`
}

// Channels says which channels are whose. A channel that no entry matches is public.
type Channels struct {
	private   []pattern
	wildcards []string
}

// pattern is the names that need a session.
type pattern struct {
	before, after string // of the user's id
	user          bool   // false: before is the whole name
}

// Mistake is one mistake in a list of ChannelConfig.
type Mistake struct {
	Path string // such as channels[1].match
	Err  error
}

func (m *Mistake) Error() string    { return m.Path + ": " + m.Err.Error() }
func (m *Mistake) Unwrap() error    { return m.Err }
func (m *Mistake) YAMLPath() string { return m.Path }

const (
	userName   = "{user}"
	maxChannel = 256 // bytes
)

// CompileChannels reads the entries, or returns all their mistakes, each a *Mistake.
func CompileChannels(list []ChannelConfig) (*Channels, error) {
	c := &Channels{}
	var errs []error
	wrong := func(i int, format string, args ...any) {
		errs = append(errs, &Mistake{fmt.Sprintf("channels[%d].match", i), fmt.Errorf(format, args...)})
	}
	places := map[string]int{} // of patterns and wildcards, by what they match
	var order []int            // of c.private
	for i, cfg := range list {
		if first, ok := places[cfg.Match]; ok {
			wrong(i, "channels[%d] matches %s already", first, cfg.Match)
			continue
		}
		places[cfg.Match] = i
		p, err := cfg.compile()
		switch {
		case err != nil:
			wrong(i, "%w", err)
		case cfg.Wildcard:
			c.wildcards = append(c.wildcards, p.before)
		default:
			for j, q := range c.private {
				if q.covers(p) || p.covers(q) {
					wrong(i, "it matches names that channels[%d] matches, too, for another user: nobody could have them; let it begin otherwise", order[j])
				}
			}
			c.private, order = append(c.private, p), append(order, i)
		}
	}
	for i, cfg := range list {
		if prefix, ok := strings.CutSuffix(cfg.Match, "*"); ok && slices.Contains(c.wildcards, prefix) {
			for j, p := range c.private {
				if p.meets(prefix) {
					wrong(i, "it covers channels that need a session, those of channels[%d]", order[j])
				}
			}
		}
	}
	return c, errors.Join(errs...)
}

// compile reads one entry.
func (c ChannelConfig) compile() (pattern, error) {
	name := c.Match
	if c.Wildcard {
		prefix, ok := strings.CutSuffix(name, "*")
		switch {
		case c.Session:
			return pattern{}, errors.New("a wildcard is for public channels; leave session out")
		case !ok || prefix == "":
			return pattern{}, errors.New("a wildcard is the beginning of a name and a *, such as product:*")
		}
		return pattern{before: prefix}, checkName(prefix)
	}
	if !c.Session {
		return pattern{}, errors.New("the entry says nothing: give session: true or wildcard: true")
	}
	before, after, user := strings.Cut(name, userName)
	switch {
	case strings.Contains(after, userName):
		return pattern{}, fmt.Errorf("%s stands there twice", userName)
	case user && before == "" && after == "":
		return pattern{}, fmt.Errorf("it would match every channel; put something before %s", userName)
	}
	return pattern{before, after, user}, checkName(before + after)
}

// checkName reports what no channel's name holds.
func checkName(s string) error {
	switch {
	case s == "":
		return errors.New("the name is missing")
	case len(s) > maxChannel:
		return fmt.Errorf("%d bytes, at most %d", len(s), maxChannel)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return errors.New("control characters or broken UTF-8")
	case strings.Contains(s, "*"):
		return errors.New("a * stands at the end of a wildcard alone")
	case strings.ContainsAny(s, "{}"):
		return fmt.Errorf("of names in braces there is %s alone", userName)
	}
	return nil
}

// matches reports whether p is about a channel.
func (p pattern) matches(name string) bool {
	if !p.user {
		return name == p.before
	}
	return len(name) >= len(p.before)+len(p.after) && strings.HasPrefix(name, p.before) && strings.HasSuffix(name, p.after)
}

// admits reports whether a user may listen to a channel that p is about. The
// whole name is compared: an id may hold anything, also what patterns hold.
func (p pattern) admits(name, userID string) bool {
	return userID != "" && (!p.user || name[len(p.before):len(name)-len(p.after)] == userID)
}

// covers reports whether p matches every name of q, but lets another user have it.
func (p pattern) covers(q pattern) bool {
	if !q.user {
		return p.user && p.matches(q.before)
	}
	return p.user && p != q && strings.HasPrefix(q.before, p.before) && strings.HasSuffix(q.after, p.after)
}

// meets reports whether p matches a name that begins with prefix.
func (p pattern) meets(prefix string) bool {
	return strings.HasPrefix(p.before, prefix) || p.user && strings.HasPrefix(prefix, p.before)
}

// Wildcards returns the beginnings that may be asked for with a star behind.
func (c *Channels) Wildcards() []string { return c.wildcards }

// HasPrivate reports whether some channel needs a session.
func (c *Channels) HasPrivate() bool { return len(c.private) > 0 }

// Private reports whether a channel needs a session.
func (c *Channels) Private(name string) bool {
	return slices.ContainsFunc(c.private, func(p pattern) bool { return p.matches(name) })
}

// Allows reports whether a user may listen to all of the names; "" is nobody.
// Every pattern that a name matches must agree.
func (c *Channels) Allows(userID string, names ...string) bool {
	for _, name := range names {
		for _, p := range c.private {
			if p.matches(name) && !p.admits(name, userID) {
				return false
			}
		}
	}
	return true
}
