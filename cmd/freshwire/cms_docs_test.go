package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/webhook"
)

const cmsPage = "../../docs/cms.md"

// The generated parts of the page stand between <!-- table --> and
// <!-- /table -->, and between <!-- facts NAME --> and <!-- /facts -->.
func TestCMSDocsAreWhatTheCodeSays(t *testing.T) {
	page, err := os.ReadFile(cmsPage)
	if err != nil {
		t.Fatal(err)
	}
	text := between(t, string(page), "<!-- table -->", "<!-- /table -->", cmsTable())
	for _, f := range webhook.Known() {
		text = between(t, text, "<!-- facts "+f.CMS+" -->", "<!-- /facts -->", cmsFacts(f))
	}
	golden(t, cmsPage, []byte(text))
}

// between replaces what stands between two lines, the first of which is there once.
func between(t *testing.T, text, begin, end, now string) string {
	t.Helper()
	before, rest, ok := strings.Cut(text, begin+"\n")
	_, after, closed := strings.Cut(rest, end+"\n")
	if !ok || !closed || strings.Contains(rest, begin) {
		t.Fatalf("docs/cms.md must hold %s … %s once", begin, end)
	}
	return before + begin + "\n" + now + end + "\n" + after
}

func cmsTable() string {
	var b strings.Builder
	b.WriteString("| CMS | `cms:` | proves itself by | delivery id | retries |\n|---|---|---|---|---|\n")
	for _, f := range webhook.Known() {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s |\n", f.Title, f.CMS, cell(f.Proof), deliveryID(f), cell(f.Retries))
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func deliveryID(f webhook.Facts) string {
	switch {
	case f.DeliveryID != "":
		return "`" + f.DeliveryID + "`"
	case f.CMS == "datocms":
		return "`webhook_call_id` in the body"
	}
	return "none"
}

func cmsFacts(f webhook.Facts) string {
	var b strings.Builder
	say := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "- **%s:** %s.\n", label, strings.TrimSuffix(text, "."))
		}
	}
	proof := f.Proof
	if f.Scheme != "" {
		proof += " (`scheme: " + f.Scheme + "`)"
	}
	if f.SignsTime {
		proof += "; the time is signed, so an old delivery is refused"
	}
	say("Proves itself by", proof)
	if len(f.Methods) > 1 {
		say("Sends with", strings.Join(f.Methods, ", "))
	}
	if f.EventFrom != "" {
		say("Event's name", "`"+f.EventFrom+"`")
	}
	say("Delivery id", deliveryID(f))
	say("Waits for the answer", f.Waits)
	say("Retries", f.Retries)
	say("When it keeps failing", f.Fails)
	say("Test", f.Test)
	say("One delivery", f.Batches)
	say("Version", f.Version)
	if f.Never != "–" {
		say("Never tells", f.Never)
	}
	return b.String()
}

var (
	yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	variable  = regexp.MustCompile(`\$\{([A-Z_]+)`)
)

func TestEverySnippetOfTheCMSDocsStarts(t *testing.T) {
	page, err := os.ReadFile(cmsPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variable.FindAllSubmatch(page, -1) {
		t.Setenv(string(v[1]), "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	}
	t.Setenv("CONTENTSTACK_KEY", recordedKey(t))
	shown := map[string]bool{}
	for _, block := range yamlBlock.FindAllSubmatch(page, -1) {
		s, err := parseSite("cms.md", block[1])
		if err != nil {
			t.Errorf("%s\n%v", block[1], err)
			continue
		}
		for _, source := range s.file.Sources {
			shown[source.CMS] = true
		}
	}
	for _, f := range webhook.Known() {
		if !shown[f.CMS] {
			t.Errorf("docs/cms.md shows no source with cms: %s", f.CMS)
		}
	}
	// What the snippet of each section configures is what the section is about.
	for _, section := range bytes.Split(page, []byte("\n## "))[1:] {
		_, about, ok := bytes.Cut(section, []byte("<!-- facts "))
		if !ok {
			continue
		}
		name, _, _ := bytes.Cut(about, []byte(" "))
		for _, block := range yamlBlock.FindAllSubmatch(section, -1) {
			if !bytes.Contains(block[1], append([]byte("cms: "), name...)) {
				t.Errorf("the section of %s shows\n%s", name, block[1])
			}
		}
	}
}

// recordedKey is the public key of a recorded delivery.
func recordedKey(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../webhook/testdata/cms/contentstack.rsa-entry-publish.valid.json")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Config struct {
			PublicKeyPEM string `json:"public_key_pem"`
		}
	}
	if err := json.Unmarshal(text, &c); err != nil || c.Config.PublicKeyPEM == "" {
		t.Fatalf("no public key: %v", err)
	}
	return c.Config.PublicKeyPEM
}
