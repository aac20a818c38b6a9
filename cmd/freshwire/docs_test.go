package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/freshwire/freshwire/internal/yamlfile"
)

var update = flag.Bool("update", false, "write the generated documents anew")

// golden compares a generated document with the one in docs, or writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the code says; write it anew with `make docs`", path)
	}
}

func TestConfigDocsAreWhatTheCodeSays(t *testing.T) {
	golden(t, "../../docs/config.md", configDocs())
}

func TestSchemaFileIsWhatTheCodeSays(t *testing.T) {
	schema, err := fileSchema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../../docs/freshwire.schema.json", append(schema, '\n'))
}

func configDocs() []byte {
	var b bytes.Buffer
	b.WriteString("# Configuration\n\nGenerated from the code by `make docs`; a test holds it true.\n\n## Environment\n\n" +
		"Any secret may come from a file instead: `FRESHWIRE_ADMIN_TOKEN_FILE` names one for `FRESHWIRE_ADMIN_TOKEN`; so may each `${VAR}` of the config file.\n\n" +
		"| variable | meaning | default |\n|---|---|---|\n")
	describe(&b, reflect.TypeFor[environment](), "")
	b.WriteString("\n### Fine tuning\n\nThe defaults are right for most sites.\n\n| variable | meaning | default |\n|---|---|---|\n")
	var c configs
	for _, part := range c.parts() {
		describe(&b, reflect.TypeOf(part).Elem(), "FRESHWIRE_")
	}
	b.WriteString("\n## `freshwire.yaml`\n\n" +
		"The file is read strictly: an unknown or misspelt key is an error with its line and the nearest known key. `${VAR}` is replaced from the environment inside values, `${VAR:-text}`\n" +
		"stands for `text` when the variable is not set, `$${` for `${` itself; any other `${` is an error. `{…}` in rules is an [expression](https://expr-lang.org/docs/language-definition) over the event:\n" +
		"`id type action event slug previous_slug locale source environment version payload`. In routes it is a name of the path.\n\n" +
		"Editors complete it with the schema: `freshwire schema > freshwire.schema.json`, and as the first line of the file\n" +
		"`# yaml-language-server: $schema=freshwire.schema.json`.\n\n")
	b.WriteString(yamlfile.Markdown(&configFile{}))
	return b.Bytes()
}

// describe prints a row for each variable of an envconfig struct.
func describe(b *bytes.Buffer, t reflect.Type, prefix string) {
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name, desc := tag.Get("envconfig"), tag.Get("desc")
		if name == "" || tag.Get("ignored") == "true" || prefix != "" && (name == "NAMESPACE" || name == "CORS_ORIGINS") {
			continue
		}
		value := tag.Get("shown")
		if value == "" {
			value = tag.Get("default")
		}
		if value != "" && !strings.Contains(value, " ") {
			value = "`" + value + "`"
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, name, desc, value)
	}
}

func TestEveryVariableIsDescribed(t *testing.T) {
	var c configs
	types := []reflect.Type{reflect.TypeFor[environment]()}
	for _, part := range c.parts() {
		types = append(types, reflect.TypeOf(part).Elem())
	}
	for _, typ := range types {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Tag.Get("ignored") != "true" && f.IsExported() && (f.Tag.Get("envconfig") == "" || f.Tag.Get("desc") == "") {
				t.Errorf("%v.%s has no variable or no description", typ, f.Name)
			}
		}
	}
}

// The README's configuration is one that starts.
func TestReadmeConfigStarts(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```yaml\n")
	text, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("README.md shows no YAML")
	}
	for _, name := range []string{"BLOG_SECRET", "REVALIDATION_SECRET"} {
		t.Setenv(name, "0123456789abcdef0123456789abcdef")
	}
	t.Setenv("CMS_URL", "https://cms.example")
	if _, err := parseSite("README.md", []byte(text)); err != nil {
		t.Errorf("the README's config does not start:\n%v", err)
	}
	if err := validateBySchema(t, text); err != nil {
		t.Errorf("the schema refuses the README's config: %v", err)
	}
	if err := validateBySchema(t, strings.Replace(text, "purge:", "purg:", 1)); err == nil {
		t.Error("the schema takes a misspelt key")
	}
}

func validateBySchema(t *testing.T, text string) error {
	t.Helper()
	schema, err := fileSchema()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("freshwire.schema.json", raw); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("freshwire.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return compiled.Validate(value)
}

// The README's curl is signed as the demo signs.
func TestReadmeCurlIsSigned(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{demoCurlSignature, demoCurlBody} {
		if !strings.Contains(string(readme), part) {
			t.Errorf("README.md does not show %s", part)
		}
	}
}
