package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"

	"github.com/freshwire/freshwire/internal/nearest"
)

const (
	maxRules = 1000
	maxItems = 200 // of one list of a rule
)

// Set is compiled rules. It is safe for concurrent use.
type Set struct {
	rules   []rule
	targets []string
	implied bool // no rules were given: one for every event
	private func(channel string) bool
}

// rule is a compiled Rule.
type rule struct {
	index    int
	on       []string
	source   string
	when     *expression // nil: always
	purge    []item
	channels []item
	targets  []string
	fields   []namedExpr // sorted by name
	coalesce time.Duration
	refill   int
}

// kind is what an item names.
type kind int

const (
	tags kind = iota
	keys
	patterns
	paths
	channels
)

var kinds = [...]struct {
	name   string
	length int // bytes of one, at most
	count  int // in one plan, at most
}{{"tags", maxTag, MaxTags}, {"keys", maxKey, MaxKeys}, {"patterns", maxPattern, MaxPatterns}, {"paths", maxPath, MaxPaths}, {"channels", maxChannel, MaxChannels}}

// item is one template of a rule.
type item struct {
	*template
	kind kind
	path string // in the file
}

type namedExpr struct {
	name string
	*expression
}

// Compile checks and compiles rules. targets are the names that revalidate may
// use. All mistakes are told, joined; each is an *Error. Without any rule the
// Set has one for every event, which tells every target.
func Compile(rs []Rule, targets []string) (*Set, error) {
	s := &Set{targets: slices.Clone(targets), implied: len(rs) == 0}
	if s.implied {
		s.rules = []rule{{targets: s.targets}}
		return s, nil
	}
	if len(rs) > maxRules {
		return nil, &Error{"rules", fmt.Errorf("%d rules, at most %d", len(rs), maxRules)}
	}
	c := &compiler{targets: targets}
	for i, r := range rs {
		s.rules = append(s.rules, c.rule(i, r))
	}
	return s, errors.Join(c.mistakes...)
}

// Private says which channels are not for all: where a plan has too many, these
// keep their names, in place of everybody being told. It is called before the
// first Plan.
func (s *Set) Private(is func(channel string) bool) { s.private = is }

// Coalesces reports whether a plan of s may ask to wait for more events.
func (s *Set) Coalesces() bool {
	return slices.ContainsFunc(s.rules, func(r rule) bool { return r.coalesce > 0 })
}

type compiler struct {
	targets  []string
	mistakes []error
}

func (c *compiler) mistake(path string, err error) {
	if err != nil {
		c.mistakes = append(c.mistakes, &Error{path, err})
	}
}

func (c *compiler) rule(i int, r Rule) rule {
	at := fmt.Sprintf("rules[%d].", i)
	out := rule{index: i, on: r.On, source: r.Source, coalesce: r.Coalesce, refill: r.Refill}
	if r.Coalesce != 0 && (r.Coalesce < minCoalesce || r.Coalesce > maxCoalesce) {
		c.mistake(at+"coalesce", fmt.Errorf("%v is not between %v and %v", r.Coalesce, minCoalesce, maxCoalesce))
	}
	if r.Refill < 0 || r.Refill > maxRefill {
		c.mistake(at+"refill", fmt.Errorf("%d is not between 0 and %d", r.Refill, maxRefill))
	}
	for j, g := range r.On {
		c.mistake(fmt.Sprintf("%son[%d]", at, j), checkGlob(g))
	}
	if r.When != "" {
		var err error
		out.when, err = compileExpr(r.When, expr.AsBool())
		c.mistake(at+"when", err)
	}
	for k, list := range [...][]string{tags: r.Purge.Tags, keys: r.Purge.Keys, patterns: r.Purge.Patterns, paths: r.Purge.Paths} {
		out.purge = append(out.purge, c.items(at+"purge."+kinds[k].name, kind(k), list)...)
	}
	out.channels = c.items(at+"channels", channels, r.Channels)
	for j, name := range r.Revalidate {
		if !slices.Contains(c.targets, name) {
			c.mistake(fmt.Sprintf("%srevalidate[%d]", at, j), unknownTarget(name, c.targets))
		}
		out.targets = append(out.targets, name)
	}
	if len(r.Fields) > maxFields {
		c.mistake(at+"fields", fmt.Errorf("%d fields, at most %d", len(r.Fields), maxFields))
		return out
	}
	for name, source := range r.Fields {
		e, err := compileExpr(source)
		c.mistake(at+"fields."+name, err)
		out.fields = append(out.fields, namedExpr{name, e})
	}
	slices.SortFunc(out.fields, func(a, b namedExpr) int { return strings.Compare(a.name, b.name) })
	return out
}

func (c *compiler) items(path string, k kind, list []string) []item {
	if len(list) > maxItems {
		c.mistake(path, fmt.Errorf("%d items, at most %d", len(list), maxItems))
		return nil
	}
	var out []item
	for i, source := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		t, err := compileTemplate(source)
		if err == nil {
			err = checkItem(t, k)
		}
		if err != nil {
			c.mistake(at, err)
			continue
		}
		out = append(out, item{t, k, at})
	}
	return out
}

// checkItem reports what can be known to be wrong before any event.
func checkItem(t *template, k kind) error {
	if k == patterns {
		if err := checkPattern(t); err != nil {
			return err
		}
	}
	if k == paths && t.parts[0].expr == nil && t.parts[0].text[0] != '/' {
		return errors.New("a path begins with /")
	}
	fixed, star := 0, false
	for _, p := range t.parts {
		fixed += len(p.text)
		star = star || strings.Contains(p.text, "*")
	}
	if fixed > kinds[k].length {
		return fmt.Errorf("%d bytes, at most %d", fixed, kinds[k].length)
	}
	if k == channels && star {
		return errors.New("holds a *; name the channels that shall hear of it, one by one")
	}
	return nil
}

func unknownTarget(name string, known []string) error {
	if len(known) == 0 {
		return fmt.Errorf("unknown target %q; targets is empty or missing", name)
	}
	if near := nearest.Word(name, known); near != "" {
		return fmt.Errorf("unknown target %q; did you mean %q?", name, near)
	}
	return fmt.Errorf("unknown target %q; known targets: %s", name, strings.Join(known, ", "))
}
