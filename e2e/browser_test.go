package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/freshwire/freshwire/internal/testkit"
)

// browser opens a headless Chromium of the test's own.
func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not installed: `apt-get install chromium`, or `make deps`")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // it ends with the context that starts it
		t.Fatalf("starting chromium: %v", err)
	}
	return ctx
}

// watch fails the test for every error that a page logs and for every request
// that leaves this machine.
func watch(t *testing.T, ctx context.Context) {
	t.Helper()
	err := chromedp.Listen(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the page threw: %s", ev.ExceptionDetails.Text)
		case *cdplog.EventEntryAdded:
			if ev.Entry.Level == cdplog.EntryLevelError {
				t.Errorf("the page logged: %s", ev.Entry.Text)
			}
		case *network.EventRequestWillBeSent:
			if u := ev.Request.URL; !strings.HasPrefix(u, "http://127.0.0.1:") && !strings.HasPrefix(u, "data:") {
				t.Errorf("the page asked for %s", u)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, cdplog.Enable, cdp.Empty{}); err != nil {
		t.Fatalf("listening to the page's log: %v", err)
	}
}

func do(t *testing.T, ctx context.Context, what string, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	bound, cancel := context.WithTimeout(ctx, testkit.Patience)
	defer cancel()
	if err := chromedp.Do(bound, actions...); err != nil {
		shot(t, ctx, "failed")
		t.Fatalf("%s: %v", what, err)
	}
}

// shows waits until a script's value is true in the page.
func shows(t *testing.T, ctx context.Context, what, script string) {
	t.Helper()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](script, chromedp.WithPollingTimeout(testkit.Patience))); err != nil {
		shot(t, ctx, "failed")
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

// value returns a script's value in the page.
func value[T any](t *testing.T, ctx context.Context, script string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return v
}

// shot keeps a picture of the page where FRESHWIRE_SHOTS names a directory.
func shot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("FRESHWIRE_SHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(dir+"/"+strings.ReplaceAll(t.Name(), "/", "-")+"-"+name+".png", png, 0o600)
	}
	if err != nil {
		t.Logf("no picture of %s: %v", name, err)
	}
}

func TestNewcomerSeesAnEditAppear(t *testing.T) {
	p := start(t, "dev", "LOG_LEVEL=warn")
	ctx := browser(t)
	watch(t, ctx)
	do(t, ctx, "opening the page", chromedp.Navigate(p.URL+"/"), chromedp.WaitVisible("#article-title"))
	shows(t, ctx, "the stream is open", `document.querySelector('#state').dataset.state === 'open'`)
	shows(t, ctx, "the article is there", `document.querySelector('#article').dataset.version === '1'`)

	publish := func(title string) {
		t.Helper()
		do(t, ctx, "publishing "+title, chromedp.SetValue("#edit-title", title), chromedp.Click("#publish"))
	}
	publish("Fresh from the oven")
	shows(t, ctx, "the article changed", `document.querySelector('#article-title').textContent === 'Fresh from the oven'`)
	shows(t, ctx, "the feed has its row with steps", `document.querySelectorAll('#rows .row').length === 1 && !!document.querySelector('#rows [data-step=browser], #rows [data-step=log]')`)
	shot(t, ctx, "edited")

	do(t, ctx, "reading again", chromedp.Click("#reread"))
	shows(t, ctx, "the cache answers", `document.querySelector('#read-cache').dataset.cache === 'HIT'`)

	do(t, ctx, "reloading", chromedp.Reload(), chromedp.WaitVisible("#article-title"))
	shows(t, ctx, "the edit is still there", `document.querySelector('#article-title').textContent === 'Fresh from the oven'`)
	shows(t, ctx, "the stream is open again", `document.querySelector('#state').dataset.state === 'open'`)

	do(t, ctx, "dropping the connection", chromedp.Click("#drop"))
	shows(t, ctx, "the connection is down", `document.querySelector('#state').dataset.state !== 'open'`)
	publish("Baked while you were away")
	shows(t, ctx, "the missed event is replayed", `!!document.querySelector('#rows .row[data-replayed]')`)
	shows(t, ctx, "the article follows", `document.querySelector('#article-title').textContent === 'Baked while you were away'`)
	shot(t, ctx, "replayed")

	dark := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, dark); err != nil {
		t.Fatal(err)
	}
	do(t, ctx, "looking at 360 px", chromedp.EmulateViewport(360, 800), chromedp.Reload(), chromedp.WaitVisible("#article-title"))
	shows(t, ctx, "the feed is back", `document.querySelectorAll('#rows .row').length >= 2`)
	if wide := value[int](t, ctx, `document.documentElement.scrollWidth`); wide > 360 {
		t.Errorf("at 360 px the page is %d px wide", wide)
	}
	shot(t, ctx, "narrow-dark")
}

func TestServerGoesAndComesAndThePageFollows(t *testing.T) {
	redis := testkit.StartServer(t)
	config := configFile(t, fmt.Sprintf("sources: { cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: 'sha256=', secret: %s } }\n", secret))
	p := start(t, "all", "REDIS_URL="+redis.URL(), "FRESHWIRE_CONFIG="+config)
	ctx := browser(t) // unwatched: the page may well log that its server is away
	do(t, ctx, "opening the live page", chromedp.Navigate(p.URL+"/"), chromedp.WaitReady("#rows"))
	value[bool](t, ctx, `window.heard = []; window.source = new EventSource('/api/events?channel=post');
		window.source.onmessage = (e) => window.heard.push(JSON.parse(e.data).entity); true`)
	shows(t, ctx, "it is connected", `window.source.readyState === 1`)
	post := func(id int) {
		t.Helper()
		body := fmt.Sprintf(`{"type":"post.updated","data":{"id":"%d"}}`, id)
		if status, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); status != 200 {
			t.Fatalf("webhook = %d %s", status, answer)
		}
	}
	post(1)
	shows(t, ctx, "the first change", `window.heard.join() === '1'`)
	p.kill()
	shows(t, ctx, "the connection is lost", `window.source.readyState === 0`)
	p.run(t)
	p.awaitReady(t)
	post(2)
	shows(t, ctx, "the second change, once, by itself", `window.heard.join() === '1,2'`)
}

func TestDashboardLoadsInABrowser(t *testing.T) {
	p := start(t, "dev", "LOG_LEVEL=warn")
	ctx := browser(t)
	watch(t, ctx)
	do(t, ctx, "opening the dashboard", chromedp.Navigate(p.URL+"/monitoring/"), chromedp.WaitVisible("#root main"))
	shot(t, ctx, "dashboard")
	postDemoEdit(t, p)
	do(t, ctx, "opening the live page", chromedp.EmulateViewport(1100, 900), chromedp.Navigate(p.URL+"/_freshwire/"), chromedp.WaitReady("#rows"))
	shows(t, ctx, "the live page follows", `document.querySelector('#state').dataset.state === 'open'`)
	shows(t, ctx, "it shows the event", `document.querySelectorAll('#rows .row').length === 1`)
	shot(t, ctx, "live")
}
