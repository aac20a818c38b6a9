package read

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

const testSecret = "a-long-revalidation-secret"

// purged is what a Revalidate asked to purge.
type purged struct {
	tags, paths []string
	event       string
}

func revalidate(t *testing.T, secret string, fail error, r *http.Request) (*httptest.ResponseRecorder, []purged) {
	t.Helper()
	var got []purged
	h := NewRevalidate(secret, func(_ context.Context, tags, paths []string, event string) error {
		got = append(got, purged{tags, paths, event})
		return fail
	}, testkit.Logger(t), nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w, got
}

func call(body string) *http.Request {
	return httptest.NewRequest("POST", "/api/revalidate", strings.NewReader(body))
}

func TestRevalidatePurgesWhatItIsTold(t *testing.T) {
	secret := `"secret":"` + testSecret + `"`
	for body, want := range map[string]*purged{
		`{` + secret + `,"tag":"posts"}`:                                                   {tags: []string{"posts"}},
		`{` + secret + `,"path":"/blog/a"}`:                                                {tags: []string{":blog:a"}, paths: []string{"/blog/a"}},
		`{` + secret + `,"path":"/","tag":"posts"}`:                                        {tags: []string{"posts", ":"}, paths: []string{"/"}},
		`{` + secret + `,"paths":["/a","/b/*"],"tags":["x","y"],"tag":"z"}`:                {tags: []string{"x", "y", "z", ":a", ":b:*"}, paths: []string{"/a", "/b/*"}},
		`{` + secret + `,"tag":null,"path":"","more":1}`:                                   nil,
		`{` + secret + `}`:                                                                 nil,
		`{` + secret + `,"tags":["` + strings.Repeat(`x","`, maxRevalidateTags-1) + `x"]}`: {tags: repeat("x", maxRevalidateTags)},
	} {
		w, got := revalidate(t, testSecret, nil, call(body))
		if w.Code != 200 {
			t.Errorf("%.80s: status %d, body %s", body, w.Code, w.Body)
			continue
		}
		var answer struct {
			Revalidated bool
			Now         int64
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || !answer.Revalidated || answer.Now < 1e12 {
			t.Errorf("%.80s: answered %s", body, w.Body)
		}
		switch {
		case want == nil && len(got) != 0:
			t.Errorf("%.80s: purged %v, want nothing", body, got)
		case want != nil && (len(got) != 1 || !reflect.DeepEqual(got[0], *want)):
			t.Errorf("%.80s: purged %v, want %v", body, got, *want)
		}
	}
}

func repeat(s string, n int) []string { return strings.Split(strings.Repeat(s+",", n-1)+s, ",") }

func TestRevalidateRefuses(t *testing.T) {
	secret := `"secret":"` + testSecret + `"`
	for name, tc := range map[string]struct {
		configured string
		r          *http.Request
		status     int
		body       string
	}{
		"no secret configured":      {"", call(`{"secret":"","tag":"a"}`), 404, ""},
		"wrong secret":              {testSecret, call(`{"secret":"guess","tag":"a"}`), 401, `{"error":"Invalid secret"}`},
		"no secret":                 {testSecret, call(`{"tag":"a"}`), 401, `{"error":"Invalid secret"}`},
		"longer secret":             {testSecret, call(`{"secret":"` + testSecret + `x","tag":"a"}`), 401, `{"error":"Invalid secret"}`},
		"secret in another case":    {testSecret, call(`{"secret":"` + strings.ToUpper(testSecret) + `","tag":"a"}`), 401, `{"error":"Invalid secret"}`},
		"secret that is a number":   {testSecret, call(`{"secret":1,"tag":"a"}`), 401, `{"error":"Invalid secret"}`},
		"GET":                       {testSecret, httptest.NewRequest("GET", "/api/revalidate", nil), 405, ""},
		"no JSON":                   {testSecret, call(`tag=a`), 400, ""},
		"nothing":                   {testSecret, call(``), 400, ""},
		"a list":                    {testSecret, call(`[]`), 400, ""},
		"two values":                {testSecret, call(`{` + secret + `}{}`), 400, ""},
		"tag that is a list":        {testSecret, call(`{` + secret + `,"tag":["a"]}`), 400, ""},
		"path without slash":        {testSecret, call(`{` + secret + `,"path":"blog"}`), 400, ""},
		"path with a newline":       {testSecret, call(`{` + secret + `,"path":"/a\nb"}`), 400, ""},
		"tag with a zero":           {testSecret, call(`{` + secret + `,"tag":"a\u0000"}`), 400, ""},
		"tag too long":              {testSecret, call(`{` + secret + `,"tag":"` + strings.Repeat("x", maxRevalidateText+1) + `"}`), 400, ""},
		"too many tags":             {testSecret, call(`{` + secret + `,"tags":["` + strings.Repeat(`x","`, maxRevalidateTags) + `x"]}`), 400, ""},
		"too many paths":            {testSecret, call(`{` + secret + `,"paths":["` + strings.Repeat(`/x","`, maxRevalidatePath) + `/x"]}`), 400, ""},
		"body too large":            {testSecret, call(`{` + secret + `,"tag":"` + strings.Repeat("x", maxRevalidateBody) + `"}`), 413, ""},
		"nesting that goes too far": {testSecret, call(`{"secret":` + strings.Repeat("[", 20000)), 400, ""},
	} {
		w, got := revalidate(t, tc.configured, nil, tc.r)
		if w.Code != tc.status || len(got) != 0 {
			t.Errorf("%s: status %d and purged %v, want %d and nothing", name, w.Code, got, tc.status)
		}
		if tc.body != "" && w.Body.String() != tc.body {
			t.Errorf("%s: answered %s, want %s", name, w.Body, tc.body)
		}
		if tc.body == "" && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: Content-Type %q, want a problem", name, w.Header().Get("Content-Type"))
		}
		if strings.Contains(w.Body.String(), testSecret) || strings.Contains(w.Body.String(), "guess") {
			t.Errorf("%s: the answer echoes a secret: %s", name, w.Body)
		}
	}
}

func TestRevalidateSaysWhetherTryingAgainHelps(t *testing.T) {
	body := `{"secret":"` + testSecret + `","tag":"a"}`
	for _, tc := range []struct {
		err    error
		status int
		retry  string
	}{
		{errors.New("bad script"), 500, ""},
		{fmt.Errorf("purging: %w", ErrAway), 503, "2"},
		{context.DeadlineExceeded, 503, "2"},
	} {
		w, _ := revalidate(t, testSecret, tc.err, call(body))
		if w.Code != tc.status || w.Header().Get("Retry-After") != tc.retry || w.Body.String() != `{"error":"Revalidation failed"}` {
			t.Errorf("%v: %d, Retry-After %q, %s", tc.err, w.Code, w.Header().Get("Retry-After"), w.Body)
		}
	}
}

func TestRevalidatePassesOnTheEventThatItActsFor(t *testing.T) {
	for header, want := range map[string]string{
		"abcdefghijklmnopqrstuvwxyz": "abcdefghijklmnopqrstuvwxyz",
		"":                           "",
		"a b":                        "",
		strings.Repeat("x", 65):      "",
	} {
		r := call(`{"secret":"` + testSecret + `","tag":"a"}`)
		r.Header.Set("Freshwire-Event", header)
		_, got := revalidate(t, testSecret, nil, r)
		if len(got) != 1 || got[0].event != want {
			t.Errorf("Freshwire-Event %q: purged %v, want the event %q", header, got, want)
		}
	}
}
