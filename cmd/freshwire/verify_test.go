package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// command runs a subcommand as the shell would, and returns what it printed.
func command(t *testing.T, stdin string, args ...string) (out string, code int) {
	t.Helper()
	root := newRoot()
	var b bytes.Buffer
	root.SetOut(&b)
	root.SetErr(&b)
	root.SetIn(strings.NewReader(stdin))
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	switch {
	case err == nil:
		return b.String(), exitDone
	case errors.As(err, new(usageError)):
		return b.String() + err.Error(), exitUsage
	case errors.Is(err, errReported):
		return b.String(), exitFailed
	}
	return b.String() + err.Error(), exitFailed
}

// jsonLines are the objects that a command printed, one a line.
func jsonLines(t *testing.T, out string) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out) {
		var one map[string]any
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%q is no JSON object: %v", line, err)
		}
		all = append(all, one)
	}
	return all
}

// write puts a file into a folder of the test's own and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVerifyTellsOfEveryRecordedRequestWhatIsExpected(t *testing.T) {
	files, err := filepath.Glob("../../webhook/testdata/cms/*.json")
	if err != nil || len(files) < 168 {
		t.Fatalf("%d files, %v, want 168", len(files), err)
	}
	out, code := command(t, "", append([]string{"verify", "--json"}, files...)...)
	if code != exitFailed {
		t.Errorf("exit code %d, want %d: some are invalid", code, exitFailed)
	}
	lines := jsonLines(t, out)
	if len(lines) != len(files) {
		t.Fatalf("%d lines for %d files", len(lines), len(files))
	}
	for i, got := range lines {
		if got["file"] != files[i] {
			t.Fatalf("line %d is of %v, want %s", i, got["file"], files[i])
		}
		text, err := os.ReadFile(files[i])
		if err != nil {
			t.Fatal(err)
		}
		var c struct{ Expect map[string]any }
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatal(err)
		}
		if c.Expect["may_accept"] == true && got["valid"] == true {
			continue
		}
		for key, want := range c.Expect {
			switch key {
			case "may_accept":
			case "items":
				sameItems(t, files[i], got[key], want.([]any))
			default:
				if !reflect.DeepEqual(got[key], want) {
					t.Errorf("%s: %s = %v, want %v", files[i], key, got[key], want)
				}
			}
		}
		if (got["valid"] == true) == (got["explanation"] != nil) {
			t.Errorf("%s: valid = %v, explained as %v", files[i], got["valid"], got["explanation"])
		}
	}
}

// sameItems compares what the wanted items name.
func sameItems(t *testing.T, file string, got any, want []any) {
	t.Helper()
	items, _ := got.([]any)
	if len(items) != len(want) {
		t.Errorf("%s: items = %v, want %v", file, got, want)
		return
	}
	for i := range want {
		for key, value := range want[i].(map[string]any) {
			if got := items[i].(map[string]any)[key]; !reflect.DeepEqual(got, value) {
				t.Errorf("%s: items[%d].%s = %v, want %v", file, i, key, got, value)
			}
		}
	}
}

const (
	tokenRequest = `{"cms":"strapi","method":"POST","path":"/webhooks/a","headers":{"Authorization":"Bearer 0123456789abcdef"},` +
		`"body":"{\"event\":\"entry.publish\",\"uid\":\"api::post.post\",\"entry\":{\"documentId\":\"d1\",\"slug\":\"hello\"}}","config":{"secret":"0123456789abcdef"}}`
	wrongRequest = `{"cms":"strapi","headers":{"Authorization":"Bearer x"},"body":"{}","config":{"secret":"0123456789abcdef"}}`
)

func TestVerifyGoesOnAfterAFileThatCannotBeRead(t *testing.T) {
	good := write(t, "good.json", tokenRequest)
	two := write(t, "two.json", tokenRequest+"\n"+wrongRequest+"\n")
	broken := write(t, "broken.json", tokenRequest+"\n{")
	files := []string{"/does/not/exist", good, broken, two, write(t, "list.json", "[]"), write(t, "empty.json", "")}
	out, code := command(t, "", append([]string{"verify", "--json"}, files...)...)
	if code != exitFailed {
		t.Errorf("exit code %d, want %d", code, exitFailed)
	}
	var got []string
	for _, line := range jsonLines(t, out) {
		reason, _ := line["reason"].(string)
		got = append(got, filepath.Base(line["file"].(string))+" "+reason)
		if line["valid"] != (reason == "") {
			t.Errorf("%v: valid beside reason %q", line, reason)
		}
	}
	want := []string{"exist unreadable", "good.json ", "broken.json ", "broken.json unreadable", "two.json ", "two.json bad_token", "list.json unreadable", "empty.json unreadable"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("lines = %q, want %q", got, want)
	}
}

func TestVerifyExitsZeroWhenAllAreValidAndTwoOnWrongUsage(t *testing.T) {
	if out, code := command(t, tokenRequest, "verify", "-"); code != exitDone || !strings.Contains(out, "-: valid") || !strings.Contains(out, "entry.publish (publish)") {
		t.Errorf("verify - = %d, %q, want what was understood", code, out)
	}
	for _, args := range [][]string{{"verify"}, {"verify", "--frobnicate", "a"}} {
		if out, code := command(t, "", args...); code != exitUsage {
			t.Errorf("%q = %d, %q, want wrong usage", args, code, out)
		}
	}
}

func TestVerifyRefusesAConfigThatFreshwireWouldRefuse(t *testing.T) {
	for config, want := range map[string]string{
		`{"secrt":"x"}`: `did you mean \"secret\"`,
		`{}`:            "config.secret: is empty",
		`{"secret":"0123456789abcdef","hash":"sha1"}`:           "config.hash: means nothing with scheme token",
		`{"secret":"0123456789abcdef","tolerance_seconds":"x"}`: "config.tolerance_seconds",
		`{"secret":1}`: "config.secret: expected text",
		`[]`:           "config is not an object",
		`{"secret":"${HOME}x0123456789abcde\u0026\ud83d\ude00"}`: "", // stands for itself
		`{"secret":""}`: "", // never verifies
		`{"secret":"another 0123456789abcdef","tolerance_seconds":60}`: "", // no time is signed; captures carry it all the same
	} {
		request := strings.Replace(tokenRequest, `{"secret":"0123456789abcdef"}`, config, 1)
		out, _ := command(t, request, "verify", "--json", "-")
		line := jsonLines(t, out)[0]
		wantReason := "bad_config"
		if want == "" {
			wantReason = "bad_token"
		}
		if line["reason"] != wantReason || !strings.Contains(out, want) {
			t.Errorf("config %s: %s, want %s: %s", config, out, wantReason, want)
		}
	}
}

// yamlSite makes text the config file of the commands.
func yamlSite(t *testing.T, text string) {
	t.Helper()
	t.Setenv("FRESHWIRE_CONFIG", write(t, "freshwire.yaml", text))
}

func TestVerifyTakesFromTheSourceWhatTheFileLeavesOut(t *testing.T) {
	yamlSite(t, `
sources:
  blog: { cms: strapi, secret: "the secret of the blog" }
  shop: { cms: strapi, secret: "the secret of the shop" }
`)
	bare := func(token, config string) string {
		return `{"headers":{"Authorization":"Bearer ` + token + `"},"body":"{\"event\":\"entry.update\"}"` + config + `}`
	}
	for _, tc := range []struct{ request, reason, explained string }{
		{bare("the secret of the blog", ""), "", ""},
		{bare("the secret of the shop", ""), "bad_token", `for source "shop"`},
		{bare("another one of its own", `,"config":{"secret":"another one of its own"}`), "", ""},
		{bare("the secret of the blog", `,"config":{"secret":"another one of its own"}`), "bad_token", "none of ours"},
		{bare("another one of its own", `,"config":{"scheme":"token","secret":"another one of its own"}`), "", ""},
		{bare("x", `,"cms":"ghost"`), "bad_config", ""},
	} {
		out, _ := command(t, tc.request, "verify", "--json", "--source", "blog", "-")
		line := jsonLines(t, out)[0]
		reason, _ := line["reason"].(string)
		explained, _ := line["explanation"].(string)
		if reason != tc.reason || !strings.Contains(explained, tc.explained) {
			t.Errorf("%s: %s, want %q, explained by %q", tc.request, out, tc.reason, tc.explained)
		}
		if strings.Contains(out, "the secret of the") {
			t.Errorf("%s tells a secret", out)
		}
	}
	if out, code := command(t, "", "verify", "--source", "blogg", "-"); code != exitUsage {
		t.Errorf("unknown source: %d, %s, want wrong usage", code, out)
	}
}

func TestPlanShowsWhatWouldHappen(t *testing.T) {
	yamlSite(t, `
sources:
  blog: { cms: strapi, secret: "0123456789abcdef" }
  front: { cms: ghost, secret: "0123456789abcdef" }
rules:
  - on: ["api::post.post.*"]
    purge: { tags: ["posts", "post:{id}"], paths: ["/blog/{slug}"], keys: ["posts:all"], patterns: ["list:*"] }
    revalidate: [site]
    channels: ["posts"]
    fields: { title: payload.entry.title }
    refill: 20
  - on: ["*.published"]
targets:
  site: { kind: nextjs, url: "https://example.com/hook", secret: "0123456789abcdef" }
`)
	request := write(t, "request.json", tokenRequest)
	body := write(t, "body.json", `{"event":"entry.publish","uid":"api::post.post","entry":{"documentId":"d1","slug":"hello","title":"Hi"}}`)
	post := write(t, "ghost.json", `{"post":{"current":{"id":"g1","slug":"new","status":"published"},"previous":{}}}`)

	t.Run("a body", func(t *testing.T) {
		out, code := command(t, "", "plan", "--json", "--source", "blog", body)
		line := jsonLines(t, out)[0]
		plan := line["plan"].(map[string]any)
		want := map[string]any{
			"purge":      map[string]any{"tags": []any{"posts", "post:d1"}, "paths": []any{"/blog/hello"}, "keys": []any{"posts:all"}, "patterns": []any{"list:*"}},
			"revalidate": []any{"site"}, "channels": []any{"posts"}, "fields": map[string]any{"title": "Hi"}, "refill": 20.0, "rules": []any{0.0},
		}
		if code != exitDone || !reflect.DeepEqual(plan, want) {
			t.Errorf("plan = %d, %v, want %v", code, plan, want)
		}
		if line["verified"] != nil || line["event"].(map[string]any)["payload"] != nil {
			t.Errorf("line = %v, want no signature and no payload", line)
		}
	})
	t.Run("in words", func(t *testing.T) {
		out, _ := command(t, "", "plan", "--source", "blog", body)
		for _, want := range []string{"api::post.post.publish", "posts  post:d1", "/blog/hello", "rules[0] (on api::post.post.*)", "site", `{"title":"Hi"}`, "the 20 most read", "a body alone"} {
			if !strings.Contains(out, want) {
				t.Errorf("plan = %s, want %q in it", out, want)
			}
		}
	})
	t.Run("a captured request", func(t *testing.T) {
		out, _ := command(t, "", "plan", "--json", "--source", "blog", request)
		line := jsonLines(t, out)[0]
		if line["verified"] != true || len(line["plan"].(map[string]any)["problems"].([]any)) != 1 {
			t.Errorf("line = %v, want a verified event and the missing title as a problem", line)
		}
		rest := strings.Replace(tokenRequest, "/webhooks/a", "/webhooks/blog?x=1", 1)
		out, _ = command(t, strings.Replace(rest, `"cms":"strapi",`, "", 1), "plan", "--json", "-")
		if ev := jsonLines(t, out)[0]["event"].(map[string]any); ev["source"] != "blog" {
			t.Errorf("event = %v, want one of the source that its URL names", ev)
		}
		out, _ = command(t, wrongRequest, "plan", "--source", "blog", "-")
		if !strings.Contains(out, "bad_token: it would be refused") || !strings.Contains(out, "no rule matches") {
			t.Errorf("plan = %s, want it planned all the same", out)
		}
	})
	t.Run("an event that the body does not tell", func(t *testing.T) {
		out, _ := command(t, "", "plan", "--json", "--source", "front", "--event", "post.published", post)
		line := jsonLines(t, out)[0]
		if ev := line["event"].(map[string]any); ev["name"] != "post.published" || ev["type"] != "post" {
			t.Errorf("event = %v", ev)
		}
		if rules := line["plan"].(map[string]any)["rules"]; !reflect.DeepEqual(rules, []any{1.0}) {
			t.Errorf("rules = %v, want the second", rules)
		}
	})
	t.Run("a ping", func(t *testing.T) {
		out, code := command(t, `{"event":"trigger-test"}`, "plan", "--source", "blog", "-")
		if code != exitDone || !strings.Contains(out, "nothing to do") {
			t.Errorf("plan = %d, %s", code, out)
		}
	})
	t.Run("mistakes", func(t *testing.T) {
		for _, tc := range []struct {
			args []string
			code int
			want string
		}{
			{[]string{"plan"}, exitUsage, "requires"},
			{[]string{"plan", "--source", "nobody", body}, exitUsage, "nobody"},
			{[]string{"plan", body}, exitFailed, "--source"},
			{[]string{"plan", "--source", "blog", "/does/not/exist", body}, exitFailed, "posts"},
		} {
			if out, code := command(t, "", tc.args...); code != tc.code || !strings.Contains(out, tc.want) {
				t.Errorf("%q = %d, %s, want %d and %q", tc.args, code, out, tc.code, tc.want)
			}
		}
	})
}
