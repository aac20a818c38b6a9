package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/freshwire/freshwire/admin"
)

func TestReplayCommandAsksForWhatItWasTold(t *testing.T) {
	t.Setenv("FRESHWIRE_ADMIN_TOKEN", "s3cret")
	var asked map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.URL.Path != "/admin/replay" || r.Header.Get("Authorization") != "Bearer s3cret" {
			t.Errorf("asked %s %s", r.Method, r.URL.Path)
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		done := admin.Replayed{Queued: 2}
		if ids, _ := asked["ids"].([]any); len(ids) == 3 {
			done.Unknown = []string{"c"}
		}
		json.NewEncoder(w).Encode(done)
	}))
	defer server.Close()
	type body = map[string]any
	for _, tc := range []struct {
		args  []string
		want  body // nil: nothing is asked
		out   string
		usage bool
		fails bool
	}{
		{[]string{"a", "b"}, body{"ids": []any{"a", "b"}}, "2 queued\n", false, false},
		{[]string{"a", "b", "c"}, body{"ids": []any{"a", "b", "c"}}, "2 queued\n", false, true},
		{[]string{"--failed"}, body{"status": "failed"}, "2 queued\n", false, false},
		{[]string{"--since", "1h"}, body{"since": "1h"}, "2 queued\n", false, false},
		{[]string{"--failed", "--since", "2026-01-02T03:04:05Z"}, body{"status": "failed", "since": "2026-01-02T03:04:05Z"}, "2 queued\n", false, false},
		{nil, nil, "", true, true},
		{[]string{"a", "--failed"}, nil, "", true, true},
		{[]string{"--since", "yesterday"}, nil, "", true, true},
		{make([]string, 1001), nil, "", true, true},
	} {
		asked = nil
		var out bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetArgs(append([]string{"replay", "--url", server.URL}, tc.args...))
		err := root.ExecuteContext(context.Background())
		if (err != nil) != tc.fails || errors.As(err, new(usageError)) != tc.usage {
			t.Errorf("replay %.60q = %v", tc.args, err)
		}
		if out.String() != tc.out || !reflect.DeepEqual(asked, tc.want) {
			t.Errorf("replay %.60q printed %q and asked for %v, want %q and %v", tc.args, out.String(), asked, tc.out, tc.want)
		}
	}
}
