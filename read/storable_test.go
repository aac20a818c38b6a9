package read

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestOnlyAnswersForEverybodyAreStored(t *testing.T) {
	plain := &compiled{}
	with := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	for _, tc := range []struct {
		status int
		header http.Header
		want   string
	}{
		{200, with(), ""},
		{203, with(), ""},
		{404, with(), ""},
		{410, with(), ""},
		{200, with("Cache-Control", "public, max-age=0, no-cache, must-revalidate"), ""},
		{200, with("Cache-Control", `x="private, no-store"`), ""},
		{200, with("Vary", "Accept-Encoding, Origin"), ""},
		{200, with("Vary", "accept-encoding"), ""},
		{201, with(), "status"},
		{204, with(), "status"},
		{301, with(), "status"},
		{400, with(), "status"},
		{401, with(), "status"},
		{403, with(), "status"},
		{200, with("Set-Cookie", "a=b"), "set-cookie"},
		{404, with("Set-Cookie", "a=b"), "set-cookie"},
		{200, with("Cache-Control", "private"), "private"},
		{200, with("Cache-Control", `max-age=60, PRIVATE="x"`), "private"},
		{200, with("Cache-Control", "public", "Cache-Control", "no-store"), "no-store"},
		{200, with("Cache-Control", `a="\"", no-store`), "no-store"},
		{200, with("Vary", "*"), "vary"},
		{200, with("Vary", "Accept-Encoding", "Vary", "Cookie"), "vary"},
		{200, with("Vary", "Accept-Language"), "vary"},
	} {
		if got := plain.notStorable(response{status: tc.status, header: tc.header}); got != tc.want {
			t.Errorf("notStorable(%d, %v) = %q, want %q", tc.status, tc.header, got, tc.want)
		}
	}
	if got := plain.notStorable(response{status: 200, redirected: true}); got != "redirect" {
		t.Errorf("notStorable after a redirect = %q", got)
	}
}

func TestOnlyHeadersAboutTheContentArePassedOn(t *testing.T) {
	in := http.Header{
		"Content-Type": {"text/html"}, "Link": {"<a>", "<b>"}, "X-Wp-Total": {"7"},
		"Connection": {"X-Hop"}, "X-Hop": {"1"}, "Transfer-Encoding": {"chunked"}, "Set-Cookie": {"a=b"}, "Age": {"9"}, "Etag": {`"x"`},
		"X-Accel-Redirect": {"/etc/passwd"}, "Clear-Site-Data": {"*"}, "Freshwire-Source": {"forged"}, "Access-Control-Allow-Origin": {"*"}, "Cache-Control": {"max-age=9"},
	}
	want := http.Header{"Content-Type": {"text/html"}, "Link": {"<a>", "<b>"}, "X-Wp-Total": {"7"}}
	if got := keptHeaders(in); !reflect.DeepEqual(got, want) {
		t.Errorf("keptHeaders = %v, want %v", got, want)
	}
	if got := keptHeaders(http.Header{"Content-Type": {"a/b"}, "Link": {strings.Repeat("x", maxPassedOn)}}); got["Link"] != nil || got["Content-Type"] == nil {
		t.Error("headers beyond the limit are passed on, or those within it are not")
	}
}
