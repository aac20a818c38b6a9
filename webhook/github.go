package webhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// GitHub (github.com), for content that lives in a repository: Decap, Tina,
// or an editor of one's own. Each changed file of a push is an entity:
//
//	X-GitHub-Event: push
//	{"ref":"refs/heads/main","commits":[{"added":["content/posts/hello.de.md"],"removed":[],"modified":[]}],…}
//
// becomes content type posts, slug hello, locale de; the id is the path.
var githubCMS = &cms{
	name:   "github",
	scheme: "github",
	uses:   []string{"content_dir", "branch"},
	json:   githubJSON,
	defaults: func(cfg *SourceConfig) {
		cfg.EventFrom = cmp.Or(cfg.EventFrom, "header:X-GitHub-Event")
		cfg.DeliveryIDHeader = cmp.Or(cfg.DeliveryIDHeader, "X-GitHub-Delivery")
		cfg.ContentDir = strings.Trim(path.Clean("/"+cfg.ContentDir), "/")
		cfg.Branch = strings.TrimPrefix(cfg.Branch, "refs/heads/")
	},
	decode: decodeGitHub,
	headers: func(_ *Source, d *Delivery, _ value) {
		if bytes.HasPrefix(d.Body, githubForm) {
			d.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	},
	sampleEvent: "push",
	sample: `{"ref":"refs/heads/main","before":"1111111111111111111111111111111111111111","after":"2222222222222222222222222222222222222222",` +
		`"repository":{"id":186853002,"name":"site","full_name":"acme/site","default_branch":"main"},"pusher":{"name":"ada"},` +
		`"created":false,"deleted":false,"forced":false,"commits":[{"id":"2222222222222222222222222222222222222222","message":"Edit post",` +
		`"timestamp":"2026-11-20T12:59:50+01:00","added":[],"removed":[],"modified":["content/posts/hello.md"]}],` +
		`"head_commit":{"id":"2222222222222222222222222222222222222222"}}`,
}

// X-Hub-Signature-256: sha256=<hex>, over the raw body, a form's too.
var githubScheme = namedHMAC("github", SourceConfig{Header: "X-Hub-Signature-256", Prefix: "sha256="}, "")

var githubForm = []byte("payload=")

// githubJSON takes the JSON out of a form.
func githubJSON(d Delivery) ([]byte, error) {
	if !bytes.HasPrefix(d.Body, githubForm) {
		return d.Body, nil
	}
	form, err := url.ParseQuery(string(d.Body))
	if err != nil {
		return nil, fmt.Errorf("body is not a form: %w", err)
	}
	return []byte(form.Get("payload")), nil
}

// GitHub cuts long lists. One of this length may be cut.
const (
	githubMaxCommits = 2048 // of a push
	githubMaxFiles   = 3000 // in one list of a commit
)

func decodeGitHub(s *Source, d Delivery, body value) (message, error) {
	whole := Item{
		Event:       cmp.Or(s.eventName(d, body), githubEvent(body)),
		Action:      event.Other,
		Environment: body.text("repository.full_name"),
		Ref:         body.text("ref"),
	}
	nothing := []Item{}
	switch whole.Event {
	case "ping":
		whole.Action = event.Ping
		return message{Item: whole}, nil
	case "push":
		whole.Action = event.Update
	default:
		return message{Item: whole, batch: nothing}, nil
	}
	branch, isBranch := strings.CutPrefix(whole.Ref, "refs/heads/")
	if want := cmp.Or(s.cfg.Branch, body.text("repository.default_branch"), branch); !isBranch || branch != want {
		return message{Item: whole, batch: nothing}, nil
	}
	items, complete := s.githubItems(whole, body)
	if !complete {
		whole.All = true
		return message{Item: whole}, nil
	}
	return message{Item: whole, batch: items}, nil
}

// githubEvent tells by the body what a delivery without its header is.
func githubEvent(body value) string {
	switch {
	case body.at("zen").exists():
		return "ping"
	case body.at("commits").exists():
		return "push"
	}
	return ""
}

// githubItems returns one item for each changed file of the content, with what
// happened to it last. complete is false when others may have changed as well.
func (s *Source) githubItems(whole Item, body value) (items []Item, complete bool) {
	commits := body.list("commits")
	rewritten := body.isTrue("forced") || body.isTrue("created") || body.isTrue("deleted")
	if rewritten || len(commits) == 0 || len(commits) >= githubMaxCommits {
		return nil, false
	}
	// The commit that readers of the files see from now on, for all of them.
	whole.Version = cmp.Or(body.text("after"), body.text("head_commit.id"))
	items = []Item{}
	index := map[string]int{} // path → place in items
	for _, commit := range commits {
		for _, list := range githubLists {
			files := commit.list(list.key)
			if len(files) >= githubMaxFiles {
				return nil, false
			}
			for _, file := range files {
				it, inside := githubFile(whole, s.cfg.ContentDir, file.string())
				if !inside {
					continue
				}
				it.Action = list.action
				at, known := index[it.Path]
				if !known {
					if !fits(it) || len(items) >= maxEvents {
						return nil, false
					}
					at = len(items)
					index[it.Path] = at
					items = append(items, Item{})
				}
				it.payload = githubPayload(it)
				items[at] = it
			}
		}
	}
	return items, true
}

var githubLists = []struct {
	key    string
	action event.Action
}{{"added", event.Create}, {"removed", event.Delete}, {"modified", event.Update}}

// fits reports whether it can become an event: the name of a file may hold
// anything, and be of any length.
func fits(it Item) bool {
	return event.Event{ID: "-", Source: "-", Type: it.ContentType, Action: it.Action, Entity: it.ID, Slug: it.Slug, Locale: it.Locale}.Validate() == nil
}

// githubPayload is what rules see of one file: a push of many is too long to
// travel with each of them.
func githubPayload(it Item) []byte {
	text, err := json.Marshal(map[string]string{
		"repository": it.Environment, "ref": it.Ref, "after": it.Version, "path": it.Path, "action": string(it.Action),
	})
	if err != nil { // strings always become JSON
		panic(err)
	}
	return text
}

// githubFile reads a path. The first folder of the content is the content
// type, after one that is a language; the rest is the slug, without the
// extension, a language before it, and a last index:
//
//	content/posts/hello.de.md         posts, hello, de
//	content/fr/docs/guide/index.md    docs, guide, fr
//	content/about.md                  content, about
func githubFile(it Item, dir, file string) (_ Item, inside bool) {
	rest := file
	if dir != "" {
		if rest, inside = strings.CutPrefix(file, dir+"/"); !inside {
			return it, false
		}
	}
	if rest == "" {
		return it, false
	}
	it.ID, it.Path = file, file
	it.ContentType = "file"
	if dir != "" {
		it.ContentType = path.Base(dir)
	}
	folders := strings.Split(rest, "/")
	name := folders[len(folders)-1]
	folders = folders[:len(folders)-1]
	if len(folders) > 0 && isLanguage(folders[0]) {
		it.Locale, folders = folders[0], folders[1:]
	}
	if len(folders) > 0 && folders[0] != "" {
		it.ContentType, folders = folders[0], folders[1:]
	}
	if ext := path.Ext(name); slices.Contains(textExtensions, strings.ToLower(ext)) {
		name = strings.TrimSuffix(name, ext)
		if language := strings.TrimPrefix(path.Ext(name), "."); isLanguage(language) {
			it.Locale, name = language, strings.TrimSuffix(name, "."+language)
		}
		if name == "index" || name == "_index" {
			name = ""
		}
	}
	if name != "" {
		folders = append(slices.Clone(folders), name)
	}
	it.Slug = strings.Join(folders, "/")
	return it, true
}

// textExtensions are those of files that become pages; others keep theirs.
var textExtensions = []string{".md", ".mdx", ".markdown", ".mdoc", ".html", ".htm", ".txt", ".rst", ".adoc", ".org", ".json", ".json5", ".yaml", ".yml", ".toml"}

// isLanguage reports whether text is a language such as de, pt-BR or zh_Hans.
func isLanguage(text string) bool {
	language, region, found := strings.Cut(strings.ReplaceAll(text, "_", "-"), "-")
	if found && (len(region) < 2 || len(region) > 4 || strings.Trim(strings.ToLower(region), "abcdefghijklmnopqrstuvwxyz0123456789") != "") {
		return false
	}
	return len(language) == 2 && strings.Contains(languages, " "+language+" ")
}

// languages are the codes of ISO 639-1.
const languages = " aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es et eu " +
	"fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw " +
	"ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw " +
	"sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu "
