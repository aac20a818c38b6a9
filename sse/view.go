package sse

import (
	"slices"
	"strings"
)

// view is a set of channels that subscribers of one shard listen to. What is
// for one of them is for all of them: it is matched once, and put together once.
type view struct {
	names    []string // channels, sorted
	prefixes []string // of wildcards
	all      bool     // every channel

	at   []int32       // where the view stands in the topic of each of names
	live []*subscriber // who was told of everything so far, in no order
	size int           // subscribers, live or not

	due []*frame // for the live ones, in the pass under way
}

// viewOf returns the key of the view with these channels, each once.
func viewOf(channels []string, all bool) string {
	slices.Sort(channels)
	if all {
		channels = append(channels, "*")
	}
	return strings.Join(channels, "\n")
}

// newView returns the view of a key.
func newView(key string) *view {
	v := &view{}
	for name := range strings.SplitSeq(key, "\n") { // parts of the key: no copies
		switch {
		case name == "*":
			v.all = true
		case strings.HasSuffix(name, "*"):
			v.prefixes = append(v.prefixes, name[:len(name)-1])
		case name != "":
			v.names = append(v.names, name)
		}
	}
	v.at = make([]int32, len(v.names))
	return v
}

// listens reports whether ch is one of the view's channels.
func (v *view) listens(ch string) bool {
	if v.all {
		return true
	}
	if _, ok := slices.BinarySearch(v.names, ch); ok {
		return true
	}
	return slices.ContainsFunc(v.prefixes, func(p string) bool { return strings.HasPrefix(ch, p) })
}

// wants reports whether f is for this view.
func (v *view) wants(f *frame) bool {
	return v.all || f.isForAll() || slices.ContainsFunc(f.channels, v.listens)
}

// topics is the index of a shard's views: each message is matched once.
type topics struct {
	views      map[string]*view            // by viewKey
	byName     map[string][]*view          // channel → views
	byPrefix   map[string]map[*view]string // prefix of a wildcard → views; few
	everything map[*view]struct{}

	touched []*view // with something due
}

func newTopics() topics {
	return topics{views: map[string]*view{}, byName: map[string][]*view{}, byPrefix: map[string]map[*view]string{}, everything: map[*view]struct{}{}}
}

// add returns the view of a key, one subscriber larger. created is set for a
// view that nobody had.
func (t *topics) add(key string) (v *view, created bool) {
	v = t.views[key]
	if v == nil {
		v, created = newView(key), true
		t.views[key] = v
		for i, name := range v.names {
			v.at[i] = int32(len(t.byName[name]))
			t.byName[name] = append(t.byName[name], v)
		}
		for _, p := range v.prefixes {
			if t.byPrefix[p] == nil {
				t.byPrefix[p] = map[*view]string{}
			}
			t.byPrefix[p][v] = p
		}
		if v.all {
			t.everything[v] = struct{}{}
		}
	}
	v.size++
	return v, created
}

// remove is the other half of add. gone is set when nobody has the view any more.
func (t *topics) remove(key string, v *view) (gone bool) {
	if v.size--; v.size > 0 {
		return false
	}
	delete(t.views, key)
	for i, name := range v.names {
		views := t.byName[name]
		last := views[len(views)-1]
		views[v.at[i]] = last
		j, _ := slices.BinarySearch(last.names, name)
		last.at[j] = v.at[i]
		views[len(views)-1] = nil
		if views = views[:len(views)-1]; len(views) == 0 {
			delete(t.byName, name)
		} else {
			t.byName[name] = views
		}
	}
	for _, p := range v.prefixes {
		if delete(t.byPrefix[p], v); len(t.byPrefix[p]) == 0 {
			delete(t.byPrefix, p)
		}
	}
	delete(t.everything, v)
	return true
}

// match puts f to what is due for the views that want it.
func (t *topics) match(f *frame) {
	if f.isForAll() {
		for _, v := range t.views {
			t.touch(v, f)
		}
		return
	}
	for v := range t.everything {
		t.touch(v, f)
	}
	for _, ch := range f.channels {
		for _, v := range t.byName[ch] {
			t.touch(v, f)
		}
		for p, views := range t.byPrefix {
			if strings.HasPrefix(ch, p) {
				for v := range views {
					t.touch(v, f)
				}
			}
		}
	}
}

func (t *topics) touch(v *view, f *frame) {
	n := len(v.due)
	if n == 0 {
		if len(v.live) == 0 {
			return
		}
		t.touched = append(t.touched, v)
	} else if v.due[n-1] == f {
		return // on several of its channels
	}
	v.due = append(v.due, f)
}

// settle empties what was due for v.
func (v *view) settle() {
	clear(v.due) // must not keep old frames alive
	if v.due = v.due[:0]; cap(v.due) > 16 {
		v.due = nil
	}
}

// join adds s to the live ones.
func (v *view) join(s *subscriber) {
	s.at = int32(len(v.live))
	v.live = append(v.live, s)
}

// part takes s out of the live ones.
func (v *view) part(s *subscriber) {
	last := v.live[len(v.live)-1]
	v.live[s.at], last.at = last, s.at
	v.live[len(v.live)-1] = nil
	v.live = v.live[:len(v.live)-1]
	if len(v.live) == 0 {
		v.live = nil
	}
}
