package webhook

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/freshwire/freshwire/event"
)

// capture is a request as testdata/cms holds it, with what is expected of it.
type capture struct {
	CMS       string            `json:"cms"`
	Method    string            `json:"method"`
	Path      string            `json:"path"`
	Headers   map[string]string `json:"headers"`
	Body      string            `json:"body"`
	Config    json.RawMessage   `json:"config"`
	NowUnixMs int64             `json:"now_unix_ms"`
	Expect    map[string]any    `json:"expect"`
}

// captures reads every request of testdata/cms, by file name.
func captures(t testing.TB) map[string]capture {
	t.Helper()
	files, err := filepath.Glob("testdata/cms/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata/cms: %d files, %v", len(files), err)
	}
	all := make(map[string]capture)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var c capture
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = c
	}
	return all
}

func (c capture) delivery() Delivery {
	d := Delivery{Method: c.Method, Target: c.Path, Header: http.Header{}, Body: []byte(c.Body)}
	for name, value := range c.Headers {
		d.Header.Set(name, value)
	}
	return d
}

func (c capture) now() time.Time { return time.UnixMilli(c.NowUnixMs) }

// source reads the config of a capture as the configuration file would be read.
func (c capture) source(t testing.TB) *Source {
	t.Helper()
	var cfg struct {
		SourceConfig     `yaml:",inline"`
		ToleranceSeconds int64 `yaml:"tolerance_seconds"`
	}
	dec := yaml.NewDecoder(strings.NewReader(string(c.Config))) // JSON is YAML
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil {
		t.Fatalf("config %s: %v", c.Config, err)
	}
	cfg.CMS = c.CMS
	cfg.Tolerance = time.Duration(cfg.ToleranceSeconds) * time.Second
	src, err := NewSource("test", cfg.SourceConfig)
	if err != nil {
		t.Fatalf("NewSource(%s) = %v", c.Config, err)
	}
	return src
}

func TestRecordedDeliveriesAreUnderstood(t *testing.T) {
	for name, c := range captures(t) {
		t.Run(name, func(t *testing.T) {
			res := c.source(t).Verify(c.delivery(), c.now())
			text, err := json.Marshal(res)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			if mayAccept, _ := c.Expect["may_accept"].(bool); mayAccept && res.Valid() {
				t.Skip("either way is fine")
			}
			for key, want := range c.Expect {
				if key != "may_accept" && key != "items" && !reflect.DeepEqual(got[key], want) {
					t.Errorf("%s = %v, want %v (in %s)", key, got[key], want, text)
				}
			}
			wantItems, _ := c.Expect["items"].([]any) // only what they name matters
			gotItems, _ := got["items"].([]any)
			if wantItems != nil && len(gotItems) != len(wantItems) {
				t.Fatalf("items = %v, want %v", gotItems, wantItems)
			}
			for i, item := range wantItems {
				for key, want := range item.(map[string]any) {
					if got := gotItems[i].(map[string]any)[key]; !reflect.DeepEqual(got, want) {
						t.Errorf("items[%d].%s = %v, want %v", i, key, got, want)
					}
				}
			}
			if (res.Reason == "") != (res.Err == nil) {
				t.Errorf("reason %q with error %v, want both or none", res.Reason, res.Err)
			}
			for _, ev := range res.Events {
				if err := ev.Validate(); err != nil || !json.Valid(ev.Payload) {
					t.Errorf("event %+v, %v, want a valid one with JSON as payload", ev, err)
				}
			}
			if want := max(1, len(wantItems)); res.Valid() && !res.Ping && len(res.Events) != want {
				t.Errorf("%d events, want %d", len(res.Events), want)
			}
		})
	}
}

func TestGhostSaysWhatChangedEvenWithoutEventInURL(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	for _, tc := range []struct{ body, event, action, slug, previousSlug string }{
		{`{}`, "site.changed", "update", "", ""},
		{`{"tag":{"current":{},"previous":{"id":"1","slug":"old"}}}`, "tag.deleted", "delete", "old", ""},
		{`{"post":{"current":{"id":"1","slug":"a","status":"published"},"previous":{"status":"draft"}}}`, "post.published", "publish", "a", ""},
		{`{"post":{"current":{"id":"1","slug":"a","status":"published"},"previous":{"status":"scheduled"}}}`, "post.published", "publish", "a", ""},
		{`{"page":{"current":{"id":"1","slug":"a","status":"draft"},"previous":{"status":"published"}}}`, "page.unpublished", "unpublish", "a", ""},
		{`{"post":{"current":{"id":"1","slug":"a","status":"scheduled"},"previous":{"status":"draft"}}}`, "post.scheduled", "update", "a", ""},
		{`{"post":{"current":{"id":"1","slug":"a","status":"draft"},"previous":{"status":"scheduled"}}}`, "post.unscheduled", "update", "a", ""},
		{`{"post":{"current":{"id":"1","slug":"b","status":"published"},"previous":{"slug":"a"}}}`, "post.published.edited", "update", "b", "a"},
		{`{"tag":{"current":{"id":"1","slug":"b"},"previous":{"slug":"a"}}}`, "tag.edited", "update", "b", "a"},
		{`{"tag":{"current":{"id":"1","slug":"b","created_at":"1","updated_at":"1"},"previous":{}}}`, "tag.added", "create", "b", ""},
		{`{"member":{"current":{"id":"1","created_at":"1","updated_at":"2"},"previous":{"name":"x"}}}`, "member.edited", "update", "", ""},
	} {
		d, err := src.Sign([]byte(tc.body), "", noon)
		if err != nil {
			t.Fatal(err)
		}
		d.Target = "/webhooks/test"
		res := src.Verify(d, noon)
		if !res.Valid() || len(res.Events) != 1 {
			t.Errorf("Verify(%s) = %+v, want one item", tc.body, res)
			continue
		}
		if it := res.Whole; it.Event != tc.event || string(it.Action) != tc.action || it.Slug != tc.slug || it.PreviousSlug != tc.previousSlug {
			t.Errorf("Verify(%s) = %+v, want %+v", tc.body, it, tc)
		}
	}
}

func TestGhostBodyWithoutEntityIsMalformed(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	for _, body := range []string{`{"post":1}`, `{"post":{}}`, `{"post":{"current":[]}}`, `{"a":{"current":{}},"b":{"current":{}}}`, `{"a.b":{"current":{}}}`} {
		d, err := src.Sign([]byte(body), "", noon)
		if err != nil {
			t.Fatal(err)
		}
		if res := src.Verify(d, noon); res.Reason != MalformedBody || !res.SignatureOK {
			t.Errorf("Verify(%s) = %q, want malformed_body after a good signature", body, res.Reason)
		}
	}
}

func TestGenericFieldsStandWherePathsSay(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret, EventHeader: "X-Topic",
		Paths: Paths{Type: "kind", ID: "doc.keys.1", Slug: "doc.slug.current", PreviousSlug: "doc.old", Locale: "lang", Environment: "env", Version: "rev"}})
	d, err := src.Sign([]byte(`{"kind":"article","doc":{"keys":["x",7],"slug":{"current":"new"},"old":"was"},"lang":"fr","env":"main","rev":12,"type":"ignored.updated"}`), "entry.archived", noon)
	if err != nil {
		t.Fatal(err)
	}
	res := src.Verify(d, noon)
	want := Item{Event: "entry.archived", Action: event.Archive, ContentType: "article", ID: "7", Slug: "new", PreviousSlug: "was",
		Locale: "fr", Environment: "main", Version: "12"}
	if !res.Valid() || !reflect.DeepEqual(res.Whole, want) {
		t.Errorf("Verify = %q, %+v, want %+v", res.Reason, res.Whole, want)
	}
	d.Header.Del("X-Topic")
	if res := src.Verify(d, noon); !res.Valid() || res.Whole.Event != "ignored.updated" {
		t.Errorf("without the event header: %+v, want the type of the body", res)
	}
}

func TestVerbsMapToActionsAndAnythingElseIsOther(t *testing.T) {
	for name, want := range map[string]event.Action{
		"post.created": "create", "post.updated": "update", "post.published": "publish", "post.unpublished": "unpublish",
		"post.deleted": "delete", "blog.post.archived": "archive", "post.Updated": "other", "post.frobnicated": "other", "post": "other",
		"post.": "other", ".updated": "update", "ping": "ping", "": "",
	} {
		if got := actionOf(name); got != want {
			t.Errorf("actionOf(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestEventWithoutNameOrTypeStillEnters(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret})
	for body, kind := range map[string]string{`{"a":1}`: "unknown.other", `{"type":"refresh"}`: "refresh.other", `{"type":"a.b.deleted"}`: "a.b.delete"} {
		d, _ := src.Sign([]byte(body), "", noon)
		if res := src.Verify(d, noon); len(res.Events) != 1 || res.Events[0].Kind() != kind {
			t.Errorf("Verify(%s) = %+v, want %s", body, res.Events, kind)
		}
	}
}

func TestDeliveryWithoutNameHasNoAction(t *testing.T) {
	for _, cms := range []string{"sanity", "webflow", "contentstack", "storyblok", "woocommerce", "shopify", "drupal", "strapi", "umbraco", "craft"} {
		src := source(t, usual(cms))
		d, err := src.Sign([]byte(`{"id":1}`), "", noon)
		if err != nil {
			t.Fatal(err)
		}
		if place, header, _ := strings.Cut(src.cfg.EventFrom, ":"); place == "header" {
			d.Header.Del(header)
		}
		res := src.Verify(d, noon)
		if !res.Valid() || res.Whole.Event != "" || res.Whole.Action != "" || len(res.Events) != 1 || res.Events[0].Action != event.Other {
			t.Errorf("%s: %v, %+v, events %+v, want neither name nor action, and one event to act upon", cms, res.Err, res.Whole, res.Events)
		}
	}
}

func TestPingIsValidAndAsksForNothing(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret})
	d, _ := src.Sign([]byte(`{"type":"ping"}`), "", noon)
	if res := src.Verify(d, noon); !res.Valid() || !res.Ping || len(res.Events) != 0 {
		t.Errorf("Verify(ping) = %+v, want a ping without events", res)
	}
}
