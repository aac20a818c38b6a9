package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
)

// tabPage is a page of a site: it reads, subscribes from the position of what
// it read, and writes down all that it is told, unjudged.
const tabPage = `<!doctype html><html lang="en"><title>A tab</title><link rel="icon" href="data:,">
<body><ol id="log"></ol>
<script type="module">
  import { Stream } from '/_freshwire/assets/stream.js';
  const lines = [];
  window.EventSource = class extends EventSource {
    constructor(url) {
      super(url);
      lines.push(this);
    }
  };
  window.leads = () => lines.some((line) => line.readyState !== 2);
  const note = (facts) => {
    const row = document.createElement('li');
    Object.assign(row.dataset, facts);
    document.querySelector('#log').append(row);
  };
  window.rows = () => [...document.querySelectorAll('#log li')].map((row) => ({ ...row.dataset }));
  window.shows = (id) => window.rows().some((row) => row.change === id);
  const read = await fetch('/content/articles');
  window.from = read.headers.get('Freshwire-Position');
  const stream = new Stream('/api/events?channel=article', window.from);
  stream.addEventListener('change', ({ detail: { data, position } }) => (data.ids ?? [data.id]).forEach((change) => note({ change, position })));
  stream.addEventListener('reset', ({ detail }) => note({ reset: detail.reason }));
  stream.addEventListener('state', ({ detail }) => (document.body.dataset.state = detail.state));
  stream.open();
</script>`

const (
	isOpen     = `document.body.dataset.state === 'open'`
	isNotOpen  = `document.body.dataset.state !== 'open'`
	leadsTrue  = `window.leads()`
	tabsAtOnce = 7
)

// doorway is what stands between the browser and freshwire: it can refuse, hang
// up, come back, and serve our scripts with something changed in them.
type doorway struct {
	server  *httptest.Server
	refuses atomic.Bool  // answers 502, as a proxy in the middle of a deploy
	refused atomic.Int64 // streams
	changes []change
}

// change makes a variant of a script that lacks something.
type change struct{ file, text, instead string }

func newDoorway(t *testing.T, to string, changes ...change) *doorway {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	f := &doorway{changes: changes}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval:  -1,
		Transport:      &http.Transport{},
		ErrorLog:       log.New(io.Discard, "", 0),
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // hangs up
		ModifyResponse: f.rewrite,
	}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case f.refuses.Load():
			if r.URL.Path == "/api/events" {
				f.refused.Add(1)
			}
			http.Error(w, "the server is being replaced", http.StatusBadGateway)
		case r.URL.Path == "/tab":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, tabPage)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.server.Start()
	t.Cleanup(func() {
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

func (f *doorway) rewrite(resp *http.Response) error {
	for _, c := range f.changes {
		if path.Base(resp.Request.URL.Path) != c.file {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if n := strings.Count(string(body), c.text); n != 1 {
			return fmt.Errorf("%s has %d × %q", c.file, n, c.text)
		}
		changed := strings.ReplaceAll(string(body), c.text, c.instead)
		resp.Body = io.NopCloser(strings.NewReader(changed))
		resp.ContentLength = int64(len(changed))
		resp.Header.Set("Content-Length", strconv.Itoa(len(changed)))
		resp.Header.Del("ETag")
	}
	return nil
}

// cut breaks every connection that there is.
func (f *doorway) cut() { f.server.CloseClientConnections() }

// tab is one page that stays open.
type tab struct {
	ctx  context.Context
	name string
	gone bool  // closed, or in no state to answer
	err  error // of loading it
}

// watched is a browser with its tabs, an editor, and the judge of what the tabs show.
type watched struct {
	t       *testing.T
	p       *process
	door    *doorway
	browser context.Context
	patient time.Duration // with tabs, before there is a complaint
	tabs    []*tab
	made    atomic.Int64

	mu    sync.Mutex
	edits []string // event ids, in the order of their acceptance
}

func (w *watched) open() *tab {
	w.t.Helper()
	tb := &tab{name: fmt.Sprintf("tab %d", len(w.tabs)+1)}
	ctx, cancel := chromedp.NewContext(w.browser)
	w.t.Cleanup(cancel)
	tb.ctx = ctx
	if err := chromedp.Do(ctx); err != nil { // it ends with the context that starts it
		w.t.Fatalf("opening %s: %v", tb.name, err)
	}
	err := chromedp.Listen(ctx, func(ev any) {
		if thrown, ok := ev.(*runtime.EventExceptionThrown); ok {
			w.t.Errorf("%s threw: %s", tb.name, thrown.ExceptionDetails.Exception.Description)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	bound, stop := context.WithTimeout(ctx, w.patient)
	defer stop()
	tb.err = chromedp.Do(bound, chromedp.Navigate(w.door.server.URL+"/tab"))
	w.tabs = append(w.tabs, tb)
	return tb
}

// openAll opens several tabs and waits until they hear.
func (w *watched) openAll(n int) {
	w.t.Helper()
	for range n {
		w.open()
	}
	w.all("the stream is open", isOpen)
}

// is waits until a script's value is true in a tab; the page changes its DOM when it is.
func (w *watched) is(tb *tab, what, script string) {
	w.t.Helper()
	if err := tb.wait(script, w.patient); err != nil {
		shot(w.t, tb.ctx, "failed")
		w.t.Fatalf("%s: waiting until %s: %v", tb.name, what, err)
	}
}

func (w *watched) all(what, script string) {
	w.t.Helper()
	for _, tb := range w.there() {
		w.is(tb, what, script)
	}
}

func (w *watched) there() []*tab {
	return slices.DeleteFunc(slices.Clone(w.tabs), func(tb *tab) bool { return tb.gone })
}

func (tb *tab) wait(script string, patience time.Duration) error {
	_, err := chromedp.Run(tb.ctx, chromedp.Poll[bool](script, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(patience)))
	return err
}

// leader returns the tab that has the line.
func (w *watched) leader() *tab {
	w.t.Helper()
	var found *tab
	testkit.Until(w.t, "one tab leads", func() bool {
		var leaders []*tab
		for _, tb := range w.there() {
			if value[bool](w.t, tb.ctx, leadsTrue) {
				leaders = append(leaders, tb)
			}
		}
		if len(leaders) != 1 {
			return false
		}
		found = leaders[0]
		return true
	})
	return found
}

// followers are the others.
func (w *watched) followers() []*tab {
	leader := w.leader()
	return slices.DeleteFunc(w.there(), func(tb *tab) bool { return tb == leader })
}

func (w *watched) set(tb *tab, state page.SetWebLifecycleStateState) {
	w.t.Helper()
	if _, err := chromedp.Call(tb.ctx, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: state}); err != nil {
		w.t.Fatalf("%s: %s: %v", tb.name, state, err)
	}
}

// edit tells freshwire of an edit, past the door, and returns the event's id.
func (w *watched) edit() string {
	w.t.Helper()
	body := fmt.Sprintf(`{"type":"article.updated","data":{"id":"%s-%d"}}`, path.Base(w.t.Name()), w.made.Add(1))
	status, _, answer := call(w.t, "POST", w.p.URL+"/webhooks/cms", body, "X-Webhook-Signature", signAs("freshwire-demo-secret", body))
	var receipt struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &receipt); status != 200 || err != nil {
		w.t.Fatalf("webhook = %d %s", status, answer)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.edits = append(w.edits, receipt.ID)
	return receipt.ID
}

func (w *watched) editTimes(n int) {
	w.t.Helper()
	for range n {
		w.edit()
	}
}

// editing edits until the returned function is called.
func (w *watched) editing() (stop func()) {
	done := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				w.edit()
			}
		}
	})
	return sync.OnceFunc(func() { close(done); work.Wait() })
}

// published waits until every edit so far is in the log.
func (w *watched) published() {
	w.t.Helper()
	for _, id := range w.edits {
		testkit.Until(w.t, "edit "+id+" is done", func() bool {
			_, _, answer := call(w.t, "GET", w.p.URL+"/admin/events/"+id, "")
			return strings.Contains(answer, `"status":"done"`)
		})
	}
}

// complaints says what is wrong with what the tabs show. One last edit follows
// all others in the log: who shows it has had its chance to show the rest.
func (w *watched) complaints() []string {
	w.t.Helper()
	w.published()
	last := w.edit()
	var found []string
	say := func(tb *tab, format string, args ...any) {
		found = append(found, tb.name+": "+fmt.Sprintf(format, args...))
	}
	type row struct{ Change, Position, Reset string }
	rows := map[*tab][]row{}
	positions := map[string]event.Position{} // of edits, as any tab was told them
	deadline := time.Now().Add(w.patient)
	for _, tb := range w.there() {
		if tb.err != nil {
			say(tb, "did not load: %v", tb.err)
			continue
		}
		left := max(time.Until(deadline), 100*time.Millisecond)
		if err := tb.wait(fmt.Sprintf(`!!window.shows && window.shows(%q)`, last), left); err != nil {
			say(tb, "did not hear of the last edit: %v", err)
			continue
		}
		rows[tb] = value[[]row](w.t, tb.ctx, `window.rows()`)
		for _, r := range rows[tb] {
			if p, err := event.ParsePosition(r.Position); err == nil {
				positions[r.Change] = p
			}
		}
	}
	for tb, rows := range rows {
		from, err := event.ParsePosition(value[string](w.t, tb.ctx, `window.from`))
		if err != nil {
			say(tb, "what it read has no position: %v", err)
		}
		times := map[string]int{}
		for _, r := range rows {
			times[r.Change]++
			if r.Reset != "" {
				say(tb, "was told to read everything again: %s", r.Reset)
			}
		}
		for i, id := range w.edits {
			position, known := positions[id]
			switch n := times[id]; {
			case !known:
				say(tb, "edit %d is missing, in all tabs", i)
			case n == 0 && position.Compare(from) > 0: // not in what it read
				say(tb, "edit %d is missing", i)
			case n > 1:
				say(tb, "edit %d is there %d times", i, n)
			}
		}
	}
	return found
}

func (w *watched) clean() {
	w.t.Helper()
	for _, c := range w.complaints() {
		w.t.Error(c)
	}
	w.t.Logf("%d edits in %d tabs", len(w.edits), len(w.there()))
}

// lines waits until the server has so many streams.
func (w *watched) lines(want int) {
	w.t.Helper()
	testkit.Until(w.t, fmt.Sprintf("the server has %d streams", want), func() bool { return w.p.subscribers(w.t) == want })
}

// ---- what happens to tabs ---------------------------------------------------

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

// offline takes the network from every tab, or gives it back.
func (w *watched) offline(on bool) {
	w.t.Helper()
	conditions := []*network.Conditions{{Offline: on, DownloadThroughput: -1, UploadThroughput: -1}}
	for _, tb := range w.there() {
		if _, err := chromedp.Call(tb.ctx, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{MatchedNetworkConditions: conditions}); err != nil {
			w.t.Fatal(err)
		}
		state := network.OverrideNetworkStateParams{Offline: on, DownloadThroughput: -1, UploadThroughput: -1}
		if _, err := chromedp.Call(tb.ctx, network.OverrideNetworkState, state); err != nil {
			w.t.Fatal(err)
		}
	}
}
