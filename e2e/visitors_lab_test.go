package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

const visitorsConfig = `
channels:
  - { match: "user:{user}", session: true }
  - { match: members, session: true }
  - { match: "product:*", wildcard: true }
foreign:
  channels: [orders, "user:a"]
`

// premises are a web and a stream process over one Redis, and a way in.
type premises struct {
	t        *testing.T
	redis    *testkit.Server
	web, sse *process
}

func newPremises(t *testing.T, config string, env ...string) *premises {
	t.Helper()
	p := &premises{t: t, redis: testkit.StartServer(t)}
	env = append([]string{"REDIS_URL=" + p.redis.URL(), "FRESHWIRE_CONFIG=" + configFile(t, config), "FRESHWIRE_ADMIN_TOKEN=" + adminToken,
		"FRESHWIRE_RATE_LIMIT=0", "FRESHWIRE_CORS_ORIGINS=https://app.example.com"}, env...)
	p.web, p.sse = start(t, "web", env...), start(t, "sse", env...)
	return p
}

// signIn makes a session as a back end does, and returns the browser's cookie.
func (p *premises) signIn(user string) (cookie string) {
	p.t.Helper()
	status, header, body := call(p.t, "POST", p.web.URL+"/api/auth/session", `{"userId":"`+user+`","email":"x@example.com"}`, "Authorization", "Bearer "+adminToken)
	if status != 200 || body != "{\"success\":true}\n" {
		p.t.Fatalf("POST /api/auth/session = %d %s", status, body)
	}
	cookie, attributes, _ := strings.Cut(header.Get("Set-Cookie"), ";")
	if attributes != " Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax" {
		p.t.Fatalf("Set-Cookie: %s", header.Get("Set-Cookie"))
	}
	return cookie
}

// publish tells channels something as an application does, and returns its position.
func (p *premises) publish(text string, channels ...string) (id string) {
	p.t.Helper()
	body, _ := json.Marshal(map[string]any{"channels": channels, "data": map[string]string{"text": text}})
	status, _, answer := call(p.t, "POST", p.web.URL+"/admin/publish", string(body), "Authorization", "Bearer "+adminToken)
	var out struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &out); status != 200 || err != nil || out.ID == "" {
		p.t.Fatalf("POST /admin/publish = %d %s", status, answer)
	}
	return out.ID
}

// listener is one open stream.
type listener struct {
	t      *testing.T
	header http.Header
	frames chan frame
	over   chan error // what ended it: nil when the server closed it
}

// listen opens a stream. The status is not 200 when it is refused.
func (p *premises) listen(node *process, cookie, query string, headers ...string) (*listener, int) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", node.URL+"/api/events?"+query, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		resp.Body.Close()
		return nil, resp.StatusCode
	}
	l := &listener{t: p.t, header: resp.Header, frames: make(chan frame, 1000), over: make(chan error, 1)}
	go func() {
		defer resp.Body.Close()
		l.over <- readFrames(ctx, resp.Body, l.frames)
	}()
	return l, 200
}

// opened is listen that must go well; the stream is ready.
func (p *premises) opened(node *process, cookie, query string, headers ...string) *listener {
	p.t.Helper()
	l, status := p.listen(node, cookie, query, headers...)
	if status != 200 {
		p.t.Fatalf("stream of %s with %.20q = %d", query, cookie, status)
	}
	l.await("ready")
	return l
}

// next returns the next frame besides pings.
func (l *listener) next() frame {
	l.t.Helper()
	for range 3 { // pings alone for so long: nothing comes
		if f := testkit.Wait(l.t, l.frames, "a frame"); f.event != "ping" {
			return f
		}
	}
	l.t.Fatal("nothing but pings")
	panic("unreachable")
}

// await returns the next frame, which must be of that event.
func (l *listener) await(event string) frame {
	l.t.Helper()
	f := l.next()
	if f.event != event {
		l.t.Fatalf("a frame %+v, want event %q", f, event)
	}
	return f
}

// hears returns the texts that come up to one that says end.
func (l *listener) hears(end string) (texts []string) {
	l.t.Helper()
	for {
		var data struct{ Text string }
		f := l.await("")
		if err := json.Unmarshal([]byte(f.data), &data); err != nil {
			l.t.Fatalf("frame %+v: %v", f, err)
		}
		if data.Text == end {
			return texts
		}
		texts = append(texts, data.Text)
	}
}
