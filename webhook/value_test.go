package webhook

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestValueFindsWhatStandsAtAPath(t *testing.T) {
	body, err := parseObject([]byte(` {"a" : {"b":[1, {"c":"x\u00e9"} ,"]}"], "n":12345678901234567890, "a":null},"k\u0065y":"found","d":1,"d":2,"t":true,"e":{},"s":"q\"}"} `))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"a.b.0": "1", "a.b.1.c": "xé", "a.b.2": "]}", "a.n": "12345678901234567890", "a.a": "", "key": "found", "d": "2",
		"a.b.3": "", "a.b.x": "", "a.b.-1": "", "d.x": "", "nope": "", "": "", "t": "", "e": "", "s": `q"}`, "a.b": "",
	} {
		if got := body.text(path); got != want {
			t.Errorf("text(%q) = %q, want %q", path, got, want)
		}
	}
	if got := body.keys(); !slices.Equal(got, []string{"a", "key", "d", "t", "e", "s"}) {
		t.Errorf("keys = %q", got)
	}
	if !body.isTrue("t") || body.isTrue("d") || !body.object("e").exists() || body.object("d").exists() || body.at("a.a").exists() || len(body.list("a.b")) != 3 || body.list("a") != nil {
		t.Error("isTrue, object, exists or list is wrong")
	}
}

// FuzzValue compares with encoding/json: the same bodies, keys and texts.
func FuzzValue(f *testing.F) {
	for _, c := range captures(f) {
		f.Add([]byte(c.Body))
	}
	f.Add([]byte(` { "a" : [ 1 , {"b" : "\ud83d\ude00\"" } ] , "a" : {"c":-1e5} , "":{"":0} } `))
	f.Add([]byte(`{"long":{"a":"` + strings.Repeat(`\\\"é`, 200) + `","b":[[` + strings.Repeat(`{"x":[]},`, 100) + `0],0]},"after":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := parseObject(body)
		var want map[string]any
		bad := json.Unmarshal(body, &want)
		switch {
		case err == nil && bad != nil:
			t.Fatalf("parseObject takes what encoding/json does not: %v", bad)
		case err == nil:
			compare(t, v, want)
		case bad == nil && want != nil && utf8.Valid(body) && bytes.Count(body, []byte("[")) < maxDepth/2 && len(body) < maxValues:
			t.Fatalf("parseObject: %v, and encoding/json takes it", err)
		}
	})
}

// Both say the same of every text that begins like this one.
func TestScanTakesWhatEncodingJSONTakes(t *testing.T) {
	for _, text := range []string{
		`{"a":[0,-0,1.5,-1.5e+10,1E5,1e-5,true,false,null,"",[],{}]}`, `{"a":"\"\\\/\b\f\n\r\t\u00e9 and more than eight"}`, "{\"a\":\"x\ny\"}",
		`{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":1e+}`, `{"a":-}`, `{"a":+1}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":tru}`, `{"a":nul}`,
		`{"a" 1}`, `{"a":1,}`, `{,}`, `{"a":[1,]}`, `{"a":[1 2]}`, `{"a":[}}`, `{"a":{]}`, `{"a":1}}`, `{"a":1} x`, `{a:1}`, `{"a":'b'}`, "{\"a\":1\v}", `{"a":1,"b"}`,
	} {
		for cut := range len(text) + 1 {
			_, err := scan([]byte(text[:cut]))
			if valid := json.Valid([]byte(text[:cut])); (err == nil) != valid {
				t.Errorf("scan(%q) = %v, json.Valid = %v", text[:cut], err, valid)
			}
		}
	}
}

func compare(t *testing.T, v value, want any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		if len(v.keys()) != len(want) {
			t.Fatalf("keys of %s = %q, want %d", v.raw, v.keys(), len(want))
		}
		for key, item := range want {
			compare(t, v.child(key), item)
		}
	case []any:
		items := v.list("")
		if len(items) != len(want) {
			t.Fatalf("%d elements in %s, want %d", len(items), v.raw, len(want))
		}
		for i := range want {
			compare(t, items[i], want[i])
		}
	case string:
		if v.string() != want {
			t.Fatalf("%s reads %q, want %q", v.raw, v.string(), want)
		}
	case nil:
		if v.exists() {
			t.Fatalf("%s exists, want null", v.raw)
		}
	case bool:
		if string(v.raw) != map[bool]string{true: "true", false: "false"}[want] {
			t.Fatalf("%s, want %v", v.raw, want)
		}
	case float64:
		var n float64
		if err := json.Unmarshal(v.raw, &n); err != nil || n != want || v.string() != string(v.raw) {
			t.Fatalf("%s reads %q, want %v", v.raw, v.string(), want)
		}
	}
}
