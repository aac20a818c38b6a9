package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/event"
)

func isUsers(channel string) bool { return strings.HasPrefix(channel, "user:") }

func TestPrivateChannelsNeverBecomeEverybody(t *testing.T) {
	body := with(`{"l":` + list(2000) + `,"some":` + list(100) + `}`)
	for _, tc := range []struct {
		name     string
		channels []string
		all      bool // everybody is told
		private  int
		problems []string
	}{
		{"few", []string{"posts", "user:1"}, false, 1, nil},
		{"many private", []string{"user:{payload.some}"}, false, 100, nil},
		{"many private, a public one", []string{"user:{payload.some}", "posts"}, false, 100, nil},
		{"many public, a private one", []string{"{payload.some}", "user:1"}, true, 1, []string{"channels: 101, at most 64 for one event; everybody is told instead"}},
		{"both many", []string{"{payload.some}", "user:{payload.some}"}, true, 100, []string{"channels: 200, at most 64 for one event; everybody is told instead"}},
		{"too many private", []string{"user:{payload.l}"}, false, MaxPrivate, []string{"channels: 2000 private ones, at most 1000 for one event; the others are not told"}},
	} {
		set := compiled(t, nil, Rule{Channels: tc.channels})
		set.Private(isUsers)
		plan := set.Plan(post(body))
		for how, p := range map[string]Plan{"planned": plan, "merged": Merge(plan, Plan{}), "merged twice": Merge(plan, Merge(Plan{}, plan))} {
			private := len(p.Channels) - len(slices.DeleteFunc(slices.Clone(p.Channels), isUsers))
			if all := slices.Contains(p.Channels, event.Everybody); all != tc.all || private != tc.private || len(p.Channels)-private > MaxChannels {
				t.Errorf("%s, %s: everybody %v, %d private of %d, want %v, %d", tc.name, how, all, private, len(p.Channels), tc.all, tc.private)
			}
		}
		if !slices.Equal(plan.Problems, tc.problems) {
			t.Errorf("%s: problems %q, want %q", tc.name, plan.Problems, tc.problems)
		}
		if p := compiled(t, nil, Rule{Channels: tc.channels}).Plan(post(body)); tc.name != "few" && !slices.Contains(p.Channels, event.Everybody) {
			t.Errorf("%s: where nothing is private, %d channels, want everybody", tc.name, len(p.Channels))
		}
	}
}

func TestMergedPlansKeepPrivateChannelsApart(t *testing.T) {
	set := compiled(t, nil, Rule{Channels: []string{"user:{id}"}})
	set.Private(isUsers)
	var plans []Plan
	for i := range 100 {
		ev := post(with(`{}`))
		ev.Entity = fmt.Sprint(i)
		plans = append(plans, set.Plan(ev))
	}
	if p := Merge(plans...); len(p.Channels) != 100 || slices.Contains(p.Channels, event.Everybody) {
		t.Errorf("100 users' plans merged tell %d channels: %.100q", len(p.Channels), p.Channels)
	}
	everybody := Plan{Channels: []string{event.Everybody}}
	if p := Merge(plans[0], everybody, Plan{Channels: []string{"posts"}}); !slices.Equal(p.Channels, []string{"user:0", event.Everybody}) {
		t.Errorf("with everybody: %q", p.Channels)
	}
}
