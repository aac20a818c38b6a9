package yamlfile

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// The schema and Decode agree: an editor does not draw red lines under what
// starts, and does under what does not.
func TestSchemaSaysWhatDecodeSays(t *testing.T) {
	out, err := Schema(&file{}, Meta{ID: "https://example.com/freshwire.schema.json", Title: "freshwire.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jsonschema.UnmarshalJSON(strings.NewReader(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("s.json", raw); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("s.json") // checks it against draft-07 too
	if err != nil {
		t.Fatal(err)
	}
	for text, valid := range map[string]bool{
		"sources: {a: {cms: ghost, tolerance: 1h30m, max_body: 1MiB, secret: x}}": true,
		"sources: {a: {cms: '${CMS:-ghost}', max_body: 12}}":                      true,
		"sources:\nrules:\n": true,
		"rules: [{on: [a], limit: 3, fields: {a: b}, purge: {tags: [a]}}]": true,
		"rules: [{limit: '${A:-1}'}]":                                      true,
		"log: {bodies: true, share: 0.25, depth: 3}":                       true,
		"sources: {a: {cms: ghost, previous_secrets: ['${B:-}']}}":         true,
		"log: {pace: 0}": true, "log: {pace: 5/1s}": true, "log: {pace: true}": false, "log: {pace: 1.5}": false,
		"sources: {a: {}}":                                false,
		"sources: {a: {cms: gohst}}":                      false,
		"sources: {a: {cms: sanity}}":                     false,
		"sources: {A: {cms: ghost}}":                      false,
		"sources: {a: {cms: ghost, secrt: x}}":            false,
		"sources: {a: {cms: ghost, archive: x}}":          false,
		"sources: {a: {cms: ghost, tolerance: soon}}":     false,
		"sources: {a: {cms: ghost, tolerance: 5}}":        false,
		"sources: {a: {cms: ghost, max_body: 1X}}":        false,
		"sources: {a: {cms: ghost, max_body: 1K}}":        false,
		"sources: {a: {cms: ghost, header: 'a b'}}":       false,
		"sources: {a: {cms: ghost, header: 12}}":          false,
		"rules: [{limit: 1.5}]":                           false,
		"rules: [{limit: '1'}]":                           false,
		"rules: {}":                                       false,
		"rules: [{on: a}]":                                false,
		"log: {bodies: 'yes'}":                            false,
		"log: {depth: -1}":                                false,
		"sources: {a: {cms: ghost, previous_secrets: x}}": false,
		"other: 1": false,
	} {
		var dst file
		if err := Decode("f", []byte(text), &dst, env()); (err == nil) != valid {
			t.Errorf("Decode(%s) = %v, want valid = %v", text, err, valid)
		}
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		inst, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(inst); (err == nil) != valid {
			t.Errorf("schema on %s = %v, want valid = %v", text, err, valid)
		}
	}
}

func TestMarkdownHoldsEveryKey(t *testing.T) {
	md := Markdown(file{})
	for _, want := range []string{
		"## `sources.<name>`\n\nOne webhook URL each.\n",
		"| `cms` | `generic`, `ghost`, `standardwebhooks` | required | row of docs/cms.md |",
		"| `previous_secrets` | list of secret | – | older secrets |",
		"| `tolerance` | duration | `5m` | largest age |",
		"| `max_body` | size | `1MiB` | largest body |",
		"| `header` | text | – | name of a header, such as `X-Signature` |",
		"| `archive` | text | – | where bodies are kept (this version does not do this yet) |",
		"## `rules[]`", "## `rules[].purge`\n\nWhat to make void.\n\n| key |",
		"| `fields` | name: text | – | what to pass on |",
		"| `depth` | number | – | how deep |",
	} {
		if !strings.Contains(md, want) {
			t.Errorf("Markdown lacks\n%s\nin\n%s", want, md)
		}
	}
}
