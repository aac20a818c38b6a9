package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// listenAndServe gives h an address for the time of the test.
func listenAndServe(t *testing.T, h http.Handler) string {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

func operator(p *process) []string {
	return []string{"FRESHWIRE_URL=" + p.URL, "FRESHWIRE_ADMIN_TOKEN=" + adminToken}
}

// read asks for a post and returns X-Cache and the body.
func read(t *testing.T, p *process, id string) string {
	t.Helper()
	status, head, body := call(t, "GET", p.URL+"/api/posts/"+id, "")
	return fmt.Sprint(status, " ", head.Get("X-Cache"), " ", body)
}

func TestOperatorsLookBeforeTheyPurge(t *testing.T) {
	p, _, api := oneNode(t)
	for _, id := range []string{"1", "2", "3"} {
		read(t, p, id)
	}
	out, errs, code := freshwire(t, operator(p), "purge", "--tag", "posts", "--key", "post:1", "--dry-run")
	for _, want := range []string{`"dry_run":true`, `"entries":3`, `"exact":true`, `"post:2"`} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("purge --dry-run = %d %s %s, want %s", code, out, errs, want)
		}
	}
	api.title.Store("second")
	if got := read(t, p, "1"); !strings.Contains(got, "HIT") || !strings.Contains(got, "first") {
		t.Errorf("after a dry run: %s, want it untouched", got)
	}
	if out, errs, code = freshwire(t, operator(p), "purge", "--tag", "posts"); code != 0 || !strings.Contains(out, `"settled":true`) {
		t.Errorf("purge = %d %s %s", code, out, errs)
	}
	if got := read(t, p, "1"); !strings.Contains(got, "second") {
		t.Errorf("after the purge: %s", got)
	}
}

func TestOperatorsAreToldWhy(t *testing.T) {
	p, _, _ := oneNode(t)
	read(t, p, "42")
	inspect := func(args ...string) string {
		t.Helper()
		out, errs, code := freshwire(t, operator(p), append([]string{"inspect"}, args...)...)
		if code != 0 {
			t.Fatalf("inspect %v = %d %s %s", args, code, out, errs)
		}
		return out
	}
	if out := inspect("key", "post:42"); !strings.Contains(out, "post:42 is fresh until") || !strings.Contains(out, "tag post:42") {
		t.Errorf("inspect key = %s", out)
	}
	const body = `{"type":"post.updated","data":{"id":"42"}}`
	status, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body))
	var queued struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &queued); status != 200 || err != nil {
		t.Fatalf("webhook = %d %s", status, answer)
	}
	event := "event " + queued.ID + " (post.update from cms)"
	testkit.Until(t, "the event is told of", func() bool { return strings.Contains(inspect("key", "post:42"), event) })
	out := inspect("key", "post:42")
	if !strings.HasPrefix(out, "post:42 is void: tag post:42 was purged at ") || !strings.Contains(out, event) {
		t.Errorf("after an edit: %s", out)
	}
	if out := inspect("tag", "post:42"); !strings.Contains(out, event) {
		t.Errorf("inspect tag = %s", out)
	}
	var why struct {
		Verdict string
		Causes  []struct{ Kind, Name, By, Event, Source string }
	}
	if err := json.Unmarshal([]byte(inspect("key", "post:42", "--json")), &why); err != nil || why.Verdict != "void" || len(why.Causes) == 0 ||
		why.Causes[0].By != queued.ID || why.Causes[0].Event != "post.update" || why.Causes[0].Source != "cms" {
		t.Errorf("as JSON: %+v, %v", why, err)
	}
	if out := inspect("cache"); !strings.Contains(out, "/api/posts/{id}") || !strings.Contains(out, "memory") {
		t.Errorf("inspect cache = %s", out)
	}
	for _, path := range []string{"/debug/why?key=post:42", "/debug/tag?tag=posts", "/admin/cache"} {
		if status, _, _ := call(t, "GET", p.URL+path, ""); status != 401 {
			t.Errorf("GET %s without the token = %d, want 401", path, status)
		}
	}
	for args, code := range map[string]int{"inspect": 2, "inspect odd": 2, "inspect key": 2, "inspect key a b": 2, "inspect cache x": 2} {
		if out, errs, got := freshwire(t, operator(p), strings.Fields(args)...); got != code {
			t.Errorf("freshwire %s = %d %s %s, want %d", args, got, out, errs, code)
		}
	}
}

func TestSoftPurgeSaysWhatItIs(t *testing.T) {
	api := &cmsAPI{}
	api.title.Store("first")
	origin := listenAndServe(t, api)
	config := configFile(t, fmt.Sprintf(`routes: [{path: "/api/posts/{id}", origin: "%s/posts/{id}", key: "post:{id}", tags: [posts], ttl: 1h, stale_while_revalidate: 1h}]`, origin))
	p := start(t, "all", "REDIS_URL="+testkit.StartServer(t).URL(), "FRESHWIRE_CONFIG="+config, "FRESHWIRE_ADMIN_TOKEN="+adminToken)
	read(t, p, "1")
	api.title.Store("second")
	out, errs, code := freshwire(t, operator(p), "purge", "--tag", "posts", "--soft")
	for _, want := range []string{`"soft":true`, `"settled":true`, "older content once more"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("purge --soft = %d %s %s, want %s", code, out, errs, want)
		}
	}
	if got := read(t, p, "1"); !strings.Contains(got, "STALE") || !strings.Contains(got, "first") {
		t.Errorf("the first read after a soft purge: %s, want the old content, marked", got)
	}
	testkit.Until(t, "it is fetched again", func() bool { return strings.Contains(read(t, p, "1"), "second") })
}

func TestOtherProgramsUseTheCache(t *testing.T) {
	const edge = "token-of-the-edge"
	p, _, _ := oneNode(t, "FRESHWIRE_ENTRIES_TOKEN="+edge)
	entry := func(method, path, body string, headers ...string) (int, http.Header, string) {
		t.Helper()
		return call(t, method, p.URL+"/v1/entries/"+path, body, append([]string{"Authorization", "Bearer " + edge}, headers...)...)
	}
	key := url.PathEscape("/products//1?x=1") // as it is, nothing cleaned
	status, head, _ := entry("GET", key, "")
	token := head.Get("Freshwire-Fill-Token")
	if status != 404 || token == "" {
		t.Fatalf("GET of nothing = %d %v", status, head)
	}
	if status, _, answer := entry("PUT", key+"?ttl=1h&tag=products", `{"id":1}`, "Freshwire-Fill-Token", token, "Content-Type", "application/json"); status != 201 {
		t.Fatalf("PUT = %d %s", status, answer)
	}
	if status, head, answer := entry("GET", key, ""); status != 200 || answer != `{"id":1}` || head.Get("Content-Type") != "application/json" {
		t.Errorf("GET = %d %v %s", status, head, answer)
	}
	if status, _, answer := entry("POST", "batch", `{"keys":["/products//1?x=1","none"]}`); status != 200 || !strings.Contains(answer, `"hit"`) || !strings.Contains(answer, `"miss"`) {
		t.Errorf("batch = %d %s", status, answer)
	}
	const body = `{"type":"product.updated","data":{"id":"1"}}` // without rules: the tags product and product:1
	if status, _, answer := entry("PUT", "p1?tag=product:1", "x", "Freshwire-Fill-Token", token); status != 201 {
		t.Fatalf("PUT = %d %s", status, answer)
	}
	if status, _, answer := call(t, "POST", p.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body)); status != 200 {
		t.Fatalf("webhook = %d %s", status, answer)
	}
	testkit.Until(t, "the edit reaches it", func() bool { status, _, _ := entry("GET", "p1", ""); return status == 404 })
	if status, head, answer := entry("PUT", "p1?tag=product:1", "x", "Freshwire-Fill-Token", token); status != 409 || head.Get("Freshwire-Fill-Token") == "" {
		t.Errorf("PUT of what was fetched before the edit = %d %s, want 409", status, answer)
	}
	if status, _, answer := entry("DELETE", key, ""); status != 200 || !strings.Contains(answer, `"settled":true`) {
		t.Errorf("DELETE = %d %s", status, answer)
	}
	for _, tc := range []struct {
		token, path string
		want        int
	}{{"", "/v1/entries/p1", 401}, {"wrong", "/v1/entries/p1", 401}, {edge, "/admin/cache", 401}, {edge, "/metrics", 401}, {adminToken, "/v1/entries/p1", 404}} {
		if status, _, _ := call(t, "GET", p.URL+tc.path, "", "Authorization", "Bearer "+tc.token); status != tc.want {
			t.Errorf("GET %s with the token %q = %d, want %d", tc.path, tc.token, status, tc.want)
		}
	}
}

func TestReplicaIsReadAndNeverBelieved(t *testing.T) {
	api := &cmsAPI{}
	api.title.Store("first")
	config := configFile(t, fmt.Sprintf(`
sources: { cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: "sha256=", secret: %s } }
routes: [{path: "/api/posts/{id}", origin: "%s/posts/{id}", key: "post:{id}", tags: ["posts", "post:{id}"]}]`, secret, listenAndServe(t, api)))
	master := testkit.StartServer(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := testkit.StartServer(t, "--replicaof", host, port)
	testkit.Until(t, "the replica follows", func() bool {
		return strings.Contains(replica.Client(t).Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	p := start(t, "all", "REDIS_URL="+master.URL(), "FRESHWIRE_REPLICA_URL="+replica.URL(), "FRESHWIRE_CONFIG="+config,
		"FRESHWIRE_ADMIN_TOKEN="+adminToken, "FRESHWIRE_CACHE_MEMORY=-1")
	read(t, p, "1")
	testkit.Until(t, "it comes from Redis", func() bool { return strings.Contains(read(t, p, "1"), "HIT") })
	if n := gets(replica.Client(t).Info(t.Context(), "commandstats").Val()); n == 0 {
		t.Error("the replica was asked for nothing")
	}
	if err := replica.Client(t).Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil { // it stays as it is
		t.Fatal(err)
	}
	api.title.Store("second")
	if out, errs, code := freshwire(t, operator(p), "purge", "--key", "post:1"); code != 0 {
		t.Fatalf("purge = %d %s %s", code, out, errs)
	}
	for range 20 {
		if got := read(t, p, "1"); strings.Contains(got, "first") {
			t.Fatalf("an entry of the lagging replica was served: %s", got)
		}
	}
	replica.Kill()
	if got := read(t, p, "1"); !strings.Contains(got, "200") || !strings.Contains(got, "second") {
		t.Errorf("replica away: %s", got)
	}
}

// gets is how often a server was asked for entries.
func gets(stats string) (n int) {
	for line := range strings.Lines(stats) {
		for _, cmd := range []string{"cmdstat_get:calls=%d", "cmdstat_getrange:calls=%d"} {
			var calls int
			if _, err := fmt.Sscanf(line, cmd, &calls); err == nil {
				n += calls
			}
		}
	}
	return n
}

func TestRedisThatEvictsTheLedgerIsRefused(t *testing.T) {
	server := testkit.StartServer(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	out, errs, code := freshwire(t, []string{"REDIS_URL=" + server.URL(), "FRESHWIRE_ADDR=127.0.0.1:0"}, "all")
	if code != 1 || !strings.Contains(errs, "allkeys-lru") || !strings.Contains(errs, "noeviction") {
		t.Errorf("freshwire all = %d %s %s, want a refusal that names the remedy", code, out, errs)
	}
}
