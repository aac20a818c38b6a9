// Package rules decides what an event means: what to purge, which sites to
// tell, on which channels to tell browsers.
//
// Compile reads the rules of freshwire.yaml once; every mistake is told, each
// with its path in the file. Set.Plan is pure: it reads no clock, no network
// and no disk, and the same event gives the same Plan, so a task that runs
// again does the same again.
//
// Every matching rule applies; what they say is united, each item once, in the
// order of the rules. An expression that fails on an event never widens or
// stops the others: its item is left out (a when counts as true), and
// Plan.Problems says so. A rule whose purge items were all left out purges as
// if it had none: the tags {type} and {type}:{id}. Its channels likewise.
//
// # Expressions
//
// They are those of expr-lang.org, over the event:
//
//	id             of the entity, always text
//	type action event    event is "<type>.<action>"
//	slug previous_slug locale source environment version
//	payload        the parsed body: whole numbers are integers, those that fit
//	               none are text, so an id of any size keeps its digits
//
// A text that the event does not have is "", and ?? takes its other side then.
// now, timezone and repeat are left out, since a plan reads no clock and no
// disk. Work is bounded by what an expression reads, so that a large payload
// cannot hold up a worker.
//
// # Templates
//
// Tags, keys, patterns, paths and channels are texts with {expression} in them.
// Braces and quotes nest. A list gives one item for each of its elements, two
// lists every pair. A missing or empty value leaves the item out. Values put
// into patterns are escaped: they match only themselves. A brace of the text
// itself is written {'{'}.
//
// When an event tells that its slug changed, what a rule purges by slug is
// purged under the previous one too, or the old page would stay.
//
// Tags that the CMS itself names (event.Event.Tags) are purged as they are, as
// soon as one rule matches.
package rules

import (
	"time"

	"github.com/freshwire/freshwire/event"
)

// Rule is one entry under rules: in freshwire.yaml.
type Rule struct {
	On         []string          `yaml:"on" desc:"globs over <type>.<action> or the CMS's own event name; * is any run of characters, ? any one; absent: every event" example:"post.*"`
	Source     string            `yaml:"source" desc:"only events of this source"`
	When       string            `yaml:"when" desc:"an expression over the event that must be true; one that fails counts as true" example:"payload.data.draft != true"`
	Purge      Purge             `yaml:"purge" desc:"what becomes void; absent: the tags {type} and {type}:{id}"`
	Revalidate []string          `yaml:"revalidate" desc:"targets to tell after the purge" example:"site"`
	Channels   []string          `yaml:"channels" desc:"channels on which browsers hear of it; absent: {type} and {type}:{id}"`
	Fields     map[string]string `yaml:"fields" keys:"^[A-Za-z_][A-Za-z0-9_]{0,63}$" desc:"expressions whose values the notification carries as \"fields\"" `
	Coalesce   time.Duration     `yaml:"coalesce" desc:"one run for a burst of edits on one entity: how long it waits for more of them, 100ms to 500ms; absent: not at all" example:"200ms"`
	Refill     int               `yaml:"refill" desc:"fill so many of the most read entries again before browsers are told, 0 to 100; absent: none" example:"20"`
}

// Purge is what a rule makes void; each item is a template.
type Purge struct {
	Tags     []string `yaml:"tags" desc:"entries that carry one of these tags" example:"post:{id}"`
	Keys     []string `yaml:"keys" desc:"entries of these keys" example:"posts:all"`
	Patterns []string `yaml:"patterns" desc:"entries whose key matches, as in Redis SCAN; values are escaped" example:"products:*"`
	Paths    []string `yaml:"paths" desc:"this path, or with /* at the end all below it" example:"/blog/{slug}"`
}

// Plan is what to do about an event.
type Plan struct {
	Purge    event.Purge
	Targets  []string
	Channels []string
	Fields   map[string]any
	Coalesce time.Duration // the longest of the rules that matched; 0: none coalesces
	Refill   int           // the most of the rules that matched
	Rules    []int         // that matched, from 0; none: the event is kept, marked "no rule"
	Problems []string      // for people: what failed on this event, and what was done instead
	Capped   bool          // one of the limits below was reached

	private func(channel string) bool // see Set.Private
}

// Limits of a plan. What would be purged beyond them is not forgotten:
// everything is purged instead (Purge.All), and Problems says so. With more
// channels than MaxChannels everybody is told, on the one channel event.Everybody,
// save of private ones, see Set.Private.
const (
	MaxTags     = 1000
	MaxKeys     = 1000
	MaxPatterns = 64
	MaxPaths    = 100
	MaxChannels = 64
	MaxPrivate  = 1000 // private channels, where there are more than MaxChannels in all
)

// Lengths in bytes. No entry has a longer tag or key and nobody can subscribe
// to a longer channel, so a longer item is left out; a longer pattern purges
// everything.
const (
	maxTag     = 256
	maxKey     = 1024
	maxPattern = 512
	maxPath    = 2048
	maxChannel = 256
)

// Bounds of Rule.Coalesce: shorter catches no burst, longer keeps people waiting.
const (
	minCoalesce = 100 * time.Millisecond
	maxCoalesce = 500 * time.Millisecond
)

// maxRefill bounds Rule.Refill: browsers wait for the entries.
const maxRefill = 100

const (
	maxProblems    = 32
	maxFields      = 32
	maxFieldsBytes = 16 << 10 // of all fields as JSON
)

// Error is a mistake in a rule. YAMLPath is where, such as rules[0].when.
type Error struct {
	Path string
	Err  error
}

func (e *Error) Error() string    { return e.Path + ": " + e.Err.Error() }
func (e *Error) Unwrap() error    { return e.Err }
func (e *Error) YAMLPath() string { return e.Path }
