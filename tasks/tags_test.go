package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/rules"
)

// inCategories returns an event on post 1, received n seconds after the first
// one, whose rule gives it the tags "cat:<category>". It is received late.
func inCategories(n int, action event.Action, categories ...string) event.Event {
	if categories == nil {
		categories = []string{}
	}
	payload, _ := json.Marshal(map[string]any{"cats": categories}) // a list of texts
	ev := event.Event{ID: event.NewID("blog", "tags", fmt.Sprint(n)), Source: "blog", Name: "post.edited", Type: "post", Action: action, Entity: "1", Payload: payload,
		ReceivedAt: time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC)}
	return ev
}

func categoryRules() *rules.Set {
	set, err := rules.Compile([]rules.Rule{{Purge: rules.Purge{Tags: []string{"post:{id}", "cat:{payload.cats}"}}}}, nil)
	if err != nil {
		panic(err)
	}
	return set
}

// tagPlanner returns what an attempt at an event purges: the tags, and the problems.
func tagPlanner(t *testing.T, w *Worker) func(event.Event) (tags, problems []string) {
	return func(ev event.Event) (tags, problems []string) {
		t.Helper()
		r := &run{w: w, ev: ev, status: Running}
		if err := r.prepare(t.Context()); err != nil {
			t.Fatalf("prepare(%+v) = %v", ev, err)
		}
		return r.plan.Purge.Tags, r.plan.Problems
	}
}

func TestEventPurgesTheTagsThatItsEntityHad(t *testing.T) {
	t.Parallel()
	type step struct {
		ev   event.Event
		want string // names of categories
	}
	with := func(ev event.Event, change func(*event.Event)) event.Event { change(&ev); return ev }
	in := func(locale string, ev event.Event) event.Event {
		return with(ev, func(e *event.Event) { e.Locale = locale })
	}
	version := func(v string, ev event.Event) event.Event {
		return with(ev, func(e *event.Event) { e.Version = v })
	}
	for name, steps := range map[string][]step{
		"moved":                {{inCategories(1, event.Update, "a"), "a"}, {inCategories(2, event.Update, "b"), "b a"}, {inCategories(3, event.Update, "b"), "b"}, {inCategories(4, event.Update), "b"}},
		"of many, one":         {{inCategories(1, event.Update, "a", "b"), "a b"}, {inCategories(2, event.Update, "b", "c"), "b c a"}},
		"removed by id":        {{inCategories(1, event.Update, "a"), "a"}, {inCategories(2, event.Delete), "a"}, {inCategories(3, event.Delete), "a"}, {inCategories(4, event.Create, "c"), "c a"}},
		"a draft that moves":   {{inCategories(1, event.Publish, "a"), "a"}, {inCategories(2, event.Update, "b"), "b a"}, {inCategories(3, event.Update, "c"), "c b"}, {inCategories(4, event.Publish, "c"), "c a"}, {inCategories(5, event.Publish, "c"), "c"}},
		"a draft that returns": {{inCategories(1, event.Publish, "a"), "a"}, {inCategories(2, event.Update, "b"), "b a"}, {inCategories(3, event.Update, "a"), "a b"}, {inCategories(4, event.Unpublish), "a"}},
		"superseded":           {{version("2", inCategories(1, event.Update, "b")), "b"}, {version("1", inCategories(2, event.Update, "a")), "a b"}, {version("3", inCategories(3, event.Update, "c")), "c b"}},
		"a replay":             {{inCategories(1, event.Update, "b"), "b"}, {with(inCategories(2, event.Update, "a"), func(e *event.Event) { e.ReplayOf = "x" }), "a b"}, {inCategories(3, event.Update, "c"), "c b"}},
		"run late":             {{inCategories(2, event.Update, "b"), "b"}, {inCategories(1, event.Update, "a"), "a b"}, {inCategories(3, event.Update, "c"), "c b"}},
		"languages":            {{in("en", inCategories(1, event.Update, "a")), "a"}, {in("de", inCategories(2, event.Update, "b")), "b"}, {in("en", inCategories(3, event.Update, "c")), "c a"}, {inCategories(4, event.Delete), "b c"}, {in("de", inCategories(5, event.Delete)), "b"}},
		"other entities":       {{inCategories(1, event.Update, "a"), "a"}, {with(inCategories(2, event.Update, "b"), func(e *event.Event) { e.Entity = "2" }), "b"}, {with(inCategories(3, event.Update, "b"), func(e *event.Event) { e.Type = "page" }), "b"}},
		"texts of any kind":    {{inCategories(1, event.Update, `a"<\`, "=", "ä"), `a"<\ = ä`}, {inCategories(2, event.Update, "c"), `c a"<\ = ä`}},
		"everything":           {{inCategories(1, event.Update, "a"), "a"}, {with(inCategories(2, event.Update), func(e *event.Event) { e.Purge = &event.Purge{Tags: []string{"x"}} }), ""}, {inCategories(3, event.Update, "c"), "c a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := categoryRules()
			purged := tagPlanner(t, NewWorker(embeddedOrReal(t, name), Steps{Plan: set.Plan}, testkit.Discard(), Config{}))
			for i, st := range steps {
				for try := range 2 { // whoever runs again says the same
					var got []string
					tags, _ := purged(st.ev)
					for _, tag := range tags {
						if c, ok := strings.CutPrefix(tag, "cat:"); ok {
							got = append(got, c)
						}
					}
					if strings.Join(got, " ") != st.want {
						t.Errorf("event %d, try %d: purged categories %q, want %q", i+1, try+1, got, st.want)
					}
				}
			}
		})
	}
}

// A worker dies when it has kept the new tags, and before it made the old ones
// void. Without what the event recalled, or with late events believed, a list
// that still shows the post is never purged.
func TestListThatAPostLeftIsPurgedWhateverHappens(t *testing.T) {
	t.Parallel()
	moved, movedOn := inCategories(2, event.Update, "b"), inCategories(3, event.Update, "c")
	for _, tc := range []struct {
		name, cut, with string // an edit of the script
		runs            []event.Event
		last            event.Event
		want, broken    []string
	}{
		{"killed", "if ARGV[6] ~= '' then", "if false then",
			[]event.Event{moved}, moved, []string{"post:1", "cat:b", "cat:a"}, []string{"post:1", "cat:b"}},
		{"killed, and overtaken", "or tonumber(redis.call('HGET', KEYS[2], 'a') or '0') > tonumber(ARGV[3])", "",
			[]event.Event{moved, movedOn, moved}, inCategories(4, event.Update, "d"), []string{"post:1", "cat:d", "cat:c"}, []string{"post:1", "cat:d", "cat:b"}},
	} {
		for _, broken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, broken=%v", tc.name, broken), func(t *testing.T) {
				t.Parallel()
				w := NewWorker(testkit.Redis(t), Steps{Plan: categoryRules().Plan}, testkit.Discard(), Config{})
				want := tc.want
				if broken {
					text := strings.Replace(tagsLua, tc.cut, tc.with, 1)
					if text == tagsLua {
						t.Fatal("the script is not what this test edits")
					}
					w.tagsScript, want = redis.NewScript(text), tc.broken
				}
				purged := tagPlanner(t, w)
				purged(inCategories(1, event.Update, "a"))
				for _, ev := range tc.runs {
					purged(ev)
				}
				if got, _ := purged(tc.last); !slices.Equal(got, want) {
					t.Errorf("purged %q, want %q", got, want)
				}
			})
		}
	}
}

// The same through a worker, with a process that is killed in between.
func TestKilledMoveNamesBothCategoriesAgain(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a process")
	}
	server := testkit.StartServer(t)
	rdb := server.Client(t)
	s, cfg := newSite(rdb, "tags"), Config{Namespace: "tags"}
	set := categoryRules()
	l := &listener{}
	w := NewWorker(rdb, with(s, func(st *Steps) { st.Plan = set.Plan; l.on(st) }), testkit.Logger(t), cfg)
	q := NewQueue(rdb, testkit.Logger(t), cfg)
	first, second := inCategories(1, event.Update, "a"), inCategories(2, event.Update, "b")
	now := time.Now().UTC()
	first.ReceivedAt, second.ReceivedAt = now, now.Add(time.Millisecond)
	mustEnqueue(t, q, first)
	killHolder(t, server, "tags", "after", "plan") // which knows of no category yet, and keeps none
	release := func(id string) {
		if err := rdb.ZAddXX(t.Context(), q.keys.lease(), redis.Z{Score: float64(time.Now().Unix() - 5), Member: id}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	release(first.ID)
	w.reapEvery = 50 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	finished(t, q.records, first.ID)
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	mustEnqueue(t, q, second)
	killHolder(t, server, "tags", "before", "invalidate")
	release(second.ID)
	w = NewWorker(rdb, with(s, func(st *Steps) { st.Plan = set.Plan; l.on(st) }), testkit.Logger(t), cfg)
	w.reapEvery = 50 * time.Millisecond
	testkit.Go(t, w.Run)
	rec := finished(t, q.records, second.ID)
	want := []string{"post:1", "cat:b", "cat:a"}
	if changes, _ := l.heard(); rec.Attempts != 2 || !slices.Equal(rec.Plan.Tags, want) || !slices.Equal(changes[len(changes)-1].Tags, want) {
		t.Errorf("after %d attempts purged %q, told %+v, want %q", rec.Attempts, rec.Plan.Tags, changes, want)
	}
	if rec.Recalled == nil || !slices.Equal(rec.Recalled.Tags, []string{"cat:a"}) {
		t.Errorf("recalled %+v, want cat:a", rec.Recalled)
	}
}

func TestTooManyTagsAreNotKeptAndTheRecordSaysSo(t *testing.T) {
	t.Parallel()
	w := NewWorker(testkit.Redis(t), Steps{Plan: categoryRules().Plan}, testkit.Discard(), Config{})
	purged := tagPlanner(t, w)
	var many []string
	for i := range maxKeptTags {
		many = append(many, fmt.Sprint(i))
	}
	_, problems := purged(inCategories(1, event.Update, many[1:]...)) // and the tag of the post
	if len(problems) != 0 {
		t.Errorf("%d tags: problems %q, want none", maxKeptTags, problems)
	}
	tags, problems := purged(inCategories(2, event.Update, many...))
	if len(tags) != maxKeptTags+1 || len(problems) != 1 || !strings.Contains(problems[0], "tags: 65 with") {
		t.Errorf("%d tags, problems %q, want all purged, and one problem", len(tags), problems)
	}
	if tags, _ := purged(inCategories(3, event.Update, "x")); !slices.Equal(tags, []string{"post:1", "cat:x"}) {
		t.Errorf("after too many: purged %q, want only its own", tags)
	}
	_, problems = purged(inCategories(4, event.Update, strings.Repeat("y", 200), strings.Repeat("z", 200)))
	if len(problems) != 0 {
		t.Errorf("two long tags: problems %q, want none", problems)
	}
	var long []string
	for i := range 20 {
		long = append(long, strings.Repeat("x", 240)+fmt.Sprint(i))
	}
	if _, problems = purged(inCategories(5, event.Update, long...)); len(problems) != 1 {
		t.Errorf("tags of 5 KB: problems %q, want one", problems)
	}

	for i := range maxLocales + 1 {
		ev := inCategories(10+i, event.Update, "a")
		ev.Locale = fmt.Sprint("l", i)
		_, problems = purged(ev)
	}
	if len(problems) != 1 || !strings.Contains(problems[0], "locales") {
		t.Errorf("tags of %d locales: problems %q, want one", maxLocales+1, problems)
	}
	key := w.keys.identity(inCategories(1, event.Update))
	if size := w.rdb.MemoryUsage(t.Context(), key).Val(); size > 4096 {
		t.Errorf("tags in %d locales take %d bytes, want at most 4 KiB", maxLocales, size)
	}
	if ttl := w.rdb.TTL(t.Context(), key).Val(); ttl < entityTTL-time.Minute || ttl > entityTTL {
		t.Errorf("tags are kept for %v, want %v", ttl, entityTTL)
	}
}

// What an entity always has costs no round trip and no key.
func TestUnchangedTagsAreNotWrittenAgain(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	w := NewWorker(rdb, Steps{Plan: categoryRules().Plan}, testkit.Discard(), Config{})
	purged := tagPlanner(t, w)
	purged(inCategories(1, event.Update, "a"))
	w.tagsScript = redis.NewScript("return redis.error_reply('ERR not needed')")
	for n := range 3 {
		purged(inCategories(2+n, event.Update, "a"))
	}
	if keys := rdb.Keys(t.Context(), "fw:{fw}:rect:*").Val(); len(keys) != 0 {
		t.Errorf("keys %q are kept for events that recalled nothing", keys)
	}
}
