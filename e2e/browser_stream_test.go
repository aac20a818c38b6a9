package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/freshwire/freshwire/internal/testkit"
)

// Deeds leave the judging to the caller: a variant must not pass.

func sevenTabs(w *watched) {
	w.openAll(1)
	stop := w.editing()
	defer stop()
	for range tabsAtOnce - 1 {
		w.open()
	}
	stop()
	w.editTimes(10)
}

func frozenTab(w *watched) {
	w.openAll(3)
	frozen := w.followers()[0]
	w.set(frozen, page.SetWebLifecycleStateStateFrozen)
	w.editTimes(5)
	w.published()
	for _, tb := range w.there() {
		if tb != frozen {
			w.is(tb, "it heard the edits", fmt.Sprintf(`window.shows(%q)`, w.edits[len(w.edits)-1]))
		}
	}
	w.set(frozen, page.SetWebLifecycleStateStateActive)
	w.is(frozen, "it is back", isOpen)
	w.editTimes(5)
}

// noFreezeEvent is a browser that freezes pages without a word to them.
var noFreezeEvent = change{"stream.js", "document.addEventListener('freeze', away);", ""}

// impatient makes the silence after which a line is taken for dead shorter.
var impatient = []change{{"line.js", "PING = 20_000", "PING = 1000"}, {"stream.js", "TICK = 5000", "TICK = 500"}}

// The frozen leader keeps the lock, and its line hears nothing.
func hangingLeader(w *watched) {
	w.openAll(3)
	leader := w.leader()
	w.set(leader, page.SetWebLifecycleStateStateFrozen)
	leader.gone = true
	w.editTimes(5)
	w.open()
	w.editTimes(5)
}

func deploy(w *watched) {
	w.openAll(1)
	w.refuseUntilItGaveUp()
	w.editTimes(5)
	w.published()
	w.door.refuses.Store(false)
	w.all("the stream is open again", isOpen)
	w.editTimes(5)
}

// refuseUntilItGaveUp answers 502 for so long that a bare EventSource gives up
// and our tabs have asked several times.
func (w *watched) refuseUntilItGaveUp() {
	w.t.Helper()
	bare := w.tabs[0]
	value[bool](w.t, bare.ctx, `window.bare = new (Object.getPrototypeOf(EventSource))('/api/events?channel=article'); true`)
	w.is(bare, "the bare EventSource is open", `window.bare.readyState === 1`)
	w.door.refuses.Store(true)
	w.door.cut()
	w.is(bare, "the bare EventSource gave up", `window.bare.readyState === 2`)
	testkit.Until(w.t, "the tabs asked again", func() bool { return w.door.refused.Load() >= 4 })
	w.all("the stream is down", isNotOpen)
}

func TestOpenPagesMissNothingAndShowNothingTwice(t *testing.T) {
	redis := testkit.StartServer(t)
	p := start(t, "dev", "REDIS_URL="+redis.URL(), "LOG_LEVEL=warn")
	chromium := browser(t)
	setup := func(t *testing.T, changes ...change) *watched {
		ctx, cancel := chromedp.NewContext(chromium) // its own tabs end with it
		t.Cleanup(cancel)
		return &watched{t: t, p: p, door: newDoorway(t, p.URL, changes...), browser: ctx, patient: testkit.Patience}
	}

	t.Run("seven tabs on one line", func(t *testing.T) {
		w := setup(t)
		sevenTabs(w)
		w.clean()
		w.lines(1)
	})
	t.Run("the leader is closed", func(t *testing.T) {
		w := setup(t)
		w.openAll(tabsAtOnce)
		stop := w.editing()
		defer stop()
		for range 3 {
			leader := w.leader()
			leader.gone = true
			if err := chromedp.Cancel(leader.ctx); err != nil {
				t.Fatalf("closing %s: %v", leader.name, err)
			}
			heir := w.leader()
			w.is(heir, "the next leads", isOpen)
		}
		stop()
		w.clean()
		w.lines(1)
	})
	t.Run("offline and back", func(t *testing.T) {
		w := setup(t)
		w.openAll(4)
		w.editTimes(3)
		w.offline(true)
		w.door.cut()
		w.all("the stream is down", isNotOpen)
		w.editTimes(5)
		w.published()
		w.offline(false)
		w.clean()
		w.lines(1)
	})
	t.Run("the server is killed", func(t *testing.T) {
		w := setup(t)
		w.openAll(4)
		w.editTimes(5)
		w.published()
		p.kill()
		w.all("the stream is down", isNotOpen)
		p.run(t)
		p.awaitReady(t)
		w.editTimes(5)
		w.clean()
		w.lines(1)
	})
	t.Run("a deploy answers 502", func(t *testing.T) {
		w := setup(t)
		w.openAll(tabsAtOnce)
		w.refuseUntilItGaveUp()
		w.editTimes(5)
		w.published()
		w.door.refuses.Store(false)
		w.clean()
		w.lines(1)
	})
	t.Run("a tab is frozen", func(t *testing.T) {
		w := setup(t)
		frozenTab(w)
		w.clean()
		w.lines(1)
	})
	t.Run("the leader is frozen", func(t *testing.T) {
		w := setup(t)
		w.openAll(4)
		leader := w.leader()
		w.set(leader, page.SetWebLifecycleStateStateFrozen)
		leader.gone = true
		w.editTimes(5)
		w.clean() // the others go on
		w.set(leader, page.SetWebLifecycleStateStateActive)
		leader.gone = false
		w.is(leader, "it is back", isOpen)
		w.clean()
		w.lines(1)
	})
	t.Run("a leader hangs and cannot say so", func(t *testing.T) {
		w := setup(t, append(impatient, noFreezeEvent)...)
		hangingLeader(w)
		w.clean()
		hung := w.tabs[slices.IndexFunc(w.tabs, func(tb *tab) bool { return tb.gone })]
		w.set(hung, page.SetWebLifecycleStateStateActive)
		hung.gone = false
		w.clean()
		w.lines(1)
	})
	t.Run("our own page", func(t *testing.T) {
		w := setup(t)
		w.openAll(2)
		own, cancel := chromedp.NewContext(w.browser)
		defer cancel()
		if err := chromedp.Do(own); err != nil {
			t.Fatal(err)
		}
		do(t, own, "opening the page", chromedp.Navigate(w.door.server.URL+"/"), chromedp.WaitVisible("#article-title"))
		shows(t, own, "the stream is open", `document.querySelector('#state').dataset.state === 'open'`)
		shows(t, own, "the article is there", `document.querySelector('#article').dataset.version === '1'`)
		w.lines(1)
		do(t, own, "publishing", chromedp.SetValue("#edit-title", "Seen by all tabs"), chromedp.Click("#publish"))
		shows(t, own, "the article changed", `document.querySelector('#article-title').textContent === 'Seen by all tabs'`)
		shows(t, own, "the edit has its row", `!!document.querySelector('#rows .row')`)
		id := value[string](t, own, `document.querySelector('#rows .row').dataset.eventId`)
		for _, tb := range w.tabs {
			w.is(tb, "it heard of it", fmt.Sprintf(`window.shows(%q)`, id))
		}
		do(t, own, "dropping the connection", chromedp.Click("#drop"))
		w.editTimes(2)
		w.clean()
		for _, id := range w.edits {
			shows(t, own, "the missed edit is there, as replayed or not", fmt.Sprintf(`document.querySelectorAll('#rows .row[data-event-id="%s"]').length === 1`, id))
		}
	})

	// Variants of the scripts that lack one of their parts: if the judge did not
	// see these, its silence above would mean nothing.
	for _, variant := range []struct {
		lacks   string
		changes []change
		happens func(*watched)
		patient time.Duration
		want    string
	}{
		{"sharing", []change{{"stream.js", "!globalThis.navigator?.locks", "true"}}, sevenTabs, 3 * time.Second, "did not load"},
		{"dedupe", []change{{"stream.js", "!newer(position, this.position)", "false"}}, frozenTab, testkit.Patience, "is there 2 times"},
		{"resume", []change{{"line.js", "this.position ? `", "false ? `"}}, deploy, testkit.Patience, "told to read everything again: missed"},
		{"robbery", append(impatient, noFreezeEvent, change{"stream.js", "this.#queue(true)", "0"}), hangingLeader, 6 * time.Second, "did not hear"},
	} {
		t.Run("judge sees the lack of "+variant.lacks, func(t *testing.T) {
			w := setup(t, variant.changes...)
			w.patient = variant.patient
			variant.happens(w)
			found := w.complaints()
			if !strings.Contains(strings.Join(found, "\n"), variant.want) {
				t.Errorf("complaints = %q, want one that says %q", found, variant.want)
			}
		})
	}
}
