package read

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// versionRule says where bodies tell versions, and what the versions are of.
type versionRule struct {
	path  jsonPath
	fixed template // the tag that the version speaks for, by names of the path; nil when it is learnt
	tags  []int    // the learnt values that make the tags it speaks for

	// arrays is how many places in arrays version and tag have in common.
	arrays int
}

// ownNames are names of members that tell which object they stand in. Others,
// such as author_id, tell of another one.
var ownNames = []string{"id", "_id", "uid", "_uid", "uuid", "guid", "documentId", "slug", "key", "handle"}

func parseVersion(c RouteConfig, out *compiled, wrong func(string, error)) *versionRule {
	path, err := parseJSONPath(c.Version)
	wrong("version", err)
	if err != nil {
		return nil
	}
	v := &versionRule{path: path}
	items, arrays := path.items()
	v.arrays = arrays
	switch {
	case strings.Contains(c.VersionOf, "{}"):
		for i, value := range out.learn.values {
			if value.template() == c.VersionOf && sameItem(path, value.path, items) {
				v.tags = append(v.tags, i)
			}
		}
		if v.tags == nil {
			wrong("version_of", fmt.Errorf("no path of learn_tags.json makes %s of the item that has the version", c.VersionOf))
		}
		return v
	case c.VersionOf != "":
		v.fixed, err = parseTemplate(c.VersionOf, out.names)
		wrong("version_of", err)
	case v.learnt(out.learn.values):
		return v
	default:
		v.fixed = out.ownTag(c)
	}
	switch {
	case v.fixed == nil && err == nil:
		wrong("version", errors.New("of what is it? Say so with version_of, such as version_of: post:{id}, or post:{} for a tag of learn_tags"))
	case items > 0:
		wrong("version", errors.New("each item has a version, so each needs a tag: learn it from the item's id, such as items[*].id → post:{}"))
	}
	return v
}

// learnt finds the tags that are made from the id beside the version.
func (v *versionRule) learnt(values []learntValue) bool {
	parent := v.path[:len(v.path)-1]
	for i, value := range values {
		if n := len(value.path) - 1; n >= 0 && slices.Equal(value.path[:n], parent) && slices.Contains(ownNames, value.path[n].name) {
			v.tags = append(v.tags, i)
		}
	}
	return v.tags != nil
}

// sameItem reports whether each tag of a path belongs to one version: beyond
// the last array that they share, the tag's path has no other.
func sameItem(version, tag jsonPath, items int) bool {
	n, _ := tag.items()
	return n <= items && len(tag) >= items && slices.Equal(version[:items], tag[:items])
}

// ownTag is the tag of what a route shows, nil when that cannot be told.
func (c *compiled) ownTag(cfg RouteConfig) template {
	if cfg.Key != "" && (len(cfg.Tags) == 0 || slices.Contains(cfg.Tags, cfg.Key)) {
		return c.key
	}
	if len(c.names) == 0 {
		return nil
	}
	last := c.names[len(c.names)-1]
	for _, t := range c.tags {
		if names := t.names(); len(names) > 0 && names[len(names)-1] == last {
			return t
		}
	}
	return nil
}

// binding brings versions and learnt tags of one body together, item by item.
type binding struct {
	rule *versionRule
	told map[string]string // item → version
	tags map[string]string // tag → item
}

func (v *versionRule) binding() *binding {
	return &binding{rule: v, told: map[string]string{}, tags: map[string]string{}}
}

// item names an item by its places in the arrays on the way to it.
func (b *binding) item(at []int) string {
	var buf [16]byte
	name := buf[:0]
	for _, i := range at[:min(len(at), b.rule.arrays)] {
		name = binary.AppendUvarint(name, uint64(i))
	}
	return string(name)
}

func (b *binding) version(at []int, text string) {
	if text != "" && len(text) <= maxVersionText && len(b.told) < maxLearntTags {
		b.told[b.item(at)] = text
	}
}

func (b *binding) tag(n int, at []int, tag string) {
	if slices.Contains(b.rule.tags, n) && len(b.tags) < maxLearntTags {
		b.tags[tag] = b.item(at)
	}
}

// versions is never nil: it says that the route tells versions, if not which.
func (b *binding) versions(p *place) map[string]string {
	out := map[string]string{}
	if b.rule.fixed != nil {
		if v, ok := b.told[""]; ok {
			out[b.rule.fixed.fill(p.values)] = v
		}
		return out
	}
	for tag, item := range b.tags {
		if v, ok := b.told[item]; ok {
			out[tag] = v
		}
	}
	return out
}
