package e2e

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

const adminToken = "operator-token-for-tests"

// oneNode starts `freshwire all` on a real Redis, before an origin that counts
// what it is asked for.
func oneNode(t *testing.T, env ...string) (*process, *testkit.Server, *cmsAPI) {
	t.Helper()
	api := &cmsAPI{}
	api.title.Store("first")
	origin := httptest.NewServer(api)
	t.Cleanup(origin.Close)
	config := configFile(t, fmt.Sprintf(`
sources:
  cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: "sha256=", secret: %s, max_body: 64KiB }
  sw:  { cms: standardwebhooks, secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw }
routes:
  - { path: "/api/posts/{id}", origin: "%s/posts/{id}", key: "post:{id}", tags: ["posts", "post:{id}"], cache_control: "public, s-maxage=60" }
`, secret, origin.URL))
	server := testkit.StartServer(t)
	p := start(t, "all", append([]string{"REDIS_URL=" + server.URL(), "FRESHWIRE_CONFIG=" + config,
		"FRESHWIRE_ADMIN_TOKEN=" + adminToken, "FRESHWIRE_REVALIDATION_SECRET=revalidate-me"}, env...)...)
	return p, server, api
}

// cmsAPI is a CMS's API with one title, and one post that is missing until made.
type cmsAPI struct {
	title  atomic.Value
	made   atomic.Bool
	asked  atomic.Int64
	header atomic.Value // of the last request
}

func (a *cmsAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked.Add(1)
	a.header.Store(r.Header.Clone())
	switch r.URL.Path {
	case "/posts/404":
		if !a.made.Load() {
			http.NotFound(w, r)
			return
		}
	case "/posts/cookie":
		w.Header().Set("Set-Cookie", "a=b")
	case "/posts/private":
		w.Header().Set("Cache-Control", "private")
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"title": a.title.Load().(string)})
}

// call makes a request and returns status, headers and body.
func call(t testing.TB, method, url, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Timeout: testkit.Patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func sign(body string) string { return signAs(secret, body) }

func signAs(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	io.WriteString(mac, body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// postDemoEdit tells the demo of an edit, as its own CMS would.
func postDemoEdit(t *testing.T, p *process) {
	t.Helper()
	const body = `{"type":"article.updated","data":{"id":"1"}}`
	if status, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", signAs("freshwire-demo-secret", body)); status != 200 {
		t.Fatalf("webhook = %d %s", status, answer)
	}
}

func TestEveryAnswerIsAsTheContractSays(t *testing.T) {
	p, _, _ := oneNode(t)
	const body = `{"type":"post.updated","data":{"id":"1","slug":"hello"}}`
	long := `{"type":"post.updated","data":{"id":"` + strings.Repeat("x", 70_000) + `"}}`
	bearer := []string{"Authorization", "Bearer " + adminToken}
	for _, tc := range []struct {
		method, path, body string
		headers            []string
		want               int
		contains           string
	}{
		{"POST", "/webhooks/cms", body, []string{"X-Webhook-Signature", sign(body)}, 200, `"status":"queued"`},
		{"POST", "/webhooks/cms", body, []string{"X-Webhook-Signature", sign(body)}, 200, `"status":"duplicate"`},
		{"POST", "/api/webhooks/cms", body, []string{"X-Webhook-Signature", sign(body)}, 200, `"status":"duplicate"`},
		{"POST", "/webhooks/cms", body, []string{"X-Webhook-Signature", sign(body + " ")}, 401, "problem"},
		{"POST", "/webhooks/cms", body, nil, 401, ""},
		{"POST", "/webhooks/cms", "[1]", []string{"X-Webhook-Signature", sign("[1]")}, 400, ""},
		{"POST", "/webhooks/cms", "", []string{"X-Webhook-Signature", sign("")}, 400, ""},
		{"POST", "/webhooks/none", body, []string{"X-Webhook-Signature", sign(body)}, 404, ""},
		{"POST", "/webhooks/cms", long, []string{"X-Webhook-Signature", sign(long)}, 413, ""},
		{"GET", "/webhooks/cms", "", nil, 405, ""},
		{"POST", "/api/revalidate", `{"secret":"wrong","tag":"posts"}`, nil, 401, `{"error":"Invalid secret"}`},
		{"POST", "/api/revalidate", `{"secret":"revalidate-me","tag":"posts"}`, nil, 200, `"revalidated":true`},
		{"POST", "/api/revalidate", `{"secret":"revalidate-me","path":"/blog"}`, nil, 200, `"now":`},
		{"POST", "/api/revalidate", `{`, nil, 400, ""},
		{"GET", "/api/events", "", nil, 400, ""},
		{"GET", "/api/events?channel=", "", nil, 400, ""},
		{"GET", "/api/events?channel=a%0ab", "", nil, 400, ""},
		{"POST", "/api/events?channel=a", "", nil, 405, ""},
		{"GET", "/api/posts/404", "", nil, 404, `"status":404`},
		{"POST", "/api/posts/1", "", nil, 405, ""},
		{"GET", "/nowhere", "", nil, 404, ""},
		{"GET", "/healthz", "", nil, 200, "ok"},
		{"GET", "/readyz", "", nil, 200, "ready"},
		{"GET", "/metrics", "", nil, 401, ""},
		{"GET", "/metrics", "", bearer, 200, "freshwire_webhook_deliveries_total"},
		{"GET", "/monitoring/", "", nil, 401, ""},
		{"GET", "/monitoring/", "", bearer, 200, `id="root"`},
		{"POST", "/monitoring/api/queues/fw:pause", "", append([]string{"Sec-Fetch-Site", "cross-site"}, bearer...), 403, ""},
		{"GET", "/admin/events", "", nil, 401, ""},
		{"GET", "/admin/events", "", bearer, 200, `"events":[`},
		{"GET", "/admin/events?limit=x", "", bearer, 400, ""},
		{"GET", "/admin/events/none", "", bearer, 404, ""},
		{"POST", "/admin/purge", `{"tags":["posts"]}`, nil, 401, ""},
		{"POST", "/admin/purge", `{"tags":["posts"]}`, bearer, 200, `"settled":true`},
		{"POST", "/admin/purge", `{}`, bearer, 400, ""},
		{"POST", "/admin/purge", `{"patterns":["` + strings.Repeat("x", 600) + `"]}`, bearer, 400, ""},
		{"GET", "/_freshwire/stats", "", bearer, 200, `"subscribers"`},
		{"GET", "/", "", nil, 200, "<h1"},
	} {
		status, header, got := call(t, tc.method, p.URL+tc.path, tc.body, tc.headers...)
		name := fmt.Sprintf("%s %s %.50s", tc.method, tc.path, tc.body)
		if status != tc.want || !strings.Contains(got+header.Get("Content-Type"), tc.contains) {
			t.Errorf("%s = %d %.200s, want %d with %q", name, status, got, tc.want, tc.contains)
		}
		if status >= 400 && tc.path != "/api/revalidate" && header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s = %d as %q, want application/problem+json", name, status, header.Get("Content-Type"))
		}
		if status >= 400 && strings.Contains(got, "hello") {
			t.Errorf("%s: the answer repeats the body: %s", name, got)
		}
		if header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", name)
		}
	}
	if n := strings.Count(p.out.String(), secret); n > 0 {
		t.Errorf("the log shows the webhook secret %d times", n)
	}
}

func TestReadsAreCachedUntilTheEdit(t *testing.T) {
	p, _, api := oneNode(t)
	get := func(want, verdict string, headers ...string) http.Header {
		t.Helper()
		status, h, body := call(t, "GET", p.URL+"/api/posts/1", "", headers...)
		if status != 200 || !strings.Contains(body, want) || h.Get("X-Cache") != verdict {
			t.Errorf("GET = %d %s %q, want %s and X-Cache %s", status, h.Get("X-Cache"), body, want, verdict)
		}
		return h
	}
	get("first", "MISS")
	h := get("first", "HIT")
	for _, name := range []string{"ETag", "Age", "Cache-Status", "Freshwire-Position"} {
		if h.Get(name) == "" {
			t.Errorf("a cached answer has no %s", name)
		}
	}
	if got := h.Get("Cache-Control"); got != "public, s-maxage=60" {
		t.Errorf("Cache-Control = %q, want the route's", got)
	}
	if status, _, body := call(t, "GET", p.URL+"/api/posts/1", "", "If-None-Match", h.Get("ETag")); status != 304 || body != "" {
		t.Errorf("with its ETag = %d %q, want 304", status, body)
	}
	if status, h, body := call(t, "HEAD", p.URL+"/api/posts/1", ""); status != 200 || body != "" || h.Get("ETag") == "" {
		t.Errorf("HEAD = %d %q", status, body)
	}
	asked := api.asked.Load()
	get("first", "HIT", "Cookie", "session=secret")
	if api.asked.Load() != asked {
		t.Error("a cookie made a difference")
	}
	api.title.Store("second")
	get("first", "HIT")

	frames := make(chan frame)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go stream(ctx, p.URL+"/api/events?channel=post&channel=post:1", "", frames)
	if f := testkit.Wait(t, frames, "ready"); f.event != "ready" || !strings.Contains(f.data, f.id) {
		t.Fatalf("the first frame = %+v, want ready with its position", f)
	}
	body := `{"type":"post.updated","data":{"id":"1","slug":"hello"}}`
	if status, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); status != 200 {
		t.Fatalf("webhook = %d %s", status, answer)
	}
	f := testkit.Wait(t, frames, "the change")
	var change struct {
		ID       string
		Seq      uint64
		Event    string
		Tags     []string
		Channels []string
	}
	if err := json.Unmarshal([]byte(f.data), &change); err != nil || change.Event != "post.update" || !slices.Equal(change.Tags, []string{"post", "post:1"}) {
		t.Fatalf("the change = %s, %v", f.data, err)
	}
	get("second", "MISS")

	var record struct {
		Status string
		Steps  []struct{ Step string }
	}
	testkit.Until(t, "the record says done", func() bool {
		resp := getJSON(t, p.URL+"/admin/events/"+change.ID, &record, "Authorization", "Bearer "+adminToken)
		return resp.StatusCode == 200 && record.Status == "done"
	})
	if len(record.Steps) < 6 {
		t.Errorf("the record tells %d steps: %v", len(record.Steps), record.Steps)
	}
	status, _, _ := call(t, "GET", p.URL+"/api/posts/1", "", "Freshwire-After", fmt.Sprint(change.Seq))
	if status != 200 {
		t.Errorf("with Freshwire-After = %d", status)
	}
}

func TestMissingIsRememberedUntilItIsMade(t *testing.T) {
	p, _, api := oneNode(t)
	for range 3 {
		if status, _, _ := call(t, "GET", p.URL+"/api/posts/404", ""); status != 404 {
			t.Fatalf("GET = %d, want 404", status)
		}
	}
	if n := api.asked.Load(); n != 1 {
		t.Errorf("the origin was asked %d times for what is missing, want once", n)
	}
	api.made.Store(true)
	body := `{"type":"post.created","data":{"id":"77"}}`
	frames := make(chan frame)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go stream(ctx, p.URL+"/api/events?channel=post", "", frames)
	testkit.Wait(t, frames, "ready")
	call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body))
	testkit.Wait(t, frames, "the change")
	if status, _, _ := call(t, "GET", p.URL+"/api/posts/404", ""); status != 200 {
		t.Errorf("after something was created: %d, want 200", status)
	}
}

func TestPrivateIsNeverShared(t *testing.T) {
	p, _, api := oneNode(t)
	for _, path := range []string{"/api/posts/cookie", "/api/posts/private"} {
		before := api.asked.Load()
		for range 2 {
			if status, h, _ := call(t, "GET", p.URL+path, ""); status != 200 || h.Get("X-Cache") == "HIT" {
				t.Errorf("GET %s = %d %s", path, status, h.Get("X-Cache"))
			}
		}
		if n := api.asked.Load() - before; n != 2 {
			t.Errorf("GET %s twice asked the origin %d times, want 2", path, n)
		}
	}
	for range 2 {
		if _, h, _ := call(t, "GET", p.URL+"/api/posts/9", "", "Authorization", "Bearer x"); h.Get("X-Cache") == "HIT" {
			t.Error("an answer to a request with Authorization was cached")
		}
	}
	call(t, "GET", p.URL+"/api/posts/8?utm_source=x&cb=1", "", "X-Forwarded-Host", "evil.example")
	if h := api.header.Load().(http.Header); h.Get("X-Forwarded-Host") != "" {
		t.Error("a header that is not in the key reached the origin")
	}
}

func TestMissedChangesAreReplayed(t *testing.T) {
	p, _, _ := oneNode(t)
	post := func(id int) {
		t.Helper()
		body := fmt.Sprintf(`{"type":"post.updated","data":{"id":"%d"}}`, id)
		if status, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); status != 200 {
			t.Fatalf("webhook = %d %s", status, answer)
		}
	}
	listen := func(last string) (chan frame, context.CancelFunc) {
		frames := make(chan frame)
		ctx, cancel := context.WithCancel(t.Context())
		go stream(ctx, p.URL+"/api/events?channel=post"+last, "", frames)
		return frames, cancel
	}
	frames, cancel := listen("")
	testkit.Wait(t, frames, "ready")
	post(1)
	last := testkit.Wait(t, frames, "the first change").id
	cancel()
	for id := 2; id <= 6; id++ {
		post(id)
	}
	frames, cancel = listen("&lastEventId=" + last)
	defer cancel()
	var missed []string
	for len(missed) < 5 {
		f := testkit.Wait(t, frames, "the missed changes")
		if f.event == "reset" {
			t.Fatalf("reset %s in place of a replay", f.data)
		}
		if f.event == "" {
			var c struct{ Entity string }
			json.Unmarshal([]byte(f.data), &c)
			missed = append(missed, c.Entity)
		}
	}
	slices.Sort(missed)
	if !slices.Equal(missed, []string{"2", "3", "4", "5", "6"}) {
		t.Errorf("replayed %v, want 2 to 6", missed)
	}
	for _, odd := range []string{"$", "99999999999999-0", "nonsense", "1-1-1"} {
		frames, cancel := listen("&lastEventId=" + odd)
		for f := testkit.Wait(t, frames, "a reset"); f.event != "reset"; f = testkit.Wait(t, frames, "a reset") {
			if f.event == "" {
				t.Errorf("lastEventId=%s: a change before the reset", odd)
			}
		}
		cancel()
	}
}

func TestRedisAwayIsSaidSoAndOver(t *testing.T) {
	p, server, _ := oneNode(t)
	if status, _, _ := call(t, "GET", p.URL+"/api/posts/1", ""); status != 200 {
		t.Fatalf("GET = %d", status)
	}
	server.Kill()
	body := `{"type":"post.updated","data":{"id":"1"}}`
	status, h, _ := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body))
	if status != 503 || h.Get("Retry-After") == "" {
		t.Errorf("a webhook while Redis is away = %d, Retry-After %q; want 503 with one", status, h.Get("Retry-After"))
	}
	if status, _, _ := call(t, "GET", p.URL+"/api/posts/1", ""); status != 200 {
		t.Errorf("a read while Redis is away = %d, want 200 from the origin", status)
	}
	testkit.Until(t, "readyz says not ready", func() bool { s, _, _ := call(t, "GET", p.URL+"/readyz", ""); return s == 503 })
	if status, _, _ := call(t, "GET", p.URL+"/healthz", ""); status != 200 {
		t.Errorf("healthz = %d, want 200: the process lives", status)
	}
	server.Start(t)
	testkit.Until(t, "the webhook is taken again", func() bool {
		s, _, _ := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body))
		return s == 200
	})
	p.awaitReady(t)
}

func TestSignalDrains(t *testing.T) {
	p, _, _ := oneNode(t)
	frames := make(chan frame)
	closed := make(chan error, 1)
	go func() { closed <- stream(t.Context(), p.URL+"/api/events?channel=post", "", frames) }()
	testkit.Wait(t, frames, "ready")
	code := make(chan int, 1)
	go func() { code <- p.terminate(t) }()
	f := testkit.Wait(t, frames, "goaway")
	if f.event != "goaway" || !strings.Contains(f.data, "retryAfterMs") {
		t.Errorf("before the end: %+v, want goaway", f)
	}
	if err := testkit.Wait(t, closed, "the stream to close"); err != nil {
		t.Errorf("the stream ended with %v, want a clean close", err)
	}
	if c := testkit.Wait(t, code, "the process to end"); c != 0 {
		t.Errorf("exit code %d, want 0", c)
	}
}

func TestTwoSitesShareARedis(t *testing.T) {
	server := testkit.StartServer(t)
	config := configFile(t, fmt.Sprintf("sources: { cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: 'sha256=', secret: %s } }\n", secret))
	one := start(t, "all", "REDIS_URL="+server.URL(), "FRESHWIRE_CONFIG="+config, "FRESHWIRE_NAMESPACE=one")
	two := start(t, "all", "REDIS_URL="+server.URL(), "FRESHWIRE_CONFIG="+config, "FRESHWIRE_NAMESPACE=two")
	frames := make(chan frame)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go stream(ctx, two.URL+"/api/events?channel=post", "", frames)
	testkit.Wait(t, frames, "ready")
	for _, site := range []struct {
		p  *process
		id string
	}{{one, "1"}, {two, "2"}} {
		body := `{"type":"post.updated","data":{"id":"` + site.id + `"}}`
		if status, _, answer := call(t, "POST", site.p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); status != 200 {
			t.Fatalf("webhook = %d %s", status, answer)
		}
	}
	if f := testkit.Wait(t, frames, "the second site's change"); !strings.Contains(f.data, `"entity":"2"`) {
		t.Errorf("the second site heard %s", f.data)
	}
	for _, key := range server.Client(t).Keys(t.Context(), "*").Val() {
		if !strings.HasPrefix(key, "one:") && !strings.HasPrefix(key, "two:") && !strings.HasPrefix(key, "asynq:") {
			t.Errorf("a key of neither site: %q", key)
		}
	}
}

// freshwire runs a subcommand to its end.
func freshwire(t testing.TB, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env, cmd.Dir = append(cleanEnviron(), env...), t.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run() // the exit code is judged
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestCommandsSpeakToARunningFreshwire(t *testing.T) {
	p, _, _ := oneNode(t)
	env := append([]string{"FRESHWIRE_URL=" + p.URL, "FRESHWIRE_ADMIN_TOKEN=" + adminToken}, slices.DeleteFunc(slices.Clone(p.env), func(kv string) bool {
		return !strings.HasPrefix(kv, "FRESHWIRE_CONFIG=")
	})...)

	ctx, cancel := context.WithCancel(t.Context())
	tail := exec.CommandContext(ctx, binary, "tail", "--json")
	tail.Env = append(cleanEnviron(), env...)
	tail.Cancel = func() error { return tail.Process.Signal(syscall.SIGINT) }
	lines, errs := &logBuffer{}, &logBuffer{}
	tail.Stdout, tail.Stderr = lines, errs
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "tail is connected", func() bool { return strings.Contains(errs.String(), "ready") })

	for _, source := range []string{"cms", "sw"} {
		if out, errs, code := freshwire(t, env, "send", "--source", source); code != 0 || !strings.Contains(out, `"queued"`) {
			t.Errorf("send --source %s = %d %s %s", source, code, out, errs)
		}
	}
	testkit.Until(t, "tail prints both changes", func() bool { return strings.Count(lines.String(), `"seq":`) == 2 })
	cancel()
	if err := tail.Wait(); err != nil && tail.ProcessState.ExitCode() != 0 {
		t.Errorf("tail ended with %v %s", err, errs)
	}

	out, errText, code := freshwire(t, env, "purge", "--tag", "posts", "--path", "/blog/*")
	if code != 0 || !strings.Contains(out, `"settled":true`) {
		t.Errorf("purge = %d %s %s", code, out, errText)
	}
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"purge"}, 2, "nothing to purge"},
		{[]string{"purge", "--url", "nowhere", "--all"}, 2, "is not a URL"},
		{[]string{"purge", "--url", "http://127.0.0.1:1", "--all"}, 1, "Is freshwire running there?"},
		{[]string{"send", "--source", "odd"}, 1, "the sources are cms, sw"},
		{[]string{"send"}, 2, "--source is missing"},
		{[]string{"prge"}, 2, `did you mean "purge"`},
		{[]string{"check", "--odd"}, 2, "unknown flag"},
		{[]string{"tail", "--since", "$"}, 2, "is no position"},
		{[]string{"version"}, 0, "freshwire"},
		{[]string{"completion", "bash"}, 0, "bash completion"},
		{[]string{"completion"}, 2, "needs a shell"},
		{[]string{"completion", "tcsh"}, 2, "needs a shell"},
		{[]string{"--version"}, 0, "freshwire"},
		{[]string{"schema"}, 0, "draft-07"},
		{[]string{"check"}, 0, "2 sources"},
	} {
		out, errs, code := freshwire(t, env, tc.args...)
		if code != tc.code || !strings.Contains(out+errs, tc.says) {
			t.Errorf("freshwire %s = %d %q %q, want %d with %q", strings.Join(tc.args, " "), code, out, errs, tc.code, tc.says)
		}
	}
}

func TestCheckTellsEveryMistakeAtOnce(t *testing.T) {
	config := configFile(t, `sources:
  blog: { cms: gohst, secret: abcdefghijklmnop }
  open: { cms: generic }
rules:
  - on: ["post.*"]
    purge: { tgas: ["a"] }
    when: "1 +"
  - revalidate: [nowhere]
routes:
  - { path: "/webhooks/x", origin: "http://127.0.0.1/{id}" }
  - { path: "/a", origin: "${NOT_SET_ANYWHERE}/a", ttl: soon }
channels: [{ match: "user:{user}", sesion: true }]
`)
	_, errs, code := freshwire(t, []string{"FRESHWIRE_CONFIG=" + config, "LOG_LEVEL=loud"}, "check")
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, say := range []string{"LOG_LEVEL", "ghost", `"tgas"; did you mean "tags"`, "NOT_SET_ANYWHERE", "soon", `"sesion"; did you mean "session"`, ":2:", ":3:", ":6:", ":11:"} {
		if !strings.Contains(errs, say) {
			t.Errorf("%q is not said in:\n%s", say, errs)
		}
	}
	_, errs, code = freshwire(t, []string{"FRESHWIRE_CONFIG=" + config}, "all")
	if code != 1 || !strings.Contains(errs, "gohst") {
		t.Errorf("starting with it = %d %s", code, errs)
	}
	two := configFile(t, "sources:\n  a: { cms: generic, scheme: none, max_body: 64MiB, tolerance: 48h, foo: 1 }\n"+
		"rules:\n  - { on: [\"post.*\"], source: zz, revalidate: [nope], when: \"1 +\", purge: { tags: [\"x{\"], pats: [] } }\n"+
		"routes:\n  - { path: \"/b/{id}\", origin: \"http://127.0.0.1/{id}\" }\n  - { path: \"/b/{x}\", origin: \"http://127.0.0.1/{x}\" }\n")
	_, errs, _ = freshwire(t, []string{"FRESHWIRE_CONFIG=" + two}, "check")
	for _, say := range []string{`"foo"`, "67108864", "48h0m0s", "pats", `"zz"`, `"nope"`, "rules[0].when", "rules[0].purge.tags[0]", "answers /b/{x} already"} {
		if strings.Count(errs, say) != 1 {
			t.Errorf("%q is not said once in:\n%s", say, errs)
		}
	}
	bad := configFile(t, "sources:\n  open: { cms: generic }\nrules:\n  - { when: '1 +', revalidate: [nowhere] }\nroutes:\n  - { path: /a, origin: 'http://127.0.0.1/{id}' }\n  - { path: /webhooks/x, origin: 'http://127.0.0.1/x' }\n")
	_, errs, code = freshwire(t, []string{"FRESHWIRE_CONFIG=" + bad}, "check")
	for _, say := range []string{"scheme", "when", "nowhere", "freshwire's own", "{id}", ":2:", ":4:", ":6:", ":7:"} {
		if code != 1 || !strings.Contains(errs, say) {
			t.Errorf("%q is not said in (%d):\n%s", say, code, errs)
		}
	}
}

// TestEditReachesTheBrowserQuickly measures and prints; it judges only that
// every edit arrives.
func TestEditReachesTheBrowserQuickly(t *testing.T) {
	p := start(t, "dev", "LOG_LEVEL=warn")
	frames := make(chan frame, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go stream(ctx, p.URL+"/api/events?channel=article", "", frames)
	testkit.Wait(t, frames, "ready")
	var took []time.Duration
	for i := range 100 {
		body := fmt.Sprintf(`{"type":"article.updated","data":{"id":"1","n":%d}}`, i)
		begin := time.Now()
		status, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", signAs("freshwire-demo-secret", body))
		if status != 200 {
			t.Fatalf("webhook = %d %s", status, answer)
		}
		if f := testkit.Wait(t, frames, "the change"); f.event != "" {
			t.Fatalf("heard %+v, want a change", f)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	fmt.Printf("%s: webhook posted → EventSource, embedded store: p50 %v, p99 %v, worst %v of %d\n", t.Name(),
		took[50].Round(100*time.Microsecond), took[98].Round(100*time.Microsecond), took[99].Round(100*time.Microsecond), len(took))
}

func TestNothingListensOutsideInDev(t *testing.T) {
	p := start(t, "dev")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if c := p.terminate(t); c != 0 {
		t.Errorf("exit code of dev = %d, want 0", c)
	}
	if !strings.Contains(p.out.String(), `"addr":"127.0.0.1:`+port+`"`) {
		t.Errorf("dev does not log where it listens:\n%s", p.out.tail(5))
	}
}

func TestWebhookIsNeverRedirected(t *testing.T) {
	p, _, _ := oneNode(t)
	for i, path := range []string{"//webhooks/cms", "/webhooks//cms", "/./webhooks/cms", "/x/../webhooks/cms", "//api/webhooks/cms"} {
		body := fmt.Sprintf(`{"type":"post.updated","data":{"id":"%d"}}`, i)
		req, err := http.NewRequest("POST", p.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = strings.TrimPrefix(p.URL, "http:") + path
		req.Header.Set("X-Webhook-Signature", sign(body))
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("POST %s = %d, want 200", path, resp.StatusCode)
		}
	}
	if status, _, _ := call(t, "POST", p.URL+"/webhooks/..%2f", "{}"); status/100 == 3 {
		t.Errorf("POST /webhooks/..%%2f = %d, a redirect", status)
	}
}

func TestDrainingNodeStillAnswers(t *testing.T) {
	p, _, _ := oneNode(t)
	code := make(chan int, 1)
	go func() { code <- p.terminate(t) }()
	testkit.Until(t, "readyz says so", func() bool {
		resp, err := http.Get(p.URL + "/readyz")
		if err != nil {
			t.Fatalf("readyz while draining: %v", err)
		}
		resp.Body.Close()
		return resp.StatusCode == 503
	})
	frames := make(chan frame, 1)
	if err := stream(t.Context(), p.URL+"/api/events?channel=post", "", frames); err != nil {
		t.Errorf("a stream while draining: %v, want 200 and goaway", err)
	}
	if f := testkit.Wait(t, frames, "goaway"); f.event != "goaway" {
		t.Errorf("a stream while draining begins with %+v, want goaway", f)
	}
	body := `{"type":"post.updated","data":{"id":"1"}}`
	if status, _, _ := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); status != 200 {
		t.Errorf("a webhook while draining = %d, want 200", status)
	}
	if c := testkit.Wait(t, code, "the end"); c != 0 {
		t.Errorf("exit code %d, want 0", c)
	}
}

func TestPurgeTakesPathsAsTheAddressBarShowsThem(t *testing.T) {
	p, _, _ := oneNode(t)
	get := func() string {
		_, h, _ := call(t, "GET", p.URL+"/api/posts/%C3%BCber%20uns", "")
		return h.Get("X-Cache")
	}
	for _, path := range []string{"/api/posts/%C3%BCber%20uns", "/api/posts/über uns", "/api/posts/%C3%BCber%20uns?page=2", "/api/posts/*"} {
		get()
		if got := get(); got != "HIT" {
			t.Fatalf("X-Cache = %s, want HIT", got)
		}
		if status, _, answer := call(t, "POST", p.URL+"/admin/purge", `{"paths":["`+path+`"]}`, "Authorization", "Bearer "+adminToken); status != 200 {
			t.Fatalf("purge = %d %s", status, answer)
		}
		if got := get(); got != "MISS" {
			t.Errorf("after a purge of %s: X-Cache %s, want MISS", path, got)
		}
	}
}
