package session

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/internal/testkit"
)

const (
	token   = "operator-token-for-tests"
	partner = "https://app.example.com"
)

func testHandler(t testing.TB, cfg Config) (http.Handler, *Store) {
	t.Helper()
	cfg.CORSOrigins = []string{partner}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := New(testkit.Redis(t), testkit.Logger(t), cfg)
	return NewHandler(s, admin.NewGuard(token).Protect, testkit.Logger(t)), s
}

// ask sends a request with headers in pairs.
func ask(h http.Handler, method, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://api.example.com"+Path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// signIn makes a session and returns its cookie as a browser sends it.
func signIn(t testing.TB, h http.Handler, user string) (cookie string) {
	t.Helper()
	w := ask(h, "POST", user, "Authorization", "Bearer "+token)
	if w.Code != 200 {
		t.Fatalf("POST %s = %d %s", user, w.Code, w.Body)
	}
	cookie, _, _ = strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return cookie
}

func TestBackEndMakesBrowserAsksAndEnds(t *testing.T) {
	h, _ := testHandler(t, Config{Secure: true})
	w := ask(h, "POST", `{"userId":"42","email":"a@example.com"}`, "Authorization", "Bearer "+token)
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"success":true}` {
		t.Fatalf("POST = %d %s", w.Code, w.Body)
	}
	set := w.Header().Get("Set-Cookie")
	cookie, attributes, _ := strings.Cut(set, ";")
	if attributes != " Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax" || len(cookie) != len("session_id=")+43 {
		t.Errorf("Set-Cookie: %s", set)
	}

	before := time.Now().UnixMilli()
	w = ask(h, "GET", "", "Cookie", cookie)
	var got struct {
		User struct {
			UserID, Email string
			CreatedAt     int64
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || got.User.UserID != "42" || got.User.Email != "a@example.com" ||
		got.User.CreatedAt < before-60_000 || got.User.CreatedAt > before {
		t.Errorf("GET = %d %s", w.Code, w.Body)
	}
	if w.Header().Get("Set-Cookie") != set {
		t.Errorf("GET renews the cookie as %q, want %q", w.Header().Get("Set-Cookie"), set)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Error("who somebody is may be kept by caches")
	}

	w = ask(h, "DELETE", "", "Cookie", cookie)
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"success":true}` {
		t.Errorf("DELETE = %d %s", w.Code, w.Body)
	}
	if set := w.Header().Get("Set-Cookie"); set != "session_id=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax" {
		t.Errorf("DELETE: Set-Cookie: %s", set)
	}
	for name, cookie := range map[string]string{"ended": cookie, "none": "", "made up": "session_id=" + strings.Repeat("x", 43)} {
		w = ask(h, "GET", "", "Cookie", cookie)
		if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"user":null}` || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: GET = %d %s", name, w.Code, w.Body)
		}
		if w = ask(h, "DELETE", "", "Cookie", cookie); w.Code != 200 {
			t.Errorf("%s: DELETE = %d", name, w.Code)
		}
	}
}

func TestSessionsAreMadeByOperatorsAlone(t *testing.T) {
	h, s := testHandler(t, Config{})
	cookie := signIn(t, h, `{"userId":"42"}`)
	for name, tc := range map[string]struct {
		headers []string
		want    int
	}{
		"nobody":                      {nil, 401},
		"a wrong token":               {[]string{"Authorization", "Bearer x"}, 401},
		"a visitor":                   {[]string{"Cookie", cookie}, 401},
		"a page elsewhere":            {[]string{"Authorization", "Bearer " + token, "Sec-Fetch-Site", "cross-site"}, 403},
		"a page of a partner":         {[]string{"Authorization", "Bearer " + token, "Sec-Fetch-Site", "same-site", "Origin", partner}, 403},
		"a page elsewhere, unknowing": {[]string{"Origin", "https://evil.example"}, 403},
	} {
		w := ask(h, "POST", `{"userId":"1"}`, tc.headers...)
		if w.Code != tc.want || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: POST = %d %s, want %d without a cookie", name, w.Code, w.Header(), tc.want)
		}
	}
	if keys := s.rdb.Keys(t.Context(), "*").Val(); len(keys) != 1 {
		t.Errorf("%d sessions, want one", len(keys))
	}
}

func TestBodyThatIsNoUserIsRefused(t *testing.T) {
	h, s := testHandler(t, Config{})
	for _, body := range []string{
		``, `null`, `[]`, `"xxx"`, `{}`, `{"userid":"xxx"}`, `{"userId":""}`, `{"userId":null}`, `{"userId":true}`, `{"userId":["xxx"]}`, `{"userId":{"xxx":1}}`,
		`{"userId":1.0}`, `{"userId":1e3}`, `{"userId":-0}`, `{"userId":12345678901234567890}`,
		`{"userId":"xxx"}{"userId":"y"}`, `{"userId":"xxx"} y`, `{"userId":"xxx`,
		`{"userId":" xxx"}`, `{"userId":"xxx "}`, `{"userId":"xxx\n"}`, `{"userId":"x\u0000x"}`, `{"userId":"\ud800xxx"}`, "{\"userId\":\"xxx\xff\"}",
		`{"userId":"` + strings.Repeat("x", 201) + `"}`,
	} {
		w := ask(h, "POST", body, "Authorization", "Bearer "+token)
		if w.Code != 400 || w.Header().Get("Content-Type") != "application/problem+json" || strings.Contains(w.Body.String(), "xxx") {
			t.Errorf("POST %.60q = %d %s, want 400 that repeats nothing", body, w.Code, w.Body)
		}
	}
	if w := ask(h, "POST", `{"userId":"1","bio":"`+strings.Repeat("x", maxUser)+`"}`, "Authorization", "Bearer "+token); w.Code != 413 {
		t.Errorf("POST of %d bytes = %d, want 413", maxUser+22, w.Code)
	}
	if keys := s.rdb.Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("%d sessions, want none", len(keys))
	}
	for _, body := range []string{`{"userId":42}`, `{"userId":-7}`, `{"userId":"*"}`, `{"userId":"é ü"}`, `{"userId":"1","bio":"` + strings.Repeat("<", maxUser-30) + `"}`} {
		cookie := signIn(t, h, body)
		if w := ask(h, "GET", "", "Cookie", cookie); w.Code != 200 || !json.Valid(w.Body.Bytes()) || strings.Contains(w.Body.String(), "null") {
			t.Errorf("after POST %.60s: GET = %d %.200s", body, w.Code, w.Body)
		}
	}
}

func TestPagesOfOtherSitesEndNothingAndReadNothing(t *testing.T) {
	h, _ := testHandler(t, Config{})
	for _, tc := range []struct {
		name    string
		headers []string
		ends    bool
		reads   string // Access-Control-Allow-Origin
	}{
		{"our own page", []string{"Sec-Fetch-Site", "same-origin"}, true, ""},
		{"curl", nil, true, ""},
		{"a partner's page", []string{"Sec-Fetch-Site", "same-site", "Origin", partner}, true, partner},
		{"a partner's page, old browser", []string{"Origin", partner}, true, partner},
		{"a page elsewhere", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, false, ""},
		{"a neighbour's page", []string{"Sec-Fetch-Site", "same-site", "Origin", "https://other.example.com"}, false, ""},
		{"the partner's name within another", []string{"Sec-Fetch-Site", "cross-site", "Origin", partner + ".evil.example"}, false, ""},
		{"nowhere", []string{"Sec-Fetch-Site", "cross-site", "Origin", "null"}, false, ""},
		{"two origins", []string{"Origin", "https://evil.example", "Origin", partner}, false, ""},
	} {
		cookie := signIn(t, h, `{"userId":"42"}`)
		w := ask(h, "DELETE", "", append([]string{"Cookie", cookie}, tc.headers...)...)
		if want := map[bool]int{true: 200, false: 403}[tc.ends]; w.Code != want {
			t.Errorf("%s: DELETE = %d, want %d", tc.name, w.Code, want)
		}
		left := !strings.Contains(ask(h, "GET", "", "Cookie", cookie).Body.String(), "null")
		if left == tc.ends {
			t.Errorf("%s: the session lives: %v", tc.name, left)
		}
		for _, method := range []string{"GET", "DELETE", "OPTIONS", "PUT"} {
			w := ask(h, method, "", tc.headers...)
			credentials := map[bool]string{true: "true", false: ""}[tc.reads != ""]
			if h := w.Header(); h.Get("Access-Control-Allow-Origin") != tc.reads || h.Get("Access-Control-Allow-Credentials") != credentials || h.Get("Vary") != "Origin" {
				t.Errorf("%s: %s has %v", tc.name, method, h)
			}
		}
	}
	w := ask(h, "OPTIONS", "", "Origin", partner, "Access-Control-Request-Method", "DELETE")
	if w.Code != 204 || w.Header().Get("Access-Control-Allow-Methods") != "GET, HEAD, DELETE" {
		t.Errorf("preflight = %d %v", w.Code, w.Header())
	}
	w = ask(h, "OPTIONS", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "DELETE")
	if w.Header().Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("preflight of another origin: %v", w.Header())
	}
	if w = ask(h, "PUT", ""); w.Code != 405 || w.Header().Get("Allow") == "" {
		t.Errorf("PUT = %d", w.Code)
	}
}

func TestStoreThatIsAwayIsAProblemAndNeverNobody(t *testing.T) {
	h, s := testHandler(t, Config{})
	cookie := signIn(t, h, `{"userId":"42"}`)
	s.rdb.Close()
	for _, method := range []string{"GET", "DELETE", "POST"} {
		w := ask(h, method, `{"userId":"42"}`, "Cookie", cookie, "Authorization", "Bearer "+token)
		if w.Code != 503 || w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("Retry-After") == "" || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s = %d %v %s, want 503 that leaves the cookie", method, w.Code, w.Header(), w.Body)
		}
	}
	if w := ask(h, "GET", ""); w.Code != 200 {
		t.Errorf("GET without a cookie = %d: nobody has to be asked about nobody", w.Code)
	}
}

// Whatever a back end sends: an error, or a user who is read back as the same.
func FuzzUser(f *testing.F) {
	for _, s := range []string{`{"userId":"42","email":"a@example.com"}`, `{"userId":42}`, `{"userId":"<\u2028\"*{user}","x":[{"userId":1}]}`, `{"userId":"a","userId":"b"}`, `{"userId":"\ud83d\ude00"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		u, err := ParseUser(text, time.UnixMilli(1))
		if err != nil {
			return
		}
		again, err := storedUser(u.json)
		if err != nil || again.ID != u.ID || u.ID == "" || len(u.ID) > maxUserID || strings.ContainsAny(u.ID, "\r\n\x00") || u.ID != strings.Trim(u.ID, " ") {
			t.Errorf("ParseUser(%q) = %q, read back as %q, %v", text, u.ID, again.ID, err)
		}
		var whole struct{ User map[string]any }
		if err := json.Unmarshal([]byte(`{"user":`+string(u.json)+`}`), &whole); err != nil || whole.User["createdAt"] != 1.0 {
			t.Errorf("ParseUser(%q) makes %q: %v", text, u.json, err)
		}
	})
}
