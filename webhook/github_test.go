package webhook

import (
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func TestGitHubFileIsReadFromItsPath(t *testing.T) {
	for _, tc := range []struct{ dir, file, kind, slug, locale string }{
		{"content", "content/posts/hello.de.md", "posts", "hello", "de"},
		{"content", "content/posts/hello.pt-BR.mdx", "posts", "hello", "pt-BR"},
		{"content", "content/posts/hello.md", "posts", "hello", ""},
		{"content", "content/posts/next.js.md", "posts", "next.js", ""}, // js is no language
		{"content", "content/posts/v1.2.md", "posts", "v1.2", ""},
		{"content", "content/fr/docs/guide/index.md", "docs", "guide", "fr"},
		{"content", "content/zh_Hans/docs/a/b.yaml", "docs", "a/b", "zh_Hans"},
		{"content", "content/posts/_index.de.md", "posts", "", "de"},
		{"content", "content/posts/cat.png", "posts", "cat.png", ""},
		{"content", "content/about.md", "content", "about", ""},
		{"content", "content/de/about.md", "content", "about", "de"},
		{"src/content/posts", "src/content/posts/a.md", "posts", "a", ""},
		{"", "README.md", "file", "README", ""},
		{"", "posts/日本.md", "posts", "日本", ""},
		{"", "posts//a.md", "posts", "/a", ""},
		{"", ".github", "file", ".github", ""},
	} {
		it, inside := githubFile(Item{}, tc.dir, tc.file)
		if !inside || it.ContentType != tc.kind || it.Slug != tc.slug || it.Locale != tc.locale || it.ID != tc.file {
			t.Errorf("githubFile(%q, %q) = %+v, %v, want %s %s %s", tc.dir, tc.file, it, inside, tc.kind, tc.slug, tc.locale)
		}
	}
	for _, file := range []string{"contents/a.md", "content", "content/", "README.md", "Content/a.md", "x/content/a.md", ""} {
		if _, inside := githubFile(Item{}, "content", file); inside {
			t.Errorf("githubFile(content, %q) is inside", file)
		}
	}
}

// push is a push to acme/site with the given commits and other fields.
func push(commits, more string) string {
	return `{"ref":"refs/heads/main","after":"c2","repository":{"full_name":"acme/site","default_branch":"main"},"commits":[` + commits + `]` + more + `}`
}

func TestGitHubPushIsOneEventForEachFile(t *testing.T) {
	const commits = `{"added":["content/posts/a.md","content/posts/b.md","x.md"],"removed":[],"modified":["content/posts/c.md"]},` +
		`{"added":["content/posts/d.md"],"removed":["content/posts/b.md"],"modified":["content/posts/a.md"]},` +
		`{"added":["content/posts/b.md"],"removed":["content/posts/c.md"],"modified":null}`
	for _, dir := range []string{"content", "content/", "/content", "./content//", "content/posts/.."} {
		src := source(t, SourceConfig{CMS: "github", Secret: testSecret, ContentDir: dir})
		res := src.Verify(sign(t, src, push(commits, ""), ""), noon)
		var got []string
		for i, it := range res.Batch {
			ev := res.Events[i]
			got = append(got, it.Path+" "+string(it.Action))
			var payload map[string]string
			if err := json.Unmarshal(ev.Payload, &payload); err != nil || payload["path"] != it.Path || payload["action"] != string(it.Action) || payload["repository"] != "acme/site" {
				t.Errorf("payload %s, %v, want that of %s", ev.Payload, err, it.Path)
			}
			if ev.Entity != it.Path || ev.Version != "c2" || ev.Name != "push" || ev.Type != "posts" || ev.Environment != "acme/site" || it.Ref != "refs/heads/main" {
				t.Errorf("event %+v, want one of %s", ev, it.Path)
			}
		}
		want := []string{"content/posts/a.md update", "content/posts/b.md create", "content/posts/c.md delete", "content/posts/d.md create"}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v %q, want %q", dir, res.Err, got, want)
		}
	}
}

func TestGitHubPushThatTellsTooLittleMeansEverything(t *testing.T) {
	src := source(t, SourceConfig{CMS: "github", Secret: testSecret, ContentDir: "content"})
	one := `{"modified":["content/a.md"]}`
	list := func(n int) string {
		files := make([]string, n)
		for i := range files {
			files[i] = fmt.Sprintf(`"static/%d.png"`, i)
		}
		return `{"added":[` + strings.Join(files, ",") + `],"modified":["content/a.md"]}`
	}
	many := func(n int) string { return strings.Repeat(one+",", n-1) + one }
	for name, tc := range map[string]struct {
		body string
		all  bool
	}{
		"plain":                {push(one, ""), false},
		"all false":            {push(one, `,"forced":false,"created":false,"deleted":false`), false},
		"forced":               {push(one, `,"forced":true`), true},
		"created":              {push(one, `,"created":true`), true},
		"deleted":              {push("", `,"deleted":true`), true},
		"no commits":           {push("", ""), true},
		"2047 commits":         {push(many(2047), ""), false},
		"2048 commits":         {push(many(2048), ""), true},
		"2999 files":           {push(list(2999), ""), false},
		"3000 files":           {push(list(3000), ""), true},
		"more than events":     {push(strings.ReplaceAll(list(1001), "static/", "content/"), ""), true},
		"line feed in a path":  {push(`{"added":["content/a\nb.md","content/c.md"]}`, ""), true},
		"NUL in a path":        {push(`{"added":["content/a\u0000b.md"]}`, ""), true},
		"path of 2000 bytes":   {push(`{"added":["content/`+strings.Repeat("x", 2000)+`"]}`, ""), true},
		"folder of 300 bytes":  {push(`{"added":["content/`+strings.Repeat("x", 300)+`/a.md"]}`, ""), true},
		"odd path elsewhere":   {push(`{"added":["static/a\nb.md","content/c.md"]}`, ""), false},
		"quotes, spaces, star": {push(`{"added":["content/a \"b\" *[?].md"]}`, ""), false},
		"paths of other kinds": {push(`{"added":[1,null,{},"content/c.md"],"removed":"content/x.md"}`, ""), false},
	} {
		src.cfg.MaxBody = maxMaxBody
		res := src.Verify(sign(t, src, tc.body, ""), noon)
		if !res.Valid() || len(res.Events) != 1 {
			t.Errorf("%s: %v, %d events, want 1", name, res.Err, len(res.Events))
			continue
		}
		ev := res.Events[0]
		if all := ev.Purge != nil && ev.Purge.All; all != tc.all || res.Whole.All != tc.all {
			t.Errorf("%s: everything is %v, want %v", name, all, tc.all)
		}
		if tc.all && (ev.Kind() != "push.update" || ev.Entity != "") {
			t.Errorf("%s: %s of %q, want push.update of nothing", name, ev.Kind(), ev.Entity)
		}
	}
}

func TestGitHubIgnoresWhatIsNotPublished(t *testing.T) {
	body := push(`{"modified":["content/a.md"]}`, "")
	staging := strings.Replace(body, "heads/main", "heads/staging", 1)
	unknown := strings.Replace(staging, `,"default_branch":"main"`, "", 1)
	for _, tc := range []struct {
		branch, event, body string
		events              int
	}{
		{"", "push", body, 1},
		{"", "push", staging, 0},
		{"", "push", strings.Replace(staging, `"commits"`, `"forced":true,"commits"`, 1), 0},
		{"", "push", unknown, 1},
		{"staging", "push", staging, 1},
		{"refs/heads/staging", "push", staging, 1},
		{"staging", "push", body, 0},
		{"main", "push", strings.Replace(body, "refs/heads/main", "refs/tags/main", 1), 0},
		{"", "push", push(`{"modified":["README.md"]}`, ""), 0},
		{"", "release", `{"action":"published","repository":{"full_name":"acme/site"}}`, 0},
		{"", "workflow_run", `{}`, 0},
	} {
		src := source(t, SourceConfig{CMS: "github", Secret: testSecret, ContentDir: "content", Branch: tc.branch})
		res := src.Verify(sign(t, src, tc.body, tc.event), noon)
		if !res.Valid() || len(res.Events) != tc.events || res.Whole.Event != tc.event {
			t.Errorf("branch %q, %s %s: %v, %d events, want %d", tc.branch, tc.event, tc.body, res.Err, len(res.Events), tc.events)
		}
		if o := open(t, src); tc.events == 0 {
			if resp, answer := o.post(t, sign(t, src, tc.body, tc.event)); resp.StatusCode != 200 || answer["status"] != "ignored" {
				t.Errorf("branch %q, %s: %d %v, want 200 ignored", tc.branch, tc.body, resp.StatusCode, answer)
			}
		}
	}
}

func TestGitHubFormHoldsTheJSON(t *testing.T) {
	src := source(t, SourceConfig{CMS: "github", Secret: testSecret, ContentDir: "content"})
	form := "payload=" + url.QueryEscape(push(`{"modified":["content/a+b &c.md"]}`, "")) + "&x=1"
	d := sign(t, src, form, "")
	if got := d.Header.Get("Content-Type"); got != "application/x-www-form-urlencoded" {
		t.Errorf("Content-Type of a form is %q", got)
	}
	if res := src.Verify(d, noon); len(res.Batch) != 1 || res.Batch[0].Path != "content/a+b &c.md" {
		t.Errorf("Verify = %v %+v, want content/a+b &c.md", res.Err, res.Batch)
	}
	for _, body := range []string{"payload=", "payload=%7B", "payload=%zz", "payload=[]", "x=1&payload=%7B%7D", ""} {
		if res := src.Verify(sign(t, src, body, "push"), noon); res.Reason != MalformedBody || !res.SignatureOK {
			t.Errorf("%q: %q, want malformed_body after a good signature", body, res.Reason)
		}
	}
}

// A body alone, as a file holds it, still tells what it is.
func TestGitHubBodyWithoutHeadersIsUnderstood(t *testing.T) {
	src := source(t, SourceConfig{CMS: "github", Scheme: "none", ContentDir: "content"})
	events, err := src.Decode(Delivery{Method: "POST", Target: "/", Body: src.Sample()}, noon)
	if err != nil || len(events) != 1 || events[0].Entity != "content/posts/hello.md" {
		t.Errorf("Decode = %+v, %v, want content/posts/hello.md", events, err)
	}
	if events, err := src.Decode(Delivery{Method: "POST", Target: "/", Body: []byte(`{"zen":"Design for failure."}`)}, noon); err != nil || len(events) != 0 {
		t.Errorf("Decode(ping) = %+v, %v, want nothing", events, err)
	}
}
