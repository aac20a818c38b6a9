package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

// The user of docs/operations.md may do all that freshwire does, and doctor
// asks for no more than that.
func TestFreshwireWorksAsTheDocumentedRedisUser(t *testing.T) {
	doc, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), "`ACL SETUSER freshwire ")
	rules, _, whole := strings.Cut(rest, "`")
	if !found || !whole {
		t.Fatal("docs/operations.md shows no user")
	}
	server := testkit.StartServer(t)
	args := []any{"ACL", "SETUSER", "freshwire"}
	for _, rule := range strings.Fields(strings.Replace(rules, ">PASSWORD", ">geheim", 1)) {
		args = append(args, rule)
	}
	rdb := server.Client(t)
	if err := rdb.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	redisURL := "REDIS_URL=redis://freshwire:geheim@" + server.Addr + "/0"
	config := configFile(t, fmt.Sprintf(`sources: { cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: "sha256=", secret: %s } }`, secret))
	p := start(t, "all", redisURL, "FRESHWIRE_CONFIG="+config, "FRESHWIRE_ADMIN_TOKEN="+adminToken)
	f := newFront(t, p.addr(), "http", certificate{})
	_, frames, _ := f.open(t, "channel=post", "")
	testkit.Wait(t, frames, "ready")
	f.tell(t, "1")
	if got := testkit.Wait(t, frames, "the change"); !strings.Contains(got.data, `"entity":"1"`) {
		t.Errorf("got %+v", got)
	}
	if out, errs, code := freshwire(t, operator(p), "purge", "--tag", "post", "--pattern", "a*"); code != 0 {
		t.Errorf("purge = %d %s %s", code, out, errs)
	}
	out, errs, code := freshwire(t, append(operator(p), redisURL), "doctor")
	if code != 0 || !strings.Contains(out, "ok    permissions") || !strings.Contains(out, "ok    writes") || !strings.Contains(out, "ok    server") || !strings.Contains(out, "ok    resume") {
		t.Errorf("doctor = %d\n%s%s", code, out, errs)
	}
	log, err := rdb.ACLLog(t.Context(), 100).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, refusal := range log {
		if !strings.HasPrefix(refusal.Object, "config") { // which doctor asks for, and does without
			t.Errorf("refused: %s %s", refusal.Reason, refusal.Object)
		}
	}
	// The broken variant: a user that may not read the log of changes.
	if err := rdb.Do(t.Context(), "ACL", "SETUSER", "freshwire", "-xrange").Err(); err != nil {
		t.Fatal(err)
	}
	if out, _, code := freshwire(t, append(operator(p), redisURL), "doctor"); code != 1 || !strings.Contains(out, "fail  permissions") || !strings.Contains(out, "XRANGE fw:{fw}:doctor") {
		t.Errorf("doctor of a user without XRANGE = %d\n%s", code, out)
	}
}
