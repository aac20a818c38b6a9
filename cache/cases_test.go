package cache

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// docs/cases.md names the tests of the promise. They are there.
func TestCasesNameTestsThatExist(t *testing.T) {
	doc, err := os.ReadFile("../docs/cases.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../*/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	defined := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(source, -1) {
			defined[string(m[1])] = true
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllSubmatch(doc, -1)
	for _, m := range named {
		if name := string(m[1]); !defined[name] {
			t.Errorf("docs/cases.md names %s, which is no test", name)
		}
	}
	if len(named) < 46 {
		t.Errorf("%d tests named", len(named))
	}
}
