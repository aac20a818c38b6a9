package webhook

import (
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
)

// The outputs are those of JSON.stringify in Node.js, as bytes.
func TestHygraphStringIsEscapedAsJavaScriptDoes(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "2222",
		"plain":                    "22706c61696e22",
		`q"b\s/`:                   "22715c22625c5c732f22",
		"\b\t\n\f\r":               "225c625c745c6e5c665c7222",
		"\x00\x01\x1f":             "225c75303030305c75303030315c753030316622",
		"\u007f":                   "227f22",
		"\u0080":                   "22c28022",
		`<a href="x">&amp;</a>'`:   "223c6120687265663d5c22785c223e26616d703b3c2f613e2722",
		"\u2028\u2029":             "22e280a8e280a922",
		"é日🚀":                      "22c3a9e697a5f09f9a8022",
		"\ufeff\uffff":             "22efbbbfefbfbf22",
		strings.Repeat(`"`, 10000): "22" + strings.Repeat("5c22", 10000) + "22",
	} {
		if got := hex.EncodeToString(appendJSString(nil, text)); got != want {
			t.Errorf("appendJSString(%.40q) = %.200s, want %.200s", text, got, want)
		}
	}
}

func TestHygraphTellsWhatChanged(t *testing.T) {
	checkTold(t, SourceConfig{CMS: "hygraph", Secret: testSecret}, none, []told{
		{`{"operation":"unpublish","data":{"__typename":"Página","id":"cl0x","stage":"PUBLISHED","slug":"olá","body":"tab\tnl\nquote\"bs\\   é 🚀 <b>&</b>"}}`, "",
			Item{Event: "unpublish", Action: "unpublish", ContentType: "Página", ID: "cl0x", Slug: "olá", Environment: "master"}, nil},
		{`{"operation":"update","data":{"__typename":"Post","id":"1","stage":"DRAFT","updatedAt":"x"}}`, "",
			Item{Event: "update", Action: "update", ContentType: "Post", ID: "1", Environment: "master"}, nil},
		{`{"operation":"publish","data":{"__typename":"Post","id":"1","updatedAt":"x","publishedAt":"y"}}`, "",
			Item{Event: "publish", Action: "publish", ContentType: "Post", ID: "1", Environment: "master", Version: "y"}, nil},
		{``, "", Item{Action: "invalidate", Environment: "master", All: true}, nil},
		{`{"operation":"delete"}`, "", Item{Event: "delete", Action: "delete", Environment: "master", All: true}, nil},
	})
}

func TestHygraphNamesWhatIsWrong(t *testing.T) {
	src := source(t, SourceConfig{CMS: "hygraph", Secret: testSecret})
	good := sign(t, src, src.cms.sample, "").Header.Get(hygraphHeader)
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	at := strconv.FormatInt(noon.UnixMilli(), 10)
	for header, want := range map[string]Reason{
		good: "", " " + good + "\t": "", swap(", env", ",env"): "", swap("env=master", "env="): BadSignature,
		swap("env=master", "env=staging"): BadSignature, swap("env=master", `env=master"`): BadSignature, swap(at, "1795176000001"): BadSignature,
		swap(at, "now"): MalformedSignature, swap(", t="+at, ""): MalformedSignature, swap(", env=master", ""): MalformedSignature,
		swap("sign=", "sign=***"): BadSignature, "sign=***, env=master, t=" + at: BadSignature, "sign=, env=master, t=" + at: MalformedSignature,
		good + ", x=1": MalformedSignature, "": MissingSignature, "  ": MissingSignature,
	} {
		d := sign(t, src, src.cms.sample, "")
		d.Header.Set(hygraphHeader, header)
		if res := src.Verify(d, noon); res.Reason != want {
			t.Errorf("%s: %q (%v), want %q", header, res.Reason, res.Err, want)
		}
	}
}

func TestSanityNamesWhatIsWrong(t *testing.T) {
	src := source(t, SourceConfig{CMS: "sanity", Secret: testSecret})
	good := sign(t, src, src.cms.sample, "").Header.Get(sanityHeader)
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for header, want := range map[string]Reason{
		good: "", " " + good + " ": "", swap(",", ", "): "", swap(",", " "): "", good + "=": "", // padded
		swap("t=1", "t=2"): BadSignature, swap("v1=", "v1=A"): BadSignature, swap("v1=", "v1=***"): BadSignature,
		swap("t=1", "t=-1"): MalformedSignature, swap("t=", "t=99999999"): MalformedSignature, swap("v1=", "v2="): MalformedSignature,
		good + ",v1=A": MalformedSignature, "": MissingSignature,
	} {
		d := sign(t, src, src.cms.sample, "")
		d.Header.Set(sanityHeader, header)
		if res := src.Verify(d, noon); res.Reason != want {
			t.Errorf("%s: %q (%v), want %q", header, res.Reason, res.Err, want)
		}
	}
}
