// Package web is what people see of freshwire in a browser: the page of
// `freshwire dev`, where an edit can be watched on its way to a reader, and
// the live page for operators.
//
// Handler serves one of the two at / and the live page at /_freshwire/. Both
// are plain HTML, CSS and ES modules, embedded as they are written; what they
// show they fetch from the other endpoints of the same origin.
//
// No page asks another host for anything, and the policy sent with each file
// makes browsers hold to that: no inline script, no inline style, no frame.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"time"
)

//go:embed assets
var assets embed.FS

// Kind says which page stands at /.
type Kind string

// The pages.
const (
	Dev  Kind = "dev"  // an article and its edit form, beside the stream
	Live Kind = "live" // the feed and the figures of a running site
)

// types by extension: what the system's own table says may differ.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// header is sent with every answer.
var header = map[string]string{
	"Content-Security-Policy": "default-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; " +
		"img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "same-origin",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Cache-Control":                "no-cache", // asks each time, mostly answered 304
}

type file struct {
	content []byte
	kind    string // media type
	etag    string
}

// Handler serves the page of that kind at /, the live page at /_freshwire/,
// what they need under /_freshwire/assets/, and /favicon.svg. Anything else is
// 404.
func Handler(kind Kind) http.Handler {
	files := map[string]file{} // by path of the URL
	names, err := fs.Glob(assets, "assets/*")
	if err != nil {
		panic(err) // a mistake in the pattern
	}
	for _, name := range names {
		f := load(name)
		switch base := path.Base(name); base {
		case "dev.html", "live.html":
			if base == string(kind)+".html" {
				files["/"] = f
			}
			if base == "live.html" {
				files["/_freshwire/"] = f
			}
		case "favicon.svg":
			files["/favicon.svg"] = f
		default:
			files["/_freshwire/assets/"+base] = f
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range header {
			w.Header().Set(name, value)
		}
		if r.URL.Path == "/_freshwire" {
			http.Redirect(w, r, "/_freshwire/", http.StatusPermanentRedirect)
			return
		}
		f, ok := files[r.URL.Path]
		switch {
		case !ok:
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		default:
			w.Header().Set("Content-Type", f.kind)
			w.Header().Set("ETag", f.etag)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
		}
	})
}

func load(name string) file {
	content, err := assets.ReadFile(name)
	if err != nil {
		panic(err) // name comes from the same file system
	}
	sum := sha256.Sum256(content)
	return file{content, types[path.Ext(name)], `"` + hex.EncodeToString(sum[:12]) + `"`}
}
