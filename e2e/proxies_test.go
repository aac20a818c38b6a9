package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// throughEach runs test in front of a freshwire of its own, by each way.
func throughEach(t *testing.T, proxiesOnly bool, test func(t *testing.T, p *process, f *front, zipped bool)) {
	c := newCertificate(t)
	for _, w := range ways {
		if w.start == nil && proxiesOnly {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			p, _, _ := oneNode(t)
			addr := p.addr()
			if w.start != nil {
				addr = testkit.FreeAddr(t)
				w.start(t, p, addr, c)
			}
			test(t, p, newFront(t, addr, w.protocol, c), w.zipped)
		})
	}
}

func TestChangesArriveWhileTheStreamIsOpenThroughEveryProxy(t *testing.T) {
	throughEach(t, false, func(t *testing.T, _ *process, f *front, _ bool) {
		begun := time.Now()
		resp, frames, ended := f.open(t, "channel=post", "")
		ready := testkit.Wait(t, frames, "ready")
		opened := time.Since(begun)
		if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || !strings.HasPrefix(kind, "text/event-stream") || ready.event != "ready" {
			t.Fatalf("stream = %s %s, first %+v", resp.Status, kind, ready)
		}
		if coding := resp.Header.Get("Content-Encoding"); coding != "" {
			t.Errorf("the stream is compressed with %s, which nobody asked for", coding)
		}
		var first frame
		var delays []string
		for i := range 5 {
			sent := time.Now()
			f.tell(t, fmt.Sprint(i))
			got := testkit.Wait(t, frames, "the change")
			delays = append(delays, time.Since(sent).Round(100*time.Microsecond).String())
			if got.event != "" || !strings.Contains(got.data, fmt.Sprintf(`"entity":"%d"`, i)) {
				t.Fatalf("got %+v, want the change of post %d", got, i)
			}
			if i == 0 {
				first = got
			}
		}
		select {
		case err := <-ended:
			t.Errorf("the stream ended: %v", err)
		default:
		}
		// Who comes later has a stream of its own, and what it missed.
		_, again, _ := f.open(t, "channel=post", ready.id)
		if got := testkit.Wait(t, again, "ready"); got.event != "ready" {
			t.Errorf("a second stream begins with %+v", got)
		}
		if got := testkit.Wait(t, again, "the first change"); got.id != first.id {
			t.Errorf("resumed after %s with %+v, want %+v", ready.id, got, first)
		}
		t.Logf("%s: ready after %v; webhook to arrival %s", resp.Proto, opened.Round(100*time.Microsecond), strings.Join(delays, ", "))
	})
}

func TestDoctorFindsTheDocumentedProxiesGood(t *testing.T) {
	throughEach(t, true, func(t *testing.T, p *process, f *front, zipped bool) {
		out, errs, code := f.doctor(t, p)
		if code != 0 || strings.Contains(out, "warn  compression") != zipped || !strings.Contains(out, "ok    first event") || !strings.Contains(out, "ok    resume") ||
			!strings.Contains(out, "ok    delivery") {
			t.Errorf("doctor = %d\n%s%s", code, out, errs)
		}
		t.Logf("\n%s", out)
	})
}

// doctor looks at the stream through f, and publishes at p.
func (f *front) doctor(t testing.TB, p *process, args ...string) (out, errs string, code int) {
	return freshwire(t, append(operator(p), "SSL_CERT_FILE="+f.ca), append([]string{"doctor", "--stream", f.URL + "/api/events?channel=post"}, args...)...)
}

// The broken variant: this nginx holds the stream back, and doctor must see it.
func TestDoctorSeesAnNginxThatBuffers(t *testing.T) {
	p, _, _ := oneNode(t)
	addr := testkit.FreeAddr(t)
	startNginx(t, "server { listen "+addr+"; location / { proxy_pass "+p.URL+"; proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; } }", addr)
	f := newFront(t, addr, "http", certificate{})
	out, errs, code := f.doctor(t, p)
	if code != 1 || !strings.Contains(out, "fail  first event") || !strings.Contains(out, "something buffers") || !strings.Contains(out, "proxy_ignore_headers") {
		t.Errorf("doctor = %d\n%s%s", code, out, errs)
	}
	// The same without it, so that nothing else is to blame.
	good := testkit.FreeAddr(t)
	startNginx(t, "server { listen "+good+"; location / { proxy_pass "+p.URL+"; proxy_buffering on; } }", good)
	if out, errs, code := newFront(t, good, "http", certificate{}).doctor(t, p); code != 0 {
		t.Errorf("doctor of an nginx that heeds us = %d\n%s%s", code, out, errs)
	}
}

// The broken variant: a cache that heeds no header gives one visitor's stream to others.
func TestDoctorSeesAnNginxThatCaches(t *testing.T) {
	p, _, _ := oneNode(t)
	addr := testkit.FreeAddr(t)
	startNginx(t, "server { listen "+addr+"; location / { proxy_pass "+p.URL+`; proxy_cache_key same; proxy_ignore_headers Cache-Control X-Accel-Buffering;
        add_header X-Cache-Status $upstream_cache_status; } }`, addr)
	f := newFront(t, addr, "http", certificate{})
	// A stream that ends is whole, and kept: the node sends everybody away.
	first := make(chan error, 1)
	go func() {
		resp, err := f.client.Get(f.URL + "/api/events?channel=post")
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		first <- err
	}()
	testkit.Until(t, "somebody listens", func() bool { return p.subscribers(t) == 1 })
	p.terminate(t)
	if err := testkit.Wait(t, first, "the end of the stream"); err != nil {
		t.Fatal(err)
	}
	out, errs, code := f.doctor(t, p)
	if code != 1 || !strings.Contains(out, "fail  caching") || !strings.Contains(out, "HIT") {
		t.Errorf("doctor = %d\n%s%s", code, out, errs)
	}
}

func TestStreamsAreAnsweredWhileFreshwireIsAway(t *testing.T) {
	throughEach(t, true, func(t *testing.T, p *process, f *front, undocumented bool) {
		if undocumented {
			return
		}
		p.kill()
		var resp *http.Response
		var frames chan frame
		testkit.Until(t, "the proxy knows that freshwire is away", func() bool {
			resp, frames, _ = f.open(t, "channel=post", "")
			return resp.StatusCode == 200
		})
		got := testkit.Wait(t, frames, "a word")
		if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") || got.event != "goaway" || !strings.Contains(got.data, `"reason":"unavailable"`) {
			t.Errorf("freshwire is away: %s %s %+v, want a goaway", resp.Status, kind, got)
		}
	})
}

func TestVisitorsBehindAProxyAreToldApart(t *testing.T) {
	p, _, _ := oneNode(t, "FRESHWIRE_TRUSTED_PROXIES=127.0.0.1/32", "FRESHWIRE_SSE_MAX_PER_ADDRESS=1")
	c := newCertificate(t)
	addr := testkit.FreeAddr(t)
	nginxAsDocumented(t, p, addr, c)
	visitor := func(from string) *front {
		f := newFront(t, addr, "h2", c)
		f.client.Transport.(*http.Transport).DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext
		return f
	}
	for _, tc := range []struct{ from, want string }{{"127.0.0.2", "ready"}, {"127.0.0.3", "ready"}, {"127.0.0.2", "goaway"}, {"127.0.0.4", "ready"}, {"127.0.0.3", "goaway"}} {
		_, frames, _ := visitor(tc.from).open(t, "channel=post", "")
		if got := testkit.Wait(t, frames, "a frame"); got.event != tc.want {
			t.Errorf("a stream of %s begins with %+v, want %s", tc.from, got, tc.want)
		}
	}
}

func TestStreamsOverItsOwnTLS(t *testing.T) {
	c := newCertificate(t)
	server := testkit.StartServer(t)
	config := configFile(t, fmt.Sprintf(`sources: { cms: { cms: generic, scheme: hmac, header: X-Webhook-Signature, prefix: "sha256=", secret: %s } }`, secret))
	for _, mode := range []string{"auto", "plain"} {
		addr := testkit.FreeAddr(t)
		p := &process{role: "all", URL: "https://" + addr, out: &logBuffer{}}
		p.env = append(cleanEnviron(), "FRESHWIRE_ADDR="+addr, "REDIS_URL="+server.URL(), "FRESHWIRE_CONFIG="+config, "FRESHWIRE_ADMIN_TOKEN="+adminToken,
			"FRESHWIRE_TLS_CERT="+c.cert, "FRESHWIRE_TLS_KEY="+c.key, "FRESHWIRE_SSE_MODE="+mode)
		p.run(t)
		t.Cleanup(p.kill)
		testkit.Until(t, "freshwire is ready", func() bool {
			_, _, code := freshwire(t, p.env, "healthcheck")
			return code == 0
		})
		for protocol, want := range map[string]string{"h1": "HTTP/1.1", "h2": "HTTP/2.0"} {
			f := newFront(t, addr, protocol, c)
			resp, frames, _ := f.open(t, "channel=post", "")
			if got := testkit.Wait(t, frames, "ready"); got.event != "ready" || resp.Proto != want {
				t.Fatalf("%s, %s: %s, first %+v", mode, protocol, resp.Proto, got)
			}
			id := mode + "-" + protocol
			f.tell(t, id)
			if got := testkit.Wait(t, frames, "the change"); !strings.Contains(got.data, id) {
				t.Errorf("%s, %s: %+v", mode, protocol, got)
			}
		}
		out, errs, code := newFront(t, addr, "h2", c).doctor(t, p)
		if code != 0 || !strings.Contains(out, "HTTP/2.0 over TLS") {
			t.Errorf("doctor, %s = %d\n%s%s", mode, code, out, errs)
		}
		p.kill()
	}
}
