package rules

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/freshwire/freshwire/event"
)

// Merge unites the plans of events that are run as one, oldest first: each
// item once, within the limits of a plan. Of a field, the newest value counts.
func Merge(plans ...Plan) Plan {
	if len(plans) == 1 {
		return plans[0]
	}
	m := &planner{}
	for _, p := range plans {
		m.plan.Purge.All = m.plan.Purge.All || p.Purge.All
		m.plan.Capped = m.plan.Capped || p.Capped
		m.plan.Coalesce = max(m.plan.Coalesce, p.Coalesce)
		m.plan.Refill = max(m.plan.Refill, p.Refill)
		if p.private != nil {
			m.plan.private = p.private
		}
		for k, list := range [...][]string{p.Purge.Tags, p.Purge.Keys, p.Purge.Patterns, p.Purge.Paths, p.Channels} {
			for _, v := range list {
				m.keep(kind(k), v)
			}
		}
		for _, t := range p.Targets {
			m.target(t)
		}
		m.plan.Rules = append(m.plan.Rules, p.Rules...)
		for _, text := range p.Problems {
			m.note(text)
		}
	}
	slices.Sort(m.plan.Rules)
	m.plan.Rules = slices.Compact(m.plan.Rules)
	m.plan.Fields = mergeFields(plans)
	if told := m.lists[channels]; slices.Contains(told, event.Everybody) {
		m.lists[channels] = slices.DeleteFunc(told, func(ch string) bool {
			return ch != event.Everybody && (m.plan.private == nil || !m.plan.private(ch))
		})
	}
	return m.finish()
}

// mergeFields takes the newest values first, and older ones while there is room.
func mergeFields(plans []Plan) map[string]any {
	var fields map[string]any
	bytes := 0
	for _, p := range slices.Backward(plans) {
		for _, name := range slices.Sorted(maps.Keys(p.Fields)) {
			if _, ok := fields[name]; ok {
				continue
			}
			data, err := json.Marshal(p.Fields[name])
			if err != nil || bytes+len(data) > maxFieldsBytes {
				continue
			}
			bytes += len(data)
			if fields == nil {
				fields = map[string]any{}
			}
			fields[name] = p.Fields[name]
		}
	}
	return fields
}
