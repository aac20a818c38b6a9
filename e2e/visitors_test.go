package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestVisitorsHearTheirOwnChannelsAlone(t *testing.T) {
	p := newPremises(t, visitorsConfig)
	cookies := map[string]string{"nobody": "", "a": p.signIn("a"), "b": p.signIn("b"), "ab": p.signIn("ab"), "star": p.signIn("*"),
		"ended": p.signIn("a"), "made up": "session_id=" + strings.Repeat("A", 43), "odd": "session_id=a"}
	cookies["planted"] = cookies["b"] + "; " + cookies["a"] // by a neighbouring host, beside the visitor's own
	if status, _, _ := call(t, "DELETE", p.web.URL+"/api/auth/session", "", "Cookie", cookies["ended"]); status != 200 {
		t.Fatalf("DELETE = %d", status)
	}
	everybody := []string{"nobody", "a", "b", "ab", "star", "ended", "made up", "odd", "planted"}
	signedIn := []string{"a", "b", "ab", "star"}
	may := map[string][]string{ // by the channels of one request
		"posts": everybody, "product:1": everybody, "product:*": everybody, "posts product:*": everybody, "users": everybody,
		"members": signedIn, "posts members": signedIn,
		"user:a": {"a"}, "user:b": {"b"}, "user:ab": {"ab"}, "posts user:a": {"a"}, "members user:a product:*": {"a"},
		"user:a user:b": nil, "user:": nil, "user:nobody": nil, "user:A": nil,
	}
	query := func(channels string) string { return "channel=" + strings.Join(strings.Fields(channels), "&channel=") }
	listening := map[string][]*listener{} // by who and channels
	for _, node := range []*process{p.web, p.sse} {
		for channels, whom := range may {
			for _, who := range everybody {
				l, status := p.listen(node, cookies[who], query(channels))
				if want := slices.Contains(whom, who); want != (status == 200) || !want && status != 403 {
					t.Errorf("%s asks %s for %q: %d, want let in: %v", who, node.role, channels, status, want)
				}
				if l != nil {
					l.await("ready")
					listening[who+"\t"+channels] = append(listening[who+"\t"+channels], l)
				}
			}
		}
		for _, odd := range []string{"user:*", "u*", "*", "product*"} {
			if _, status := p.listen(node, cookies["star"], "channel="+odd); status != 400 && status != 403 {
				t.Errorf("a visitor asks %s for %q: %d, want no", node.role, odd, status)
			}
		}
	}
	if t.Failed() {
		t.FailNow()
	}

	// What is said on each channel is heard by its listeners, now and in a replay.
	before := listening["nobody\tposts"][0]
	for _, ch := range []string{"posts", "product:1", "members", "user:a", "user:b", "user:ab", "user:", "user:nobody", "users"} {
		p.publish(ch, ch)
	}
	p.publish("end", "posts", "product:1", "members", "user:a", "user:b", "user:ab", "users")
	after := before.hears("end")
	if !slices.Equal(after, []string{"posts"}) {
		t.Errorf("a listener of posts heard %q", after)
	}
	heard := 0
	for name, streams := range listening {
		channels := strings.Fields(name[strings.LastIndexAny(name, "\t")+1:])
		for _, l := range streams {
			if l == before {
				continue
			}
			for _, text := range l.hears("end") {
				heard++
				if !slices.Contains(channels, text) && !(slices.Contains(channels, "product:*") && strings.HasPrefix(text, "product:")) {
					t.Errorf("%s hears %q", name, text)
				}
			}
		}
	}
	if heard < 2*len(everybody) {
		t.Errorf("%d messages heard in all: the listeners were deaf", heard)
	}
}

func TestForeignAndMissingChannelsLookAlike(t *testing.T) {
	p := newPremises(t, visitorsConfig)
	a, b := p.signIn("a"), p.signIn("b")
	p.opened(p.sse, b, "channel=user:b")
	p.publish("x", "user:b")
	ask := func(cookie, channel string) (answer string, took time.Duration) {
		start := time.Now()
		status, header, body := call(t, "GET", p.sse.URL+"/api/events?channel="+channel, "", "Cookie", cookie)
		took = time.Since(start)
		var problem map[string]any
		if err := json.Unmarshal([]byte(body), &problem); err != nil {
			t.Fatal(err)
		}
		delete(problem, "request_id")
		for _, name := range []string{"X-Request-Id", "Content-Length", "Date", "Set-Cookie"} { // the id of the request is in the body
			header.Del(name)
		}
		return fmt.Sprint(status, header, problem), took
	}
	want, _ := ask("", "user:b")
	times := map[string][]time.Duration{}
	for range 100 {
		for _, tc := range [][2]string{{"", "user:b"}, {"", "user:nobody"}, {a, "user:b"}, {a, "user:nobody"}, {a, "user:"}} {
			got, took := ask(tc[0], tc[1])
			if got != want || !strings.HasPrefix(got, "403") {
				t.Fatalf("%s with a cookie %v = %s, want %s", tc[1], tc[0] != "", got, want)
			}
			times[fmt.Sprint(tc[0] != "", tc[1])] = append(times[fmt.Sprint(tc[0] != "", tc[1])], took)
		}
	}
	median := func(key string) time.Duration { slices.Sort(times[key]); return times[key][len(times[key])/2] }
	foreign, missing := median("trueuser:b"), median("trueuser:nobody")
	t.Logf("refused in %v where somebody listens, in %v where nobody does", foreign, missing)
	if foreign > 3*missing+time.Millisecond || missing > 3*foreign+time.Millisecond {
		t.Errorf("refused in %v where somebody listens, in %v where nobody does", foreign, missing)
	}
}

func TestReplayOfAPrivateChannelIsItsUsersAlone(t *testing.T) {
	p := newPremises(t, visitorsConfig)
	a, b := p.signIn("a"), p.signIn("b")
	first := p.opened(p.sse, a, "channel=user:a")
	start := p.publish("one", "user:a")
	if f := first.await(""); f.id != start || f.data != `{"text":"one"}` {
		t.Errorf("published at %s, heard %+v", start, f)
	}
	p.publish("b's", "user:b")
	p.publish("two", "user:a", "posts")
	p.publish("end", "user:a", "user:b", "posts")

	for _, resume := range []struct{ query, header string }{{"&lastEventId=" + start, ""}, {"", start}} {
		for _, node := range []*process{p.web, p.sse} {
			headers := []string{"Last-Event-ID", resume.header}
			for who, tc := range map[string]struct {
				cookie, query string
				want          []string // nil: refused
			}{
				"a":            {a, "channel=user:a", []string{"two"}},
				"b":            {b, "channel=user:b", []string{"b's"}},
				"b as a":       {b, "channel=user:a", nil},
				"b as both":    {b, "channel=user:b&channel=user:a", nil},
				"nobody as a":  {"", "channel=user:a", nil},
				"nobody":       {"", "channel=posts", []string{"two"}},
				"nobody for *": {"", "channel=*", nil},
			} {
				l, status := p.listen(node, tc.cookie, tc.query+resume.query, headers...)
				if tc.want == nil {
					if status != 403 {
						t.Errorf("%s: %d, want 403", who, status)
					}
					continue
				}
				l.await("ready")
				if got := l.hears("end"); !slices.Equal(got, tc.want) {
					t.Errorf("%s is replayed %q, want %q", who, got, tc.want)
				}
			}
		}
	}
}

func TestEndOfASessionClosesItsStreamsOnEveryNode(t *testing.T) {
	for _, mode := range []string{"auto", "plain"} {
		t.Run(mode, func(t *testing.T) {
			p := newPremises(t, visitorsConfig, "FRESHWIRE_SSE_MODE="+mode)
			ending, staying := p.signIn("a"), p.signIn("a")
			var ended []*listener
			for _, node := range []*process{p.web, p.sse} {
				ended = append(ended, p.opened(node, ending, "channel=user:a"), p.opened(node, ending, "channel=members&channel=posts"))
			}
			other := p.opened(p.sse, staying, "channel=user:a&channel=posts")
			public := p.opened(p.sse, ending, "channel=posts")
			if set := ended[2].header.Get("Set-Cookie"); !strings.HasPrefix(set, ending+";") {
				t.Errorf("the stream renews the cookie as %q", set)
			}

			start := time.Now()
			if status, header, body := call(t, "DELETE", p.web.URL+"/api/auth/session", "", "Cookie", ending); status != 200 || body != "{\"success\":true}\n" ||
				!strings.HasPrefix(header.Get("Set-Cookie"), "session_id=;") {
				t.Fatalf("DELETE = %d %v %s", status, header, body)
			}
			for _, l := range ended {
				if f := l.await("goaway"); !strings.Contains(f.data, `"reason":"session"`) {
					t.Errorf("told %+v", f)
				}
				if err := testkit.Wait(t, l.over, "the close"); err != nil {
					t.Errorf("the stream broke off: %v", err)
				}
			}
			took := time.Since(start)
			t.Logf("%d streams on 2 nodes closed %v after DELETE", len(ended), took)
			if took > time.Second {
				t.Errorf("closed after %v, want within a second", took)
			}
			if _, status := p.listen(p.sse, ending, "channel=user:a"); status != 403 {
				t.Errorf("the ended session comes back: %d", status)
			}
			p.publish("still here", "posts")
			for name, l := range map[string]*listener{"another session of the same user": other, "a public stream": public} {
				if f := l.await(""); f.data != `{"text":"still here"}` {
					t.Errorf("%s: %+v", name, f)
				}
			}
			var who struct{ User any }
			getJSON(t, p.web.URL+"/api/auth/session", &who, "Cookie", ending)
			if who.User != nil {
				t.Errorf("the ended session is of %v", who.User)
			}
		})
	}
}

func TestNewsOfAnApplicationIsResumedLikeAnyChange(t *testing.T) {
	p := newPremises(t, visitorsConfig)
	l := p.opened(p.web, "", "channel=news")
	one := p.publish("one", "news")
	if f := l.await(""); f.id != one {
		t.Errorf("heard at %s, published at %s", f.id, one)
	}
	two := p.publish("two", "news", "posts")
	late := p.opened(p.sse, "", "channel=news&lastEventId="+one)
	if f := late.await(""); f.id != two || f.data != `{"text":"two"}` {
		t.Errorf("resumed with %+v, want two at %s", f, two)
	}
	for name, tc := range map[string]struct {
		body, token string
		want        int
	}{
		"no token":        {`{"channels":["news"],"data":{}}`, "", 401},
		"everybody":       {`{"channels":["*"],"data":{}}`, adminToken, 400},
		"no object":       {`{"channels":["news"],"data":[1]}`, adminToken, 400},
		"too large":       {`{"channels":["news"],"data":{"x":"` + strings.Repeat("x", 65<<10) + `"}}`, adminToken, 400},
		"far too large":   {`{"channels":["news"],"data":{"x":"` + strings.Repeat("x", 1<<20) + `"}}`, adminToken, 400},
		"an unknown word": {`{"channel":["news"],"data":{}}`, adminToken, 400},
	} {
		if status, header, body := call(t, "POST", p.web.URL+"/admin/publish", tc.body, "Authorization", "Bearer "+tc.token); status != tc.want ||
			header.Get("Content-Type") != "application/problem+json" || strings.Contains(body, "xxx") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	p.redis.Kill()
	if status, _, body := call(t, "POST", p.web.URL+"/admin/publish", `{"channels":["news"],"data":{}}`, "Authorization", "Bearer "+adminToken); status != 503 {
		t.Errorf("without Redis: %d %s", status, body)
	}
}

func TestChannelsOfOtherProgramsAreStreamedLive(t *testing.T) {
	p := newPremises(t, visitorsConfig)
	a := p.signIn("a")
	subscribed := func() bool {
		return p.web.metrics(t)["freshwire_foreign_subscribed"] == 1 && p.sse.metrics(t)["freshwire_foreign_subscribed"] == 1
	}
	testkit.Until(t, "both nodes hear the channels", subscribed)
	streams := map[string]*listener{"web": p.opened(p.web, "", "channel=orders"), "sse": p.opened(p.sse, "", "channel=orders"), "private": p.opened(p.sse, a, "channel=user:a&channel=orders")}
	if _, status := p.listen(p.sse, "", "channel=user:a"); status != 403 {
		t.Errorf("a private channel of another program: %d, want 403", status)
	}
	rdb := p.redis.Client(t)
	say := func(channel, text string) {
		t.Helper()
		if n, err := rdb.Publish(t.Context(), channel, text).Result(); err != nil || n != 2 {
			t.Fatalf("PUBLISH reached %d nodes, %v", n, err)
		}
	}
	say("orders", strings.Repeat("x", 65<<10)) // dropped
	say("orders", "\xff")                      // dropped
	say("user:a", "for a")
	say("orders", "first\nsecond")
	if f := streams["private"].await(""); f.data != "for a" || f.id != "" {
		t.Errorf("heard %+v", f)
	}
	for name, l := range streams {
		if f := l.await(""); f.data != "first\nsecond" || f.id != "" {
			t.Errorf("%s heard %+v, want the text without an id", name, f)
		}
	}
	late := p.opened(p.web, "", "channel=orders")

	p.redis.Kill()
	testkit.Until(t, "the nodes know that nothing is heard", func() bool {
		return p.web.metrics(t)["freshwire_foreign_subscribed"] == 0 && p.sse.metrics(t)["freshwire_foreign_subscribed"] == 0
	})
	p.redis.Start(t)
	testkit.Until(t, "both nodes hear the channels again", subscribed)
	late.await("reset") // the log began anew; until it is told, a stream is behind, and hears nothing live
	say("orders", "again")
	if f := late.await(""); f.data != "again" {
		t.Errorf("after Redis came back: %+v", f)
	}
}

func TestVisitorsWithoutRedis(t *testing.T) {
	p := newPremises(t, visitorsConfig)
	a := p.signIn("a")
	p.redis.Kill()
	for _, node := range []*process{p.web, p.sse} {
		l, status := p.listen(node, a, "channel=user:a")
		if status != 200 {
			t.Fatalf("%s: a private stream = %d, want 200 and goaway, since a browser would never come back", node.role, status)
		}
		if f := l.await("goaway"); !strings.Contains(f.data, `"reason":"unavailable"`) {
			t.Errorf("%s: %+v", node.role, f)
		}
		if _, status := p.listen(node, "", "channel=user:a"); status != 403 {
			t.Errorf("%s: without a cookie %d, want 403", node.role, status)
		}
		p.opened(node, a, "channel=posts")
	}
	for _, method := range []string{"GET", "DELETE", "POST"} {
		status, header, body := call(t, method, p.web.URL+"/api/auth/session", `{"userId":"a"}`, "Cookie", a, "Authorization", "Bearer "+adminToken)
		if status != 503 || header.Get("Content-Type") != "application/problem+json" || header.Get("Set-Cookie") != "" {
			t.Errorf("%s = %d %v %s, want 503 that leaves the cookie", method, status, header, body)
		}
	}
	p.redis.Start(t) // empty: the sessions are gone
	p.web.awaitReady(t)
	if _, _, body := call(t, "GET", p.web.URL+"/api/auth/session", "", "Cookie", a); body != "{\"user\":null}\n" {
		t.Errorf("after Redis forgot it, the session is %s", body)
	}
	if strings.Contains(p.web.out.String()+p.sse.out.String(), strings.TrimPrefix(a, "session_id=")) {
		t.Error("a session's id is in the log")
	}
}

func TestOriginIsToldWhoAsks(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=600")
		fmt.Fprintf(w, "for %q, cookie %q", r.Header["X-User-Id"], r.Header["Cookie"])
	}))
	defer origin.Close()
	p := newPremises(t, fmt.Sprintf(`
routes:
  - { path: /api/account, origin: "%s/account", user: true }
  - { path: /api/page, origin: "%s/page" }
`, origin.URL, origin.URL))
	a, b := p.signIn("a"), p.signIn("b")
	for range 2 {
		for want, headers := range map[string][]string{
			`for ["a"], cookie []`: {"Cookie", a, "X-User-Id", "b"},
			`for ["b"], cookie []`: {"Cookie", b},
			`for [], cookie []`:    {"X-User-Id", "a"},
		} {
			status, header, body := call(t, "GET", p.web.URL+"/api/account", "", headers...)
			if status != 200 || body != want || header.Get("Cache-Control") != "private, no-store" || header.Get("X-Cache") != "MISS" {
				t.Errorf("%q: %d %s %v, want %s", headers, status, body, header, want)
			}
			if _, header, body := call(t, "GET", p.web.URL+"/api/page", "", headers...); body != `for [], cookie []` || header.Get("Set-Cookie") != "" {
				t.Errorf("a shared page is %s with %v", body, header)
			}
		}
	}
	p.redis.Kill()
	if status, _, body := call(t, "GET", p.web.URL+"/api/account", "", "Cookie", a); status != 503 {
		t.Errorf("without Redis: %d %s, want 503", status, body)
	}
	if status, _, body := call(t, "GET", p.web.URL+"/api/account", ""); status != 200 || !strings.HasPrefix(body, "for []") {
		t.Errorf("nobody, without Redis: %d %s", status, body)
	}
}

func TestPagesOfOtherSitesCannotUseASession(t *testing.T) {
	p := newPremises(t, visitorsConfig)
	a := p.signIn("a")
	const good, evil = "https://app.example.com", "https://evil.example"
	for _, url := range []string{p.web.URL + "/api/auth/session", p.web.URL + "/api/events?channel=user:b", p.sse.URL + "/api/events?channel=user:b"} {
		for origin, want := range map[string]string{good: good, evil: "", "null": "", good + ".evil.example": ""} {
			for _, method := range []string{"GET", "OPTIONS"} {
				_, header, _ := call(t, method, url, "", "Cookie", a, "Origin", origin, "Access-Control-Request-Method", "GET")
				if got := header.Get("Access-Control-Allow-Origin"); got != want || (want != "") != (header.Get("Access-Control-Allow-Credentials") == "true") || !strings.Contains(header.Get("Vary"), "Origin") {
					t.Errorf("%s %s for %s: %v", method, url, origin, header)
				}
			}
		}
	}
	if status, _, _ := call(t, "DELETE", p.web.URL+"/api/auth/session", "", "Cookie", a, "Origin", evil, "Sec-Fetch-Site", "cross-site"); status != 403 {
		t.Errorf("DELETE from another site = %d, want 403", status)
	}
	if _, _, body := call(t, "GET", p.web.URL+"/api/auth/session", "", "Cookie", a); !strings.Contains(body, `"userId":"a"`) {
		t.Errorf("the session is %s", body)
	}
	if status, _, _ := call(t, "POST", p.web.URL+"/api/auth/session", `{"userId":"a"}`, "Cookie", a); status != 401 {
		t.Errorf("a visitor makes a session: %d", status)
	}
	if status, _, body := call(t, "DELETE", p.web.URL+"/api/auth/session", "", "Cookie", a, "Origin", good, "Sec-Fetch-Site", "same-site"); status != 200 {
		t.Errorf("DELETE from a listed origin = %d %s", status, body)
	}
}
