package rules

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
)

func TestMergedPlanHoldsAllOfItsPlans(t *testing.T) {
	older := Plan{
		Purge:   event.Purge{Tags: []string{"posts", "post:1"}, Paths: []string{"/old"}, Patterns: []string{"p:*"}},
		Targets: []string{"site"}, Channels: []string{"posts"}, Fields: map[string]any{"title": "old", "only": 1},
		Rules: []int{1, 3}, Problems: []string{"a", "b"}, Coalesce: 300 * time.Millisecond, Refill: 10,
	}
	newer := Plan{
		Purge:   event.Purge{Tags: []string{"posts", "post:2"}, Keys: []string{"k"}, Paths: []string{"/new"}},
		Targets: []string{"cdn", "site"}, Channels: []string{"posts", "all"}, Fields: map[string]any{"title": "new"},
		Rules: []int{0, 1}, Problems: []string{"b"}, Coalesce: 100 * time.Millisecond, Refill: 20,
	}
	want := Plan{
		Purge: event.Purge{Tags: []string{"posts", "post:1", "post:2"}, Keys: []string{"k"}, Paths: []string{"/old", "/new"},
			Patterns: []string{"p:*"}},
		Targets: []string{"site", "cdn"}, Channels: []string{"posts", "all"}, Fields: map[string]any{"title": "new", "only": 1},
		Rules: []int{0, 1, 3}, Problems: []string{"a", "b"}, Coalesce: 300 * time.Millisecond, Refill: 20,
	}
	if got := Merge(older, newer); !reflect.DeepEqual(got, want) {
		t.Errorf("Merge =\n%+v, want\n%+v", got, want)
	}
	if got := Merge(older); !reflect.DeepEqual(got, older) {
		t.Errorf("Merge of one plan = %+v, want that plan", got)
	}
	if got := Merge(older, Plan{Purge: event.Purge{All: true}, Channels: []string{event.Everybody}}); !got.Purge.All || !slices.Equal(got.Channels, []string{event.Everybody}) {
		t.Errorf("Merge with a plan that purges all and tells everybody = %+v", got)
	}
}

func TestMergedPlanForgetsNothingBeyondALimit(t *testing.T) {
	var plans []Plan
	for i := range 300 {
		plans = append(plans, Plan{Rules: []int{0}, Channels: []string{fmt.Sprint("c", i)}, Problems: []string{fmt.Sprint("p", i)},
			Purge:  event.Purge{Tags: []string{"posts", fmt.Sprint("a", i), fmt.Sprint("b", i), fmt.Sprint("c", i), fmt.Sprint("d", i)}},
			Fields: map[string]any{fmt.Sprint("f", i): strings.Repeat("x", 1000)}})
	}
	got := Merge(plans...)
	if !got.Purge.All || !got.Capped || len(got.Purge.Tags) != MaxTags {
		t.Errorf("1201 tags merged: All %v, Capped %v, %d tags, want everything purged", got.Purge.All, got.Capped, len(got.Purge.Tags))
	}
	if !slices.Equal(got.Channels, []string{event.Everybody}) {
		t.Errorf("300 channels merged = %q, want everybody", got.Channels)
	}
	if len(got.Problems) > maxProblems || !slices.Contains(got.Problems, "and more") {
		t.Errorf("%d problems, want at most %d and a word about the rest", len(got.Problems), maxProblems)
	}
	if _, newest := got.Fields["f299"]; !newest || len(got.Fields) != maxFieldsBytes/1002 {
		t.Errorf("%d fields, want as many of the newest as fit into %d bytes", len(got.Fields), maxFieldsBytes)
	}
}
