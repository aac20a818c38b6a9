package webhook

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// The outputs are those of encodeURI and encodeURIComponent in Node.js.
func TestContentfulPathIsEscapedAsJavaScriptDoes(t *testing.T) {
	for target, want := range map[string]string{
		"/":                               "/",
		"/hooks/contentful":               "/hooks/contentful",
		"/hooks/contentful?site=blog":     "/hooks/contentful?site%253Dblog",
		"/a?":                             "/a",
		"/a%20b":                          "/a%2520b",
		"/a?x=%20y&z=1+2":                 "/a?x%253D%252520y%2526z%253D1%252B2",
		"/a?b?c":                          "/a?b%253Fc",
		"/é/日本/🚀":                         "/%C3%A9/%E6%97%A5%E6%9C%AC/%F0%9F%9A%80",
		"/a?é=日":                          "/a?%25C3%25A9%253D%25E6%2597%25A5",
		"/a?~!*()'-_.":                    "/a?~!*()'-_.",
		"/a;b,c/d:e@f&g=h+i$j-k_l.m!n~o*": "/a;b,c/d:e@f&g=h+i$j-k_l.m!n~o*",
		"/p'q(r)s#t":                      "/p'q(r)s#t",
		"/[a]^b`c{d}|e\\f\"g<h>i":         "/%5Ba%5D%5Eb%60c%7Bd%7D%7Ce%5Cf%22g%3Ch%3Ei",
		"/\x7f":                           "/%7F",
	} {
		if got := contentfulPath(target); got != want {
			t.Errorf("contentfulPath(%q) = %q, want %q", target, got, want)
		}
	}
}

func TestContentfulBelievesOnlyHeadersThatAreSigned(t *testing.T) {
	src := source(t, SourceConfig{CMS: "contentful", Secret: testSecret})
	resign := func(d *Delivery, list string) {
		d.Header.Set(contentfulSigned, list)
		head, problem := contentfulHead(src, *d)
		if problem.reason != "" {
			t.Fatal(problem.err)
		}
		d.Header.Set(contentfulSignature, strings.ToUpper(hex.EncodeToString(src.mac(src.keys[0], head, d.Body))))
	}
	d := sign(t, src, src.cms.sample, "ContentManagement.Entry.publish")
	resign(&d, "X-Contentful-Timestamp , x-contentful-signed-headers")
	res := src.Verify(d, noon)
	if !res.Valid() || res.Whole.Event != "" || res.Whole.Action != "" || res.Events[0].Action != "other" || res.DeliveryID == "" {
		t.Errorf("topic not listed: %q, %+v, want it ignored, and the delivery id believed", res.Reason, res.Whole)
	}
	resign(&d, "x-contentful-topic,x-contentful-timestamp,x-contentful-signed-headers,x-contentful-topic")
	if res := src.Verify(d, noon); !res.Valid() || res.Whole.Event != "ContentManagement.Entry.publish" {
		t.Errorf("topic listed: %q, %+v, want it believed", res.Reason, res.Whole)
	}
	d.Header.Set("X-Contentful-Topic", "ContentManagement.Entry.delete")
	if res := src.Verify(d, noon); res.Reason != BadSignature {
		t.Errorf("topic changed: %q, want bad_signature", res.Reason)
	}
}

func TestContentfulNamesWhatIsWrong(t *testing.T) {
	set := func(name, value string) func(*Delivery) { return func(d *Delivery) { d.Header.Set(name, value) } }
	del := func(name string) func(*Delivery) { return func(d *Delivery) { d.Header.Del(name) } }
	twice := func(name string) func(*Delivery) {
		return func(d *Delivery) { d.Header[name] = append(d.Header[name], d.Header[name][0]) }
	}
	src := source(t, SourceConfig{CMS: "contentful", Secret: testSecret})
	for i, tc := range []struct {
		change func(*Delivery)
		want   Reason
	}{
		{func(*Delivery) {}, ""},
		{del("X-Contentful-Topic"), MissingSignature}, // listed, so it must be there
		{del("Content-Type"), MissingSignature},
		{set("Content-Type", "text/plain"), BadSignature},
		{set("Content-Type", " application/vnd.contentful.management.v1+json\t"), ""},
		{set("Content-Type", ""), BadSignature}, // there, and empty
		{set("Via", "1.1 edge"), ""},
		{del(contentfulTimestamp), MissingSignature},
		{set(contentfulTimestamp, "now"), MalformedSignature},
		{set(contentfulTimestamp, "1795176000001"), BadSignature},
		{set(contentfulSigned, ""), MissingSignature},
		{set(contentfulSigned, "x-contentful-timestamp"), MalformedSignature},
		{set(contentfulSigned, "x-contentful-signed-headers"), MalformedSignature},
		{set(contentfulSigned, "x-contentful-signed-headers,x-contentful-timestamp"), BadSignature},
		{set(contentfulSigned, "x-contentful-signed-headers,x-contentful-timestamp,a b"), MalformedSignature},
		{set(contentfulSigned, "x-contentful-signed-headers,x-contentful-timestamp,"), MalformedSignature},
		{set(contentfulSigned, strings.Repeat("x-contentful-signed-headers,x-contentful-timestamp,", 5000)+"via"), MissingSignature},
		{set(contentfulSignature, "zz"), BadSignature},
		{twice(contentfulSignature), MalformedSignature},
		{twice("Content-Type"), MalformedSignature},
		{func(d *Delivery) { d.Method = "PUT" }, BadSignature},
		{func(d *Delivery) { d.Target += "?a=b" }, BadSignature},
		{func(d *Delivery) { d.Target += "?" }, ""},
	} {
		d := sign(t, src, src.cms.sample, "")
		tc.change(&d)
		if res := src.Verify(d, noon); res.Reason != tc.want {
			t.Errorf("case %d: %q (%v), want %q", i, res.Reason, res.Err, tc.want)
		}
	}
}

func TestContentfulPathMayBeSignedAsTheProxySawIt(t *testing.T) {
	outside := source(t, SourceConfig{CMS: "contentful", Secret: testSecret, SignedPath: "/cms/hook?site=blog"})
	d := sign(t, outside, outside.cms.sample, "")
	d.Target = "/webhooks/test"
	if res := outside.Verify(d, noon); !res.Valid() {
		t.Errorf("with signed_path: %v, want valid", res.Err)
	}
	if res := source(t, SourceConfig{CMS: "contentful", Secret: testSecret}).Verify(d, noon); res.Reason != BadSignature {
		t.Errorf("without: %q, want bad_signature", res.Reason)
	}
	for _, path := range []string{"cms", "https://a.example/cms", "/a b", "/a#b", "/a\n"} {
		if _, err := NewSource("test", SourceConfig{CMS: "contentful", Secret: testSecret, SignedPath: path}); err == nil {
			t.Errorf("NewSource with signed_path %q = nil, want a mistake", path)
		}
	}
}

func TestContentfulTellsWhatChanged(t *testing.T) {
	const place = `"environment":{"sys":{"id":"master"}}`
	saved := SourceConfig{CMS: "contentful", Secret: testSecret, AutoSave: true}
	plain := SourceConfig{CMS: "contentful", Secret: testSecret}
	moved := plain
	moved.Paths = Paths{Type: "kind", ID: "uid", Slug: "path", Locale: "lang", Version: "v"}
	for _, tc := range []struct {
		cfg         SourceConfig
		topic, body string
		want        Item
		events      int
	}{
		{plain, "Entry.save", `{"sys":{"type":"Entry","id":"1",` + place + `,"version":7,"contentType":{"sys":{"id":"post"}}},"fields":{"slug":{"de":"","en":"a","fr":"b"}}}`,
			Item{Action: "update", ContentType: "post", ID: "1", Slug: "a", Environment: "master"}, 1},
		{plain, "Entry.publish", `{"sys":{"type":"Entry","id":"1","revision":9,"contentType":{"sys":{"id":"post"}}}}`,
			Item{Action: "publish", ContentType: "post", ID: "1", Version: "9"}, 1},
		{plain, "Entry.delete", `{"sys":{"type":"DeletedEntry","id":"1","revision":9,` + place + `,"contentType":{"sys":{"id":"post"}}}}`,
			Item{Action: "delete", ContentType: "post", ID: "1", Environment: "master"}, 1},
		{plain, "Asset.unpublish", `{"sys":{"type":"DeletedAsset","id":"1"}}`, Item{Action: "unpublish", ContentType: "Asset", ID: "1"}, 1},
		{plain, "Entry.unarchive", `{"sys":{"type":"Entry","id":"1"}}`, Item{Action: "unarchive", ContentType: "Entry", ID: "1"}, 1},
		{plain, "ContentType.publish", `{"sys":{"type":"ContentType","id":"post","revision":2}}`, Item{Action: "publish", ContentType: "ContentType", ID: "post", Version: "2"}, 1},
		{plain, "Entry.auto_save", `{"sys":{"type":"Entry","id":"1"}}`, Item{Action: "update", ContentType: "Entry", ID: "1"}, 0},
		{saved, "Entry.auto_save", `{"sys":{"type":"Entry","id":"1"}}`, Item{Action: "update", ContentType: "Entry", ID: "1"}, 1},
		{plain, "EnvironmentAlias.save", `{"sys":{"type":"EnvironmentAlias","id":"master"}}`, Item{Action: "update", ContentType: "EnvironmentAlias", ID: "master", All: true}, 1},
		{plain, "ScheduledAction.execute", `{"sys":{"type":"ScheduledAction","id":"x"}}`, Item{Action: "other", ContentType: "ScheduledAction", ID: "x"}, 1},
		{plain, "Entry.publish", `{"slug":"made by a transformation"}`, Item{Action: "publish", ContentType: "Entry"}, 1},
		{moved, "Entry.publish", `{"kind":"page","uid":5,"path":"/a","lang":"de","v":3,"sys":{"id":"1","revision":9}}`,
			Item{Action: "publish", ContentType: "page", ID: "5", Slug: "/a", Locale: "de", Version: "3"}, 1},
	} {
		src := source(t, tc.cfg)
		tc.want.Event = "ContentManagement." + tc.topic
		res := src.Verify(sign(t, src, tc.body, tc.want.Event), noon)
		if !res.Valid() || !same(res.Whole, tc.want) || len(res.Events) != tc.events {
			t.Errorf("%s %s: %v, %d events of %+v, want %d of %+v", tc.topic, tc.body, res.Err, len(res.Events), res.Whole, tc.events, tc.want)
		}
		for _, ev := range res.Events {
			if (ev.Purge != nil) != tc.want.All {
				t.Errorf("%s: purge %+v, want all: %v", tc.topic, ev.Purge, tc.want.All)
			}
		}
	}
}

func TestContentfulSecretOfAnotherLengthIsWarnedOf(t *testing.T) {
	src := source(t, SourceConfig{CMS: "contentful", Secret: strings.Repeat("x", 63)})
	if w := src.Warnings(); len(w) != 1 || !strings.Contains(w[0], "63 characters") {
		t.Errorf("Warnings() = %q, want one of the length", w)
	}
	if w := source(t, SourceConfig{CMS: "contentful", Secret: strings.Repeat("x", 64), Tolerance: time.Minute}).Warnings(); len(w) != 0 {
		t.Errorf("Warnings() = %q, want none", w)
	}
}
