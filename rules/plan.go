package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// Plan says what to do about ev. It is pure, and bounded by the limits above
// and by the rules.
//
// An event that says itself what to purge (ev.Purge) has that purged in place
// of what the rules say, and every target told.
func (s *Set) Plan(ev event.Event) Plan {
	p := &planner{set: s, ev: ev, env: newEnv(ev), plan: Plan{private: s.private}}
	for i := range s.rules {
		if s.rules[i].matches(ev) {
			p.apply(&s.rules[i])
		}
	}
	switch {
	case ev.Purge != nil:
		p.explicit(*ev.Purge)
	case len(p.plan.Rules) > 0:
		for _, tag := range ev.Tags {
			if tag != "" {
				p.keep(tags, tag)
			}
		}
	}
	return p.finish()
}

// matches reports whether r is for ev, apart from its when.
func (r *rule) matches(ev event.Event) bool {
	if r.source != "" && r.source != ev.Source {
		return false
	}
	kind := ev.Kind()
	return len(r.on) == 0 || slices.ContainsFunc(r.on, func(g string) bool {
		return matchGlob(g, kind) || ev.Name != "" && matchGlob(g, ev.Name)
	})
}

// planner makes one Plan.
type planner struct {
	set    *Set
	ev     event.Event
	env    map[string]any
	parsed bool // the payload is in env
	plan   Plan
	lists  [len(kinds)][]string
	have   [len(kinds)]map[string]bool
	bytes  int // of fields
}

func newEnv(ev event.Event) map[string]any {
	return map[string]any{
		"id": ev.Entity, "type": ev.Type, "action": string(ev.Action), "event": ev.Kind(),
		"slug": ev.Slug, "previous_slug": ev.PreviousSlug, "locale": ev.Locale, "source": ev.Source,
		"environment": ev.Environment, "version": ev.Version, "payload": nil, budgetName: new(budget),
	}
}

// need puts the payload into the environment before the first expression that reads it.
func (p *planner) need(payload bool) {
	if !payload || p.parsed {
		return
	}
	p.parsed = true
	v, err := parsePayload(p.ev.Payload)
	if err != nil {
		p.problem("payload", err, "")
	}
	p.env["payload"] = v
}

func (p *planner) apply(r *rule) {
	if r.when != nil && !p.when(r) {
		return
	}
	if p.set.implied {
		p.plan.Rules = []int{0}
	} else {
		p.plan.Rules = append(p.plan.Rules, r.index)
	}
	if p.ev.Purge == nil {
		p.purge(r)
	}
	p.channels(r)
	for _, t := range r.targets {
		p.target(t)
	}
	for _, f := range r.fields {
		p.field(r, f)
	}
	p.plan.Coalesce = max(p.plan.Coalesce, r.coalesce)
	p.plan.Refill = max(p.plan.Refill, r.refill)
}

func (p *planner) when(r *rule) bool {
	p.need(r.when.payload)
	path := fmt.Sprintf("rules[%d].when", r.index)
	v, err := r.when.run(p.env)
	if err != nil {
		p.problem(path, err, "taken for true")
		return true
	}
	yes, ok := v.(bool)
	if !ok {
		what := "the value is no true or false"
		if v == nil {
			what = "the value is missing"
		}
		p.problem(path, errors.New(what), "taken for true")
		return true
	}
	return yes
}

// purge adds what r purges. Where a slug is named, the previous one is purged too.
func (p *planner) purge(r *rule) {
	found, failed := 0, 0
	for _, it := range r.purge {
		n, ok := p.add(it, true)
		found += n
		if !ok {
			failed++
			continue
		}
		renamed := p.ev.PreviousSlug != "" && p.ev.PreviousSlug != p.ev.Slug
		if renamed && it.uses(func(e *expression) bool { return e.slug }) {
			p.env["slug"] = p.ev.PreviousSlug
			p.add(it, false)
			p.env["slug"] = p.ev.Slug
		}
	}
	if len(r.purge) == 0 || found == 0 && failed > 0 {
		p.usual(tags)
	}
}

func (p *planner) channels(r *rule) {
	found, failed := 0, 0
	for _, it := range r.channels {
		n, ok := p.add(it, true)
		found += n
		if !ok {
			failed++
		}
	}
	if len(r.channels) == 0 || found == 0 && failed > 0 {
		p.usual(channels)
	}
}

// usual adds what holds when a rule says nothing: {type} and {type}:{id}.
func (p *planner) usual(k kind) {
	p.keep(k, p.ev.Type)
	if p.ev.Entity == "" {
		return
	}
	if s := p.ev.Type + ":" + p.ev.Entity; len(s) <= kinds[k].length {
		p.keep(k, s)
	} else {
		p.problem(kinds[k].name, fmt.Errorf("{type}:{id} has %d bytes, at most %d", len(s), kinds[k].length), leftOut)
	}
}

const leftOut = "left out"

// add evaluates an item and keeps what comes out. It returns how many were fit
// to be kept, and false when anything was left out.
func (p *planner) add(it item, tell bool) (kept int, whole bool) {
	whole = true
	problem := func(err error) {
		whole = false
		if tell {
			p.problem(it.path, err, leftOut)
		}
	}
	p.need(it.uses(func(e *expression) bool { return e.payload }))
	esc := func(s string) string { return s }
	if it.kind == patterns {
		esc = escape
	}
	values, err := it.items(p.env, esc, problem)
	switch {
	case errors.Is(err, errTooMany):
		p.everything(it.path, err)
		return 1, true
	case err != nil:
		problem(err)
		return 0, false
	}
	for _, v := range values {
		switch limit := kinds[it.kind].length; {
		case len(v) > limit && it.kind == patterns:
			p.everything(it.path, fmt.Errorf("a pattern of %d bytes, at most %d", len(v), limit))
		case len(v) > limit:
			problem(fmt.Errorf("%d bytes, at most %d", len(v), limit))
			continue
		case it.kind == paths && v[0] != '/':
			problem(errors.New("a path begins with /"))
			continue
		case it.kind == channels && strings.Contains(v, "*"):
			problem(errors.New("nobody can listen to a channel with a * in its name"))
			continue
		default:
			p.keep(it.kind, v)
		}
		kept++
	}
	return kept, whole
}

// everything purges all, where purging less would leave something stale.
func (p *planner) everything(path string, why error) {
	p.plan.Capped = true
	p.plan.Purge.All = true
	p.problem(path, why, "everything is purged instead")
}

// keep adds v to the list of its kind, once.
func (p *planner) keep(k kind, v string) {
	if p.have[k][v] {
		return
	}
	if p.have[k] == nil {
		p.have[k] = map[string]bool{}
	}
	p.have[k][v] = true
	p.lists[k] = append(p.lists[k], v)
}

func (p *planner) target(name string) {
	if !slices.Contains(p.plan.Targets, name) {
		p.plan.Targets = append(p.plan.Targets, name)
	}
}

// field adds one of the values that browsers get. The first rule that has it wins.
func (p *planner) field(r *rule, f namedExpr) {
	if _, ok := p.plan.Fields[f.name]; ok {
		return
	}
	path := fmt.Sprintf("rules[%d].fields.%s", r.index, f.name)
	p.need(f.payload)
	v, err := f.run(p.env)
	if err == nil && v == nil {
		err = errors.New("the value is missing")
	}
	var data []byte
	if err == nil {
		if data, err = json.Marshal(v); err != nil {
			err = errors.New("the value cannot be written as JSON")
		}
	}
	if p.bytes += len(data); err == nil && p.bytes > maxFieldsBytes {
		p.bytes -= len(data)
		err = fmt.Errorf("%d bytes; all fields together have at most %d", len(data), maxFieldsBytes)
	}
	if err != nil {
		p.problem(path, err, leftOut)
		return
	}
	if p.plan.Fields == nil {
		p.plan.Fields = map[string]any{}
	}
	p.plan.Fields[f.name] = v
}

// explicit takes what the event itself says.
func (p *planner) explicit(e event.Purge) {
	p.plan.Purge.All = p.plan.Purge.All || e.All
	for k, list := range [...][]string{tags: e.Tags, keys: e.Keys, patterns: e.Patterns, paths: e.Paths} {
		for _, v := range list {
			p.keep(kind(k), v)
		}
	}
	for _, t := range p.set.targets {
		p.target(t)
	}
	if len(p.lists[channels]) == 0 {
		p.usual(channels)
	}
}

// finish applies the limits.
func (p *planner) finish() Plan {
	for k := range kinds {
		if over := len(p.lists[k]) - kinds[k].count; over > 0 {
			why := fmt.Errorf("%d, at most %d for one event", len(p.lists[k]), kinds[k].count)
			if kind(k) == channels {
				p.plan.Capped = true
				p.lists[k] = p.tellAll(p.lists[k], why)
				continue
			}
			p.everything(kinds[k].name, why)
			p.lists[k] = p.lists[k][:kinds[k].count]
		}
	}
	if len(p.plan.Targets) > 0 {
		for _, t := range p.lists[tags] {
			if strings.Contains(t, ",") {
				p.problem("tags", fmt.Errorf("%q holds a comma", t), "Next.js joins tags by commas and will not find it")
			}
		}
	}
	p.plan.Purge.Tags, p.plan.Purge.Keys = p.lists[tags], p.lists[keys]
	p.plan.Purge.Patterns, p.plan.Purge.Paths = p.lists[patterns], p.lists[paths]
	p.plan.Channels = p.lists[channels]
	return p.plan
}

// tellAll tells everybody in place of too many public channels. A private one
// keeps its name: what is on it alone is not for everybody.
func (p *planner) tellAll(list []string, why error) []string {
	var public, private []string
	for _, ch := range list {
		if p.plan.private != nil && p.plan.private(ch) {
			private = append(private, ch)
		} else {
			public = append(public, ch)
		}
	}
	if over := len(private) - MaxPrivate; over > 0 {
		p.problem(kinds[channels].name, fmt.Errorf("%d private ones, at most %d for one event", len(private), MaxPrivate), "the others are not told")
		private = private[:MaxPrivate]
	}
	if len(public) > MaxChannels || slices.Contains(public, event.Everybody) {
		p.problem(kinds[channels].name, why, "everybody is told instead")
		public = []string{event.Everybody}
	}
	return append(public, private...)
}

// problem notes what went wrong and what was done instead. Values are not in
// it, save what an expression's own error says, in bounds and in one line.
func (p *planner) problem(path string, err error, instead string) {
	text := err.Error()
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	text = strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if instead != "" {
		text += "; " + instead
	}
	p.note(path + ": " + text)
}

// note keeps one problem's text, once.
func (p *planner) note(text string) {
	switch {
	case slices.Contains(p.plan.Problems, text):
	case len(p.plan.Problems) < maxProblems-1:
		p.plan.Problems = append(p.plan.Problems, text)
	case len(p.plan.Problems) == maxProblems-1:
		p.plan.Problems = append(p.plan.Problems, "and more")
	}
}
