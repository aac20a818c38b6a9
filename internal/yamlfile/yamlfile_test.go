package yamlfile

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// file is a small freshwire.yaml with every kind of key.
type file struct {
	Sources map[string]source `yaml:"sources" keys:"^[a-z][a-z0-9-]*$" desc:"one webhook URL each"`
	Rules   []rule            `yaml:"rules" desc:"what an event does"`
	Log     logging           `yaml:"log" desc:"what is written"`
}

type source struct {
	CMS       string        `yaml:"cms" desc:"row of docs/cms.md" enum:"generic,ghost,standardwebhooks" later_enum:"contentful,sanity" required:"true"`
	Secret    string        `yaml:"secret" desc:"what deliveries are signed with" secret:"true"`
	Previous  []string      `yaml:"previous_secrets" desc:"older secrets" secret:"true" dropempty:"true"`
	Tolerance time.Duration `yaml:"tolerance" desc:"largest age" default:"5m"`
	MaxBody   int64         `yaml:"max_body" desc:"largest body" unit:"bytes" default:"1MiB"`
	Header    string        `yaml:"header" desc:"name of a header" pattern:"^[A-Za-z-]+$" example:"X-Signature"`
	Archive   string        `yaml:"archive" later:"true" desc:"where bodies are kept"`
	Pin       string        `yaml:"pin" secret:"true" pattern:"^[0-9]{4}$"`
}

type rule struct {
	On     []string          `yaml:"on" desc:"globs"`
	When   string            `yaml:"when" desc:"an expression"`
	Fields map[string]string `yaml:"fields" desc:"what to pass on"`
	Purge  struct {
		Tags []string `yaml:"tags" desc:"tags to purge"`
	} `yaml:"purge" desc:"what to make void"`
	Limit *int `yaml:"limit" desc:"how many"`
}

type logging struct {
	Bodies bool     `yaml:"bodies" desc:"log bodies"`
	Share  float64  `yaml:"share" desc:"how much" default:"0.5"`
	Levels []string `yaml:"levels" desc:"which" default:"info,warn"`
	Pace   pace     `yaml:"pace" desc:"how often"`
	shared `yaml:",inline"`
}

// pace has a syntax of its own: 0, or 100/1m.
type pace struct{ text string }

func (p *pace) UnmarshalText(text []byte) error {
	p.text = string(text)
	if p.text != "0" && !strings.Contains(p.text, "/") {
		return errors.New("no pace")
	}
	return nil
}

type shared struct {
	Depth uint8 `yaml:"depth" desc:"how deep"`
}

func (r rule) Validate() error {
	var errs []error
	if strings.Contains(r.When, "!!!") {
		errs = append(errs, pathError{"when", errors.New("too excited")})
	}
	if len(r.On) > 3 {
		errs = append(errs, errors.New("too many globs"))
	}
	return errors.Join(errs...)
}

type pathError struct {
	path string
	err  error
}

func (e pathError) Error() string    { return e.path + ": " + e.err.Error() }
func (e pathError) YAMLPath() string { return e.path }

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestFileIsRead(t *testing.T) {
	const text = `
# one of each
sources:
  zoo: &zoo
    cms: ghost
    secret: ${ZOO_SECRET}
    previous_secrets: ["${OLD:-}", "older", "${OLDER:-}"]
    tolerance: ${WAIT:-90s}
    max_body: 64KB
  ape:
    <<: *zoo
    cms: generic
    max_body: ${BODY:-2MiB}
  bee: { cms: generic, header: X-Sign, max_body: 1024 }
rules:
  - on: [post.*, "page.*"]
    when: 'payload.data.draft != true and x == "$${HOME} $${1} $ {y}"'
    fields: { title: payload.data.title, when: 2026-01-01 }
    purge:
      tags: ["post:{id}", "{map(payload.data.categories ?? [], 'category:' + string(#.id))}"]
    limit: ${LIMIT}
  - {}
log:
  share: 1
  depth: 7
`
	var got file
	err := Decode("freshwire.yaml", []byte(text), &got, env("ZOO_SECRET", "a: [b", "LIMIT", "12", "OLD", ""))
	if err != nil {
		t.Fatal(err)
	}
	zoo := source{CMS: "ghost", Secret: "a: [b", Previous: []string{"older"}, Tolerance: 90 * time.Second, MaxBody: 64000}
	ape := zoo
	ape.CMS, ape.MaxBody = "generic", 2<<20
	limit := 12
	first := rule{On: []string{"post.*", "page.*"}, When: `payload.data.draft != true and x == "${HOME} ${1} $ {y}"`,
		Fields: map[string]string{"title": "payload.data.title", "when": "2026-01-01"}, Limit: &limit}
	first.Purge.Tags = []string{"post:{id}", "{map(payload.data.categories ?? [], 'category:' + string(#.id))}"}
	want := file{
		Sources: map[string]source{"zoo": zoo, "ape": ape, "bee": {CMS: "generic", Header: "X-Sign", Tolerance: 5 * time.Minute, MaxBody: 1024}},
		Rules:   []rule{first, {}},
		Log:     logging{Share: 1, Levels: []string{"info", "warn"}, shared: shared{Depth: 7}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Decode =\n%+v, want\n%+v", got, want)
	}
}

func TestEmptyFileGivesDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing yet\n", "~", "sources:\nrules:\nlog:\n", "---\n", "--- \n...\n"} {
		var got file
		if err := Decode("f", []byte(text), &got, env()); err != nil || got.Log.Share != 0.5 || got.Sources != nil {
			t.Errorf("Decode(%q) = %+v, %v", text, got, err)
		}
	}
}

// Each row is one mistake, and what the whole error says.
func TestMistakesAreToldWithTheirPlace(t *testing.T) {
	src := func(line string) string { return "sources:\n  blog:\n    cms: ghost\n    " + line + "\n" }
	for _, tc := range []struct{ text, want string }{
		{src("secrt: x"), `f.yaml:4:5: sources.blog: unknown key "secrt"; did you mean "secret"?`},
		{src("toleranec: 5m"), `f.yaml:4:5: sources.blog: unknown key "toleranec"; did you mean "tolerance"?`},
		{src("colour: red"), `f.yaml:4:5: sources.blog: unknown key "colour"; known keys: cms, secret, previous_secrets, tolerance, max_body, header, pin`},
		{src("archive: /tmp"), `f.yaml:4:5: sources.blog.archive: this version does not do this yet; remove the key`},
		{src("cms: ghost"), `f.yaml:4:5: sources.blog: key "cms" stands here twice`},
		{src("tolerance: 5"), `f.yaml:4:16: sources.blog.tolerance: expected a duration such as "5m", got the number 5`},
		{src("tolerance: -5m"), `f.yaml:4:16: sources.blog.tolerance: expected a duration such as "5m", got "-5m"`},
		{src("tolerance: [5m]"), `f.yaml:4:16: sources.blog.tolerance: expected a duration such as "5m", got a list`},
		{src("tolerance: ${WAIT}"), `f.yaml:4:16: sources.blog.tolerance: expected a duration such as "5m", got "${WAIT}"`},
		{src("max_body: 1MX"), `f.yaml:4:15: sources.blog.max_body: expected a size such as "1MiB", got "1MX"`},
		{src("max_body: 99999999999GiB"), `f.yaml:4:15: sources.blog.max_body: expected a size such as "1MiB", got "99999999999GiB"`},
		{src("secret:"), `f.yaml:4:5: sources.blog.secret: has no value; write text, or remove the key`},
		{src("header: a b"), `f.yaml:4:13: sources.blog.header: "a b" does not match ^[A-Za-z-]+$`},
		{src("header: 12"), `f.yaml:4:13: sources.blog.header: expected text, got the number 12 (put it in quotes: "12")`},
		{src("header: !x y"), `f.yaml:4:13: sources.blog.header: tags (!…) are not used here; put a text that begins with ! in quotes`},
		{src("secret: ${NO_SUCH}"), `f.yaml:4:13: sources.blog.secret: environment variable NO_SUCH is not set; use ${NO_SUCH:-default} to allow that`},
		{"sources: {blog: {}}", `f.yaml:1:17: sources.blog: "cms" is missing (row of docs/cms.md)`},
		{"sources: {blog: {cms: }}", `f.yaml:1:18: sources.blog.cms: has no value; write text, or remove the key`},
		{"sources: {blog: {cms: ''}}", `f.yaml:1:23: sources.blog.cms: is empty (row of docs/cms.md)`},
		{"sources: {blog: {cms: gohst}}", `f.yaml:1:23: sources.blog.cms: "gohst" is not known; did you mean "ghost"?`},
		{"sources: {blog: {cms: wordpress}}", `f.yaml:1:23: sources.blog.cms: "wordpress" is not known; it is one of generic, ghost, standardwebhooks`},
		{"sources: {blog: {cms: sanity}}", `f.yaml:1:23: sources.blog.cms: this version does not do "sanity" yet; it can do generic, ghost, standardwebhooks`},
		{"sources: {Blog: {cms: ghost}}", `f.yaml:1:11: sources: the name "Blog" does not match ^[a-z][a-z0-9-]*$`},
		{"sources: [blog]", `f.yaml:1:10: sources: expected a mapping, got a list`},
		{"sources: {[a]: b}", `f.yaml:1:11: sources: a key must be plain text`},
		{"rules: {on: a}", `f.yaml:1:8: rules: expected a list, got a mapping`},
		{"rules:\n  - on: post.*", `f.yaml:2:9: rules[0].on: expected a list, got text`},
		{"rules:\n  - on: [1]", `f.yaml:2:10: rules[0].on[0]: expected text, got the number 1 (put it in quotes: "1")`},
		{"rules:\n  -", `f.yaml:2:4: rules[0]: has no value; write a mapping, or remove the item`},
		{"rules:\n  - fields: {a: }", `f.yaml:2:14: rules[0].fields.a: has no value; write text, or remove the key`},
		{"rules:\n  - limit: 1.5", `f.yaml:2:12: rules[0].limit: expected a whole number, got the number 1.5`},
		{"rules:\n  - limit: 010", `f.yaml:2:12: rules[0].limit: expected a whole number, got the number 010`},
		{"rules:\n  - limit: '1'", `f.yaml:2:12: rules[0].limit: expected a whole number, got "1"`},
		{"rules:\n  - on: []\n    when: 'oh!!!'", `f.yaml:3:11: rules[0].when: too excited`},
		{"rules:\n  - on: [a, b, c, d]", `f.yaml:2:5: rules[0]: too many globs`},
		{"log: {bodies: yes}", `f.yaml:1:15: log.bodies: expected true or false, got "yes"`},
		{"log: {depth: 300}", `f.yaml:1:14: log.depth: expected a whole number, got the number 300`},
		{"log: {share: .nan}", `f.yaml:1:14: log.share: expected a number, got the number .nan`},
		{"log: {levels: [info, ~]}", `f.yaml:1:22: log.levels[1]: has no value; write text, or remove the item`},
		{"[a]", `f.yaml:1:1: expected a mapping, got a list`},
		{"log: {}\n---\nlog: {}\n", `f.yaml:2: a second document begins here (---); put everything into one`},
		{"log:\n\tbodies: true\n", `f.yaml:2: a tab in the indentation; use spaces`},
		{"log:\n  bodies: true\n share: 1\n", `f.yaml:3: did not find expected key`},
		{"log: [a, b\nrules: []\n", `f.yaml:2: did not find expected ',' or ']'`},
		{"log: {}\nrules: '\xff'\n", `f.yaml:2: invalid leading UTF-8 octet`},
		{"log: &a {shared: *a}", `f.yaml:1:18: log.shared.shared: an alias that holds itself`},
		{"log: {<<: 5}", `f.yaml:1:11: log: only a mapping can be merged with <<`},
		{strings.Repeat("{a: ", 40) + strings.Repeat("}", 40), `f.yaml:1:133: ` + strings.TrimSuffix(strings.Repeat("a.", 32), ".") + `.a: more than 32 levels deep`},
		{"#" + strings.Repeat("x", MaxBytes), `f.yaml: 1048577 bytes, at most 1048576`},
		{bomb, `more than 100000 values, counting what aliases repeat`},
		{src("header: ${BIG}${BIG}"), `f.yaml:4:13: sources.blog.header: more than 65536 bytes after variables were replaced`},
	} {
		var dst file
		err := Decode("f.yaml", []byte(tc.text), &dst, env("BIG", strings.Repeat("x", 40<<10), "WAIT", "soon"))
		if tc.text == bomb { // which value is one too many is of no interest
			if err == nil || !strings.HasSuffix(err.Error(), tc.want) {
				t.Errorf("Decode(bomb) = %v, want … %s", err, tc.want)
			}
			continue
		}
		if err == nil || err.Error() != tc.want {
			t.Errorf("Decode(%.60q) =\n  %v, want\n  %s", tc.text, err, tc.want)
		}
	}
}

// bomb is a billion laughs.
const bomb = `
sources:
  a: &a [x, x, x, x, x, x, x, x, x]
  b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]
  c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]
  d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]
  e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]
  f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]
  g: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f]
`

func TestEveryMistakeIsToldAtOnceInTheOrderOfTheFile(t *testing.T) {
	const text = `rules:
  - whn: x
    limit: many
sources:
  a: {cms: goost, tolerance: later}
  b: {secret: "${GONE}"}
  b: {}
lag: {}
`
	want := []string{
		`f:2:5: rules[0]: unknown key "whn"; did you mean "when"?`,
		`f:3:12: rules[0].limit: expected a whole number, got "many"`,
		`f:5:12: sources.a.cms: "goost" is not known; did you mean "ghost"?`,
		`f:5:30: sources.a.tolerance: expected a duration such as "5m", got "later"`,
		`f:6:6: sources.b: "cms" is missing (row of docs/cms.md)`,
		`f:6:15: sources.b.secret: environment variable GONE is not set; use ${GONE:-default} to allow that`,
		`f:7:3: sources: key "b" stands here twice`,
		`f:8:1: unknown key "lag"; did you mean "log"?`,
	}
	var dst file
	err := Decode("f", []byte(text), &dst, env())
	if got := fmt.Sprint(err); got != strings.Join(want, "\n") {
		t.Errorf("Decode =\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	for _, line := range []string{
		"secret: [hunter2]", "secret: {hunter2: hunter2}", "secret: 424242", "secret: *hunter2", "secret: !hunter2 x", "secret: 'hunter2",
		"secret: @hunter2", "secret: %hunter2", "secret: hunter2: x", "secret: \"hunter2\\q\"", "secret: true\n    previous_secrets: hunter2",
		"previous_secrets: {a: hunter2}", "previous_secrets: [[hunter2], 424242]", "pin: hunter2", "pin: ${HIDDEN}", "secret: |hunter2", "secret: >\n  hunter2\n  - x",
	} {
		var dst file
		err := Decode("f", []byte("sources:\n  a:\n    cms: ghost\n    "+line+"\n"), &dst, env("HIDDEN", "hunter2"))
		if err == nil {
			t.Errorf("Decode(%q) = nil, want an error", line)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "424242") {
			t.Errorf("Decode(%q) shows the secret: %v", line, err)
		}
	}
}

func TestErrorsOfOthersFindTheirPlace(t *testing.T) {
	doc, err := Parse("freshwire.yaml", []byte("sources:\n  a: {cms: ghost}\nrules:\n  - on: [x]\n    when: 'a ='\n    purge: {tags: [a, 'b{']}\n"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := errors.New("REDIS_URL: no such host")
	wrapped := fmt.Errorf("reading rules: %w", pathError{"rules[0].purge.tags[1]", errors.New("brace not closed")})
	located := doc.Locate(errors.Join(elsewhere, wrapped,
		errors.Join(pathError{"rules[0].when", errors.New("1:3: unexpected end")}, pathError{"sources.a.secret", errors.New("missing")})))
	want := strings.Join([]string{
		"freshwire.yaml: REDIS_URL: no such host",
		"freshwire.yaml:2:6: sources.a.secret: missing",
		"freshwire.yaml:5:11: rules[0].when: 1:3: unexpected end",
		"freshwire.yaml:6:23: rules[0].purge.tags[1]: reading rules: rules[0].purge.tags[1]: brace not closed",
	}, "\n")
	if located.Error() != want {
		t.Errorf("Locate =\n%v, want\n%s", located, want)
	}
	if !errors.Is(located, elsewhere) {
		t.Error("Locate lost the error that it located")
	}
	if again := doc.Locate(located); again.Error() != want {
		t.Errorf("Locate twice =\n%v", again)
	}
	if doc.Locate(nil) != nil {
		t.Error("Locate(nil) is an error")
	}
	for path, want := range map[string]string{
		"": "freshwire.yaml:1:1", "rules": "freshwire.yaml:4:3", "rules[0].when": "freshwire.yaml:5:11", "rules[0].nothing.here": "freshwire.yaml:4:5", "zzz": "freshwire.yaml:1:1",
	} {
		if got := doc.Where(path); got != want {
			t.Errorf("Where(%q) = %s, want %s", path, got, want)
		}
	}
}

func TestKeysKeepTheOrderOfTheFile(t *testing.T) {
	doc, err := Parse("f", []byte("sources: {zoo: {cms: ghost}, ape: , bee: }\nrules: [{fields: {z: a, b: c}}]"))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"sources": "zoo ape bee", "sources.zoo": "cms", "rules[0].fields": "z b", "": "sources rules", "rules": "", "rules[7].x": "", "no": ""} {
		if got := strings.Join(doc.Keys(path), " "); got != want {
			t.Errorf("Keys(%q) = %q, want %q", path, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", bomb, "a: &a [*a]", "<<: {a: b}", "sources: {a: {cms: ghost, <<: [{secret: x}, {tolerance: 5m}]}}", "rules: [{on: [a], limit: ${A:-5}}]",
		"log: {share: 1e400, depth: -1}", "? [a]\n: b", "a: !!binary aGk=", "%YAML 1.1\n---\na: b", "\xff\xfea\x00", "rules:\n- <<: &x {when: '$${A} ${A} ${B:-${C}'}\n- *x", "--- a\n--- b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var dst file
		err := Decode("f", []byte(s), &dst, env("A", "value: [of a"))
		if err == nil {
			return
		}
		list, _ := joined(err)
		if list == nil {
			list = []error{err}
		}
		for _, e := range list {
			var x *Error
			if !errors.As(e, &x) || x.File != "f" || x.Err == nil || x.Line > strings.Count(s, "\n")+strings.Count(s, "\r")+strings.Count(s, "\u2028")+strings.Count(s, "\u2029")+strings.Count(s, "\u0085")+2 {
				t.Errorf("Decode(%q) = %#v, an error without a place in the file", s, e)
			}
		}
	})
}

// Mistakes that have their place already are put in order with those that do not.
func TestLocateOrdersMixedMistakes(t *testing.T) {
	doc, err := Parse("f", []byte("rules:\n  - { when: a }\n  - { wen: b }\n"))
	if err != nil {
		t.Fatal(err)
	}
	var dst file
	found := doc.Decode(&dst, env())
	got := doc.Locate(errors.Join(found, placed("rules[0].when")))
	lines := strings.Split(got.Error(), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "f:2:") || !strings.HasPrefix(lines[1], "f:3:") {
		t.Errorf("Locate = %q, want the mistake of line 2, then that of line 3", lines)
	}
}

// placed is an error about the value at a path.
type placed string

func (p placed) Error() string    { return string(p) + ": wrong" }
func (p placed) YAMLPath() string { return string(p) }

// Text that was meant to be a variable must not become a secret.
func TestVariableThatIsNoneIsAMistake(t *testing.T) {
	for _, value := range []string{"${UNTERMINATED", "${1BAD}", "${}", "a ${A B} c", "${A:-", "$${A} ${"} {
		var dst file
		err := Decode("f", []byte("sources: {a: {cms: ghost, secret: '"+value+"'}}"), &dst, env("A", "x"))
		if err == nil || !strings.Contains(err.Error(), "sources.a.secret: ${ begins a variable") {
			t.Errorf("Decode of secret %q = %v, want a mistake", value, err)
		}
	}
}
