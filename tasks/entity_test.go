package tasks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/internal/version"
	"github.com/freshwire/freshwire/rules"
)

// recaller returns what w recalls for an event.
func recaller(t *testing.T, rdb redis.UniversalClient) func(event.Event) (Recalled, bool) {
	w := NewWorker(rdb, Steps{}, testkit.Discard(), Config{})
	return func(ev event.Event) (Recalled, bool) {
		t.Helper()
		r := &run{w: w, ev: ev}
		if err := r.recall(t.Context()); err != nil {
			t.Fatalf("recall(%+v) = %v", ev, err)
		}
		if r.outcome.Recalled == nil {
			return Recalled{}, r.outcome.Superseded
		}
		return *r.outcome.Recalled, r.outcome.Superseded
	}
}

func TestEntityIsRemembered(t *testing.T) {
	n := 0
	edit := func(action event.Action, version, slug string, changes ...func(*event.Event)) event.Event {
		n++
		ev := event.Event{ID: fmt.Sprint("e", n), Source: "blog", Type: "post", Action: action, Entity: "1", Slug: slug, Version: version}
		for _, c := range changes {
			c(&ev)
		}
		return ev
	}
	gone := func(e *event.Event) { e.Slug = "" }
	in := func(locale string) func(*event.Event) { return func(e *event.Event) { e.Locale = locale } }
	untyped := func(e *event.Event) { e.Type, e.Name = "Umbraco", "Umbraco.ContentDelete" }
	anything := func(e *event.Event) { untyped(e); e.Purge = &event.Purge{All: true} }
	type step struct {
		ev         event.Event
		want       Recalled
		superseded bool
	}
	told := func(ev event.Event) step { return step{ev: ev} }
	renamed := func(ev event.Event, before string) step { return step{ev: ev, want: Recalled{PreviousSlug: before}} }
	late := func(ev event.Event) step { return step{ev: ev, superseded: true} }
	for name, steps := range map[string][]step{
		"a rename that the CMS does not tell": {told(edit(event.Create, "", "a")), told(edit(event.Update, "", "a")), renamed(edit(event.Update, "", "b"), "a"), told(edit(event.Update, "", "b"))},
		"the CMS knows better":                {told(edit(event.Create, "", "a")), told(edit(event.Update, "", "c", func(e *event.Event) { e.PreviousSlug = "b" })), renamed(edit(event.Update, "", "d"), "c")},
		"a delete with only an id":            {told(edit(event.Create, "", "a")), {edit(event.Delete, "", ""), Recalled{Slug: "a"}, false}, {edit(event.Unpublish, "", ""), Recalled{Slug: "a"}, false}},
		"a delete of what nobody saw":         {told(edit(event.Delete, "", ""))},
		"an undelete under another slug":      {told(edit(event.Create, "", "a")), {edit(event.Delete, "", ""), Recalled{Slug: "a"}, false}, renamed(edit(event.Create, "", "b"), "a")},
		"a draft that is renamed, then published": {told(edit(event.Publish, "", "a")), renamed(edit(event.Update, "", "b"), "a"), told(edit(event.Update, "", "b")),
			renamed(edit(event.Publish, "", "b"), "a"), told(edit(event.Publish, "", "b"))},
		"a draft that is renamed, and deleted by id": {told(edit(event.Publish, "", "a")), renamed(edit(event.Update, "", "b"), "a"), {edit(event.Delete, "", ""), Recalled{Slug: "b", PreviousSlug: "a"}, false}},
		"numbers beyond 2^53":                        {told(edit(event.Update, "9007199254740993", "a")), late(edit(event.Update, "9007199254740992", "a")), told(edit(event.Update, "9007199254740993", "a")), told(edit(event.Update, "10000000000000000000000000", "a")), late(edit(event.Update, "9999999999999999999999999", "a"))},
		"leading zeros":                              {told(edit(event.Update, "009", "a")), told(edit(event.Update, "10", "a")), late(edit(event.Update, "0009", "a"))},
		"times of different zones":                   {told(edit(event.Update, "2026-01-01T12:00:00+02:00", "a")), told(edit(event.Update, "2026-01-01T10:00:00.000Z", "a")), late(edit(event.Update, "2026-01-01T09:59:59.999Z", "a")), told(edit(event.Update, "2026-01-01T10:00:00.000000001Z", "a"))},
		"hashes are in no order":                     {told(edit(event.Update, "f00", "a")), told(edit(event.Update, "a00", "a"))},
		"kinds are not compared":                     {told(edit(event.Update, "12", "a")), told(edit(event.Update, "2026-01-01T12:00:00Z", "a")), told(edit(event.Update, "f00", "a")), told(edit(event.Update, "", "a")), late(edit(event.Update, "2025-01-01T12:00:00Z", "a"))},
		"a superseded event is not believed":         {told(edit(event.Update, "2", "b")), late(edit(event.Update, "1", "a")), told(edit(event.Update, "3", "b")), {edit(event.Delete, "2", ""), Recalled{Slug: "b"}, true}},
		"a replay is old news":                       {told(edit(event.Update, "", "b")), renamed(edit(event.Update, "7", "a", func(e *event.Event) { e.ReplayOf = "e1" }), "b"), told(edit(event.Update, "1", "b"))},
		"entities of other places":                   {told(edit(event.Update, "9", "a")), told(edit(event.Update, "1", "b", func(e *event.Event) { e.Locale = "de" })), told(edit(event.Update, "1", "b", func(e *event.Event) { e.Environment = "x" })), told(edit(event.Update, "1", "b", func(e *event.Event) { e.Source = "x" })), told(edit(event.Update, "1", "b", func(e *event.Event) { e.Type = "x" })), told(edit(event.Update, "1", "b", func(e *event.Event) { e.Entity = "x" }))},
		"an event without an entity":                 {told(edit(event.Update, "9", "a", func(e *event.Event) { e.Entity = "" })), told(edit(event.Update, "1", "", func(e *event.Event) { e.Entity = "" }))},
		"a delete without a locale":                  {told(edit(event.Publish, "", "a", in("en"))), told(edit(event.Publish, "", "b", in("de"))), {edit(event.Delete, "", ""), Recalled{Pages: []Page{{"en", "a", ""}, {"de", "b", ""}}}, false}},
		"a delete with a locale":                     {told(edit(event.Publish, "", "a", in("en"))), told(edit(event.Publish, "", "b", in("de"))), {edit(event.Delete, "", "", in("de")), Recalled{Slug: "b"}, false}, told(edit(event.Delete, "", "", in("fr")))},
		"an edit with neither slug nor locale":       {told(edit(event.Publish, "", "a", in("en"))), {edit(event.Update, "", ""), Recalled{Pages: []Page{{"en", "a", ""}}}, false}},
		"a slug without a locale":                    {told(edit(event.Publish, "", "a", in("en"))), told(edit(event.Update, "", "c")), {edit(event.Unpublish, "", "c"), Recalled{Pages: []Page{{"en", "a", ""}}}, false}},
		"a draft that is renamed in one locale":      {told(edit(event.Publish, "", "a", in("en"))), renamed(edit(event.Update, "", "b", in("en")), "a"), {edit(event.Delete, "", ""), Recalled{Pages: []Page{{"en", "b", "a"}}}, false}},
		"a locale that begins like another":          {told(edit(event.Publish, "", "a", in("en"))), told(edit(event.Publish, "", "b", in("en-US"))), {edit(event.Delete, "", "", in("en")), Recalled{Slug: "a"}, false}},
		"a superseded rename in one locale":          {told(edit(event.Update, "2", "b", in("en"))), late(edit(event.Update, "1", "a", in("en"))), {edit(event.Delete, "", ""), Recalled{Pages: []Page{{"en", "b", ""}}}, false}},
		"types do not share their locales":           {told(edit(event.Publish, "", "a", in("en"))), told(edit(event.Delete, "", "", func(e *event.Event) { e.Type = "page" }))},
		"a delete without a type":                    {told(edit(event.Publish, "", "a")), {edit(event.Delete, "", "", anything), Recalled{Type: "post", Slug: "a"}, false}},
		"a delete with neither type nor locale":      {told(edit(event.Publish, "", "a", in("en"))), told(edit(event.Publish, "", "b", in("da"))), {edit(event.Delete, "", "", anything), Recalled{Type: "post", Pages: []Page{{"en", "a", ""}, {"da", "b", ""}}}, false}},
		"a delete in one locale without a type":      {told(edit(event.Publish, "", "a", in("en"))), told(edit(event.Publish, "", "b", in("da"))), {edit(event.Delete, "", "", anything, in("da")), Recalled{Type: "post", Slug: "b"}, false}},
		"a delete without a type of what nobody saw": {told(edit(event.Delete, "", "", anything))},
		"no type is ever told":                       {told(edit(event.Publish, "", "", untyped)), told(edit(event.Delete, "", "", anything))},
		"types of old remain":                        {told(edit(event.Publish, "", "a")), told(edit(event.Publish, "", "", untyped)), {edit(event.Delete, "", "", anything), Recalled{Type: "post", Slug: "a"}, false}},
		"a purge of the event's own":                 {told(edit(event.Update, "9", "a")), told(edit(event.Update, "1", "b", func(e *event.Event) { e.Purge = &event.Purge{} })), {edit(event.Delete, "", "x", gone), Recalled{Slug: "a"}, false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recall := recaller(t, embeddedOrReal(t, name))
			for i, st := range steps {
				if got, superseded := recall(st.ev); !reflect.DeepEqual(got, st.want) || superseded != st.superseded {
					t.Errorf("event %d, %s %q of version %q: recalled %+v, superseded %v, want %+v, %v", i+1, st.ev.Action, st.ev.Slug, st.ev.Version, got, superseded, st.want, st.superseded)
				}
			}
		})
	}
}

// embeddedOrReal gives about half of the tests a real server, so that both
// dialects of Lua are spoken.
func embeddedOrReal(t *testing.T, name string) redis.UniversalClient {
	if len(name)%2 == 0 {
		return testkit.Redis(t)
	}
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

func TestRepeatedRecallIsTheSame(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	recall := recaller(t, rdb)
	edit := func(id, slug string) event.Event {
		return event.Event{ID: id, Source: "blog", Type: "post", Action: event.Update, Entity: "1", Slug: slug}
	}
	recall(edit("e0", "a"))
	for try := range 3 {
		if got, _ := recall(edit("e1", "b")); got.PreviousSlug != "a" {
			t.Errorf("try %d: slug before = %q, want a", try+1, got.PreviousSlug)
		}
	}
	// Others come between, and rename it again.
	for i := range maxRenames - 1 {
		recall(edit(fmt.Sprint("f", i), fmt.Sprint("c", i)))
	}
	if got, _ := recall(edit("e1", "b")); got.PreviousSlug != "a" {
		t.Errorf("after others: slug before = %q, want a", got.PreviousSlug)
	}
	for i := range 1000 {
		recall(edit(fmt.Sprint("g", i), fmt.Sprint("d", i)))
	}
	for i := range maxLocales + 8 {
		ev := edit(fmt.Sprint("h", i), fmt.Sprint("slug-of-", i))
		ev.Locale = fmt.Sprint("l", i)
		recall(ev)
	}
	if size := rdb.MemoryUsage(t.Context(), keys("fw").identity(edit("e1", "b"))).Val(); size > 2048 {
		t.Errorf("an id known in %d locales takes %d bytes, want at most 2 KiB", maxLocales+8, size)
	}
	key := keys("fw").entity(edit("e1", "b"))
	if size := rdb.MemoryUsage(t.Context(), key).Val(); size > 1024 {
		t.Errorf("an entity renamed a thousand times takes %d bytes, want at most 1 KiB", size)
	}
	if ttl := rdb.TTL(t.Context(), key).Val(); ttl < entityTTL-time.Minute || ttl > entityTTL {
		t.Errorf("the entity is kept for %v, want %v", ttl, entityTTL)
	}
}

func TestOlderVersionsAreSupersededInAnyOrder(t *testing.T) {
	t.Parallel()
	for name, versionAt := range map[string]func(n int) string{
		"numbers": func(n int) string { return fmt.Sprint(9007199254740990 + n) },
		"times": func(n int) string {
			return time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC).In(time.FixedZone("", 3600*(n%5))).Format(time.RFC3339)
		},
	} {
		t.Run(name, func(t *testing.T) {
			rdb := testkit.Redis(t)
			s, log := newSite(rdb, "fw"), testkit.Logger(t)
			changes := make(chan event.Change, 100)
			steps := with(s, func(st *Steps) {
				add := st.Append
				st.Append = func(ctx context.Context, c event.Change) (string, bool, error) { changes <- c; return add(ctx, c) }
			})
			cfg := Config{Concurrency: 1} // takes them in the order of the queue
			q := NewQueue(rdb, log, cfg)
			seed := rand.Uint64()
			order := rand.New(rand.NewPCG(seed, 0)).Perm(30)
			for _, n := range order {
				ev := news(n)
				ev.Entity, ev.Version, ev.Slug = "1", versionAt(n), fmt.Sprint("slug", n)
				mustEnqueue(t, q, ev)
			}
			testkit.Go(t, NewWorker(rdb, steps, log, cfg).Run)
			newest := -1
			for i, n := range order {
				c := testkit.Wait(t, changes, "the next change")
				if want := n < newest; c.ID != news(n).ID || c.Superseded != want {
					t.Errorf("seed %d: change %d is of version %d, superseded %v, want %v after %d", seed, i, n, c.Superseded, want, newest)
				}
				if rec := finished(t, q.records, c.ID); rec.Superseded != (n < newest) || rec.Version != versionAt(n) {
					t.Errorf("seed %d: record of version %d says version %s, superseded %v", seed, n, rec.Version, rec.Superseded)
				}
				newest = max(newest, n)
			}
			known := rdb.HGetAll(t.Context(), q.keys.entity(event.Event{Source: "blog", Type: "post", Entity: "1", Locale: "en"})).Val()
			if known["v"] != version.Rank(versionAt(29)) || known["s"] != "slug29" {
				t.Errorf("seed %d: the entity is known as %v, want version %s and slug29", seed, known, versionAt(29))
			}
		})
	}
}

func TestOldPageIsPurgedThoughTheCMSDoesNotNameIt(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s, log := newSite(rdb, "fw"), testkit.Logger(t)
	set, err := rules.Compile([]rules.Rule{{Purge: rules.Purge{Paths: []string{"/blog/{slug}"}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	steps := with(s, func(st *Steps) { st.Plan = set.Plan })
	q := NewQueue(rdb, log, Config{})
	testkit.Go(t, NewWorker(rdb, steps, log, Config{}).Run)
	for i, tc := range []struct {
		action event.Action
		slug   string
		paths  []string
		want   Record
	}{
		{event.Create, "a", []string{"/blog/a"}, Record{Slug: "a"}},
		{event.Update, "b", []string{"/blog/b", "/blog/a"}, Record{Slug: "b", PreviousSlug: "a"}},
		{event.Delete, "", []string{"/blog/b"}, Record{Slug: "b"}},
	} {
		ev := news(i)
		ev.Entity, ev.Action, ev.Slug = "1", tc.action, tc.slug
		mustEnqueue(t, q, ev)
		rec := finished(t, q.records, ev.ID)
		if rec.Status != Done || !slices.Equal(rec.Plan.Paths, tc.paths) || rec.Slug != tc.want.Slug || rec.PreviousSlug != tc.want.PreviousSlug {
			t.Errorf("%s of %q: %s, purged %q, record of slug %q, before %q, want %q, %q, %q", tc.action, tc.slug, rec.Status, rec.Plan.Paths, rec.Slug, rec.PreviousSlug, tc.paths, tc.want.Slug, tc.want.PreviousSlug)
		}
	}
}

// Whoever is tried again must purge what its first attempt set out to.
func TestRepeatedRecallNeverTellsLess(t *testing.T) {
	t.Parallel()
	edit := func(id string, action event.Action, slug, locale string) event.Event {
		return event.Event{ID: id, Source: "blog", Type: "post", Action: action, Entity: "1", Slug: slug, Locale: locale}
	}
	untyped := edit("d", event.Delete, "", "")
	untyped.Type, untyped.Name, untyped.Purge = "Umbraco", "Umbraco.ContentDelete", &event.Purge{All: true}
	for name, tc := range map[string]struct {
		before []event.Event
		ev     event.Event
		all    bool
		slugs  []string // of the second attempt
	}{
		"a page of a locale":             {[]event.Event{edit("a", event.Publish, "a", "en")}, edit("d", event.Delete, "", ""), false, []string{"a", "b"}},
		"a page without a locale":        {[]event.Event{edit("a", event.Publish, "a", "")}, edit("d", event.Delete, "", ""), false, []string{"a", "b"}},
		"one page":                       {[]event.Event{edit("a", event.Publish, "a", "en")}, edit("d", event.Delete, "", "en"), false, []string{"a", "b"}},
		"a remembered type":              {[]event.Event{edit("a", event.Publish, "a", "en")}, untyped, false, []string{"a", "b"}},
		"everything, of what nobody saw": {nil, untyped, true, []string{"b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := NewWorker(embeddedOrReal(t, name), Steps{}, testkit.Discard(), Config{})
			recalled := func(ev event.Event) (*run, []string) {
				r := &run{w: w, ev: ev}
				if err := r.recall(t.Context()); err != nil {
					t.Fatal(err)
				}
				slugs := []string{r.ev.Slug, r.ev.PreviousSlug}
				for _, p := range r.pages {
					slugs = append(slugs, p.Slug, p.PreviousSlug)
				}
				slices.Sort(slugs)
				return r, slices.DeleteFunc(slices.Compact(slugs), func(s string) bool { return s == "" })
			}
			for _, ev := range tc.before {
				recalled(ev)
			}
			first, _ := recalled(tc.ev)
			// It is published anew, under another slug, before the second attempt.
			locale := ""
			if len(tc.before) > 0 {
				locale = tc.before[0].Locale
			}
			recalled(edit("b", event.Publish, "b", locale))
			second, slugs := recalled(tc.ev)
			all := second.ev.Purge != nil
			if all != tc.all || !slices.Equal(slugs, tc.slugs) || first.ev.Type != second.ev.Type && !all {
				t.Errorf("second attempt: type %q, everything %v, slugs %q, want %q, %v, %q", second.ev.Type, all, slugs, first.ev.Type, tc.all, tc.slugs)
			}
		})
	}
}

// Each of the pages goes, and browsers hear of it once. The three keys of a
// recall are in one slot.
func pagesOfAllLocalesArePurgedByAnIDAlone(t *testing.T, rdb redis.UniversalClient, cfg Config) {
	s, log := newSite(rdb, cfg.Namespace), testkit.Discard()
	set, err := rules.Compile([]rules.Rule{{On: []string{"post.*", "Umbraco.*"},
		Purge: rules.Purge{Tags: []string{"{type}:{id}"}, Paths: []string{"/{locale}/{slug}"}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	changes := make(chan event.Change, 100)
	steps := with(s, func(st *Steps) {
		st.Plan = set.Plan
		add := st.Append
		st.Append = func(ctx context.Context, c event.Change) (string, bool, error) { changes <- c; return add(ctx, c) }
	})
	cfg.Concurrency = 1
	q := NewQueue(rdb, log, cfg)
	testkit.Go(t, NewWorker(rdb, steps, log, cfg).Run)
	n := 0
	do := func(entity string, action event.Action, slug, locale string, changes ...func(*event.Event)) event.Event {
		n++
		ev := news(n)
		ev.Name, ev.Entity, ev.Action, ev.Slug, ev.Locale = "Umbraco.Content", entity, action, slug, locale
		for _, c := range changes {
			c(&ev)
		}
		mustEnqueue(t, q, ev)
		return ev
	}
	unnamed := func(e *event.Event) {
		e.Type, e.Name, e.Purge = "Umbraco", "Umbraco.ContentDelete", &event.Purge{All: true}
	}
	for i, locale := range []string{"en", "de", "fr"} {
		for _, entity := range []string{"1", "2"} {
			do(entity, event.Publish, fmt.Sprint("page", i), locale)
		}
	}
	for i := range maxLocales + 1 {
		do("many", event.Publish, "x", fmt.Sprint("l", i))
	}
	do("4", event.Publish, "", "", func(e *event.Event) { e.Type, e.Name = "Umbraco", "Umbraco.ContentPublish" })
	published := n
	for _, tc := range []struct {
		ev          event.Event
		kind        string
		paths, tags []string
		all         bool
	}{
		{do("1", event.Delete, "", ""), "post.delete", []string{"/en/page0", "/de/page1", "/fr/page2"}, []string{"post:1"}, false},
		{do("1", event.Delete, "", "de"), "post.delete", []string{"/de/page1"}, []string{"post:1"}, false},
		{do("2", event.Delete, "", "", unnamed), "post.delete", []string{"/en/page0", "/de/page1", "/fr/page2"}, []string{"Umbraco:2", "post:2"}, false},
		{do("3", event.Delete, "", "", unnamed), "Umbraco.delete", nil, nil, true},
		{do("4", event.Delete, "", "", unnamed), "Umbraco.delete", nil, []string{"Umbraco:4"}, false},
		{do("many", event.Delete, "", ""), "post.delete", nil, []string{"post:many"}, true},
	} {
		rec := finished(t, q.records, tc.ev.ID)
		for range published {
			testkit.Wait(t, changes, "a change of what was published")
		}
		published = 0
		c := testkit.Wait(t, changes, "the change")
		paths := rec.Plan.Paths
		if len(paths) > 3 {
			paths = nil // everything is purged anyway
		}
		if rec.Status != Done || rec.Plan.All != tc.all || !slices.Equal(paths, tc.paths) || !slices.Equal(rec.Plan.Tags, tc.tags) {
			t.Errorf("%s of %s in %q: %s, purged all %v, paths %q, tags %q, want %v, %q, %q", tc.ev.Kind(), tc.ev.Entity, tc.ev.Locale, rec.Status, rec.Plan.All, paths, rec.Plan.Tags, tc.all, tc.paths, tc.tags)
		}
		if c.ID != tc.ev.ID || c.Event != tc.kind || !slices.Contains(c.Channels, strings.TrimSuffix(tc.kind, ".delete")) {
			t.Errorf("%s of %s: change %s of %s on %q, want %s", tc.ev.Kind(), tc.ev.Entity, c.Event, c.ID, c.Channels, tc.kind)
		}
		if len(rec.Problems) > 0 != (tc.ev.Entity == "many" || tc.ev.Entity == "4") {
			t.Errorf("%s of %s: problems %q", tc.ev.Kind(), tc.ev.Entity, rec.Problems)
		}
	}
	if len(changes) > 0 {
		t.Errorf("%d changes too many", len(changes))
	}
}

func TestEventWaitsUntilItsEntityCanBeRecalled(t *testing.T) {
	bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSite(rdb, "fw")
		q := NewQueue(rdb, testkit.Discard(), Config{})
		ev := news(1)
		rdb.Set(t.Context(), q.keys.entity(ev), "no hash", 0)
		defer start(t, NewWorker(rdb, s.steps(), testkit.Discard(), Config{}))()
		mustEnqueue(t, q, ev)
		if rec := having(t, q.records, ev.ID, Retrying); !strings.HasPrefix(rec.Error, "recall: ") || len(s.heard()) != 0 {
			t.Errorf("error %q, steps %q, want an error of recall and no step", rec.Error, s.heard())
		}
		rdb.Del(t.Context(), q.keys.entity(ev))
		if rec := finished(t, q.records, ev.ID); rec.Status != Done {
			t.Errorf("record = %s, want done", rec.Status)
		}
	})
}
