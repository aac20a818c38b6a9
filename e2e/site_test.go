package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// nextRoute is a site's own /api/revalidate, as the guides for Next.js have it:
// one path and one tag a call.
type nextRoute struct {
	mu    sync.Mutex
	down  bool
	calls []string // "path tag"
}

func (n *nextRoute) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ Secret, Path, Tag string }
	if json.NewDecoder(r.Body).Decode(&in) != nil || in.Secret != "next-secret" {
		http.Error(w, `{"error":"Invalid secret"}`, http.StatusUnauthorized)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		http.Error(w, "down", http.StatusInternalServerError)
		return
	}
	n.calls = append(n.calls, in.Path+" "+in.Tag)
	fmt.Fprint(w, `{"revalidated":true}`)
}

func (n *nextRoute) seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(slices.Values(n.calls))
}

// siteNode is one process with a site to tell, and foreign keys to delete.
func siteNode(t *testing.T) (*process, *testkit.Server, *nextRoute) {
	t.Helper()
	next := &nextRoute{}
	server := httptest.NewServer(next)
	t.Cleanup(server.Close)
	config := configFile(t, fmt.Sprintf(`
sources:
  cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: "sha256=", secret: %s }
rules:
  - on: ["post.updated"]
    purge:
      tags: ["posts", "post:{id}"]
      keys: ["posts:all"]
      patterns: ["products:*"]
      paths: ["/blog", "/blog/{slug}"]
    revalidate: [site]
    channels: ["posts"]
targets:
  site: { kind: nextjs, url: "%s/api/revalidate", secret: next-secret, timeout: 1s }
foreign: { tag_sets: "tag:%%s", keys: true }
`, secret, server.URL))
	redis := testkit.StartServer(t)
	p := start(t, "all", "REDIS_URL="+redis.URL(), "FRESHWIRE_CONFIG="+config, "FRESHWIRE_REVALIDATION_SECRET=revalidate-me", "FRESHWIRE_ADMIN_TOKEN="+adminToken)
	return p, redis, next
}

func listen(t *testing.T, p *process, query string) <-chan frame {
	t.Helper()
	frames := make(chan frame)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go stream(ctx, p.URL+"/api/events?"+query, "", frames)
	if f := testkit.Wait(t, frames, "ready"); f.event != "ready" {
		t.Fatalf("first frame = %+v, want ready", f)
	}
	return frames
}

func postEdit(t *testing.T, p *process, body string) {
	t.Helper()
	if status, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); status != 200 {
		t.Fatalf("webhook = %d %s", status, answer)
	}
}

func TestSiteAndForeignKeysComeBeforeTheNotice(t *testing.T) {
	p, redis, next := siteNode(t)
	rdb := redis.Client(t)
	ctx := t.Context()
	for _, key := range []string{"post:1", "posts:all", "products:1", "products:category:2", "product", "other"} {
		rdb.Set(ctx, key, "written by another program", 0)
	}
	rdb.SAdd(ctx, "tag:posts", "post:1", "listing:1")
	rdb.Set(ctx, "listing:1", "x", 0)
	rdb.SAdd(ctx, "tag::blog:hello", "page:hello")
	rdb.Set(ctx, "page:hello", "x", 0)
	published := rdb.Subscribe(ctx, "fw:posts")
	defer published.Close()
	if _, err := published.Receive(ctx); err != nil {
		t.Fatal(err)
	}

	frames := listen(t, p, "channel=posts")
	postEdit(t, p, `{"type":"post.updated","data":{"id":"1","slug":"hello"}}`)
	f := testkit.Wait(t, frames, "the change")

	left, err := rdb.Exists(ctx, "post:1", "posts:all", "products:1", "products:category:2", "tag:posts", "listing:1", "tag::blog:hello", "page:hello").Result()
	if err != nil || left != 0 {
		t.Errorf("%d foreign keys are left when browsers are told (%v)", left, err)
	}
	if n := rdb.Exists(ctx, "product", "other").Val(); n != 2 {
		t.Errorf("%d of 2 keys that nothing named are left", n)
	}
	want := []string{"/blog posts", "/blog/hello post:1"}
	if got := next.seen(); !slices.Equal(got, want) {
		t.Errorf("when browsers are told, the site had been told %q, want %q", got, want)
	}
	if strings.Contains(f.data, "degraded") {
		t.Errorf("degraded though the site answered: %s", f.data)
	}
	if m, err := published.ReceiveMessage(ctx); err != nil || m.Payload != f.data {
		t.Errorf("published in Redis: %v %v, want what the stream has", m, err)
	}
}

func TestDownSiteDegradesTheNoticeAndHoldsNothingUp(t *testing.T) {
	p, _, next := siteNode(t)
	next.down = true
	frames := listen(t, p, "channel=posts")
	postEdit(t, p, `{"type":"post.updated","data":{"id":"1","slug":"hello"}}`)
	f := testkit.Wait(t, frames, "the change")
	if !strings.Contains(f.data, `"degraded":true`) {
		t.Errorf("the site is down, and browsers are told %s", f.data)
	}
	var page struct {
		Events []struct {
			Status  string
			Targets []struct {
				Name  string
				OK    bool
				Error string
			}
		}
	}
	testkit.Until(t, "the record is done", func() bool {
		getJSON(t, p.URL+"/admin/events", &page, "Authorization", "Bearer "+adminToken)
		return len(page.Events) == 1 && page.Events[0].Status == "done"
	})
	targets := page.Events[0].Targets
	if len(targets) != 1 || targets[0].OK || !strings.Contains(targets[0].Error, "500") || strings.Contains(targets[0].Error, "next-secret") {
		t.Errorf("the record says of the target: %+v", targets)
	}
}

func TestRevalidateIsToldToSiteAndBrowsers(t *testing.T) {
	p, redis, next := siteNode(t)
	rdb := redis.Client(t)
	rdb.SAdd(t.Context(), "tag:posts", "post:9")
	rdb.Set(t.Context(), "post:9", "x", 0)
	frames := listen(t, p, "channel=posts&channel=revalidate")
	status, _, body := call(t, "POST", p.URL+"/api/revalidate", `{"secret":"revalidate-me","tag":"posts","paths":["/blog"]}`)
	if status != 200 || !strings.Contains(body, `"revalidated":true`) {
		t.Fatalf("revalidate = %d %s", status, body)
	}
	if n := rdb.Exists(t.Context(), "tag:posts", "post:9").Val(); n != 0 {
		t.Errorf("%d foreign keys are left when the caller is answered", n)
	}
	f := testkit.Wait(t, frames, "the change")
	if !strings.Contains(f.data, `"posts"`) || !strings.Contains(f.data, `"/blog"`) {
		t.Errorf("browsers are told %s", f.data)
	}
	if len(next.seen()) == 0 {
		t.Error("the site was not told")
	}

	// A site that calls back for an event of ours must not be told again.
	before := len(next.seen())
	call(t, "POST", p.URL+"/api/revalidate", `{"secret":"revalidate-me","tag":"loop"}`, "Freshwire-Event", "aaaaaaaaaaaaaaaaaaaaaaaaaa")
	call(t, "POST", p.URL+"/api/revalidate", `{"secret":"revalidate-me","tag":"posts"}`)
	testkit.Wait(t, frames, "a change")
	testkit.Wait(t, frames, "the last change")
	for _, c := range next.seen()[before:] {
		if strings.Contains(c, "loop") {
			t.Errorf("the site was told again of its own call: %s", c)
		}
	}
}

// A key of another program that can never be deleted must not withhold edits.
func TestForeignKeyOfTheWrongTypeDegradesTheNotice(t *testing.T) {
	p, redis, _ := siteNode(t)
	redis.Client(t).Set(t.Context(), "tag:posts", "not a set", 0)
	frames := listen(t, p, "channel=posts")
	postEdit(t, p, `{"type":"post.updated","data":{"id":"1","slug":"hello"}}`)
	if f := testkit.Wait(t, frames, "the change"); !strings.Contains(f.data, `"degraded":true`) {
		t.Errorf("browsers are told %s, want degraded", f.data)
	}
	if status, _, body := call(t, "POST", p.URL+"/api/revalidate", `{"secret":"revalidate-me","tag":"posts"}`); status != 200 {
		t.Errorf("revalidate = %d %s", status, body)
	}
}
