package admin

import (
	"bytes"
	"net/http"
	"regexp"
	"strings"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
)

// DashboardPath is where the Asynq dashboard lives.
const DashboardPath = "/monitoring"

// NewDashboard returns the Asynq dashboard. Operators who show the token may
// act; those let in because they call from this machine may only look.
// payload writes a task's payload for people, without what is private.
//
// The dashboard that comes with Asynq has no guard of its own, loads fonts from
// another site and serves its JSON as plain text. All three are mended here.
func NewDashboard(redis asynq.RedisConnOpt, guard *Guard, payload func(taskType string, payload []byte) string) http.Handler {
	options := asynqmon.Options{RootPath: DashboardPath, RedisConnOpt: redis, PayloadFormatter: asynqmon.PayloadFormatterFunc(payload)}
	full := asynqmon.New(options)
	options.ReadOnly = true
	readOnly := asynqmon.New(options)
	return guard.ProtectPages(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "+
			"img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "same-origin")
		board := readOnly
		if guard.ShowsToken(r) {
			board = full
		}
		if strings.HasPrefix(r.URL.Path, DashboardPath+"/api/") {
			h.Set("Content-Type", "application/json; charset=utf-8")
			board.ServeHTTP(w, r)
			return
		}
		page := &pageWriter{ResponseWriter: w}
		board.ServeHTTP(page, r)
		page.flush()
	}))
}

// outsideLinks finds the style sheets that the page would fetch from elsewhere.
var outsideLinks = regexp.MustCompile(`<link[^>]*href="https?://[^>]*>`)

// pageWriter holds a page back until it is whole, and takes links to other
// sites out of HTML.
type pageWriter struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (p *pageWriter) WriteHeader(status int)      { p.status = status }
func (p *pageWriter) Write(b []byte) (int, error) { return p.body.Write(b) }

func (p *pageWriter) flush() {
	body := p.body.Bytes()
	if bytes.HasPrefix(bytes.ToLower(bytes.TrimSpace(body[:min(len(body), 64)])), []byte("<!doctype html")) {
		body = outsideLinks.ReplaceAll(body, nil)
		p.Header().Set("Content-Type", "text/html; charset=utf-8")
	}
	if p.status != 0 {
		p.ResponseWriter.WriteHeader(p.status)
	}
	p.ResponseWriter.Write(body)
}
