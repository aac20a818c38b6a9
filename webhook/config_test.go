package webhook

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMistakesOfASourceAreAllNamed(t *testing.T) {
	many := make([]string, 9)
	for i := range many {
		many[i] = testSecret
	}
	for _, tc := range []struct {
		cfg  SourceConfig
		want []string // one line each, begins after "sources.blog."
	}{
		{SourceConfig{}, []string{"cms: missing"}},
		{SourceConfig{CMS: "generic"}, []string{"scheme: missing"}},
		{SourceConfig{CMS: "generic", Secret: testSecret}, []string{"scheme: missing"}},
		{SourceConfig{CMS: "generic", Scheme: "hmca", Secret: testSecret}, []string{`scheme: unknown scheme "hmca" (did you mean "hmac"?)`}},
		{SourceConfig{CMS: "generic", Scheme: "trust", Secret: testSecret}, []string{`scheme: unknown scheme "trust"; one of hmac, token`}},
		{SourceConfig{CMS: "ghots", Secret: testSecret}, []string{`cms: this version does not know cms "ghots"; use cms: generic with the scheme that it signs with (did you mean "ghost"?)`}},
		{SourceConfig{CMS: "storyblock"}, []string{`cms: this version does not know cms "storyblock"; use cms: generic with the scheme that it signs with (did you mean "storyblok"?)`}},
		{SourceConfig{CMS: "ghost"}, []string{"secret: is empty"}},
		{SourceConfig{CMS: "ghost", PreviousSecrets: []string{testSecret}}, []string{"secret: is empty"}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, PreviousSecrets: many}, []string{"previous_secrets: holds 9, at most 8"}},
		{SourceConfig{CMS: "standardwebhooks", Secret: "whsec_", PreviousSecrets: []string{"***"}},
			[]string{"secret: is empty after whsec_", "previous_secrets[0]: is not base64 after whsec_"}},
		{SourceConfig{CMS: "generic", Scheme: "basic", Secret: "no colon here, alas"}, []string{"secret: is not user:password"}},
		{SourceConfig{CMS: "generic", Scheme: "basic", Secret: "ada:"}, []string{"secret: is not user:password"}},
		{SourceConfig{CMS: "generic", Scheme: "basic", Username: "ada"}, []string{"secret: is empty"}},
		{SourceConfig{CMS: "generic", Scheme: "basic", Password: testSecret}, []string{"username: missing beside password", "secret: is not user:password"}},
		{SourceConfig{CMS: "generic", Scheme: "basic", Username: "a:b", Secret: testSecret}, []string{"username: holds a colon"}},
		{SourceConfig{CMS: "generic", Scheme: "basic", Username: "a", Password: "b", Secret: testSecret}, []string{"secret: stands beside password"}},
		{SourceConfig{CMS: "generic", Scheme: "none", Secret: testSecret}, []string{"secret: means nothing with scheme none"}},
		{SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret, Hash: "sha256", SignedPayload: "{body}"},
			[]string{"hash: means nothing with scheme token", "signed_payload: means nothing with scheme token"}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, Encoding: "hex"}, []string{"encoding: means nothing with scheme ghost"}},
		{SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, Hash: "md5", Encoding: "hax", TimestampUnit: "h"},
			[]string{`hash: "md5"`, `encoding: "hax"`, `timestamp_unit: "h"`}},
		{SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, SignedPayload: "{timestamp}"}, []string{"signed_payload: \"{timestamp}\" does not sign {body}"}},
		{SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, SignedPayload: "{timestamp.{body}"}, []string{"signed_payload: "}},
		{SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, SignedPayload: "{body}{"}, []string{"signed_payload: \"{body}{\": a brace is not closed"}},
		{SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, SignedPayload: "{id}.{body}"}, []string{"delivery_id_header: missing"}},
		{SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, TimestampHeader: "X-T"}, []string{"timestamp_header: is not signed"}},
		{SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, Header: "X Y", DeliveryIDHeader: "a:b", EventHeader: "é"},
			[]string{"header: ", "delivery_id_header: ", "event_header: "}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, EventHeader: "X-E", EventFrom: "query:e"}, []string{"event_from: stands beside event_header"}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, EventFrom: "url:e"}, []string{"event_from: \"url:e\""}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, EventFrom: "query:"}, []string{"event_from: \"query:\""}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, Tolerance: -time.Second, MaxBody: -1, DedupeWindow: time.Hour},
			[]string{"tolerance: ", "dedupe_window: ", "max_body: "}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, Settle: 31 * time.Second}, []string{"settle: "}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, Settle: -time.Second}, []string{"settle: "}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, Tolerance: 25 * time.Hour, MaxBody: 33 << 20}, []string{"tolerance: ", "max_body: "}},
		{SourceConfig{CMS: "standardwebhooks", Secret: testWhsec, HeaderPrefix: "a b"}, []string{"header_prefix: "}},
		{SourceConfig{CMS: "generic", Scheme: "body-secret", Secret: testSecret, Path: "a..b"}, []string{"path: "}},
	} {
		src, err := NewSource("blog", tc.cfg)
		if err == nil || src != nil {
			t.Errorf("NewSource(%+v) = %v, nil, want %q", tc.cfg, src, tc.want)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != len(tc.want) {
			t.Errorf("NewSource says %q, want %d mistakes: %q", lines, len(tc.want), tc.want)
			continue
		}
		var m *Mistake
		if !errors.As(err, &m) || !strings.HasPrefix(m.Error(), m.YAMLPath()+": ") {
			t.Errorf("NewSource says %v, want mistakes with their path", err)
		}
		for _, want := range tc.want {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "sources.blog."+want) }) {
				t.Errorf("NewSource says %q, want a line beginning with %q", lines, "sources.blog."+want)
			}
		}
		if strings.Contains(err.Error(), testSecret) {
			t.Errorf("NewSource says a secret: %v", err)
		}
	}
}

func TestNameOfASourceFitsIntoAURL(t *testing.T) {
	cfg := SourceConfig{CMS: "ghost", Secret: testSecret}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "%s", "-a", "shop.eu", strings.Repeat("a", 65), "é"} {
		if _, err := NewSource(name, cfg); err == nil {
			t.Errorf("NewSource(%q) = nil, want an error", name)
		}
	}
	for _, name := range []string{"cms", "my-blog_2", strings.Repeat("a", 64)} {
		if _, err := NewSource(name, cfg); err != nil {
			t.Errorf("NewSource(%q) = %v, want nil", name, err)
		}
	}
}

func TestWeakSecretsAreWarnedOf(t *testing.T) {
	for _, tc := range []struct {
		cfg  SourceConfig
		want []string
	}{
		{SourceConfig{CMS: "ghost", Secret: "short"}, []string{"sources.test.secret: has 5 bytes"}},
		{SourceConfig{CMS: "ghost", Secret: testSecret, PreviousSecrets: []string{"", "short"}}, []string{"sources.test.previous_secrets[0]: has 5 bytes"}},
		{SourceConfig{CMS: "ghost", Secret: testSecret + "\n"}, []string{"sources.test.secret: begins or ends with white space"}},
		{SourceConfig{CMS: "ghost", Secret: testSecret}, nil},
		{SourceConfig{CMS: "ghost", Secret: testSecret, PreviousSecrets: []string{""}}, nil},
	} {
		got := source(t, tc.cfg).Warnings()
		if len(got) != len(tc.want) || len(got) > 0 && !strings.HasPrefix(got[0], tc.want[0]) {
			t.Errorf("Warnings() = %q, want %q", got, tc.want)
		}
	}
}

func TestDefaultsOfTheConfigFileAreNotTakenForKeysInUse(t *testing.T) {
	cfg := SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret, Tolerance: 5 * time.Minute, MaxBody: 1 << 20,
		DedupeWindow: 10 * time.Second, Paths: Paths{ID: "data.id", Slug: "data.slug", Locale: "data.locale"}}
	if _, err := NewSource("blog", cfg); err != nil {
		t.Errorf("NewSource(defaults written out) = %v, want nil", err)
	}
}

// Each field of the configuration has a key and a description; what the enum
// of a key allows is what the tables know.
func TestTagsTellWhatTheTablesKnow(t *testing.T) {
	fields := reflect.TypeFor[SourceConfig]()
	for i := range fields.NumField() {
		f := fields.Field(i)
		if f.Tag.Get("yaml") == "" || f.Tag.Get("desc") == "" {
			t.Errorf("%s has no key or no description", f.Name)
		}
	}
	var names []string
	for _, sc := range schemes {
		names = append(names, sc.name)
		for _, key := range sc.uses {
			if !slices.ContainsFunc(reflect.VisibleFields(fields), func(f reflect.StructField) bool { return f.Tag.Get("yaml") == key }) {
				t.Errorf("scheme %s uses key %q, which is none", sc.name, key)
			}
		}
	}
	scheme, _ := fields.FieldByName("Scheme")
	if got := scheme.Tag.Get("enum"); got != strings.Join(names, ",") {
		t.Errorf("enum of scheme is %q, the table knows %q", got, names)
	}
	cms, _ := fields.FieldByName("CMS")
	for _, c := range cmses {
		if !strings.Contains(cms.Tag.Get("desc"), c.name) {
			t.Errorf("the description of cms does not name %s", c.name)
		}
	}
}

func TestSourcePrintsWithoutItsSecrets(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "source", src)
	for _, text := range []string{fmt.Sprintf("%v %+v %s", src, src, src), log.String()} {
		if strings.Contains(text, testSecret) || !strings.Contains(text, "test") {
			t.Errorf("prints %q, want the name alone", text)
		}
	}
}

func TestConfigNamesItsMistakes(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("Validate of the zero Config = %v", err)
	}
	err := Config{EnqueueTimeout: -1, RetryAfter: 2 * time.Hour}.Validate()
	if err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("Validate = %v, want two mistakes", err)
	}
}

func TestEveryCMSHasDeliveriesInTestdata(t *testing.T) {
	for _, c := range cmses {
		found := false
		for name := range captures(t) {
			found = found || strings.HasPrefix(name, c.name+".")
		}
		if !found {
			t.Errorf("cms %s has no delivery in testdata/cms", c.name)
		}
	}
}
