package tasks

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/rules"
)

const (
	maxKeptTags      = 64      // of an entity in one locale; of one with more none are kept
	maxKeptTagsBytes = 4 << 10 // as JSON
)

//go:embed tags.lua
var tagsLua string

var tagsScript = redis.NewScript(tagsLua)

// tagsBefore is what earlier events told of the entity's tags.
type tagsBefore struct {
	lines    []tagLine // of the event's locale and of none, or of all when it has none
	recalled []string  // by an earlier attempt at this event
}

// tagLine is what is known in one locale: tags as JSON lists, empty when unknown.
type tagLine struct{ locale, last, public string }

// parseTags reads lines as tags.lua has them, and a list.
func parseTags(lines, recalled string) (b tagsBefore, err error) {
	for line := range strings.Lines(lines) {
		locale, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		last, public, _ := strings.Cut(rest, "\t")
		if public == "=" {
			public = last
		}
		b.lines = append(b.lines, tagLine{locale, last, public})
	}
	b.recalled, err = tagList(recalled)
	return b, err
}

func tagList(doc string) (tags []string, err error) {
	if doc == "" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(doc), &tags); err != nil {
		return nil, fmt.Errorf("reading remembered tags: %w", err)
	}
	return tags, nil
}

// recallTags adds to the plan the tags that the entity had at its last event: a
// list that it has left still shows it, and is named by nothing in this event.
// It keeps those of this event for the next one, before anything is made void:
//
//	event 1: A → B        event 2: B → C
//	knows A, keeps B
//	                      knows B, or came before event 1 kept it: then event 1
//	                      makes B void after event 2 has come
//
// What is superseded, a replay or a removal does not say where the entity is now.
func (r *run) recallTags(ctx context.Context) error {
	if r.ev.Entity == "" || r.ev.Purge != nil || len(r.plan.Rules) == 0 {
		return nil
	}
	own := r.plan.Purge.Tags
	left, err := r.tagsLeft(own)
	if err != nil {
		return err
	}
	var known tagLine
	doc := ""
	for _, l := range r.tagsBefore.lines {
		if l.locale == r.ev.Locale {
			known = l
		}
	}
	if !r.outcome.Superseded && r.ev.ReplayOf == "" && !takesAway(r.ev.Action) {
		if doc, err = keptTags(own); err != nil {
			r.plan.Problems = append(r.plan.Problems, err.Error())
		}
	}
	publishes := r.ev.Action == event.Publish
	news := doc != "" && (doc != known.last || publishes && doc != known.public)
	if len(left) > 0 {
		r.plan = rules.Merge(r.plan, rules.Plan{Purge: event.Purge{Tags: left}})
		if r.outcome.Recalled == nil {
			r.outcome.Recalled = &Recalled{}
		}
		r.outcome.Recalled.Tags = head(left)
	}
	if !news && slices.Equal(left, r.tagsBefore.recalled) {
		return nil
	}
	recalled := ""
	if len(left) > 0 {
		text, err := json.Marshal(left)
		if err != nil {
			return err
		}
		recalled = string(text)
	}
	k := r.w.keys
	dropped, err := r.w.tagsScript.Run(ctx, r.w.rdb, []string{k.identity(r.ev), k.entity(r.ev), k.recalledTags(r.ev.ID)},
		r.ev.Type, r.ev.Locale, r.ev.ReceivedAt.UnixMicro(), doc, digit(publishes), recalled, maxLocales,
		int(entityTTL.Seconds()), int(recalledTTL.Seconds())).Int()
	if err != nil {
		return fmt.Errorf("keeping tags: %w", err)
	}
	if dropped == 1 {
		r.plan.Problems = append(r.plan.Problems, fmt.Sprintf("tags: of more than %d locales; those of one are kept no more", maxLocales))
	}
	return nil
}

// tagsLeft returns the tags that the entity had before and that own lacks, in the
// same order for each attempt. As with slugs, a draft that moved leaves its page
// where it was published.
func (r *run) tagsLeft(own []string) (left []string, err error) {
	have := map[string]bool{}
	for _, t := range own {
		have[t] = true
	}
	add := func(tags []string) {
		for _, t := range tags {
			if !have[t] {
				have[t] = true
				left = append(left, t)
			}
		}
	}
	add(r.tagsBefore.recalled)
	for _, l := range r.tagsBefore.lines {
		docs := []string{l.last}
		if r.ev.Action != event.Create && r.ev.Action != event.Update {
			docs = append(docs, l.public)
		}
		for _, doc := range docs {
			tags, err := tagList(doc)
			if err != nil {
				return nil, err
			}
			add(tags)
		}
	}
	return left, nil
}

// keptTags returns tags as they are kept. An error says that they are too many;
// then none are.
func keptTags(tags []string) (doc string, err error) {
	text, err := json.Marshal(tags)
	if err != nil {
		return "", err
	}
	switch {
	case len(tags) == 0:
		return "[]", nil
	case len(tags) > maxKeptTags, len(text) > maxKeptTagsBytes:
		return "[]", fmt.Errorf("tags: %d with %d bytes, more than are kept (%d, %d bytes): a list that the entity leaves next is not purged by its tag",
			len(tags), len(text), maxKeptTags, maxKeptTagsBytes)
	}
	return string(text), nil
}
