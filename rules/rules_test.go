package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/yamlfile"
)

// post is an edit of post 42; changes are laid over it.
func post(changes ...func(*event.Event)) event.Event {
	ev := event.Event{ID: "e1", Source: "shop", Name: "post.updated", Type: "post", Action: event.Update, Entity: "42", Slug: "hello",
		Payload: json.RawMessage(`{"type":"post.updated","data":{"id":42,"title":"Hi","big":9007199254740993,"huge":123456789012345678901234567890,
			"price":1000000.5,"categories":[{"id":7},{"id":8}],"none":[],"nothing":null,"glob":"a*[b]?\\c"}}`)}
	for _, c := range changes {
		c(&ev)
	}
	return ev
}

func with(body string) func(*event.Event) {
	return func(ev *event.Event) { ev.Payload = json.RawMessage(body) }
}

func compiled(t testing.TB, targets []string, rs ...Rule) *Set {
	t.Helper()
	s, err := Compile(rs, targets)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lines writes a plan down, one line a list.
func lines(p Plan) string {
	var b strings.Builder
	for _, l := range []struct {
		name  string
		items []string
	}{{"tags", p.Purge.Tags}, {"keys", p.Purge.Keys}, {"patterns", p.Purge.Patterns}, {"paths", p.Purge.Paths},
		{"targets", p.Targets}, {"channels", p.Channels}, {"!", p.Problems}} {
		if len(l.items) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", l.name, strings.Join(l.items, " | "))
		}
	}
	return b.String()
}

// The rule of the documentation, read from its file, does what it says there.
func TestExampleOfTheDocumentation(t *testing.T) {
	data, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Rules []Rule `yaml:"rules"`
	}
	if err := yamlfile.Decode("example.yaml", data, &file, os.LookupEnv); err != nil {
		t.Fatal(err)
	}
	s := compiled(t, []string{"site"}, file.Rules...)
	got := s.Plan(post())
	want := Plan{
		Purge: event.Purge{Tags: []string{"posts", "post:42", "category:7", "category:8"}, Keys: []string{"posts:all"},
			Patterns: []string{"products:*"}, Paths: []string{"/blog", "/blog/hello"}},
		Targets: []string{"site"}, Channels: []string{"posts", "post:42"}, Fields: map[string]any{"title": "Hi"}, Rules: []int{0},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Plan =\n%+v, want\n%+v", got, want)
	}
	for name, ev := range map[string]event.Event{
		"a draft":        post(with(`{"data":{"draft":true}}`)),
		"another source": post(func(e *event.Event) { e.Source = "blog" }),
		"another type":   post(func(e *event.Event) { e.Type, e.Name = "page", "page.updated" }),
	} {
		if got := s.Plan(ev); got.Rules != nil || !got.Purge.Empty() || got.Channels != nil {
			t.Errorf("Plan(%s) = %+v, want nothing: no rule matches", name, got)
		}
	}
}

func TestPlans(t *testing.T) {
	tags := func(s ...string) Rule { return Rule{Purge: Purge{Tags: s}, Channels: []string{"c"}} }
	paths := func(s ...string) Rule { return Rule{Purge: Purge{Paths: s}, Channels: []string{"c"}} }
	noID := func(e *event.Event) { e.Type, e.Action, e.Entity, e.Slug, e.Payload = "site", "other", "", "", nil }
	moved := func(e *event.Event) { e.PreviousSlug = "hallo" }
	for _, tc := range []struct {
		name  string
		rules []Rule
		ev    event.Event
		want  string
	}{
		{"a rule without purge purges the type and the entity", []Rule{{On: []string{"post.*"}}}, post(), "tags: post | post:42\nchannels: post | post:42\n"},
		{"an event without id is of its type only", []Rule{{}}, post(noID), "tags: site\nchannels: site\n"},
		{"no rules at all are one rule that tells every target", nil, post(), "tags: post | post:42\ntargets: a | b\nchannels: post | post:42\n"},
		{"the CMS's own name matches too", []Rule{{On: []string{"*.updated"}}}, post(), "tags: post | post:42\nchannels: post | post:42\n"},
		{"all matching rules are united, each item once", []Rule{tags("x", "y"), {Source: "other"}, tags("y", "z"), {Purge: Purge{Keys: []string{"k"}}, Revalidate: []string{"b"}}, {Revalidate: []string{"a", "b"}}}, post(),
			"tags: x | y | z | post | post:42\nkeys: k\ntargets: b | a\nchannels: c | post | post:42\n"},
		{"ids keep all their digits", []Rule{tags("p:{payload.data.id}", "p:{payload.data.big}", "p:{payload.data.huge}", "p:{payload.data.price}", "p:{payload.data.big + 1}")}, post(),
			"tags: p:42 | p:9007199254740993 | p:123456789012345678901234567890 | p:1000000.5 | p:9007199254740994\nchannels: c\n"},
		{"braces and quotes nest", []Rule{tags(`{map(payload.data.categories, ({"a": string(#.id), "b": "}"})) | map(#.a + "{'")}`, "{'{'}x{\"}\"}", "{`\\`}")}, post(), "tags: 7{' | 8{' | {x} | \\\nchannels: c\n"},
		{"an empty list gives nothing, without complaint", []Rule{tags("a", "{payload.data.none}")}, post(), "tags: a\nchannels: c\n"},
		{"two lists give every pair", []Rule{tags("{map(payload.data.categories, #.id)}/{['x', 'y']}")}, post(), "tags: 7/x | 7/y | 8/x | 8/y\nchannels: c\n"},
		{"what is missing is left out, and told", []Rule{tags("a", "b:{payload.data.nope}", "c:{payload.nope.nope}", "d:{locale}")}, post(),
			"tags: a\nchannels: c\n!: rules[0].purge.tags[1]: the value is missing; left out | rules[0].purge.tags[2]: cannot fetch nope from <nil>; left out | rules[0].purge.tags[3]: the value is empty; left out\n"},
		{"?? helps for what is missing", []Rule{tags("b:{payload.data.nope ?? 'x'}", "d:{locale ?? 'en'}", "s:{slug ?? id}", "e:{payload.nope?.nope ?? 1}")}, post(), "tags: b:x | d:en | s:hello | e:1\nchannels: c\n"},
		{"elements that are no text are left out", []Rule{tags("{payload.data.categories}", "{[1, nil, [2], '', true]}", "a")}, post(),
			"tags: 1 | true | a\nchannels: c\n!: rules[0].purge.tags[0]: element 0: the value is a mapping and no text; left out | rules[0].purge.tags[0]: element 1: the value is a mapping and no text; left out | " +
				"rules[0].purge.tags[1]: element 1: the value is missing; left out | rules[0].purge.tags[1]: element 2: the value is a list within a list; left out | rules[0].purge.tags[1]: element 3: the value is empty; left out\n"},
		{"a rule whose items all fail purges as if it had none", []Rule{{Purge: Purge{Keys: []string{"{payload.nope.nope}"}}, Channels: []string{"{locale}"}}}, post(),
			"tags: post | post:42\nchannels: post | post:42\n!: rules[0].purge.keys[0]: cannot fetch nope from <nil>; left out | rules[0].channels[0]: the value is empty; left out\n"},
		{"when decides", []Rule{{When: "payload.data.id > 41 and action == 'update'"}, {When: "type == 'page'", Purge: Purge{Tags: []string{"no"}}}}, post(), "tags: post | post:42\nchannels: post | post:42\n"},
		{"a when that fails counts as true", []Rule{{When: "payload.nope.draft != true"}, {When: "payload.data.nope"}, {When: "payload.data.title"}}, post(),
			"tags: post | post:42\nchannels: post | post:42\n!: rules[0].when: cannot fetch draft from <nil>; taken for true | rules[1].when: the value is missing; taken for true | rules[2].when: the value is no true or false; taken for true\n"},
		{"a missing field is not true", []Rule{{When: "payload.data.draft != true"}}, post(), "tags: post | post:42\nchannels: post | post:42\n"},
		{"the previous path is purged too", []Rule{paths("/blog", "/blog/{slug}", "/id/{id}")}, post(moved), "paths: /blog | /blog/hello | /blog/hallo | /id/42\nchannels: c\n"},
		{"values in patterns match only themselves", []Rule{{Purge: Purge{Patterns: []string{"p:{payload.data.glob}:*"}}, Channels: []string{"c"}}}, post(), `patterns: p:a\*\[b\]\?\\c:*` + "\nchannels: c\n"},
		{"control characters never leave", []Rule{tags("a", "{payload.x}", "{payload.y}")}, post(with(`{"x":"a\nb","y":["ok","\u0000"]}`)),
			"tags: a | ok\nchannels: c\n!: rules[0].purge.tags[1]: the value holds control characters or broken UTF-8; left out | rules[0].purge.tags[2]: element 1: the value holds control characters or broken UTF-8; left out\n"},
		{"a tag that no entry can carry is left out", []Rule{tags("a", "t:{payload.x}")}, post(with(`{"x":"` + strings.Repeat("x", 255) + `"}`)), "tags: a\nchannels: c\n!: rules[0].purge.tags[1]: 257 bytes, at most 256; left out\n"},
		{"a path begins with a slash", []Rule{paths("/a", "{slug}")}, post(), "paths: /a\nchannels: c\n!: rules[0].purge.paths[1]: a path begins with /; left out\n"},
		{"the star is not a channel", []Rule{{Channels: []string{"{payload.x}", "y"}}}, post(with(`{"x":"*"}`)), "tags: post | post:42\nchannels: y\n!: rules[0].channels[0]: nobody can listen to a channel with a * in its name; left out\n"},
		{"a comma in a tag is told where a site is told", []Rule{{Purge: Purge{Tags: []string{"a,b"}}, Channels: []string{"c"}, Revalidate: []string{"a"}}}, post(),
			"tags: a,b\ntargets: a\nchannels: c\n!: tags: \"a,b\" holds a comma; Next.js joins tags by commas and will not find it\n"},
		{"a payload that is no JSON is told once", []Rule{tags("a", "{payload.x}", "{payload.y}")}, post(with(`a=b`)),
			"tags: a\nchannels: c\n!: payload: the payload is not JSON | rules[0].purge.tags[1]: cannot fetch x from <nil>; left out | rules[0].purge.tags[2]: cannot fetch y from <nil>; left out\n"},
		{"what the event itself purges is purged instead, and all targets told", []Rule{tags("x")}, post(func(e *event.Event) { e.Purge = &event.Purge{Paths: []string{"/a"}, Tags: []string{"t"}} }),
			"tags: t\npaths: /a\ntargets: a | b\nchannels: c\n"},
		{"tags of the CMS are purged as they are", []Rule{tags("x", "d*[1]")}, post(func(e *event.Event) { e.Tags = []string{"d*[1]", "{slug};?", ""} }), "tags: x | d*[1] | {slug};?\nchannels: c\n"},
		{"tags of the CMS need a rule that matches", []Rule{{On: []string{"x"}}}, post(func(e *event.Event) { e.Tags = []string{"a"} }), ""},
		{"the same, where no rule matches", []Rule{{On: []string{"x"}}}, post(func(e *event.Event) { e.Purge = &event.Purge{All: true} }), "targets: a | b\nchannels: post | post:42\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := compiled(t, []string{"a", "b"}, tc.rules...)
			got := s.Plan(tc.ev)
			if lines(got) != tc.want {
				t.Errorf("Plan =\n%swant\n%s", lines(got), tc.want)
			}
			if again := s.Plan(tc.ev); !reflect.DeepEqual(got, again) {
				t.Errorf("Plan again = %+v, want the same", again)
			}
			if tc.ev.Purge != nil && got.Purge.All != tc.ev.Purge.All {
				t.Errorf("Purge.All = %v, want what the event says", got.Purge.All)
			}
		})
	}
}

func TestFieldsAreValuesOfTheEvent(t *testing.T) {
	s := compiled(t, nil, Rule{Fields: map[string]string{"n": "payload.data.big", "l": "map(payload.data.categories, #.id)", "no": "payload.data.nope", "t": "upper(slug)"}},
		Rule{Fields: map[string]string{"t": "'second'", "big": "payload.data.title + 'x'"}})
	got := s.Plan(post())
	want := map[string]any{"n": 9007199254740993, "l": []any{7, 8}, "t": "HELLO", "big": "Hix"}
	if !reflect.DeepEqual(got.Fields, want) {
		t.Errorf("Fields = %v, want %v", got.Fields, want)
	}
	if want := []string{"rules[0].fields.no: the value is missing; left out"}; !slices.Equal(got.Problems, want) {
		t.Errorf("Problems = %q, want %q", got.Problems, want)
	}
	got = s.Plan(post(with(`{"data":{"big":"` + strings.Repeat("x", maxFieldsBytes) + `","categories":[],"title":"T"}}`)))
	if _, ok := got.Fields["n"]; ok || got.Fields["big"] != "Tx" {
		t.Errorf("Fields = %v, want the one that fits and not the long one", got.Fields)
	}
}

func TestLongestWaitOfTheMatchingRulesCounts(t *testing.T) {
	s := compiled(t, nil, Rule{On: []string{"post.*"}, Coalesce: 100 * time.Millisecond}, Rule{On: []string{"*.update"}, Coalesce: 500 * time.Millisecond}, Rule{On: []string{"page.*"}})
	for kind, want := range map[string]time.Duration{"post.update": 500 * time.Millisecond, "post.delete": 100 * time.Millisecond, "page.delete": 0} {
		typ, action, _ := strings.Cut(kind, ".")
		if got := s.Plan(post(func(e *event.Event) { e.Type, e.Action, e.Name = typ, event.Action(action), "" })); got.Coalesce != want || got.Rules == nil {
			t.Errorf("Plan(%s).Coalesce = %v by rules %v, want %v", kind, got.Coalesce, got.Rules, want)
		}
	}
	if !s.Coalesces() || compiled(t, nil).Coalesces() || compiled(t, nil, Rule{}).Coalesces() {
		t.Error("Coalesces is true for rules that say coalesce, and only for them")
	}
}

func TestMostEntriesOfTheMatchingRulesAreRefilled(t *testing.T) {
	var file struct {
		Rules []Rule `yaml:"rules"`
	}
	text := "rules:\n  - {on: [post.*], refill: 10}\n  - {on: ['*.update'], refill: 20}\n  - on: [page.*]\n"
	if err := yamlfile.Decode("f", []byte(text), &file, os.LookupEnv); err != nil {
		t.Fatal(err)
	}
	s := compiled(t, nil, file.Rules...)
	for kind, want := range map[string]int{"post.update": 20, "post.delete": 10, "page.delete": 0} {
		typ, action, _ := strings.Cut(kind, ".")
		if got := s.Plan(post(func(e *event.Event) { e.Type, e.Action, e.Name = typ, event.Action(action), "" })); got.Refill != want || got.Rules == nil {
			t.Errorf("Plan(%s).Refill = %d by rules %v, want %d", kind, got.Refill, got.Rules, want)
		}
	}
}

// Each row is one mistake in a rule, and the whole error.
func TestMistakesAreToldWithTheirPath(t *testing.T) {
	tag := func(s string) Rule { return Rule{Purge: Purge{Tags: []string{"ok", s}}} }
	pattern := func(s string) Rule { return Rule{Purge: Purge{Patterns: []string{s}}} }
	for _, tc := range []struct {
		rule Rule
		want string
	}{
		{Rule{When: "payload.x +"}, `rules[0].when: character 11: unexpected token EOF`},
		{Rule{When: "paylod.x"}, `rules[0].when: character 1: unknown name paylod`},
		{Rule{When: "type"}, `rules[0].when: expected bool, but got string`},
		{Rule{When: "id == 5"}, `rules[0].when: character 4: invalid operation: == (mismatched types string and int)`},
		{Rule{When: "now().Year() > 2000"}, `rules[0].when: character 1: unknown name now`},
		{Rule{When: "true and\n  nope"}, `rules[0].when: line 2, character 3: unknown name nope`},
		{tag("{id"), `rules[0].purge.tags[1]: character 1: this { has no }; write {'{'} for the character itself`},
		{tag("é{'}"), `rules[0].purge.tags[1]: character 2: this { has no }; write {'{'} for the character itself`},
		{tag("id}"), `rules[0].purge.tags[1]: character 3: a } without its {; write {'}'} for the character itself`},
		{tag("a:{}"), `rules[0].purge.tags[1]: {}: an empty expression`},
		{tag("a:{ids}"), `rules[0].purge.tags[1]: {ids}: character 1: unknown name ids`},
		{tag(""), `rules[0].purge.tags[1]: is empty`},
		{tag("a\nb"), `rules[0].purge.tags[1]: holds control characters or broken UTF-8`},
		{tag(strings.Repeat("x", 257)), `rules[0].purge.tags[1]: 257 bytes, at most 256`},
		{tag("{repeat('a', 5)}"), `rules[0].purge.tags[1]: {repeat('a', 5)}: character 1: unknown name repeat`},
		{Rule{Purge: Purge{Paths: []string{"blog"}}}, `rules[0].purge.paths[0]: a path begins with /`},
		{Rule{Channels: []string{"*"}}, `rules[0].channels[0]: holds a *; name the channels that shall hear of it, one by one`},
		{pattern("a[b"), `rules[0].purge.patterns[0]: a [ without its ]`},
		{pattern("a[]b"), `rules[0].purge.patterns[0]: an empty class`},
		{pattern("a[é]b"), `rules[0].purge.patterns[0]: a class is of ASCII characters only: Redis matches bytes`},
		{pattern(`a\`), `rules[0].purge.patterns[0]: a backslash at the end`},
		{pattern(`a\{id}`), `rules[0].purge.patterns[0]: a backslash right before an expression; write \\ for a backslash`},
		{pattern("a[{id}]"), `rules[0].purge.patterns[0]: an expression inside […] cannot be escaped`},
		{pattern(strings.Repeat("*a", 17)), `rules[0].purge.patterns[0]: 17 stars, at most 16`},
		{Rule{On: []string{"post.[ab]"}}, `rules[0].on[0]: "post.[ab]": only * (any run of characters) and ? (any one) have a meaning here`},
		{Rule{On: []string{""}}, `rules[0].on[0]: is empty; * matches every event`},
		{Rule{Refill: 101}, `rules[0].refill: 101 is not between 0 and 100`},
		{Rule{Refill: -1}, `rules[0].refill: -1 is not between 0 and 100`},
		{Rule{Coalesce: 99 * time.Millisecond}, `rules[0].coalesce: 99ms is not between 100ms and 500ms`},
		{Rule{Coalesce: 501 * time.Millisecond}, `rules[0].coalesce: 501ms is not between 100ms and 500ms`},
		{Rule{Coalesce: -time.Second}, `rules[0].coalesce: -1s is not between 100ms and 500ms`},
		{Rule{Revalidate: []string{"siet"}}, `rules[0].revalidate[0]: unknown target "siet"; did you mean "site"?`},
		{Rule{Revalidate: []string{"other"}}, `rules[0].revalidate[0]: unknown target "other"; known targets: site, cdn`},
		{Rule{Fields: map[string]string{"t": "x +"}}, `rules[0].fields.t: character 3: unexpected token EOF`},
		{Rule{Fields: map[string]string{"t": strings.Repeat("1+", 600) + "1"}}, `rules[0].fields.t: character 1002: compilation failed: expression exceeds maximum allowed nodes`},
	} {
		_, err := Compile([]Rule{tc.rule}, []string{"site", "cdn"})
		if err == nil || err.Error() != tc.want {
			t.Errorf("Compile(%.200s) =\n  %v, want\n  %s", fmt.Sprintf("%+v", tc.rule), err, tc.want)
		}
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(tc.want, e.YAMLPath()+": ") {
			t.Errorf("Compile(%+v) = %#v, an error without its path", tc.rule, err)
		}
	}
	_, err := Compile([]Rule{{When: "x", On: []string{"["}}, tag("{"), {Revalidate: []string{"no"}}}, nil)
	if n := len(strings.Split(fmt.Sprint(err), "\n")); n != 4 {
		t.Errorf("Compile told %d mistakes, want all 4:\n%v", n, err)
	}
}
