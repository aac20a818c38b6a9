package sse

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// FuzzHub is the model test, its steps chosen by the fuzzer.
func FuzzHub(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		rapid.MakeFuzz(func(rt *rapid.T) {
			if err := model(rt, t, func(*Handler, []*client) {}); err != nil {
				rt.Fatal(err)
			}
		})(t, in)
	})
}

// FuzzChannels: whatever names two requests give, they share a view only if
// they name the same channels; and a view listens to its own, no other.
func FuzzChannels(f *testing.F) {
	f.Add("posts post:1", "post:1 posts", "posts")
	f.Add("product:*", "product:1", "product:12")
	f.Add("a\nb", "a b", "a")
	f.Add("* a", "a", "*")
	h := testHandler(f, nil, Config{Wildcards: []string{"product:"}})
	f.Fuzz(func(t *testing.T, first, second, other string) {
		one, _, complaint1 := h.channels(strings.Split(first, " "))
		two, _, complaint2 := h.channels(strings.Split(second, " "))
		for _, ch := range slices.Concat(one, two) {
			if strings.ContainsAny(ch, "\r\n\x00") || strings.Contains(ch, "*") && ch != "product:*" {
				t.Fatalf("channel %q was taken", ch)
			}
		}
		if complaint1 != "" || complaint2 != "" {
			return
		}
		key1, key2 := viewOf(slices.Clone(one), false), viewOf(slices.Clone(two), false)
		slices.Sort(one)
		slices.Sort(two)
		if (key1 == key2) != slices.Equal(one, two) {
			t.Errorf("channels %q and %q have the views %q and %q", one, two, key1, key2)
		}
		v := newView(key1)
		want := slices.ContainsFunc(one, func(ch string) bool {
			return ch == other || ch == "product:*" && strings.HasPrefix(other, "product:")
		})
		if validChannel(other) && v.listens(other) != want {
			t.Errorf("a view of %q listens to %q: %v", one, other, !want)
		}
	})
}

// The index of views against the views themselves.
func TestIndexFindsTheViewsThatWantAFrame(t *testing.T) {
	names := []string{"a", "ab", "abc", "b", "b:1", "b:2"}
	rapid.Check(t, func(t *rapid.T) {
		index := newTopics()
		have := map[string]int{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				all := rapid.SampledFrom([]bool{false, false, false, true}).Draw(t, "all")
				key := viewOf(rapid.SliceOfNDistinct(rapid.SampledFrom(append([]string{"b:*", "ab*"}, names...)), 1, 4, rapid.ID).Draw(t, "channels"), all)
				v, created := index.add(key)
				if have[key]++; created != (have[key] == 1) {
					t.Errorf("created = %v for subscriber %d of %q", created, have[key], key)
				}
				if created {
					v.live = []*subscriber{{}}
				}
			},
			"remove": func(t *rapid.T) {
				if len(have) == 0 {
					t.Skip("nothing to remove")
				}
				keys := make([]string, 0, len(have))
				for key := range have {
					keys = append(keys, key)
				}
				slices.Sort(keys)
				key := rapid.SampledFrom(keys).Draw(t, "key")
				gone := index.remove(key, index.views[key])
				if have[key]--; gone != (have[key] == 0) {
					t.Errorf("gone = %v with %d subscribers left of %q", gone, have[key], key)
				}
				if gone {
					delete(have, key)
				}
			},
			"match": func(t *rapid.T) {
				f := newFrame(record(1, "{}", rapid.SliceOfNDistinct(rapid.SampledFrom(append([]string{"*"}, names...)), 0, 3, rapid.ID).Draw(t, "channels")...), time.Now())
				index.match(f)
				for key, v := range index.views {
					want := 0
					if v.wants(f) {
						want = 1
					}
					if len(v.due) != want {
						t.Errorf("%d frames due for %q, want %d of %q", len(v.due), key, want, f.channels)
					}
					v.settle()
				}
				index.touched = index.touched[:0]
			},
			"": func(t *rapid.T) {
				if len(index.views) != len(have) || len(have) == 0 && len(index.byName)+len(index.byPrefix)+len(index.everything) > 0 {
					t.Errorf("%d views of %d, index of %d names, %d prefixes, %d everything", len(index.views), len(have), len(index.byName), len(index.byPrefix), len(index.everything))
				}
			},
		})
	})
}

// The wheel against a list: everybody is looked at when asked for, at most a
// tick late, and once.
func TestWheelFiresInTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := wheel{tick: 10 * time.Millisecond}
		subs := make([]*subscriber, 5)
		due := map[*subscriber]time.Duration{}
		for i := range subs {
			subs[i] = new(subscriber)
		}
		now := time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			s := subs[rapid.IntRange(0, 4).Draw(t, "who")]
			when := now + time.Duration(rapid.IntRange(0, 4000).Draw(t, "in ms"))*time.Millisecond
			w.add(s, when)
			if old, ok := due[s]; !ok || when < old {
				due[s] = when
			}
			next, ok := w.next(now)
			if !ok {
				t.Fatal("an empty wheel")
			}
			now += min(next, time.Duration(rapid.IntRange(0, 7000).Draw(t, "pass ms"))*time.Millisecond)
			w.advance(now, func(s *subscriber) {
				if when, ok := due[s]; !ok || when > now {
					t.Fatalf("fired at %v, asked for at %v", now, when)
				}
				delete(due, s)
			})
			for _, when := range due {
				if when+2*w.tick < now {
					t.Fatalf("not fired at %v, asked for at %v", now, when)
				}
			}
		}
	})
}
