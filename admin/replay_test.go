package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestReplayRefusesWhatItCannotRead(t *testing.T) {
	var asked []Replay
	h := NewReplayHandler(func(_ context.Context, r Replay) (Replayed, error) {
		asked = append(asked, r)
		return Replayed{Queued: 3}, nil
	}, testkit.Logger(t))
	ids := func(n int) string { return `{"ids":["` + strings.Repeat(`a","`, n-1) + `a"]}` }
	taken := 0
	for _, tc := range []struct {
		body string
		want int
	}{
		{`{"ids":["abc","x_-9"]}`, 200},
		{`{"since":"1h"}`, 200},
		{`{"since":"2026-01-02T03:04:05Z","status":"failed"}`, 200},
		{`{"status":"done"}`, 200},
		{ids(maxReplayIDs), 200},
		{ids(maxReplayIDs + 1), 400},
		{``, 400},
		{`{}`, 400},
		{`{"ids":[]}`, 400},
		{`{"ids":"abc"}`, 400},
		{`{"ids":["xxx*"]}`, 400},
		{`{"ids":[""]}`, 400},
		{`{"ids":["` + strings.Repeat("x", 65) + `"]}`, 400},
		{`{"id":["abc"]}`, 400},
		{`{"ids":["abc"]} {}`, 400},
		{`{"status":"xxxed"}`, 400},
		{`{"since":"xxx"}`, 400},
		{`{"since":"-1h"}`, 400},
		{`{"since":"0s"}`, 400},
		{`{"since":"2999-01-02T03:04:05Z"}`, 400},
		{`{"ids":["` + strings.Repeat("x", maxReplayBody) + `"]}`, 400},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/admin/replay", strings.NewReader(tc.body)))
		if w.Code != tc.want {
			t.Errorf("replay of %.60s = %d %s, want %d", tc.body, w.Code, w.Body, tc.want)
		}
		if tc.want == 200 {
			if taken++; strings.TrimSpace(w.Body.String()) != `{"queued":3}` {
				t.Errorf("replay of %.60s answers %s", tc.body, w.Body)
			}
		}
		if strings.Contains(w.Body.String(), "xxx") {
			t.Errorf("the answer to %.60s repeats the body: %s", tc.body, w.Body)
		}
	}
	if len(asked) != taken {
		t.Fatalf("asked %d times, want %d", len(asked), taken)
	}
	if got := time.Since(asked[1].Since); got < time.Hour || got > time.Hour+time.Minute {
		t.Errorf("since 1h means %v ago", got)
	}
	if want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC); !asked[2].Since.Equal(want) || asked[2].Status != "failed" {
		t.Errorf("asked for %+v, want failed ones since %v", asked[2], want)
	}
}

func TestReplayTellsWhatItCouldNotDo(t *testing.T) {
	for _, tc := range []struct {
		name string
		done Replayed
		err  error
		want int
		says string
	}{
		{"some are unknown", Replayed{Queued: 1, Unknown: []string{"gone"}}, nil, 200, `{"queued":1,"unknown":["gone"]}`},
		{"all are unknown", Replayed{Unknown: []string{"gone"}}, nil, 404, "gone"},
		{"none fits", Replayed{}, nil, 200, `{"queued":0}`},
		{"too many wait", Replayed{Queued: 7}, fmt.Errorf("%w: full", ErrBusy), 503, "7 were queued"},
		{"Redis is away", Replayed{}, errors.New("secret detail"), 503, "Redis"},
	} {
		h := NewReplayHandler(func(context.Context, Replay) (Replayed, error) { return tc.done, tc.err }, testkit.Logger(t))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/admin/replay", strings.NewReader(`{"status":"failed"}`)))
		if w.Code != tc.want || !strings.Contains(w.Body.String(), tc.says) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %s, want %d and %s", tc.name, w.Code, w.Body, tc.want, tc.says)
		}
		if tc.want == 503 && w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", tc.name)
		}
	}
}
