package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// front is a proxy before a freshwire, or freshwire itself, as a browser reaches it.
type front struct {
	URL    string
	client *http.Client
	ca     string // file of the certificate; empty without TLS
}

// certificate makes a certificate for 127.0.0.1, and a client that knows it.
type certificate struct {
	cert, key, both string // files
	pool            *x509.CertPool
}

func newCertificate(t testing.TB) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	dir := t.TempDir()
	c := certificate{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem"), x509.NewCertPool()}
	c.pool.AppendCertsFromPEM(certPEM)
	for path, text := range map[string][]byte{c.cert: certPEM, c.key: keyPEM, c.both: append(certPEM, keyPEM...)} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// newFront returns the front at addr. protocol is one of h1, h2 (both over TLS), http and h2c.
func newFront(t testing.TB, addr, protocol string, c certificate) *front {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	f := &front{URL: "https://" + addr, client: &http.Client{Transport: transport}, ca: c.cert}
	switch protocol {
	case "h1":
		transport.Protocols.SetHTTP1(true)
	case "h2":
		transport.Protocols.SetHTTP2(true)
	case "http":
		transport.Protocols.SetHTTP1(true)
	case "h2c":
		transport.Protocols.SetUnencryptedHTTP2(true)
	default:
		t.Fatalf("no protocol %q", protocol)
	}
	if strings.HasPrefix(protocol, "h1") || protocol == "h2" {
		transport.TLSClientConfig = &tls.Config{RootCAs: c.pool}
	} else {
		f.URL, f.ca = "http://"+addr, ""
	}
	t.Cleanup(transport.CloseIdleConnections)
	return f
}

// documented returns the block of docs/proxies.md in a language, with addresses
// and files put in.
func documented(t testing.TB, language string, replace ...string) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), "```"+language+"\n")
	text, _, whole := strings.Cut(rest, "```")
	if !found || !whole {
		t.Fatalf("docs/proxies.md shows nothing for %s", language)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("docs/proxies.md does not show %q for %s any more", replace[i], language)
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	return text
}

// startProxy starts a proxy in the foreground with its config file in a
// directory of its own, and waits until it takes connections at addr.
func startProxy(t testing.TB, name, config, addr string, args func(dir, file string) []string) {
	t.Helper()
	bin, err := exec.LookPath(name)
	if err != nil { // not everybody's path has it
		bin, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		t.Fatalf("%s is not installed: `apt-get install %s`, or `make deps`", name, name)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "proxy.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out := &logBuffer{}
	cmd := exec.Command(bin, args(dir, file)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s\nwith\n%s", name, out.tail(30), config)
		}
	})
	testkit.Until(t, name+" takes connections", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s ended:\n%s\nwith\n%s", name, out.tail(30), config)
		default:
		}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// startNginx puts servers into an nginx that would rather compress and cache
// everything, in one process.
func startNginx(t testing.TB, servers, addr string) {
	t.Helper()
	startProxy(t, "nginx", `
daemon off;
master_process off;
error_log stderr notice;
pid nginx.pid;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    gzip on;
    gzip_types *;
    gzip_min_length 0;
    gzip_proxied any;
    proxy_cache_path cache keys_zone=all:1m;
    proxy_cache all;
    proxy_cache_valid any 1m;
    proxy_cache_key $request_uri;
`+servers+`
}`, addr, func(dir, file string) []string { return []string{"-p", dir, "-e", "stderr", "-c", file} })
}

// The ways to freshwire: the blocks of docs/proxies.md, one that says nothing
// of streams, and none.
var ways = []struct {
	name     string
	protocol string
	start    func(t testing.TB, p *process, addr string, c certificate)
	zipped   bool // the proxy compresses all the same
}{
	{name: "none, HTTP/1.1", protocol: "http"},
	{name: "none, h2c", protocol: "h2c"},
	{name: "nginx, HTTP/2", protocol: "h2", start: nginxAsDocumented},
	{name: "nginx, HTTP/1.1 over TLS", protocol: "h1", start: nginxAsDocumented},
	{name: "nginx, plain HTTP/1.1", protocol: "http", start: func(t testing.TB, p *process, addr string, c certificate) {
		startNginx(t, documented(t, "nginx", "127.0.0.1:8080", p.addr(), "listen 443 ssl http2;", "listen "+addr+";",
			"ssl_certificate     /etc/ssl/example.com.pem;", "", "ssl_certificate_key /etc/ssl/example.com.key;", ""), addr)
	}},
	{name: "nginx that knows nothing of streams", protocol: "http", zipped: true, start: func(t testing.TB, p *process, addr string, _ certificate) {
		startNginx(t, "server { listen "+addr+"; location / { proxy_pass "+p.URL+"; } }", addr)
	}},
	{name: "HAProxy, HTTP/2", protocol: "h2", start: func(t testing.TB, p *process, addr string, c certificate) {
		startProxy(t, "haproxy", "global\n    maxconn 1000\n\ndefaults\n    maxconn 1000\n\n"+
			documented(t, "haproxy", "127.0.0.1:8080", p.addr(), "bind :443", "bind "+addr, "/etc/haproxy/example.com.pem", c.both),
			addr, func(_, file string) []string { return []string{"-db", "-f", file} })
	}},
	{name: "Caddy, HTTP/2", protocol: "h2", start: func(t testing.TB, p *process, addr string, c certificate) {
		_, port, _ := net.SplitHostPort(addr)
		startProxy(t, "caddy", "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n\tdefault_bind 127.0.0.1\n\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n"+
			documented(t, "caddyfile", "127.0.0.1:8080", p.addr(), "example.com {", "https://127.0.0.1:"+port+" {\n\ttls "+c.cert+" "+c.key),
			addr, func(_, file string) []string { return []string{"run", "--adapter", "caddyfile", "--config", file} })
	}},
}

func nginxAsDocumented(t testing.TB, p *process, addr string, c certificate) {
	startNginx(t, documented(t, "nginx", "127.0.0.1:8080", p.addr(), "listen 443 ssl", "listen "+addr+" ssl",
		"/etc/ssl/example.com.pem", c.cert, "/etc/ssl/example.com.key", c.key), addr)
}

// open opens a stream and returns its head and its frames; ended gets what ended it.
func (f *front) open(t testing.TB, query, lastID string) (head *http.Response, frames chan frame, ended chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", f.URL+"/api/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Accept-Encoding", "identity")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatalf("GET %s: %v", req.URL, err)
	}
	frames, ended = make(chan frame, 100), make(chan error, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		ended <- readFrames(ctx, resp.Body, frames)
	}()
	t.Cleanup(func() {
		cancel()
		resp.Body.Close()
		<-over
	})
	return resp, frames, ended
}

// tell sends a signed webhook through the front and fails the test unless it is taken.
func (f *front) tell(t testing.TB, id string) {
	t.Helper()
	body := fmt.Sprintf(`{"type":"post.updated","data":{"id":%q}}`, id)
	req, err := http.NewRequest("POST", f.URL+"/webhooks/cms", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Webhook-Signature", sign(body))
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
		t.Fatalf("webhook through the proxy = %s %s", resp.Status, answer)
	}
}
