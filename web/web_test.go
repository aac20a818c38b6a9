package web

import (
	"bytes"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// maxSize is what all files together may weigh, in bytes: a page that an
// operator opens on a train.
const maxSize = 70_000

// embedded returns the files by name.
func embedded(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(assets, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := assets.ReadFile(name)
		files[path.Base(name)] = string(b)
		return err
	})
	if err != nil || len(files) < 5 {
		t.Fatalf("reading the embedded files: %d, %v", len(files), err)
	}
	return files
}

func do(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func TestPagesAndTheirFilesAreServed(t *testing.T) {
	for _, tc := range []struct {
		kind                    Kind
		target, mediaType, says string
	}{
		{Dev, "/", "text/html; charset=utf-8", `<body class="dev">`},
		{Live, "/", "text/html; charset=utf-8", `<body class="live">`},
		{Dev, "/_freshwire/", "text/html; charset=utf-8", `<body class="live">`},
		{Live, "/_freshwire/", "text/html; charset=utf-8", `<body class="live">`},
		{Live, "/favicon.svg", "image/svg+xml", "<svg"},
		{Live, "/_freshwire/assets/style.css", "text/css; charset=utf-8", ":root"},
		{Live, "/_freshwire/assets/line.js", "text/javascript; charset=utf-8", "EventSource"},
	} {
		w := do(Handler(tc.kind), "GET", tc.target)
		if w.Code != 200 || w.Header().Get("Content-Type") != tc.mediaType || !strings.Contains(w.Body.String(), tc.says) {
			t.Errorf("%s: GET %s = %d %s, want 200 %s with %q", tc.kind, tc.target, w.Code, w.Header().Get("Content-Type"), tc.mediaType, tc.says)
		}
		if head := do(Handler(tc.kind), "HEAD", tc.target); head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("ETag") != w.Header().Get("ETag") {
			t.Errorf("%s: HEAD %s = %d with %d bytes", tc.kind, tc.target, head.Code, head.Body.Len())
		}
	}
}

func TestNothingElseIsServed(t *testing.T) {
	for _, tc := range []struct {
		method, target string
		code           int
	}{
		{"GET", "/index.html", 404},
		{"GET", "/_freshwire/assets/", 404},
		{"GET", "/_freshwire/assets/dev.html", 404}, // pages have one address
		{"GET", "/_freshwire/assets/../web.go", 404},
		{"GET", "/_freshwire/stats", 404}, // not ours
		{"POST", "/", 405},
		{"DELETE", "/_freshwire/assets/style.css", 405},
		{"GET", "/_freshwire", 308},
	} {
		w := do(Handler(Dev), tc.method, tc.target)
		if w.Code != tc.code {
			t.Errorf("%s %s = %d, want %d", tc.method, tc.target, w.Code, tc.code)
		}
		if w.Header().Get("Content-Security-Policy") == "" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s is answered without its protective headers", tc.method, tc.target)
		}
	}
}

func TestBrowsersAreToldToRunOurFilesOnly(t *testing.T) {
	h := do(Handler(Dev), "GET", "/").Header()
	policy := strings.Split(h.Get("Content-Security-Policy"), "; ")
	for _, want := range []string{"default-src 'self'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
		"base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"} {
		if !slices.Contains(policy, want) {
			t.Errorf("Content-Security-Policy = %q, want %q in it", policy, want)
		}
	}
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", "Cache-Control": "no-cache",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func TestUnchangedFilesAreNotSentAgain(t *testing.T) {
	h := Handler(Live)
	etag := do(h, "GET", "/").Header().Get("ETag")
	if !regexp.MustCompile(`^"[0-9a-f]{24}"$`).MatchString(etag) {
		t.Fatalf("ETag = %q, want a strong one", etag)
	}
	if w := do(h, "GET", "/", "If-None-Match", etag); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("GET with the ETag = %d and %d bytes, want 304 without", w.Code, w.Body.Len())
	}
	if w := do(h, "GET", "/", "If-None-Match", `"other"`); w.Code != 200 {
		t.Errorf("GET with another ETag = %d, want 200", w.Code)
	}
	if other := do(h, "GET", "/_freshwire/assets/style.css").Header().Get("ETag"); other == etag {
		t.Error("two files have the same ETag")
	}
}

func TestPagesStaySmall(t *testing.T) {
	sum := 0
	for _, content := range embedded(t) {
		sum += len(content)
	}
	if sum >= maxSize {
		t.Errorf("all files together have %d bytes, want less than %d", sum, maxSize)
	}
}

func TestPagesAskNoOtherHost(t *testing.T) {
	outside := regexp.MustCompile(`(?i)(https?:|wss?:)?//[a-z0-9]`)
	for name, content := range embedded(t) {
		content = strings.ReplaceAll(content, "http://www.w3.org/2000/svg", "") // a name, never fetched
		for _, found := range outside.FindAllString(content, -1) {
			t.Errorf("%s refers to %q, another host", name, found)
		}
	}
}

// What the policy would block, or what would let data become markup.
func TestPagesHoldNothingThatThePolicyForbids(t *testing.T) {
	forbidden := map[string]map[string]string{
		".html": {
			"inline script":  `(?i)<script(>|\s[^>]*>[^<])`,
			"inline style":   `(?i)<style|\sstyle\s*=`,
			"inline handler": `(?i)\son[a-z]+\s*=`,
			"script address": `(?i)["']\s*javascript:`,
		},
		".svg": {"script or style": `(?i)<script|<style|\sstyle\s*=|\son[a-z]+\s*=`},
		".js": {
			"markup made of data": `innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment`,
			"text run as code":    `\beval\(|new Function|set(Timeout|Interval)\(['"]`,
			"style attribute":     `setAttribute\(['"]style`,
		},
		".css": {"import": `@import|url\(`},
	}
	for name, content := range embedded(t) {
		for what, pattern := range forbidden[path.Ext(name)] {
			if found := regexp.MustCompile(pattern).FindString(content); found != "" {
				t.Errorf("%s holds an %s: %q", name, what, found)
			}
		}
	}
}

func TestPagesHaveOneHeadingAndLandmarks(t *testing.T) {
	for _, name := range []string{"dev.html", "live.html"} {
		page := embedded(t)[name]
		for tag, want := range map[string]int{"<h1": 1, "<main": 1, "<header": 1, `role="log"`: 1, `lang="en"`: 1, `name="viewport"`: 1} {
			if got := strings.Count(page, tag); got != want {
				t.Errorf("%s has %d × %s, want %d", name, got, tag, want)
			}
		}
		for _, m := range regexp.MustCompile(`<(?:input|textarea|select)[^>]*\sid="([^"]+)"`).FindAllStringSubmatch(page, -1) {
			if !strings.Contains(page, `for="`+m[1]+`"`) {
				t.Errorf("%s: field %q has no label", name, m[1])
			}
		}
	}
}

// Scripts look elements up by id; a misspelt one would only show in a browser.
func TestScriptsFindWhatTheyLookFor(t *testing.T) {
	files := embedded(t)
	id := regexp.MustCompile(`\$\('#([a-z-]+)`)
	for script, page := range map[string]string{"dev.js": "dev.html", "live.js": "live.html"} {
		found := id.FindAllStringSubmatch(files[script], -1)
		if len(found) == 0 {
			t.Errorf("%s looks for nothing", script)
		}
		for _, m := range found {
			if !strings.Contains(files[page], `id="`+m[1]+`"`) {
				t.Errorf("%s looks for #%s, which %s does not have", script, m[1], page)
			}
		}
	}
	for name, content := range files {
		for _, m := range regexp.MustCompile(`from '\./([a-z]+\.js)'|assets/([a-z]+\.(?:js|css))"`).FindAllStringSubmatch(content, -1) {
			if _, ok := files[m[1]+m[2]]; !ok {
				t.Errorf("%s asks for %s, which is not there", name, m[1]+m[2])
			}
		}
	}
}

// runNode runs node in a directory that holds the scripts, or skips.
func runNode(t *testing.T, args ...string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: the scripts are not run here, browsers do it in the e2e tests")
	}
	dir := t.TempDir()
	files := embedded(t)
	files["package.json"] = `{"type": "module"}`
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), node, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("node %s: %v\n%s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
}

func TestScriptsParse(t *testing.T) {
	for name := range embedded(t) {
		if path.Ext(name) == ".js" {
			runNode(t, "--check", name)
		}
	}
}

// The scripts of testdata hold promises that need no browser.
func TestScriptsKeepTheirPromises(t *testing.T) {
	names, err := filepath.Glob("testdata/*.test.mjs")
	if err != nil || len(names) == 0 {
		t.Fatalf("looking for the tests: %v, %v", names, err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".test.mjs"), func(t *testing.T) {
			file, err := filepath.Abs(name)
			if err != nil {
				t.Fatal(err)
			}
			runNode(t, file)
		})
	}
}
