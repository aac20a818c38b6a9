package webhook

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// FuzzVerify sends anything to every scheme: no panic, and nobody gets in
// without the secret.
func FuzzVerify(f *testing.F) {
	var sources, strangers []*Source // the same settings with two secrets: what one accepts the other must not
	configs := settings()
	names := slices.Sorted(maps.Keys(configs))
	for i, name := range names {
		src := source(f, configs[name])
		sources = append(sources, src)
		strangers = append(strangers, source(f, withOtherSecret(configs[name])))
		d, err := src.Sign(src.Sample(), "", noon)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), d.Target, headerText(d.Header), d.Body)
	}
	keys := testKeys()
	sources = append(sources, source(f, certificate(pemOf(keys[0]))))
	strangers = append(strangers, source(f, certificate(pemOf(keys[1]))))
	for _, c := range captures(f) {
		for i, src := range sources {
			if src.cms.name == c.CMS {
				d := c.delivery()
				f.Add(uint8(i), d.Target, headerText(d.Header), d.Body)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, target, headers string, body []byte) {
		src := sources[int(which)%len(sources)]
		d := Delivery{Method: "POST", Target: target, Header: headerOf(headers), Body: body}
		res := src.Verify(d, noon)
		if res.Valid() != (res.Err == nil) || res.Valid() && !res.SignatureOK || res.SignatureOK != (res.Secret >= 0) {
			t.Fatalf("Verify = %+v, which contradicts itself", res)
		}
		for _, ev := range res.Events {
			if err := ev.Validate(); err != nil {
				t.Fatalf("event %+v: %v", ev, err)
			}
		}
		if res.SignatureOK && strangers[int(which)%len(sources)].Verify(d, noon).SignatureOK {
			t.Fatalf("%s accepted for two secrets: %q %q %q", src.scheme.name, target, headers, body)
		}
		if text, err := json.Marshal(res); err != nil || !json.Valid(text) {
			t.Fatalf("Marshal = %v", err)
		}
	})
}

// FuzzSign signs anything in every scheme: what is signed here verifies here.
func FuzzSign(f *testing.F) {
	configs := settings()
	names := slices.Sorted(maps.Keys(configs))
	for i, name := range names {
		f.Add(uint8(i), "", source(f, configs[name]).Sample())
	}
	f.Add(uint8(0), "a.b\x00", []byte("\u2028\xff\"\\\x01"))
	f.Fuzz(func(t *testing.T, which uint8, name string, body []byte) {
		src := source(t, configs[names[int(which)%len(names)]])
		d, err := src.Sign(body, name, noon)
		if err != nil {
			return // such as a secret for the body of a body that is no object
		}
		if res := src.Verify(d, noon); !res.SignatureOK || res.Reason != "" && res.Reason != MalformedBody {
			t.Fatalf("%s: Verify(Sign(%q, %q)) = %q, %v", src.scheme.name, body, name, res.Reason, res.Err)
		}
	})
}

func headerText(h http.Header) string {
	var b strings.Builder
	for name, values := range h {
		for _, v := range values {
			b.WriteString(name + ": " + v + "\n")
		}
	}
	return b.String()
}

// headerOf is headerText backwards.
func headerOf(text string) http.Header {
	h := http.Header{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		h.Add(name, value)
	}
	return h
}

// FuzzDecode reads anything as every CMS: no panic, and each event is valid.
func FuzzDecode(f *testing.F) {
	for i, c := range cmses {
		f.Add(uint8(i), "/webhooks/test", "", []byte(c.sample))
	}
	for _, c := range captures(f) {
		for i, row := range cmses {
			if row.name == c.CMS {
				f.Add(uint8(i), c.Path, headerText(c.delivery().Header), []byte(c.Body))
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, target, headers string, body []byte) {
		row := cmses[int(which)%len(cmses)]
		src := source(t, SourceConfig{CMS: row.name, Scheme: "none"})
		d := Delivery{Method: "POST", Target: target, Header: headerOf(headers), Body: body}
		events, err := src.Decode(d, noon)
		if err != nil {
			return
		}
		again, err := src.Decode(d, noon)
		if err != nil || len(again) != len(events) {
			t.Fatalf("Decode twice = %d events, then %d, %v", len(events), len(again), err)
		}
		for i, ev := range events {
			if err := ev.Validate(); err != nil {
				t.Fatalf("event %+v: %v", ev, err)
			}
			if ev.ID != again[i].ID || ev.Entity != again[i].Entity {
				t.Fatalf("Decode twice = %+v, then %+v", ev, again[i])
			}
			if _, err := json.Marshal(ev); err != nil {
				t.Fatalf("event cannot travel on: %v", err)
			}
		}
	})
}

// FuzzSignedPayload compiles anything as a template: no panic, and the parts
// put together are the template again.
func FuzzSignedPayload(f *testing.F) {
	for _, s := range []string{"{body}", "{timestamp}.{body}", "v0:{id}:{body}", "{", "}{", "{{body}}", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, template string) {
		parts, err := parseTemplate(template)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, p := range parts {
			if p.name != "" {
				b.WriteString("{" + p.name + "}")
			}
			b.Write(p.text)
		}
		if b.String() != template {
			t.Errorf("parseTemplate(%q) reads back as %q", template, b.String())
		}
	})
}
