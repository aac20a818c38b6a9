package webhook

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// One test an attack; each says what the attacker gets for it.

// unread is a source that fails the test when anything is computed over a body.
func unread(t *testing.T, cfg SourceConfig) *Source {
	src := source(t, cfg)
	src.scheme = &scheme{name: "unread", verify: func(*Source, Delivery) check {
		t.Error("the body was verified, want it refused before")
		return refuse(BadSignature, "unread")
	}}
	return src
}

// raw writes a request byte by byte as given and returns the answer.
func (o *door) raw(t *testing.T, request string) (status int, body map[string]any) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(o.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(conn, request) // may block when the server stops reading
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	json.Unmarshal(text, &body)
	return resp.StatusCode, body
}

func TestDeliveryOverLimitRejectedWith413BeforeTheMAC(t *testing.T) {
	o := open(t, unread(t, SourceConfig{CMS: "ghost", Secret: testSecret, MaxBody: 1000}))
	resp, body := o.post(t, Delivery{Method: "POST", Target: "/webhooks/test", Body: make([]byte, 1001)})
	if resp.StatusCode != 413 || body["status"] != 413.0 || !resp.Close {
		t.Errorf("answer %d %v, close %v, want 413 and the connection closed", resp.StatusCode, body, resp.Close)
	}
}

func TestAnnouncedGigabyteIsRefusedUnread(t *testing.T) {
	o := open(t, unread(t, SourceConfig{CMS: "ghost", Secret: testSecret}))
	status, _ := o.raw(t, "POST /webhooks/test HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n") // and not a byte of it
	if status != 413 {
		t.Errorf("answer %d, want 413", status)
	}
}

func TestChunkedBodyOverLimitRejectedWith413BeforeTheMAC(t *testing.T) {
	o := open(t, unread(t, SourceConfig{CMS: "ghost", Secret: testSecret, MaxBody: 1000}))
	chunk := "1f4\r\n" + strings.Repeat("x", 500) + "\r\n"
	status, _ := o.raw(t, "POST /webhooks/test HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat(chunk, 3))
	if status != 413 {
		t.Errorf("answer %d, want 413", status)
	}
}

func TestBodyOfExactlyTheLimitIsAccepted(t *testing.T) {
	body := `{"type":"a.updated","x":"` + strings.Repeat("x", 973) + `"}`
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, MaxBody: int64(len(body))})
	o := open(t, src)
	if resp, _ := o.post(t, sign(t, src, body, "")); resp.StatusCode != 200 {
		t.Errorf("answer %d, want 200", resp.StatusCode)
	}
}

func TestBrokenChunksAreAnswered400(t *testing.T) {
	o := open(t, unread(t, SourceConfig{CMS: "ghost", Secret: testSecret}))
	status, _ := o.raw(t, "POST /webhooks/test HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
	if status != 400 {
		t.Errorf("answer %d, want 400", status)
	}
}

func TestUnknownSourceIs404AndItsNameStaysOutOfMetrics(t *testing.T) {
	o := open(t, source(t, SourceConfig{CMS: "ghost", Secret: testSecret}))
	for _, name := range []string{"nobody", "TEST", strings.Repeat("x", 5000), "%0d%0aX-Evil:1"} {
		resp, body := o.post(t, Delivery{Method: "POST", Target: "/webhooks/" + name, Body: []byte("{}")})
		if resp.StatusCode != 404 || body["title"] != "Not Found" || body["detail"] != nil || resp.Header.Get("X-Evil") != "" {
			t.Errorf("source %.20q: %d %v, want a plain 404", name, resp.StatusCode, body)
		}
	}
	if n := o.counted(t, "freshwire_webhook_deliveries_total", map[string]string{"source": "", "outcome": "unknown_source"}); n != 4 {
		t.Errorf("unknown sources counted %v times under one label, want 4", n)
	}
	for line := range strings.Lines(o.log.String()) {
		if len(line) > 600 {
			t.Errorf("a log line of %d bytes, want names cut", len(line))
		}
	}
}

func TestOtherMethodsAreAnswered405WithAllow(t *testing.T) {
	o := open(t, unread(t, SourceConfig{CMS: "ghost", Secret: testSecret}))
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} {
		for _, name := range []string{"test", "nobody"} {
			resp, _ := o.post(t, Delivery{Method: method, Target: "/webhooks/" + name, Body: []byte("{}")})
			if resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST" {
				t.Errorf("%s to %s: %d, Allow %q, want 405 POST", method, name, resp.StatusCode, resp.Header.Get("Allow"))
			}
		}
	}
}

func TestRefusalTellsAStrangerNothing(t *testing.T) {
	for name, cfg := range settings() {
		src := source(t, cfg)
		o := open(t, src)
		d := sign(t, src, src.cms.sample, "")
		stale := d
		if src.scheme.verify(src, d).sentAt.IsZero() {
			stale.Body, stale.Target, stale.Header = []byte("{}"), "/webhooks/test", nil
		} else {
			stale, _ = src.Sign(src.Sample(), "", noon.Add(-time.Hour))
		}
		var bodies []string
		for _, d := range []Delivery{stale, {Method: "POST", Target: "/webhooks/test", Body: []byte(`{"mine":"<script>"}`)}} {
			resp, body := o.post(t, d)
			if resp.StatusCode != 401 || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: answer %d %v, want a 401 problem", name, resp.StatusCode, resp.Header)
			}
			delete(body, "request_id")
			text, _ := json.Marshal(body)
			bodies = append(bodies, string(text))
		}
		if want := `{"status":401,"title":"Unauthorized","type":"about:blank"}`; bodies[0] != want || bodies[1] != want {
			t.Errorf("%s: problems %q, want %s for every reason", name, bodies, want)
		}
		if len(o.queue.events) != 0 {
			t.Errorf("%s: %d events queued", name, len(o.queue.events))
		}
	}
}

func TestNoAnswerIsGoneOrARedirect(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	o := open(t, src)
	for _, target := range []string{"/webhooks/test", "/webhooks/test?event=member.deleted", "/webhooks/nobody"} {
		for _, body := range []string{``, `{}`, `{"a":1}`} {
			for _, signed := range []bool{true, false} {
				d := sign(t, src, body, "")
				d.Target = target
				if !signed {
					d.Header = nil
				}
				if resp, _ := o.post(t, d); resp.StatusCode == 410 || resp.StatusCode/100 == 3 {
					t.Errorf("%s %s: %d: Ghost deletes its webhook on 410, WooCommerce follows no redirect", target, body, resp.StatusCode)
				}
			}
		}
	}
}

func TestSignatureHeaderThatStandsTwiceIsRefused(t *testing.T) {
	for name, header := range map[string]string{"hmac": "X-Webhook-Signature", "hmac seconds": "X-Webhook-Timestamp", "hmac id": "X-Id",
		"standardwebhooks": "Webhook-Signature", "ghost": "X-Ghost-Signature", "token": "Authorization", "basic": "Authorization"} {
		src := source(t, settings()[name])
		o := open(t, src)
		d := sign(t, src, src.cms.sample, "")
		d.Header[header] = append(d.Header[header], d.Header[header][0])
		if resp, _ := o.post(t, d); resp.StatusCode != 401 {
			t.Errorf("%s: two headers %s: %d, want 401", name, header, resp.StatusCode)
		}
	}
}

func TestHeaderNamesMatchInAnyCase(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	o := open(t, src)
	d := sign(t, src, src.cms.sample, "")
	status, body := o.raw(t, fmt.Sprintf("POST /webhooks/test HTTP/1.1\r\nHost: x\r\nX-GHOST-signature:   %s  \r\nContent-Length: %d\r\n\r\n%s",
		d.Header.Get("X-Ghost-Signature"), len(d.Body), d.Body))
	if status != 200 || body["status"] != "queued" {
		t.Errorf("answer %d %v, want 200", status, body)
	}
}

// Each body is signed well: what it holds is the attack, and the sender's own
// software may have let it through.
func TestHostileBodyOfAVerifiedSenderIsRefusedOrHarmless(t *testing.T) {
	deep := func(n int) string {
		return `{"type":"a.updated","x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	for name, tc := range map[string]struct {
		body string
		want int
	}{
		"empty":                {``, 400},
		"spaces":               {"  \n ", 400},
		"null":                 {`null`, 400},
		"array":                {`[{"type":"a.updated"}]`, 400},
		"text":                 {`"a"`, 400},
		"two objects":          {`{"type":"a.updated"}{}`, 400},
		"trailing comma":       {`{"type":"a.updated",}`, 400},
		"byte order mark":      {"\ufeff{}", 400},
		"form":                 {`payload=%7B%22type%22%3A%22a.updated%22%7D`, 400},
		"XML":                  {`<a/>`, 400},
		"gzip":                 {"\x1f\x8b\x08\x00\x00", 400},
		"broken UTF-8":         {"{\"type\":\"a.updated\",\"data\":{\"id\":\"\xff\"}}", 400},
		"NUL in id":            {`{"type":"a.updated","data":{"id":"a\u0000b"}}`, 400},
		"CR LF in id":          {`{"type":"a.updated","data":{"id":"a\r\nevent: x"}}`, 400},
		"LF in type":           {`{"type":"a\n.updated"}`, 400},
		"ESC in slug":          {`{"type":"a.updated","data":{"slug":"\u001b[2J"}}`, 400},
		"long id":              {`{"type":"a.updated","data":{"id":"` + strings.Repeat("x", 1025) + `"}}`, 400},
		"long type":            {`{"type":"` + strings.Repeat("x", 257) + `.updated"}`, 400},
		"bomb of brackets":     {strings.Repeat("[", 100000), 400},
		"bomb within":          {deep(100000), 400},
		"deeper than we carry": {deep(maxDepth), 400},
		"as deep as we carry":  {deep(maxDepth - 1), 200},
		"brackets in a string": {`{"type":"a.updated","x":"` + strings.Repeat("[", 20000) + `\"["}`, 200},
		"huge number":          {`{"type":"a.updated","data":{"id":1e999999}}`, 200},
		"long number":          {`{"type":"a.updated","data":{"id":` + strings.Repeat("9", 2000) + `}}`, 400},
		"lone surrogate":       {`{"type":"a.updated","data":{"id":"\ud800"}}`, 200},
		"object for an id":     {`{"type":"a.updated","data":{"id":{"a":1},"slug":[]}}`, 200},
		"data is text":         {`{"type":"a.updated","data":"x"}`, 200},
		"many keys":            {`{"type":"a.updated"` + strings.Repeat(`,"k":1`, 50000) + `}`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret})
			o := open(t, src)
			resp, body := o.post(t, sign(t, src, tc.body, ""))
			if resp.StatusCode != tc.want {
				t.Fatalf("answer %d %v, want %d", resp.StatusCode, body, tc.want)
			}
			if answer, _ := json.Marshal(body); tc.want == 400 && len(answer) > 400 {
				t.Errorf("answer of %d bytes, want a fixed sentence: %.400s", len(answer), answer)
			}
			for _, ev := range o.queue.events {
				text, err := json.Marshal(struct{ Task any }{struct{ Event any }{ev}})
				if err != nil || ev.Validate() != nil {
					t.Errorf("event does not travel on: %v, %v", err, ev.Validate())
				}
				var back struct {
					Task struct{ Event json.RawMessage }
				}
				if err := json.Unmarshal(text, &back); err != nil {
					t.Errorf("event is not readable again: %v", err)
				}
			}
			if n := bytes.Count(o.log.Bytes(), []byte("\n")); n != 1 {
				t.Errorf("%d log lines, want 1", n)
			}
		})
	}
}

func TestControlCharactersInTheDeliveryIDAreRefused(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret, DeliveryIDHeader: "X-Id", EventHeader: "X-Event"})
	for _, tc := range []struct{ header, value string }{
		{"X-Id", "a\x00b"}, {"X-Id", "a\r\nb"}, {"X-Id", "a\tb"}, {"X-Id", "\xff"}, {"X-Id", strings.Repeat("x", 1025)},
		{"X-Event", "post\n.updated"}, {"X-Event", strings.Repeat("x", 300)},
	} {
		d := sign(t, src, src.cms.sample, "post.updated")
		d.Header.Set(tc.header, tc.value)
		if res := src.Verify(d, noon); res.Reason != MalformedBody || len(res.Events) != 0 {
			t.Errorf("%s of %.20q: %q, want malformed_body", tc.header, tc.value, res.Reason)
		}
	}
}

// What is compared has one length per hash, whatever was sent, so the
// comparison takes the same time for every guess.
func TestGuessOfAnotherLengthIsComparedLikeAnyOther(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret, PreviousSecrets: []string{rotatedSecret}})
	for i := range len(testSecret) + 2 {
		guess := (testSecret + "xx")[:i]
		if got := src.matchToken(guess); (got.reason == "") != (guess == testSecret) {
			t.Errorf("matchToken(%q) = %q", guess, got.reason)
		}
	}
	if got := src.matchToken(rotatedSecret); got.reason != "" || got.secret != 1 {
		t.Errorf("matchToken(previous) = %+v, want secret 1", got)
	}
	signed := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret})
	mac := signed.mac(signed.keys[0], []byte("body"))
	for i := range len(mac) {
		if _, ok := signed.match([][]byte{mac[:i]}, []byte("body")); ok {
			t.Errorf("the first %d bytes of a MAC match", i)
		}
	}
	if _, ok := signed.match(nil, []byte("body")); ok {
		t.Error("no signature matches")
	}
	if _, ok := signed.match([][]byte{mac[:4], mac}, []byte("bo"), []byte("dy")); !ok {
		t.Error("the second of two signatures does not match")
	}
}

func TestReplayOfAnOldDeliveryIsRefusedOrKnown(t *testing.T) {
	src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret})
	d := sign(t, src, src.cms.sample, "post.published")
	first, within, after := src.Verify(d, noon), src.Verify(d, noon.Add(4*time.Minute)), src.Verify(d, noon.Add(10*time.Minute))
	if len(within.Events) != 1 || within.Events[0].ID != first.Events[0].ID {
		t.Errorf("within the tolerance: %+v, want the id of the first", within)
	}
	if after.Reason != StaleTimestamp {
		t.Errorf("after it: %q, want stale_timestamp", after.Reason)
	}
}

// The times of both signatures of a delivery may differ; none of them may be
// moved to make an old body young.
func TestTimeThatIsNotSignedMakesNothingYoung(t *testing.T) {
	for _, name := range []string{"hmac seconds", "hmac ms", "standardwebhooks", "ghost"} {
		src := source(t, settings()[name])
		old, _ := src.Sign(src.Sample(), "", noon.Add(-time.Hour))
		young, _ := src.Sign(src.Sample(), "", noon)
		for header := range old.Header {
			moved := old
			moved.Header = old.Header.Clone()
			switch {
			case header == "X-Webhook-Timestamp", header == "X-T", header == "Webhook-Timestamp":
				moved.Header.Set(header, young.Header.Get(header))
			case header == "X-Ghost-Signature":
				mac, _, _ := strings.Cut(old.Header.Get(header), ", ")
				_, t, _ := strings.Cut(young.Header.Get(header), ", ")
				moved.Header.Set(header, mac+", "+t)
			default:
				continue
			}
			if res := src.Verify(moved, noon); res.Reason != BadSignature {
				t.Errorf("%s: %s moved: %q, want bad_signature", name, header, res.Reason)
			}
		}
	}
}
