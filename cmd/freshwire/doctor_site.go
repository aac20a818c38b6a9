package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// place is an address that freshwire will call.
type place struct {
	check  string // origin or target
	name   string // of the target
	url    *url.URL
	client *http.Client
	gate   chan struct{} // a slot for each that is asked at a time
}

// calledAtOnce bounds how many places are asked at a time.
const calledAtOnce = 16

// answerBound is how long a place may take to answer.
const answerBound = 5 * time.Second

// elsewhere returns the origin of each route, every host once, and the targets.
func (d *doctor) elsewhere() []place {
	if d.site == nil {
		return nil
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	direct := http.DefaultTransport.(*http.Transport).Clone()
	direct.Proxy = nil // targets are called without
	gate := make(chan struct{}, calledAtOnce)
	var out []place
	seen := map[string]bool{}
	for _, route := range d.site.file.Routes {
		u, err := staticPart(route.Origin)
		if err != nil || seen[u.Scheme+u.Host] {
			continue // a mistake of the config file is told there
		}
		seen[u.Scheme+u.Host] = true
		out = append(out, place{"origin", "", u, &http.Client{CheckRedirect: stay}, gate})
	}
	for _, name := range slices.Sorted(maps.Keys(d.site.file.Targets)) {
		if u, err := staticPart(d.site.file.Targets[name].URL); err == nil {
			out = append(out, place{"target", name, u, &http.Client{CheckRedirect: stay, Transport: direct}, gate})
		}
	}
	return out
}

// staticPart returns an address up to its first template or its query, which
// may hold a key. User and password go, too.
func staticPart(template string) (*url.URL, error) {
	text, _, _ := strings.Cut(template, "{")
	text, _, _ = strings.Cut(text, "?")
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("no address")
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u, nil
}

// examine asks a place whether it is there, with HEAD and none of our secrets.
func (p place) examine(ctx context.Context) []finding {
	select {
	case p.gate <- struct{}{}:
		defer func() { <-p.gate }()
	case <-ctx.Done():
		return []finding{warn(p.check, "%s not looked at: too many others do not answer", bare(p.url))}
	}
	ctx, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, p.url.String(), nil)
	if err != nil {
		return []finding{fail(p.check, "%s cannot be asked", bare(p.url))}
	}
	req.Header.Set("User-Agent", "freshwire-doctor")
	resp, err := p.client.Do(req)
	took := time.Since(start)
	if err != nil {
		return []finding{fail(p.check, "%s does not answer: %v", p.title(), reasonOfCall(ctx, err, answerBound))}
	}
	resp.Body.Close()
	says := fmt.Sprintf("%s answers in %s (HEAD: %d)", p.title(), inMS(took), resp.StatusCode)
	switch {
	case resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented:
		return []finding{warn(p.check, "%s: it has trouble", says).took(took)}
	case p.check == "target" && resp.StatusCode == http.StatusNotFound:
		return []finding{warn(p.check, "%s: is the revalidation route deployed there?", says).took(took)}
	case p.check == "target" && resp.StatusCode/100 == 3:
		return []finding{warn(p.check, "%s: redirects are not followed; name the final address", says).took(took)}
	}
	return []finding{fine(p.check, "%s", says).took(took)}
}

func (p place) title() string {
	if p.name != "" {
		return p.name + " at " + bare(p.url)
	}
	return bare(p.url)
}

// reasonOfCall returns why a call failed, without its address.
func reasonOfCall(ctx context.Context, err error, bound time.Duration) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("nothing within %v", bound)
	}
	var call *url.Error
	if errors.As(err, &call) {
		return call.Err
	}
	return err
}

// journal looks at the disk of FRESHWIRE_SPOOL_DIR.
func (d *doctor) journal(context.Context) []finding {
	const check = "journal"
	dir := d.env.SpoolDir
	if dir == "" {
		if d.env.RedisURL == "" {
			return []finding{fine(check, "FRESHWIRE_SPOOL_DIR is not set: `freshwire dev` keeps its journal in a temporary directory")}
		}
		return []finding{warn(check, "FRESHWIRE_SPOOL_DIR is not set: webhooks are answered 503 while Redis is away, and are as durable as Redis is")}
	}
	info, err := os.Stat(dir)
	at, made := dir, ""
	switch {
	case errors.Is(err, os.ErrNotExist): // it is made at the start
		at, made = existingParent(dir), "; it is not there yet and will be made"
	case err != nil:
		return []finding{fail(check, "%s: %v", dir, err)}
	case !info.IsDir():
		return []finding{fail(check, "%s is no directory", dir)}
	}
	took, err := writeAndSync(at)
	if err != nil {
		return []finding{fail(check, "%s cannot be written: %v", at, err)}
	}
	disk, err := diskOf(at)
	switch {
	case err != nil:
		return []finding{fine(check, "%s takes a synced write in %s%s", dir, inMS(took), made).took(took)}
	case disk.forgets:
		return []finding{warn(check, "%s is on %s, which does not outlive the machine or container: mount a disk there", dir, disk.kind)}
	case disk.free < d.configs.Journal.MaxBytes:
		return []finding{warn(check, "%s has %s free; while Redis is away the journal may grow to %s (FRESHWIRE_SPOOL_MAX_BYTES)", dir, size(disk.free), size(d.configs.Journal.MaxBytes))}
	case took > slowSync:
		return []finding{warn(check, "%s takes a synced write in %s: so long waits every CMS for its answer", dir, inMS(took)).took(took)}
	}
	return []finding{fine(check, "%s takes a synced write in %s, %s are free%s", dir, inMS(took), size(disk.free), made).took(took)}
}

// slowSync is a disk on which webhooks come near the patience of a CMS.
const slowSync = 200 * time.Millisecond

// disk is what a directory lies on.
type disk struct {
	kind    string
	forgets bool  // it is memory, or goes with a container
	free    int64 // bytes
}

func existingParent(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// writeAndSync tries a file as the journal writes them, and takes it away again.
func writeAndSync(dir string) (took time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	start := time.Now()
	if _, err := f.Write(make([]byte, 4<<10)); err != nil {
		return 0, err
	}
	err = f.Sync()
	return time.Since(start), err
}

// otherFiles is how many files and connections a process opens besides its streams.
const otherFiles = 500

func (d *doctor) openFiles(context.Context) []finding {
	const check = "files"
	limit, ok := openFileLimit()
	streams := d.configs.SSE.MaxSubscribers
	switch {
	case !ok:
		return []finding{fine(check, "this system does not tell a limit of open files")}
	case limit < uint64(streams+otherFiles):
		return []finding{warn(check, "a process here may open %d files, and FRESHWIRE_SSE_MAX_SUBSCRIBERS lets in %d streams, beside which it needs %d: raise the limit (ulimit -n, LimitNOFILE=) or lower the setting",
			limit, streams, otherFiles)}
	}
	return []finding{fine(check, "a process here may open %d files: enough for %d streams", limit, streams)}
}

// renewBefore is when a certificate that renews itself has done so.
const renewBefore = 14 * 24 * time.Hour

func (d *doctor) certificate(context.Context) []finding {
	const check = "tls"
	if d.env.TLSCert == "" || d.env.TLSKey == "" {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(d.env.TLSCert, d.env.TLSKey)
	if err != nil {
		return []finding{fail(check, "FRESHWIRE_TLS_CERT: %v", err)}
	}
	left := time.Until(cert.Leaf.NotAfter)
	until := cert.Leaf.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case left < 0:
		return []finding{fail(check, "FRESHWIRE_TLS_CERT ended on %s", until)}
	case left < renewBefore:
		return []finding{warn(check, "FRESHWIRE_TLS_CERT ends on %s: renew it", until)}
	}
	return []finding{fine(check, "FRESHWIRE_TLS_CERT holds until %s, for %s", until, strings.Join(cert.Leaf.DNSNames, ", "))}
}

// server looks at the freshwire that runs, and at its stream.
func (d *doctor) server(ctx context.Context) []finding {
	const check = "server"
	at := d.remote.base
	start := time.Now()
	notReady, err := d.remote.readiness(ctx)
	took := time.Since(start)
	switch {
	case err != nil && !d.named:
		return []finding{fine(check, "none runs at %s, so its stream was not looked at; --url or FRESHWIRE_URL says where one does", at)}
	case err != nil:
		return []finding{fail(check, "%s: %v", at, reasonOfCall(ctx, err, healthTime))}
	case len(notReady) > 0:
		return []finding{fail(check, "%s is not ready: %s; its log says why", at, strings.Join(notReady, ", "))}
	}
	rows := []finding{fine(check, "%s is ready", at).took(took)}
	p, err := newStreamProbe(at + "/api/events")
	if err != nil {
		return append(rows, fail("stream", "%v", err))
	}
	p.direct = true
	return append(rows, p.examine(ctx)...)
}
