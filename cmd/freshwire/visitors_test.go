package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/freshwire/freshwire/internal/yamlfile"
	"github.com/freshwire/freshwire/session"
	"github.com/freshwire/freshwire/sse"
)

const visitorsYAML = `
channels:
  - { match: "user:{user}", session: true }
  - { match: members, session: true }
  - { match: "product:*", wildcard: true }
foreign:
  channels: [orders]
`

func TestMistakesInChannelsHaveTheirPlace(t *testing.T) {
	if _, err := parseSite("f", []byte(visitorsYAML)); err != nil {
		t.Fatal(err)
	}
	_, err := parseSite("f", []byte(`channels:
  - { match: "user:{user}", session: true }
  - match: "user:{id}"
    session: true
  - { match: "user:*", wildcard: true }
  - { match: "posts" }
  - { match: "x", sesion: true }
foreign:
  channels:
    - orders
    - "a*"
    - orders
`))
	var got []string
	for _, e := range yamlfile.Flatten(err) {
		got = append(got, e.Error())
	}
	for _, want := range []string{
		`f:3:12: channels[1].match: of names in braces there is {user} alone`,
		`f:5:14: channels[2].match: it covers channels that need a session, those of channels[0]`,
		`f:6:14: channels[3].match: the entry says nothing: give session: true or wildcard: true`,
		`f:7:19: channels[4]: unknown key "sesion"; did you mean "session"?`,
		`f:11:7: foreign.channels[1]: foreign: "a*" is no name`,
		`f:12:7: foreign.channels[2]: foreign: "orders" stands there twice`,
	} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("no mistake %q among\n%s", want, strings.Join(got, "\n"))
		}
	}
}

// visited is an app as far as it knows visitors, and cookies of its users.
func visited(t *testing.T) (a *app, server *testkit.Server, cookies map[string]string) {
	t.Helper()
	s, err := parseSite("f", []byte(visitorsYAML))
	if err != nil {
		t.Fatal(err)
	}
	server = testkit.StartServer(t)
	log := testkit.Logger(t)
	a = &app{site: s, log: log, guard: admin.NewGuard("s3cret"), visits: session.New(server.Client(t), log, session.Config{})}
	cookies = map[string]string{"": ""}
	h := session.NewHandler(a.visits, func(h http.Handler) http.Handler { return h }, log)
	for _, user := range []string{"a", "b"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", session.Path, strings.NewReader(`{"userId":"`+user+`"}`)))
		cookies[user], _, _ = strings.Cut(w.Header().Get("Set-Cookie"), ";")
	}
	return a, server, cookies
}

func TestWhoMayEnterTheStream(t *testing.T) {
	a, server, cookies := visited(t)
	enter := func(user string, channels ...string) (sse.Listener, error) {
		r := httptest.NewRequest("GET", streamPath, nil)
		r.Header.Set("Cookie", cookies[user])
		return a.enter(r, channels)
	}
	for _, tc := range []struct {
		user     string
		channels string
		want     error
		session  bool
	}{
		{"", "posts product:*", nil, false},
		{"a", "posts product:*", nil, false},
		{"a", "user:a", nil, true},
		{"a", "posts user:a members", nil, true},
		{"b", "members", nil, true},
		{"", "user:a", sse.ErrForbidden, false},
		{"", "members", sse.ErrForbidden, false},
		{"a", "user:b", sse.ErrForbidden, false},
		{"a", "user:nobody", sse.ErrForbidden, false},
		{"a", "user:a user:b", sse.ErrForbidden, false},
	} {
		who, err := enter(tc.user, strings.Fields(tc.channels)...)
		if !errors.Is(err, tc.want) || (who.Session != "") != tc.session || strings.Contains(cookies[tc.user], who.Session) && who.Session != "" {
			t.Errorf("%q enters %s as %+v, %v, want %v", tc.user, tc.channels, who, err, tc.want)
		}
	}
	operator := httptest.NewRequest("GET", streamPath, nil)
	operator.Header.Set("Authorization", "Bearer s3cret")
	if _, err := a.enter(operator, []string{"user:a"}); err != nil {
		t.Errorf("an operator, who may hear all at once: %v", err)
	}
	operator.Header.Set("Authorization", "Bearer no")
	if _, err := a.enter(operator, []string{"user:a"}); !errors.Is(err, sse.ErrForbidden) {
		t.Errorf("no operator: %v", err)
	}

	server.Kill()
	if _, err := enter("a", "posts", "product:*"); err != nil {
		t.Errorf("public channels depend on Redis: %v", err)
	}
	if _, err := enter("", "user:a"); !errors.Is(err, sse.ErrForbidden) {
		t.Errorf("who shows nothing is looked up: %v", err)
	}
	if _, err := enter("a", "user:a"); err == nil || errors.Is(err, sse.ErrForbidden) {
		t.Errorf("Redis is away: %v, want an error other than ErrForbidden", err)
	}
	if user, err := a.user(&http.Request{Header: http.Header{"Cookie": {cookies["a"]}}}, nil); err == nil {
		t.Errorf("Redis is away: a is taken for %q", user)
	}
}

func TestStreamRenewsTheCookie(t *testing.T) {
	a, _, cookies := visited(t)
	h := withAnswer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.enter(r, []string{r.URL.Query().Get("channel")}) }))
	for channel, want := range map[string]bool{"posts": false, "user:a": true, "user:nobody": true} {
		r := httptest.NewRequest("GET", streamPath+"?channel="+channel, nil)
		r.Header.Set("Cookie", cookies["a"])
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := strings.HasPrefix(w.Header().Get("Set-Cookie"), cookies["a"]+";"); got != want {
			t.Errorf("%s: Set-Cookie %q, want it: %v", channel, w.Header()["Set-Cookie"], want)
		}
	}
}

// A stream that is let in just before its session ends, and joins just after, is
// closed all the same.
func TestSessionEndsForStreamsThatAreAboutToJoin(t *testing.T) {
	for name, sink := range map[string]func(*sse.Hub) interface{ Broadcast([]event.Record) }{
		"as it is":     func(h *sse.Hub) interface{ Broadcast([]event.Record) } { return sessionEnds{h} },
		"told at once": func(h *sse.Hub) interface{ Broadcast([]event.Record) } { return h },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := sse.NewHub(testkit.Logger(t), sse.Config{})
				hub.Reset("history_lost", event.Position{Ms: 1})
				entered, ended := make(chan struct{}), make(chan struct{})
				h := sse.NewHandler(hub, nil, testkit.Logger(t), sse.Config{Enter: func(*http.Request, []string) (sse.Listener, error) {
					close(entered)
					<-ended
					return sse.Listener{Session: "s"}, nil
				}})
				w, gone := httptest.NewRecorder(), make(chan struct{})
				go func() {
					defer close(gone)
					h.ServeHTTP(streaming{w}, httptest.NewRequest("GET", streamPath+"?channel=user:a", nil).WithContext(t.Context()))
				}()
				<-entered
				sink(hub).Broadcast([]event.Record{{Position: event.Position{Ms: 2}, EndsSession: "s"}})
				close(ended)
				time.Sleep(letInTime + time.Second) // of the bubble
				synctest.Wait()
				select {
				case <-gone:
					if name != "as it is" || !strings.Contains(w.Body.String(), `"reason":"session"`) {
						t.Errorf("the stream ended with %q", w.Body)
					}
				default:
					if name == "as it is" {
						t.Error("the stream outlives its session")
					}
				}
			})
		})
	}
}

// streaming is a recorder that has deadlines, as a stream needs.
type streaming struct{ *httptest.ResponseRecorder }

func (streaming) SetWriteDeadline(time.Time) error { return nil }
func (streaming) SetReadDeadline(time.Time) error  { return nil }
func (streaming) FlushError() error                { return nil }

func TestStreamsAreAskedAgainBeforeTheirSessionCouldExpire(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{24 * time.Hour: time.Hour, 10 * time.Minute: 5 * time.Minute} {
		s, err := newStore("")
		if err != nil {
			t.Fatal(err)
		}
		a, _, _ := visited(t)
		a.store, a.reg, a.changes = s, prometheus.NewRegistry(), feed.New(nil, a.log, feed.Config{})
		a.configs.Session.TTL, a.configs.SSE.MaxStreamAge = ttl, time.Hour
		a.newSessions()
		if got := a.configs.SSE.MaxStreamAge; got != want {
			t.Errorf("sessions of %v: streams of %v, want %v", ttl, got, want)
		}
		a.close()
	}
}
