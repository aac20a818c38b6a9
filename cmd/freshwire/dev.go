package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/freshwire/freshwire/demo"
)

// demoSecret signs the demo CMS's webhooks. It is public on purpose, so that
// the README's curl works as printed: it guards five articles in memory.
const demoSecret = "freshwire-demo-secret"

// demoAddr stands in the demo's config until the real address is known.
const demoAddr = "127.0.0.1:8080"

// demoConfig is the config of the demo, whose CMS answers at addr.
func demoConfig(addr string) string {
	if addr == "" {
		addr = demoAddr
	}
	return fmt.Sprintf(`
sources:
  cms:
    cms: generic
    scheme: hmac
    header: X-Webhook-Signature
    prefix: "sha256="
    secret: %s
routes:
  - { path: /content/articles, origin: "http://%[2]s/_demo/cms/articles", key: "article:all", tags: ["article"] }
  - { path: "/content/articles/{id}", origin: "http://%[2]s/_demo/cms/articles/{id}", key: "article:{id}", tags: ["article:{id}"] }
`, demoSecret, addr)
}

// devSite is the demo: a small CMS beside the real thing.
type devSite struct{ cms *demo.CMS }

// newDevSite points the demo's config at the address that we really listen on.
func newDevSite(a *app, addr net.Addr) (*devSite, error) {
	local := localAddr(addr)
	s, err := parseSite("(built in)", []byte(demoConfig(local)))
	if err != nil {
		return nil, err
	}
	s.name = ""
	a.site = s
	source, err := s.source("cms")
	if err != nil {
		return nil, err
	}
	cms, err := demo.New(demo.Config{
		WebhookURL: a.baseURL(local) + "/webhooks/cms",
		Sign: func(body []byte, now time.Time) http.Header {
			d, err := source.Sign(body, "", now)
			if err != nil { // the demo's source signs anything
				a.log.Error("the demo cannot sign", "err", err)
			}
			return d.Header
		},
	}, a.log)
	return &devSite{cms}, err
}

// localAddr returns addr as this machine reaches it.
func localAddr(addr net.Addr) string {
	host, port, _ := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (a *app) baseURL(addr string) string {
	if a.env.TLSCert != "" {
		return "https://" + addr
	}
	return "http://" + addr
}

// greet tells a person what runs and what to do next.
func (a *app) greet(addr net.Addr) {
	base := a.baseURL(localAddr(addr))
	out := func(label, text string) { fmt.Fprintf(os.Stdout, "  %-10s %s\n", label, text) }
	fmt.Fprintln(os.Stdout)
	out("open", base+"/")
	if a.dev != nil {
		out("then", "press Publish, and watch the article and the feed change")
		out("or post", "curl "+base+"/webhooks/cms -H 'Content-Type: application/json' \\")
		out("", "  -H 'X-Webhook-Signature: sha256="+demoCurlSignature+"' \\")
		out("", "  -d '"+demoCurlBody+"'")
	}
	out("dashboard", base+"/monitoring/")
	if a.dev != nil {
		out("your own", "write freshwire.yaml beside it; `freshwire check` tells every mistake")
	}
	if a.store.embedded != nil {
		out("store", "embedded; nothing survives a restart. REDIS_URL uses a real one")
	}
	out("stop", "Ctrl-C")
	fmt.Fprintln(os.Stdout)
}

// A delivery for the demo and its signature, as README.md prints it too.
const (
	demoCurlBody      = `{"type":"article.updated","data":{"id":"1"}}`
	demoCurlSignature = "b4ad6ea30018f1881cd15ed29a518eef52c78a5666966d0131843db8e6e7cf1a"
)
