package cache

import (
	"slices"
	"strings"
	"testing"
)

func TestPurgeNamesItsScopes(t *testing.T) {
	long := strings.Repeat("x", MaxKey+1)
	tests := []struct {
		p    Purge
		want []string
	}{
		{Purge{}, []string{"n:"}},
		{Purge{Tags: []string{"b", "a", "b"}}, []string{"n:", "t:a", "t:b"}},
		{Purge{Keys: []string{"a", ""}, Tags: []string{"", long}}, []string{"k:a", "n:"}},
		{Purge{Keys: []string{long}}, []string{"n:"}}, // no entry can carry it
		{Purge{Patterns: []string{"a*"}}, []string{"g:a*", "n:"}},
		{Purge{Paths: []string{"/blog", "/blog/*"}}, []string{"n:", "p:/blog", "p:/blog/"}},
		{Purge{Paths: []string{"blog//a/../b/", "/", "/*"}}, []string{"n:", "p:", "p:/", "p:/blog/b"}},
		{Purge{All: true, Tags: []string{"a"}}, []string{"*", "n:"}},
	}
	for _, tc := range tests {
		if got := scopes(tc.p); !slices.Equal(got, tc.want) {
			t.Errorf("scopes(%+v) = %q, want %q", tc.p, got, tc.want)
		}
	}
}

func TestPathIsVoidedByItselfAndEveryDirectoryAbove(t *testing.T) {
	tests := []struct {
		path string
		want []string
	}{
		{"", nil},
		{"/", []string{"p:", "p:/"}},
		{"/a", []string{"p:/a", "p:/a/", "p:/"}},
		{"/a/b.html", []string{"p:/a/b.html", "p:/a/b.html/", "p:/a/", "p:/"}},
		{"a//b/", []string{"p:/a/b", "p:/a/b/", "p:/a/", "p:/"}},
	}
	for _, tc := range tests {
		if got := pathScopes(tc.path); !slices.Equal(got, tc.want) {
			t.Errorf("pathScopes(%q) = %q, want %q", tc.path, got, tc.want)
		}
	}
}

func TestConfigSaysEverythingThatIsWrong(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("zero Config: %v", err)
	}
	err := Config{Namespace: "A b", Retain: 1, FillTimeout: -1, MaxBody: -1, Foreign: ForeignConfig{TagSets: "tags"}}.Validate()
	for _, word := range []string{"namespace", "retain", "fill timeout", "max body", "tag_sets"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("complaints lack %q: %v", word, err)
		}
	}
}
