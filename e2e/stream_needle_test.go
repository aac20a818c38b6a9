package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// needles are what would forge a field, an event, a line or a key.
var needles = []string{
	"\r", "\n", "\r\n", "\n\n", "\r\r", "\x00", "\x7f", "\x1b[31m", "\u2028", "\u2029", "\u0085", "\ufeff", "\xff", "\xc3", "\xed\xa0\x80", "é", "e\u0301", "🦖",
	"data:", "data: x", "id:", "id: 1-0", "event: reset", "event: goaway", "retry: 1", ": comment", "\nid: 18446744073709551615-0\nevent: reset\ndata: {}\n\n",
	"<script>", "</script>", `"`, `\`, "'", "{", "}", "{fw}", "{{", "*", "?", "[a]", ":", "::", "fw:", ",", " ", "\t", "%", "%0a", "%00", "$", "/", "..", "~", "|", "a", "b", "",
}

// threads returns n texts made of needles, the single ones and long ones among them.
func threads(random *rand.Rand, n int) (texts []string) {
	texts = append(texts, needles...)
	texts = append(texts, strings.Repeat("x", 60<<10), strings.Repeat("\n", 1000), strings.Repeat("\r", 1000), strings.Repeat("é\u2028", 8000))
	for len(texts) < n {
		var b strings.Builder
		for range 1 + random.IntN(8) {
			b.WriteString(needles[random.IntN(len(needles))])
		}
		texts = append(texts, b.String())
	}
	return texts
}

func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// asLines is data as it arrives: any end of a line as LF.
func asLines(data string) string {
	return strings.ReplaceAll(strings.ReplaceAll(data, "\r\n", "\n"), "\r", "\n")
}

// Whatever is in the log arrives as one event each, byte for byte: live, from
// the ring, and from the log.
func TestStreamFramesHoldWhateverIsSaid(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		random := seeded(t)
		l := newLab(t, 2, nil, "FRESHWIRE_SSE_MODE="+mode)
		l.nodes = append(l.nodes, startStream(t, l.redis.URL(), "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_RING_LEN=3"))
		begin := l.last(t, 0)
		live, err := openWire(t.Context(), dialTCP, l.nodes[0].addr(), "channel=c0&lastEventId="+begin, "")
		if err != nil {
			t.Fatal(err)
		}
		defer live.Close()

		rdb := l.redis.Client(t)
		var want []told
		said := func(id, data string) { want = append(want, told{id: id, data: []byte(asLines(data))}) }
		for i, text := range threads(random, size(250, 2500)) {
			if i%2 == 0 { // as it is: the log is trusted, and still cannot forge an event
				id, err := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: "fw:{fw}:log", Values: []any{"d", text, "c", "c0"}}).Result()
				if err != nil {
					t.Fatal(err)
				}
				said(id, text)
				continue
			}
			object, _ := json.Marshal(map[string]string{"text": text})
			spaced := strings.NewReplacer(":", ":"+[]string{"", "\n", "\r", "\r\n", " \t"}[i%5]).Replace(`{"n":1,`) + string(object[1:])
			if len(spaced) > 1<<16 {
				continue
			}
			at, err := l.log.AppendRaw(t.Context(), []string{"c0"}, []byte(spaced))
			if err != nil {
				t.Fatalf("appending %q: %v", spaced, err)
			}
			said(at.String(), spaced)
		}

		hears := func(how string, w *wire) {
			for i, e := range want {
				got, before, err := w.until(func(e told) bool { return e.name != "ready" && e.name != "ping" })
				if err != nil || got.name != "" || got.id != e.id || !bytes.Equal(got.data, e.data) {
					t.Fatalf("%s, event %d of %d: got %q %q %.200q after %q, %v; want %q %.200q", how, i, len(want), got.name, got.id, got.data, before, err, e.id, e.data)
				}
			}
		}
		hears("live", live)
		for i, how := range []string{"from the ring", "from the ring of another node", "from the log"} {
			w, err := openWire(t.Context(), dialTCP, l.nodes[i].addr(), "channel=c0", "Last-Event-ID: "+begin+"\r\n")
			if err != nil {
				t.Fatal(err)
			}
			hears(how, w)
			w.Close()
		}
		t.Logf("needle, %s: %d records, each one event, byte for byte, on 4 ways", mode, len(want))
	})
}

// A channel is heard by those who named it, to the byte, and by nobody else.
func TestStreamChannelsAreToldApart(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		l := newLab(t, 1, nil, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_ADMIN_TOKEN="+adminToken) // "*" is for those who show it
		names := []string{"posts", "Posts", "posts ", " posts", "post", "posts:", "fw:posts", "posts,a", "a", "a b", "a%20b", "a+b", "é", "e\u0301", "\u2028", "posts\u2028",
			"data: x", "id: 1-0", "event: reset", "{fw}", "{", "?", "[a]", "$", "..", "%", "%0a", `"`, `\`, "🦖", strings.Repeat("x", 255), strings.Repeat("x", 256)}
		wires := map[string]*wire{}
		for _, name := range names {
			w, err := openWire(t.Context(), dialTCP, l.nodes[0].addr(), "channel="+url.QueryEscape(name), "")
			if err != nil {
				t.Fatalf("channel %q: %v", name, err)
			}
			defer w.Close()
			if e, _, err := w.until(func(told) bool { return true }); err != nil || e.name != "ready" {
				t.Fatalf("channel %q: %q, %v", name, e.name, err)
			}
			wires[name] = w
		}
		for _, name := range names {
			data, _ := json.Marshal(map[string]string{"to": name})
			if _, err := l.log.AppendRaw(t.Context(), []string{name}, data); err != nil {
				t.Fatalf("channel %q: %v", name, err)
			}
		}
		if _, err := l.log.AppendRaw(t.Context(), names, []byte(`{"to":"end"}`)); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			for _, want := range []string{name, "end"} {
				e, _, err := wires[name].until(func(e told) bool { return e.name == "" })
				var got struct{ To string }
				if err != nil || json.Unmarshal(e.data, &got) != nil || got.To != want {
					t.Errorf("channel %q heard %.100q, %v; want what was told to %q", name, e.data, err, want)
				}
			}
		}
		refused := []string{"", "*", "a*", "a\nb", "a\rb", "a\x00b", "\x7f", "\xff", strings.Repeat("x", 257)}
		for _, name := range refused {
			if w, err := openWire(t.Context(), dialTCP, l.nodes[0].addr(), "channel="+url.QueryEscape(name), ""); err == nil {
				w.Close()
				t.Errorf("channel %.20q is a stream, want a refusal", name)
			}
		}
		t.Logf("channels, %s: %d told apart, %d refused", mode, len(names), len(refused))
	})
}

// What a CMS says goes through webhook, queue, log and stream, and each event
// is one frame; all that is written about it is one line a record, and what is
// cached under one name is not found under another.
func TestStreamOfStrangeDeliveriesIsWellFormed(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"path": r.URL.EscapedPath()})
	}))
	t.Cleanup(origin.Close)
	config := configFile(t, fmt.Sprintf(`
sources:
  cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: "sha256=", secret: %s, max_body: 1MiB, delivery_id_header: X-Delivery-Id }
rules:
  - on: ["*"]
    fields: { n: payload.data.n, title: payload.data.title }
    channels: ["all", "{payload.data.title}"]
    purge: { tags: ["posts", "title:{payload.data.title}"], keys: ["post:{payload.data.title}"] }
routes:
  - { path: "/api/posts/{id}", origin: "%s/posts/{id}", key: "post:{id}", tags: ["posts", "post:{id}"] }
`, secret, origin.URL))
	redisServer := testkit.StartServer(t)
	env := []string{"REDIS_URL=" + redisServer.URL(), "FRESHWIRE_CONFIG=" + config, "FRESHWIRE_ADMIN_TOKEN=" + adminToken, "FRESHWIRE_RATE_LIMIT=0", "LOG_LEVEL=debug"}
	p, text := start(t, "all", env...), start(t, "web", append(env, "LOG_FORMAT=text")...)
	w, err := openWire(t.Context(), dialTCP, p.addr(), "channel=all", "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if e, _, err := w.until(func(told) bool { return true }); err != nil || e.name != "ready" {
		t.Fatalf("%q, %v", e.name, err)
	}

	accepted, refused := map[int]string{}, 0
	for n, title := range threads(random, size(120, 1200)) {
		node := []*process{p, text}[n%2]
		data, _ := json.Marshal(map[string]any{"id": fmt.Sprint(n), "n": n, "title": title, "slug": title})
		body := fmt.Sprintf(`{"type":"post.updated","data":%s}`, data)
		switch status, _, answer := call(t, "POST", node.URL+"/webhooks/cms", body, "X-Webhook-Signature", sign(body), "X-Delivery-Id", fmt.Sprint(n)); status {
		case 200:
			var said struct{ Data struct{ Title string } }
			json.Unmarshal([]byte(body), &said) // broken UTF-8 is replaced before it is sent
			accepted[n] = said.Data.Title
		case 400:
			refused++
		default:
			t.Errorf("delivery of %.100q = %d %s", title, status, answer)
		}
		// Strangers' words where they are likely to be logged.
		quoted := url.QueryEscape(title[:min(len(title), 2000)])
		call(t, "POST", node.URL+"/webhooks/"+url.PathEscape(title[:min(len(title), 2000)]), body, "X-Webhook-Signature", quoted)
		call(t, "GET", node.URL+"/api/events?lastEventId="+quoted+"&channel="+url.QueryEscape("\n"+title[:min(len(title), 2000)]), "")
	}
	if len(accepted) < 20 || refused < 10 {
		t.Errorf("%d deliveries accepted and %d refused: nothing was tested", len(accepted), refused)
	}
	for left := len(accepted); left > 0; left-- {
		e, _, err := w.until(func(e told) bool { return e.name == "" })
		var got struct {
			Fields struct {
				N     int
				Title string
			}
		}
		if err != nil || json.Unmarshal(e.data, &got) != nil {
			t.Fatalf("%d of %d accepted deliveries did not arrive: %.100q, %v", left, len(accepted), e.data, err)
		}
		if title, ok := accepted[got.Fields.N]; !ok || title != got.Fields.Title {
			t.Errorf("delivery %d arrived with %.100q, want %.100q", got.Fields.N, got.Fields.Title, title)
		}
		delete(accepted, got.Fields.N)
	}

	cached := keysStayApart(t, p, random)
	p.kill()
	text.kill()
	records := 0
	for line := range strings.Lines(p.out.String()) {
		var record struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &record); err != nil || record.Time == "" || record.Msg == "" {
			t.Errorf("a line that is no record: %.200q", line)
		}
		records++
	}
	for line := range strings.Lines(text.out.String()) {
		if !strings.HasPrefix(line, "time=") || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\r\x00\x1b") {
			t.Errorf("a line that is no record: %.200q", line)
		}
		records++
	}
	t.Logf("needle: %d deliveries refused, the others one frame each; %d log records, one line each; %d cached addresses told apart", refused, records, cached)
}

// keysStayApart reads strange addresses twice, through the cache: each is
// answered with its own content. It returns how many.
func keysStayApart(t *testing.T, p *process, random *rand.Rand) (cached int) {
	want := map[string]string{}
	for _, id := range threads(random, 200) {
		if id = strings.ReplaceAll(id, "/", ""); id == "" || id == "." || id == ".." || len(id) > 500 {
			continue
		}
		target := p.URL + "/api/posts/" + url.PathEscape(id)
		if strings.Contains(want[target], "path") {
			continue
		}
		status, header, body := call(t, "GET", target, "")
		if status != 200 || header.Get("X-Cache") != "MISS" {
			if status == 200 {
				t.Errorf("first read of %q is a %s", id, header.Get("X-Cache"))
			}
			continue
		}
		want[target] = body
	}
	seen := map[string]string{}
	for target, body := range want {
		if other, ok := seen[body]; ok {
			t.Errorf("%q and %q share %q", target, other, body)
		}
		seen[body] = target
		if status, header, again := call(t, "GET", target, ""); status != 200 || again != body {
			t.Errorf("second read of %q = %d %s %q, want %q", target, status, header.Get("X-Cache"), again, body)
		}
	}
	if len(want) < 20 {
		t.Errorf("only %d addresses were answered", len(want))
	}
	return len(want)
}
