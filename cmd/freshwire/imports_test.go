package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is the plan of the house: which of our packages each one knows,
// and what it must never reach, directly or through others.
var mayImport = map[string]struct{ ours, never []string }{
	"event":             {nil, []string{"github.com/", "net/http"}},
	"webhook":           {[]string{"event"}, []string{"github.com/redis", "github.com/hibiken"}},
	"journal":           {nil, []string{"github.com/", "net/http"}},
	"rules":             {[]string{"event"}, []string{"github.com/redis", "net/http"}},
	"tasks":             {[]string{"event", "rules", "internal/version"}, []string{"net/http"}},
	"cache":             {[]string{"internal/version"}, []string{"github.com/hibiken"}},
	"feed":              {[]string{"event"}, []string{"github.com/hibiken"}},
	"sse":               {[]string{"event"}, []string{"github.com/redis", "github.com/hibiken"}},
	"session":           {[]string{"admin"}, []string{"github.com/hibiken"}},
	"foreign":           {nil, []string{"github.com/hibiken", "net/http"}},
	"ratelimit":         {nil, []string{"github.com/hibiken"}},
	"roster":            {nil, []string{"github.com/hibiken", "net/http"}},
	"read":              {[]string{"cache"}, []string{"github.com/hibiken"}},
	"target":            {[]string{"event"}, []string{"github.com/redis", "github.com/hibiken"}},
	"admin":             {[]string{"event"}, nil},
	"entries":           {[]string{"admin", "cache"}, []string{"github.com/redis", "github.com/hibiken"}},
	"web":               {nil, []string{"github.com/"}},
	"demo":              {nil, []string{"github.com/"}},
	"internal/nearest":  {nil, []string{"github.com/", "net/http"}},
	"internal/version":  {nil, []string{"github.com/", "net/http"}},
	"internal/yamlfile": {nil, []string{"github.com/redis", "net/http"}},
	"internal/testkit":  {nil, nil},
}

const module = "github.com/freshwire/freshwire/"

func TestPackagesKnowOnlyWhomTheyShould(t *testing.T) {
	list := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports", module+"...")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(pkg.ImportPath, module)
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "e2e") || strings.HasPrefix(name, "bench") {
			continue // they may know everybody
		}
		rule, ok := mayImport[name]
		if !ok {
			t.Errorf("package %s is not in the table: who may it know?", name)
			continue
		}
		seen[name] = true
		for _, imported := range pkg.Imports {
			if imported == module+"internal/nearest" {
				continue // words for errors; anybody's
			}
			if ours, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(rule.ours, ours) {
				t.Errorf("%s imports %s; it may know %v", name, ours, rule.ours)
			}
			for _, never := range rule.never {
				if strings.HasPrefix(imported, never) && !strings.HasPrefix(imported, module) && !isMetrics(imported) {
					t.Errorf("%s imports %s, which it never should", name, imported)
				}
			}
		}
	}
	for name := range mayImport {
		if !seen[name] {
			t.Errorf("the table speaks of %s, which is not there", name)
		}
	}
}

// isMetrics: any part may count what it does.
func isMetrics(path string) bool { return strings.HasPrefix(path, "github.com/prometheus/") }
