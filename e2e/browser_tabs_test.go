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
