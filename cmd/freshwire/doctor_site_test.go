package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestDoctorAsksEachOriginOnceAndFollowsNothing(t *testing.T) {
	nothingElse(t)
	var asked, elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodHead || r.URL.String() != "/posts/" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked %s %s with %v, want HEAD /posts/ without secrets", r.Method, r.URL, r.Header)
		}
		http.Redirect(w, r, other.URL, http.StatusFound)
	}))
	defer origin.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
	defer broken.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler()) // whose certificate nobody knows
	defer secure.Close()
	site := httptest.NewServer(http.NotFoundHandler())
	defer site.Close()

	config := fmt.Sprintf(`
targets:
  site: { kind: nextjs, url: "%[5]s/api/revalidate", secret: "0123456789abcdef0123456789abcdef" }
routes:
  - { path: "/a/{id}", origin: "%[1]s/posts/{id}?key=geheim", headers: { Authorization: "Bearer geheim" } }
  - { path: "/b/{id}", origin: "%[1]s/pages/{id}" }
  - { path: "/c", origin: "%[2]s/c" }
  - { path: "/d", origin: "%[3]s/d" }
  - { path: "/e", origin: "%[4]s/e" }
`, origin.URL, broken.URL, secure.URL, "http://127.0.0.1:1", site.URL)
	if err := os.WriteFile("freshwire.yaml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := command(t, "", "doctor", "--json")
	rows := rowsOf(t, out)
	expect(t, rows, "origin", levelFine, origin.URL+"/posts/", "HEAD: 302")
	expect(t, rows, "origin", levelWarn, broken.URL, "HEAD: 503")
	expect(t, rows, "origin", levelFail, secure.URL, "certificate")
	expect(t, rows, "origin", levelFail, "127.0.0.1:1/e", "refused")
	expect(t, rows, "target", levelWarn, "site at "+site.URL, "deployed")
	if len(rows["origin"]) != 4 || asked.Load() != 1 || elsewhere.Load() != 0 || code != exitFailed {
		t.Errorf("%d origins, asked %d times, followed %d times, exit %d", len(rows["origin"]), asked.Load(), elsewhere.Load(), code)
	}
}

func TestStaticPartsOfOriginsHoldNoSecret(t *testing.T) {
	for template, want := range map[string]string{
		"https://cms.example/posts/{id}":            "https://cms.example/posts/",
		"https://cms.example/posts?q={q}&key=abc":   "https://cms.example/posts",
		"https://u:p@cms.example/{a}/{b}":           "https://cms.example/",
		"http://cms.example":                        "http://cms.example",
		"https://cms.example/a-{id}-b#part":         "https://cms.example/a-",
		"ftp://cms.example/":                        "",
		"cms.example/{id}":                          "",
		"https://cms.example/%7Bnot-a-template/{x}": "https://cms.example/{not-a-template/",
	} {
		u, err := staticPart(template)
		got := ""
		if err == nil {
			got = bare(u)
		}
		if got != want {
			t.Errorf("staticPart(%q) = %q, want %q", template, got, want)
		}
	}
}

func TestDoctorLooksAtTheDiskOfTheJournal(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	look := func(spool, redis string) finding {
		d := &doctor{}
		d.env.SpoolDir, d.env.RedisURL = spool, redis
		return d.journal(t.Context())[0]
	}
	if real, err := diskOf(dir); err == nil && !real.forgets { // a test directory may be in memory
		for _, spool := range []string{dir, filepath.Join(dir, "not", "yet")} {
			if got := look(spool, "redis://h"); got.Level != levelFine || !strings.Contains(got.Text, "synced write") || strings.Contains(spool, "yet") != strings.Contains(got.Text, "will be made") {
				t.Errorf("%s: %+v", spool, got)
			}
		}
	}
	for _, tc := range []struct {
		spool, redis string
		want         level
		word         string
	}{
		{file, "redis://h", levelFail, "no directory"},
		{filepath.Join(file, "below"), "redis://h", levelFail, "not a directory"},
		{"", "redis://h", levelWarn, "503"},
		{"", "", levelFine, "temporary"},
		{"/dev/shm", "redis://h", levelWarn, "memory"},
	} {
		if _, err := os.Stat(tc.spool); strings.HasPrefix(tc.spool, "/dev") && err != nil {
			continue
		}
		if got := look(tc.spool, tc.redis); got.Level != tc.want || !strings.Contains(got.Text, tc.word) {
			t.Errorf("%q: %+v, want %s with %q", tc.spool, got, tc.want, tc.word)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".doctor-*")); len(left) > 0 {
		t.Errorf("the doctor left %q behind", left)
	}
	small := &doctor{}
	small.env.SpoolDir, small.configs.Journal.MaxBytes = dir, 1<<60
	if got := small.journal(t.Context())[0]; got.Level != levelWarn {
		t.Errorf("a disk that is too small: %+v", got)
	}
}

func TestDoctorComparesOpenFilesWithStreams(t *testing.T) {
	limit, ok := openFileLimit()
	if !ok {
		t.Skip("this system does not tell")
	}
	d := &doctor{}
	d.configs.SSE.MaxSubscribers = int(limit)
	if got := d.openFiles(t.Context())[0]; got.Level != levelWarn || !strings.Contains(got.Text, "ulimit -n") {
		t.Errorf("as many streams as files: %+v", got)
	}
	d.configs.SSE.MaxSubscribers = 10
	if got := d.openFiles(t.Context())[0]; got.Level != levelFine {
		t.Errorf("10 streams: %+v", got)
	}
}

// certificate writes a certificate for 127.0.0.1 that holds for so long, and its key.
func certificate(t *testing.T, holds time.Duration) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(holds), DNSNames: []string{"example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
}

func TestDoctorLooksAtTheCertificate(t *testing.T) {
	for _, tc := range []struct {
		holds time.Duration
		want  level
		word  string
	}{{90 * 24 * time.Hour, levelFine, "example.com"}, {24 * time.Hour, levelWarn, "renew"}, {-time.Hour, levelFail, "ended"}} {
		d := &doctor{}
		d.env.TLSCert, d.env.TLSKey = certificate(t, tc.holds)
		if got := d.certificate(t.Context())[0]; got.Level != tc.want || !strings.Contains(got.Text, tc.word) {
			t.Errorf("holds %v: %+v, want %s with %q", tc.holds, got, tc.want, tc.word)
		}
		d.env.TLSKey = d.env.TLSCert
		if got := d.certificate(t.Context())[0]; got.Level != levelFail {
			t.Errorf("a key that is none: %+v", got)
		}
	}
	if rows := (&doctor{}).certificate(t.Context()); rows != nil {
		t.Errorf("no certificate: %+v", rows)
	}
}

func TestHealthcheckSaysWhetherItIsReady(t *testing.T) {
	nothingElse(t)
	answer := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" || r.Header.Get("Authorization") != "" {
				t.Errorf("asked %s with %v", r.URL, r.Header)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		})
	}
	t.Setenv("FRESHWIRE_ADMIN_TOKEN", "a-token-that-nobody-needs")
	for _, tc := range []struct {
		name   string
		status int
		body   string
		code   int
		word   string
	}{
		{"ready", 200, `{"status":"ready","checks":{"redis":"ok"}}`, exitDone, "ready"},
		{"not ready", 503, `{"status":"not ready","checks":{"redis":"not ready","stream":"not ready","cache":"ok"}}`, exitFailed, "not ready: redis, stream"},
		{"somebody else", 200, `<html>`, exitFailed, "not as freshwire does"},
		{"a proxy's page", 502, `<html>`, exitFailed, "502"},
		{"elsewhere", 302, ``, exitFailed, "302"},
	} {
		server := httptest.NewServer(answer(tc.status, tc.body))
		out, code := command(t, "", "healthcheck", "--url", server.URL)
		if code != tc.code || !strings.Contains(out, tc.word) || strings.Contains(out, "cache") {
			t.Errorf("%s: %d %q, want %d with %q", tc.name, code, out, tc.code, tc.word)
		}
		// What this environment starts is asked without --url.
		t.Setenv("FRESHWIRE_ADDR", strings.Replace(strings.TrimPrefix(server.URL, "http://"), "127.0.0.1", "0.0.0.0", 1))
		if _, code := command(t, "", "healthcheck"); code != tc.code {
			t.Errorf("%s, without --url: %d, want %d", tc.name, code, tc.code)
		}
		server.Close()
		if out, code := command(t, "", "healthcheck"); code != exitFailed || !strings.Contains(out, "refused") {
			t.Errorf("nobody there: %d %q", code, out)
		}
	}
	secure := httptest.NewTLSServer(answer(200, `{"checks":{}}`))
	defer secure.Close()
	t.Setenv("FRESHWIRE_ADDR", strings.TrimPrefix(secure.URL, "https://"))
	cert, key := certificate(t, time.Hour)
	t.Setenv("FRESHWIRE_TLS_CERT", cert)
	t.Setenv("FRESHWIRE_TLS_KEY", key)
	if out, code := command(t, "", "healthcheck"); code != exitDone {
		t.Errorf("with TLS: %d %q", code, out)
	}
	for _, args := range [][]string{{"healthcheck", "--url", "example.com"}, {"healthcheck", "x"}, {"doctor", "x"}, {"doctor", "--wait"}, {"doctor", "--stream", "example.com"}} {
		if out, code := command(t, "", args...); code != exitUsage {
			t.Errorf("freshwire %s = %d %q, want %d", strings.Join(args, " "), code, out, exitUsage)
		}
	}
}
