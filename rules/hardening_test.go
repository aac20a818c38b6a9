package rules

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"pgregory.net/rapid"
)

// list is a JSON list of n different texts.
func list(n int) string {
	var items []string
	for i := range n {
		items = append(items, fmt.Sprintf("%q", fmt.Sprint("v", i)))
	}
	return "[" + strings.Join(items, ",") + "]"
}

func TestNothingBeyondALimitIsForgotten(t *testing.T) {
	body := with(`{"l":` + list(2000) + `}`)
	for _, tc := range []struct {
		rule Rule
		all  bool
		want string // the first problem
	}{
		{Rule{Purge: Purge{Tags: []string{"{payload.l}"}}}, true, "tags: 2000, at most 1000 for one event; everything is purged instead"},
		{Rule{Purge: Purge{Keys: []string{"{payload.l}"}}}, true, "keys: 2000, at most 1000 for one event; everything is purged instead"},
		{Rule{Purge: Purge{Patterns: []string{"{payload.l}*"}}}, true, "patterns: 2000, at most 64 for one event; everything is purged instead"},
		{Rule{Purge: Purge{Paths: []string{"/{payload.l}"}}}, true, "paths: 2000, at most 100 for one event; everything is purged instead"},
		{Rule{Purge: Purge{Tags: []string{"{payload.l}{payload.l}"}}}, true, "rules[0].purge.tags[0]: more than 10000 items; everything is purged instead"},
		{Rule{Channels: []string{"{payload.l}", "posts", "post:{id}"}}, false, "channels: 2002, at most 64 for one event; everybody is told instead"},
	} {
		p := compiled(t, nil, tc.rule).Plan(post(body))
		if !p.Capped || p.Purge.All != tc.all || len(p.Problems) != 1 || p.Problems[0] != tc.want {
			t.Errorf("Plan(%+v): Capped %v, All %v, Problems %q, want %q", tc.rule, p.Capped, p.Purge.All, p.Problems, tc.want)
		}
		if len(p.Purge.Tags) > MaxTags || len(p.Purge.Keys) > MaxKeys || len(p.Purge.Patterns) > MaxPatterns || len(p.Purge.Paths) > MaxPaths || len(p.Channels) > MaxChannels {
			t.Errorf("Plan(%+v) is above its limits: %d channels", tc.rule, len(p.Channels))
		}
		if tc.rule.Channels != nil && !slices.Equal(p.Channels, []string{event.Everybody}) {
			t.Errorf("Channels = %q, want everybody", p.Channels)
		}
	}
	p := compiled(t, nil, Rule{Purge: Purge{Patterns: []string{"{payload.x}"}}}).Plan(post(with(`{"x":"` + strings.Repeat("*", 300) + `"}`)))
	if !p.Purge.All || !p.Capped || len(p.Purge.Patterns) != 0 {
		t.Errorf("a pattern that is too long once escaped: %+v, want everything purged", p)
	}
}

// A payload may be large and an expression may loop within loops: the work ends.
func TestWorkOnAHostilePayloadIsBounded(t *testing.T) {
	body := with(`{"l":` + list(10_000) + `,"s":"` + strings.Repeat("ab", 50_000) + `"}`)
	for _, source := range []string{
		"map(payload.l, map(payload.l, map(payload.l, 1)))", "count(payload.l, # in payload.l)", "map(payload.l, payload.s + #)", "let l = payload.l; filter(l, # in l)",
		"uniq(payload.l)", "replace(payload.s, 'a', payload.s)", "join(payload.l, payload.s)", "reduce(1..1000, #acc + #acc, payload.s)", "map(1..999999, payload.l[0] + payload.s)",
		"map(payload.l, payload?.s + #)", "map(payload.l, $env.payload.s + #)", "map(payload.l, split(payload.s, 'a'))", "sum(map(1..2000, count(1..2000, true)))",
		"sort(map(payload.l, join(payload.l, ',')))", "map(payload.l, {let x = payload.l; # in x})",
	} {
		s := compiled(t, nil, Rule{Fields: map[string]string{"f": source}})
		start := time.Now()
		p := s.Plan(post(body))
		if took := time.Since(start); took > 30*time.Second { // unbounded, they take hours
			t.Errorf("%s took %v", source, took)
		}
		if len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "too much work") && !strings.Contains(p.Problems[0], "memory budget") {
			t.Errorf("%s: Problems = %q, want one that says it was stopped", source, p.Problems)
		}
	}
	deep := with(strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000))
	if p := compiled(t, nil, Rule{Purge: Purge{Tags: []string{"a", "{payload.a}"}}}).Plan(post(deep)); len(p.Purge.Tags) != 1 {
		t.Errorf("Plan(deep payload) = %+v, want the tag that can be", p)
	}
}

func TestExpressionsSeeTheEventAlone(t *testing.T) {
	for _, source := range []string{"now()", "timezone('UTC')", "repeat('x', 3)", "budget", "ID", "Payload", "payloads", "os", "env", "spend(1, 2)", "__proto__"} {
		if e, err := compileExpr(source); err == nil {
			t.Errorf("compileExpr(%q) = %+v, want an error", source, e)
		}
	}
	p := compiled(t, nil, Rule{Fields: map[string]string{"a": "$env.id + $env['slug']", "b": "payload.data.title()"}}).Plan(post())
	if p.Fields["a"] != "42hello" || len(p.Problems) != 1 {
		t.Errorf("Plan = %+v", p)
	}
}

func TestProblemsAreShortAndFew(t *testing.T) {
	var tags []string
	for i := range 100 {
		tags = append(tags, fmt.Sprintf("{int(payload.x)}%d", i))
	}
	p := compiled(t, nil, Rule{Purge: Purge{Tags: tags}}).Plan(post(with(`{"x":"` + strings.Repeat(`y\n`, 1000) + `"}`)))
	if len(p.Problems) != maxProblems {
		t.Errorf("%d problems, want %d", len(p.Problems), maxProblems)
	}
	for _, s := range p.Problems {
		if len(s) > 300 || strings.ContainsFunc(s, isControl) {
			t.Errorf("problem %q is long or of several lines", s)
		}
	}
}

// redisMatch is Redis' stringmatchlen for patterns without classes.
func redisMatch(p, s string) bool {
	switch {
	case p == "":
		return s == ""
	case p[0] == '*':
		return redisMatch(p[1:], s) || s != "" && redisMatch(p, s[1:])
	case s == "":
		return false
	case p[0] == '?':
		return redisMatch(p[1:], s[1:])
	case p[0] == '\\' && len(p) > 1:
		p = p[1:]
	}
	return p[0] == s[0] && redisMatch(p[1:], s[1:])
}

func TestValueInAPatternMatchesOnlyItself(t *testing.T) {
	s := compiled(t, nil, Rule{Purge: Purge{Patterns: []string{"k:{payload.v}:*"}}})
	special := rapid.StringOfN(rapid.RuneFrom([]rune(`\*?[]^-ab:é`)), 1, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		v, other := special.Draw(t, "value"), special.Draw(t, "other")
		body, _ := json.Marshal(map[string]string{"v": v})
		p := s.Plan(event.Event{Type: "t", Action: "update", Payload: body})
		if len(p.Purge.Patterns) != 1 {
			t.Fatalf("Plan(%q) = %+v", v, p)
		}
		pattern := p.Purge.Patterns[0]
		if !redisMatch(pattern, "k:"+v+":x") {
			t.Errorf("%q does not match its own value %q", pattern, v)
		}
		if strings.HasPrefix(other+":x", v+":") != redisMatch(pattern, "k:"+other+":x") {
			t.Errorf("%q for %q matches %q", pattern, v, other)
		}
	})
}

func TestGlobs(t *testing.T) {
	for _, tc := range []struct {
		glob, name string
		want       bool
	}{
		{"*", "post.update", true}, {"*", "", true}, {"post.*", "post.update", true}, {"post.*", "post.", true}, {"post.*", "posts.update", false},
		{"post.*", "blog.post.x", false}, {"*.update", "post.update", true}, {"*.update", "post.updated", false}, {"Post.*", "post.update", false},
		{"p?st.*", "post.x", true}, {"p?st.*", "pst.x", false}, {"?", "é", true}, {"??", "é", false}, {"post.update", "post.update", true},
		{"*o*t*.*u*", "post.update", true}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "aXbYbZ", false}, {"**a", "bba", true}, {"*?", "", false},
		{"Content.*.publish", "Content.Entry.publish", true}, {"*/update", "products/update", true}, {"", "", true}, {"", "a", false},
	} {
		if got := matchGlob(tc.glob, tc.name); got != tc.want {
			t.Errorf("matchGlob(%q, %q) = %v, want %v", tc.glob, tc.name, got, tc.want)
		}
	}
}

// slowGlob says the same as matchGlob, plainly.
func slowGlob(g, n []rune) bool {
	switch {
	case len(g) == 0:
		return len(n) == 0
	case g[0] == '*':
		return slowGlob(g[1:], n) || len(n) > 0 && slowGlob(g, n[1:])
	}
	return len(n) > 0 && (g[0] == '?' || g[0] == n[0]) && slowGlob(g[1:], n[1:])
}

func FuzzGlob(f *testing.F) {
	for _, s := range []string{"*", "post.*", "a*b*c?", "?é*", "**", "*a*a*a*b"} {
		f.Add(s, "post.update")
		f.Add(s, "aaaaaaaaaaaaaaac")
	}
	f.Fuzz(func(t *testing.T, glob, name string) {
		if checkGlob(glob) != nil {
			return
		}
		got := matchGlob(glob, name)
		if len(glob)+len(name) < 24 && strings.ToValidUTF8(name, "?") == name {
			if want := slowGlob([]rune(glob), []rune(name)); got != want {
				t.Errorf("matchGlob(%q, %q) = %v, want %v", glob, name, got, want)
			}
		}
		if !matchGlob("*", name) || !strings.ContainsAny(glob, "*?") && got != (glob == name) {
			t.Errorf("matchGlob(%q, %q) = %v", glob, name, got)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"a", "post:{id}", "{map(payload.data.categories ?? [], 'category:' + string(#.id))}", `{"}"}`, "{{a: 1}}", "{'\\'}", "{`\\`}", "{1..1000000}", "{payload}",
		"{a}{b}", "}", "{", "{#}", "{id;}", "{let a = payload; a?.b[0]}", "{payload[slug]?.x ?? 1.5e300}", "{$env}", "{/* } */ id}", "{id // }\n}", "{map(payload, map(#, #))}", "{any(payload, {.x})}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 2000 {
			return
		}
		tpl, err := compileTemplate(s)
		if err != nil {
			return
		}
		if !strings.ContainsAny(s, "{") && (len(tpl.parts) != 1 || tpl.parts[0].text != s) {
			t.Errorf("compileTemplate(%q) = %+v, want the text itself", s, tpl)
		}
		set := &Set{rules: []rule{{purge: []item{{tpl, tags, "t"}}, channels: []item{{tpl, channels, "c"}}}}}
		for _, item := range append(set.Plan(post()).Purge.Tags, set.Plan(post(with("[1]"))).Channels...) {
			if item == "" || len(item) > maxTag || strings.ContainsFunc(item, isControl) {
				t.Errorf("%q gives the item %q", s, item)
			}
		}
	})
}

func FuzzPlan(f *testing.F) {
	s, err := Compile([]Rule{
		{On: []string{"post.*", "*.x?"}, When: "payload.data.draft != true", Fields: map[string]string{"t": "payload.data.title", "n": "payload.n * 2"},
			Purge: Purge{Tags: []string{"{map(payload.data.categories ?? [], 'category:' + string(#.id))}", "t:{payload.t}", "{payload.l}{payload.l}"}, Keys: []string{"k:{slug ?? id}"},
				Patterns: []string{"p:{payload.t}:*"}, Paths: []string{"/blog/{slug}", "/{payload.l}"}}, Channels: []string{"{type}", "{payload.l}"}},
		{When: "payload.t contains slug"},
	}, nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{`{"data":{"categories":[{"id":1},{"id":1e400}],"draft":false,"title":"x"}}`, `{"t":"*","l":["a","b","\u0000"]}`, `[]`, `1`, ``, `{`, `{"l":[[[]]],"n":"x","t":null}`,
		`{"t":123456789012345678901234567890,"l":[1,2.5,true]}`, `{"data":5}`, `{"data":{"categories":"x"}}`} {
		f.Add("post", "hello", "old", body)
	}
	f.Fuzz(func(t *testing.T, typ, slug, previous, body string) {
		ev := event.Event{ID: "e", Source: "s", Type: typ, Action: event.Update, Entity: "1", Slug: slug, PreviousSlug: previous, Payload: []byte(body)}
		if ev.Validate() != nil {
			return
		}
		p := s.Plan(ev)
		if len(p.Rules) == 0 || p.Purge.Empty() || len(p.Channels) == 0 {
			return // neither when was true
		}
		for k, list := range [][]string{p.Purge.Tags, p.Purge.Keys, p.Purge.Patterns, p.Purge.Paths, p.Channels} {
			if len(list) > kinds[k].count {
				t.Errorf("%d %s, at most %d", len(list), kinds[k].name, kinds[k].count)
			}
			seen := map[string]bool{}
			for _, v := range list {
				if v == "" || len(v) > kinds[k].length || strings.ContainsFunc(v, isControl) || seen[v] {
					t.Errorf("%s holds %q", kinds[k].name, v)
				}
				seen[v] = true
			}
		}
		for _, v := range p.Purge.Paths {
			if v[0] != '/' {
				t.Errorf("path %q", v)
			}
		}
		if _, err := json.Marshal(p.Fields); err != nil {
			t.Errorf("fields %v: %v", p.Fields, err)
		}
	})
}

func BenchmarkPlan(b *testing.B) {
	for name, rs := range map[string][]Rule{
		"default": nil,
		"example": {{On: []string{"post.*"}, When: "payload.data.draft != true", Channels: []string{"posts", "post:{id}"}, Fields: map[string]string{"title": "payload.data.title"},
			Purge: Purge{Tags: []string{"posts", "post:{id}", "{map(payload.data.categories ?? [], 'category:' + string(#.id))}"}, Keys: []string{"posts:all"}, Patterns: []string{"products:*"}, Paths: []string{"/blog", "/blog/{slug}"}}}},
	} {
		b.Run("rules="+name, func(b *testing.B) {
			s, ev := compiled(b, nil, rs...), post()
			b.ReportAllocs()
			for b.Loop() {
				s.Plan(ev)
			}
		})
	}
}
