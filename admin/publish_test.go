package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestPublishRefusesWhatItCannotRead(t *testing.T) {
	type news struct{ channels, data string }
	var published []news
	h := NewPublishHandler(func(_ context.Context, channels []string, data []byte) (string, error) {
		published = append(published, news{strings.Join(channels, ","), string(data)})
		return "1795176000123-0", nil
	}, testkit.Logger(t))
	names := func(n int) string { return strings.Repeat(`"a",`, n-1) + `"a"` }
	for _, tc := range []struct {
		body string
		want int
		says string
	}{
		{`{"channels":["a","user:1"],"data":{"x":1}}`, 200, `{"id":"1795176000123-0"}`},
		{"{\"channels\":[\"a\"],\n\"data\":{\n \"x\": \"<&>\\n\" }}\n", 200, `{"id":"1795176000123-0"}`},
		{`{"channels":[` + names(64) + `],"data":{}}`, 200, "id"},
		{`{"channels":[` + names(65) + `],"data":{}}`, 400, "65 names"},
		{`{"channels":[],"data":{}}`, 400, "channels is missing"},
		{`{"data":{}}`, 400, "channels is missing"},
		{`{"channels":["a"]}`, 400, "data is missing"},
		{`{"channels":["a"],"data":null}`, 400, "no JSON object"},
		{`{"channels":["a"],"data":["xxx"]}`, 400, "no JSON object"},
		{`{"channels":["a"],"data":"xxx"}`, 400, "no JSON object"},
		{`{"channels":"xxx","data":{}}`, 400, "one JSON object"},
		{`{"channel":["xxx"],"data":{}}`, 400, "one JSON object"},
		{`{"channels":["a"],"data":{}} {}`, 400, "more than one"},
		{`{"channels":["a"],"data":{"xxx`, 400, "one JSON object"},
		{"{\"channels\":[\"a\"],\"data\":{\"x\":\"xxx\xff\"}}", 400, "no UTF-8"},
		{``, 400, "one JSON object"},
		{`{"channels":["a"],"data":{"x":"` + strings.Repeat("x", maxPublishBody) + `"}}`, 400, "longer than"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/admin/publish", strings.NewReader(tc.body)))
		if w.Code != tc.want || !strings.Contains(w.Body.String(), tc.says) || strings.Contains(w.Body.String(), "xxx") {
			t.Errorf("publishing %.60q = %d %s, want %d and %s", tc.body, w.Code, w.Body, tc.want, tc.says)
		}
	}
	if want := []news{{"a,user:1", `{"x":1}`}, {"a", `{"x":"<&>\n"}`}}; len(published) != 3 || !slices.Equal(published[:2], want) {
		t.Errorf("published %q, want %q and one more", published, want)
	}
}

func TestPublishTellsWhatCannotBe(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want int
		says string
	}{
		{fmt.Errorf("%w: a bad name", ErrPublish), 400, `published: a bad name."`},
		{errors.New("secret detail"), 503, "Redis"},
	} {
		h := NewPublishHandler(func(context.Context, []string, []byte) (string, error) { return "", tc.err }, testkit.Logger(t))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/admin/publish", strings.NewReader(`{"channels":["a"],"data":{}}`)))
		if w.Code != tc.want || !strings.Contains(w.Body.String(), tc.says) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v: %d %s, want %d and %s", tc.err, w.Code, w.Body, tc.want, tc.says)
		}
	}
}
