package webhook

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// testKeys are two key pairs of Contentstack's, made once.
var testKeys = sync.OnceValue(func() (keys [2]*rsa.PrivateKey) {
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
})

func pemOf(key *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)}))
}

func certificate(pem string) SourceConfig {
	return SourceConfig{CMS: "contentstack", Scheme: "contentstack-rsa-pss", PublicKeyPEM: pem}
}

// certified is body as Contentstack sends it with its certificate.
func certified(t testing.TB, key *rsa.PrivateKey, body string) Delivery {
	t.Helper()
	digest := sha256.Sum256([]byte(body))
	signature, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: 32})
	if err != nil {
		t.Fatal(err)
	}
	return Delivery{Method: "POST", Target: "/webhooks/test", Body: []byte(body),
		Header: http.Header{"X-Contentstack-Request-Signature": {"v1=" + base64.StdEncoding.EncodeToString(signature)}}}
}

const certifiedBody = `{"triggered_at":"2026-11-20T11:59:59.000Z","module":"entry","event":"publish","data":{"entry":{"uid":"b2","url":"/a","locale":"en-us"},"content_type":{"uid":"post"}}}`

func TestContentstackCertificateVerifies(t *testing.T) {
	keys := testKeys()
	spki, err := x509.MarshalPKIXPublicKey(&keys[0].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	first, second := pemOf(keys[0]), pemOf(keys[1])
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	d := certified(t, keys[0], certifiedBody)
	for text, index := range map[string]int{first: 0, public: 0, second + "\n" + first: 1, " \n" + strings.ReplaceAll(first, "\n", `\n`) + "\n": 0} {
		src := source(t, certificate(text))
		if res := src.Verify(d, noon); !res.Valid() || res.Secret != index || len(res.Events) != 1 || res.Events[0].Entity != "b2" {
			t.Errorf("Verify = %v by key %d, want one event by key %d", res.Err, res.Secret, index)
		}
		if len(src.Warnings()) != 0 {
			t.Errorf("Warnings() = %q, want none", src.Warnings())
		}
	}
	if res := source(t, certificate(second)).Verify(d, noon); res.Reason != BadSignature {
		t.Errorf("another key: %q, want bad_signature", res.Reason)
	}
}

func TestContentstackCertificateRefusesOtherPadding(t *testing.T) {
	key := testKeys()[0]
	src := source(t, certificate(pemOf(key)))
	digest := sha256.Sum256([]byte(certifiedBody))
	pkcs1v15, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: 20})
	if err != nil {
		t.Fatal(err)
	}
	for name, signature := range map[string][]byte{"PKCS#1 v1.5": pkcs1v15, "a salt of 20": short, "nothing": nil, "zeros": make([]byte, 256), "too long": make([]byte, 100000)} {
		d := certified(t, key, certifiedBody)
		d.Header.Set("X-Contentstack-Request-Signature", "v1="+base64.StdEncoding.EncodeToString(signature))
		if res := src.Verify(d, noon); res.Reason != BadSignature {
			t.Errorf("%s: %q, want bad_signature", name, res.Reason)
		}
	}
}

func TestContentstackCertificateNamesWhatIsWrong(t *testing.T) {
	key := testKeys()[0]
	src := source(t, certificate(pemOf(key)))
	body := func(triggered string) string {
		return strings.Replace(certifiedBody, `"2026-11-20T11:59:59.000Z"`, triggered, 1)
	}
	const header = "X-Contentstack-Request-Signature"
	for i, tc := range []struct {
		body   string
		change func(http.Header)
		want   Reason
	}{
		{certifiedBody, func(http.Header) {}, ""},
		{certifiedBody, func(h http.Header) { h.Set(header, h.Get(header)[3:]) }, MalformedSignature},
		{certifiedBody, func(h http.Header) { h.Set(header, "v1=***") }, BadSignature},
		{certifiedBody, func(h http.Header) { h.Del(header) }, MissingSignature},
		{certifiedBody, func(h http.Header) { h[header] = append(h[header], h[header][0]) }, MalformedSignature},
		{body(`"2026-11-20T11:54:59.999Z"`), func(http.Header) {}, StaleTimestamp},
		{body(`"2026-11-20T11:55:00.000Z"`), func(http.Header) {}, ""},
		{body(`"2026-11-20T13:04:59.999+01:00"`), func(http.Header) {}, ""},
		{body(`"2026-11-20T12:05:00.001Z"`), func(http.Header) {}, FutureTimestamp},
		{body(`null`), func(http.Header) {}, MalformedBody}, // its age is not known
		{body(`"yesterday"`), func(http.Header) {}, MalformedBody},
		{`Hello, World!`, func(http.Header) {}, MalformedBody},
	} {
		d := certified(t, key, tc.body)
		tc.change(d.Header)
		if res := src.Verify(d, noon); res.Reason != tc.want {
			t.Errorf("case %d: %q (%v), want %q", i, res.Reason, res.Err, tc.want)
		}
	}
	if _, err := src.Sign(src.Sample(), "", noon); err == nil || !strings.Contains(err.Error(), "private key") {
		t.Errorf("Sign = %v, want to hear who has the key", err)
	}
}

func TestContentstackKeyThatIsNoneIsNamed(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&curve.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key := testKeys()[0]
	block := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	for text, want := range map[string]string{
		"":                        "is empty",
		"hello":                   "is not PEM",
		pemOf(key) + "trailing":   "is not PEM",
		block("PUBLIC KEY", spki): "want RSA",
		block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)): "holds a RSA PRIVATE KEY",
		block("RSA PUBLIC KEY", []byte("x")):                       "public_key_pem: ",
		block("PUBLIC KEY", []byte("x")):                           "public_key_pem: ",
	} {
		if _, err := NewSource("test", certificate(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewSource with %.40q = %v, want %q", text, err, want)
		}
	}
	withSecret := certificate(pemOf(key))
	withSecret.Secret = testSecret
	if _, err := NewSource("test", withSecret); err == nil {
		t.Error("a secret beside the key is accepted, want a mistake")
	}
}

func TestContentstackHMACNamesWhatIsWrong(t *testing.T) {
	src := source(t, SourceConfig{CMS: "contentstack", Secret: testSecret})
	good := sign(t, src, src.cms.sample, "").Header.Get(contentstackHeader)
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	zeros := strings.Repeat("0", 64)
	for header, want := range map[string]Reason{
		good: "", " " + good + " ": "", swap(",v1=", ", v1="): "", swap("v1=", "v1="+zeros+",v1="): "", good + ",v1=zz": "", good + ",v1=" + zeros: "",
		strings.ToUpper(good): MalformedSignature, swap(",v1=", ",v1="+zeros): BadSignature, swap("t=1", "t=2"): BadSignature, swap(",v1=", ",v1=zz"): BadSignature,
		"t=1": MalformedSignature, good[13:]: MalformedSignature, swap("t=", "t=x"): MalformedSignature, good + ",": MalformedSignature,
		good + ",t=1": MalformedSignature, good + ",v0=1": MalformedSignature, swap("v1=", "v1=,v1="): MalformedSignature, "": MissingSignature,
	} {
		d := sign(t, src, src.cms.sample, "")
		d.Header.Set(contentstackHeader, header)
		if res := src.Verify(d, noon); res.Reason != want {
			t.Errorf("%s: %q (%v), want %q", header, res.Reason, res.Err, want)
		}
	}
}

func TestContentstackTellsWhatChanged(t *testing.T) {
	checkTold(t, SourceConfig{CMS: "contentstack", Secret: testSecret}, none, []told{
		{`{"module":"asset","event":"delete","data":{"asset":{"uid":"bltasset9","url":"https://images.example.net/a.png"},"locale":"en-us"}}`, "",
			Item{Event: "asset.delete", Action: "delete", ContentType: "asset", ID: "bltasset9", Slug: "https://images.example.net/a.png", Locale: "en-us"}, nil},
		{`{"module":"entry","event":"unpublish.success","data":{"entry":{"uid":"1","_version":3},"content_type":{"uid":"post"},"environment":{"name":"prod"}}}`, "",
			Item{Event: "entry.unpublish.success", Action: "unpublish", ContentType: "post", ID: "1", Environment: "prod"}, nil},
		{`{"module":"entry","event":"publish.success","data":{"entry":{"uid":"1","_version":3,"locale":"de-de"},"content_type":{"uid":"post"},"locale":"en-us"}}`, "",
			Item{Event: "entry.publish.success", Action: "publish", ContentType: "post", ID: "1", Locale: "de-de", Version: "3"}, nil},
		{`{"module":"entry","event":"publish.fail","data":{"entry":{"uid":"1"},"content_type":{"uid":"post"}}}`, "",
			Item{Event: "entry.publish.fail", Action: "other", ContentType: "post", ID: "1"}, nil},
		{`{"module":"content type","event":"update","data":{"content_type":{"uid":"post"}}}`, "",
			Item{Event: "content type.update", Action: "update", ContentType: "post", ID: "post"}, nil},
		{`{"module":"release","event":"deploy","data":{"release":{"uid":"r"}}}`, "", Item{Event: "release.deploy", Action: "publish", ContentType: "release", ID: "r"}, nil},
	})
}

// Contentstack signs a repeat anew; the time within says which save it is of.
func TestContentstackRepeatSignedAnewIsKnown(t *testing.T) {
	src := source(t, SourceConfig{CMS: "contentstack", Secret: testSecret})
	id := func(body string, at time.Time) string {
		d, err := src.Sign([]byte(body), "", at)
		if err != nil {
			t.Fatal(err)
		}
		res := src.Verify(d, at)
		if len(res.Events) != 1 || res.Events[0].Guessed {
			t.Fatalf("Verify = %+v, want one event, certain", res)
		}
		return res.Events[0].ID
	}
	first := id(certifiedBody, noon)
	if id(certifiedBody, noon.Add(625*time.Second)) != first {
		t.Error("the repeat is another event, want the same")
	}
	if id(strings.Replace(certifiedBody, "59.000Z", "59.001Z", 1), noon) == first {
		t.Error("a save 1 ms later is the same event, want another")
	}
}
