package session

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func compiled(t testing.TB, list ...ChannelConfig) *Channels {
	t.Helper()
	c, err := CompileChannels(list)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func private(match string) ChannelConfig  { return ChannelConfig{Match: match, Session: true} }
func wildcard(match string) ChannelConfig { return ChannelConfig{Match: match, Wildcard: true} }

type listening struct {
	user, channel string
	private, want bool
}

func own(user, channel string) listening      { return listening{user, channel, true, true} }
func foreign(user, channel string) listening  { return listening{user, channel, true, false} }
func everyone(user, channel string) listening { return listening{user, channel, false, true} }

var listenings = []listening{
	own("42", "user:42"),
	own("42", "cart:42:items"),
	own("42", "members"),
	own("user:42", "user:user:42"),
	own("{user}", "user:{user}"),
	own("*", "user:*"),
	own("a:items", "user:a:items"),
	own("é", "user:é"),
	foreign("42", "user:421"),
	foreign("421", "user:42"),
	foreign("4", "user:42"),
	foreign("42", "user:"),
	foreign("42", "user:42 "),
	foreign("42", "user:042"),
	foreign("a", "user:A"),
	foreign("{user}", "user:42"),
	foreign("*", "user:42"),
	foreign("e\u0301", "user:é"), // the same to the eye
	foreign("", "user:"),
	foreign("", "user:42"),
	foreign("", "members"),
	foreign("42", "cart:4:items"),
	foreign("42:items", "cart:42:items"),
	foreign("", "cart::items"),
	everyone("", "posts"),
	everyone("", "user"),
	everyone("42", "User:42"),
	everyone("", "cart:items"), // too short to have a user between
	everyone("", "members:1"),
	everyone("", "product:*"),
}

func TestWhoMayListen(t *testing.T) {
	c := compiled(t, private("user:{user}"), private("cart:{user}:items"), private("members"), wildcard("product:*"))
	for _, l := range listenings {
		if got := c.Private(l.channel); got != l.private {
			t.Errorf("Private(%q) = %v, want %v", l.channel, got, l.private)
		}
		if got := c.Allows(l.user, l.channel); got != l.want {
			t.Errorf("Allows(%q, %q) = %v, want %v", l.user, l.channel, got, l.want)
		}
		if got := c.Allows(l.user, "posts", l.channel, "product:*"); got != l.want {
			t.Errorf("Allows(%q, %q among public ones) = %v, want %v", l.user, l.channel, got, l.want)
		}
	}
	if got := fmt.Sprint(c.Wildcards()); got != "[product:]" {
		t.Errorf("Wildcards() = %v", got)
	}
}

// Ways to get it wrong: the table must tell each from what is right.
func TestTheTableCatchesBrokenRules(t *testing.T) {
	for name, allows := range map[string]func(user, channel string) bool{
		"the beginning is enough":     func(user, channel string) bool { return user != "" && strings.HasPrefix(channel, "user:"+user) },
		"user data makes the pattern": func(user, channel string) bool { return globs("user:"+user, channel) },
		"ids are parts of names":      func(user, channel string) bool { return user != "" && strings.Contains(channel, user) },
		"case does not matter":        func(user, channel string) bool { return user != "" && strings.EqualFold("user:"+user, channel) },
		"nobody has an id, too":       func(user, channel string) bool { return "user:"+user == channel },
		"a session is enough":         func(user, _ string) bool { return user != "" },
	} {
		caught := false
		for _, l := range listenings {
			if strings.HasPrefix(l.channel, "user:") && allows(l.user, l.channel) != l.want {
				caught = true
			}
		}
		if !caught {
			t.Errorf("%s: nothing in the table tells it from what is right", name)
		}
	}
}

func globs(pattern, s string) bool {
	prefix, star := strings.CutSuffix(pattern, "*")
	return star && strings.HasPrefix(s, prefix) || pattern == s
}

func TestNameOfSeveralPatternsMustSatisfyAll(t *testing.T) {
	c := compiled(t, private("{user}:inbox"), private("user:{user}"))
	for _, user := range []string{"", "user:7", "7:inbox", "7", "user:7:inbox"} {
		if c.Allows(user, "user:7:inbox") {
			t.Errorf("%q may listen to a channel that two users would have to agree on", user)
		}
	}
	if !c.Allows("7", "7:inbox") || !c.Allows("7", "user:7") || c.Allows("8", "7:inbox") {
		t.Error("names of one pattern are not for its user alone")
	}
}

func TestMistakesInChannelsAreFound(t *testing.T) {
	for _, tc := range []struct {
		list []ChannelConfig
		want string // "" is right
	}{
		{[]ChannelConfig{private("user:{user}"), private("inbox:{user}"), private("members"), wildcard("product:*"), wildcard("p*")}, ""},
		{[]ChannelConfig{private("")}, "channels[0].match: the name is missing"},
		{[]ChannelConfig{{Match: "user:{user}"}}, "channels[0].match: the entry says nothing"},
		{[]ChannelConfig{private("{user}")}, "would match every channel"},
		{[]ChannelConfig{private("{user}:{user}")}, "twice"},
		{[]ChannelConfig{private("user:{id}")}, "there is {user} alone"},
		{[]ChannelConfig{private("user:{user")}, "there is {user} alone"},
		{[]ChannelConfig{private("user:*")}, "end of a wildcard alone"},
		{[]ChannelConfig{private("a\nb")}, "control characters"},
		{[]ChannelConfig{private(strings.Repeat("x", 257))}, "257 bytes"},
		{[]ChannelConfig{wildcard("*")}, "a wildcard is the beginning"},
		{[]ChannelConfig{wildcard("product:")}, "a wildcard is the beginning"},
		{[]ChannelConfig{wildcard("a*b*")}, "end of a wildcard alone"},
		{[]ChannelConfig{wildcard("u:{user}*")}, "there is {user} alone"},
		{[]ChannelConfig{{Match: "a*", Wildcard: true, Session: true}}, "leave session out"},
		{[]ChannelConfig{private("a"), private("a")}, "channels[1].match: channels[0] matches a already"},
		{[]ChannelConfig{wildcard("user:*"), private("user:{user}")}, "channels[0].match: it covers channels that need a session, those of channels[1]"},
		{[]ChannelConfig{private("user:{user}"), wildcard("u*")}, "channels[1].match: it covers"},
		{[]ChannelConfig{private("user:{user}"), wildcard("user:vip:*")}, "channels[1].match: it covers"},
		{[]ChannelConfig{private("{user}:inbox"), wildcard("product:*")}, "channels[1].match: it covers"},
		{[]ChannelConfig{private("members"), wildcard("mem*")}, "channels[1].match: it covers"},
		{[]ChannelConfig{private("members"), wildcard("members:*")}, ""},
		{[]ChannelConfig{private("user:{user}"), private("user:{user}:orders")}, "channels[1].match: it matches names that channels[0] matches"},
		{[]ChannelConfig{private("user:all"), private("user:{user}")}, "channels[1].match: it matches names"},
	} {
		c, err := CompileChannels(tc.list)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("CompileChannels(%+v) = %v", tc.list, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("CompileChannels(%+v) = %v, %v, want %q", tc.list, c, err, tc.want)
		}
		var m *Mistake
		if err != nil && !errors.As(err, &m) {
			t.Errorf("CompileChannels(%+v) = %v, which has no place", tc.list, err)
		}
	}
}

// Whatever the pattern, a channel is its user's alone, and no wildcard reaches it.
func FuzzChannels(f *testing.F) {
	f.Add("user:{user}", "product:*", "42", "421", "user:42")
	f.Add("{user}:inbox", "p*", "*", "a", "a:inbox")
	f.Add("a{user}a", "b*", "a", "aa", "aaa")
	f.Add("cart:{user}:{user}", "cart*", "{user}", "", "cart:{user}:")
	f.Fuzz(func(t *testing.T, match, wild, a, b, name string) {
		c, err := CompileChannels([]ChannelConfig{private(match), wildcard(wild)})
		if err != nil {
			return
		}
		if c.Private(name) && c.Allows("", name) {
			t.Errorf("%q: nobody may listen to %q", match, name)
		}
		before, after, hasUser := strings.Cut(match, userName)
		if !hasUser || a == "" || b == "" || a == b {
			return
		}
		of := func(user string) string { return before + user + after }
		if !c.Private(of(a)) || !c.Allows(a, of(a)) || c.Allows(b, of(a)) || c.Allows(a, of(b)) {
			t.Errorf("%q: the channel %q is not for %q alone (and %q)", match, of(a), a, b)
		}
		if c.Allows(a, name) && c.Allows(b, name) && c.Private(name) {
			t.Errorf("%q: %q and %q both have %q", match, a, b, name)
		}
		for _, prefix := range c.Wildcards() {
			if strings.HasPrefix(of(a), prefix) {
				t.Errorf("wildcard %q* covers the private channel %q", prefix, of(a))
			}
		}
	})
}
