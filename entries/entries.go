// Package entries gives programs in other languages the cache over HTTP: edge
// functions and scripts that would else read Redis by themselves, and serve
// what is void.
//
// Mount a Handler on /v1/entries/ behind whoever decides who may enter. The key
// is the rest of the path, percent-decoded once, slashes and all.
//
//	GET, HEAD /v1/entries/{key}    the content, or 404; always with Freshwire-Fill-Token
//	PUT       /v1/entries/{key}    keeps content that was fetched after that token was given
//	DELETE    /v1/entries/{key}    purges the key everywhere, and answers with the receipt
//	POST      /v1/entries/batch    {"keys":["a","b"]}: up to 100 at once
//
// A miss, its fill, a read, and a purge, with FW=http://127.0.0.1:8080 and the
// token in AUTH='Authorization: Bearer …':
//
//	$ curl -si -H "$AUTH" $FW/v1/entries/product:1
//	HTTP/1.1 404 Not Found
//	Freshwire-Fill-Token: 5f0c6f0fb2a9e1d4.hcmzc3xk1s
//
//	$ curl -s https://cms.example/products/1 > product.json      # after the token, never before
//	$ curl -si -H "$AUTH" -X PUT -H 'Content-Type: application/json' \
//	    -H 'Freshwire-Fill-Token: 5f0c6f0fb2a9e1d4.hcmzc3xk1s' \
//	    --data-binary @product.json "$FW/v1/entries/product:1?ttl=10m&tag=products&tag=product:1"
//	HTTP/1.1 201 Created                                         # 409: purged meanwhile, fetch it again
//
//	$ curl -s -H "$AUTH" $FW/v1/entries/product:1
//	{"id":1,"name":"Lamp"}
//
//	$ curl -s -H "$AUTH" -X DELETE $FW/v1/entries/product:1
//	{"seq":1795176000123456,"entries":1,"nodes":2,"waited_ms":1,"settled":true}
//
// It promises what the cache does: once a purge is settled, nobody gets what was
// fetched before it, from any process, whoever had fetched it.
package entries

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/cache"
)

// Prefix is where a Handler is mounted.
const Prefix = "/v1/entries/"

// TokenHeader carries the place in the ledger from before a fetch.
const TokenHeader = "Freshwire-Fill-Token"

// Cache is what a Handler needs of cache.Store.
type Cache interface {
	LookMany(ctx context.Context, keys []string) ([]cache.Result, error)
	Begin() cache.Token
	Put(ctx context.Context, req cache.Request, fill cache.Fill, begun cache.Token) (stored bool, err error)
}

// Purger makes the entry of key void everywhere, and returns the receipt, any JSON.
type Purger func(ctx context.Context, key string) (receipt any, err error)

// Config of a Handler.
type Config struct {
	MaxBody int64                 // of PUT, in bytes; zero means 4 MiB
	Metrics prometheus.Registerer // nil: nothing is counted
}

// Handler answers for entries.
type Handler struct {
	cache    Cache
	purge    Purger
	log      *slog.Logger
	cfg      Config
	requests *prometheus.CounterVec
}

// NewHandler returns a Handler. It lets everybody in: put a guard before it.
func NewHandler(c Cache, purge Purger, log *slog.Logger, cfg Config) *Handler {
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 4 << 20
	}
	return &Handler{cache: c, purge: purge, log: log, cfg: cfg, requests: promauto.With(cfg.Metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "freshwire_entries_requests_total", Help: "Requests to /v1/entries, by method and what came of them.",
	}, []string{"method", "outcome"})}
}

// refusal is an answer other than the one that was hoped for.
type refusal struct {
	status  int
	outcome string // for the metric
	detail  string // for the caller; nothing of what it sent
}

func (r refusal) Error() string { return r.detail }

var (
	errMethod    = refusal{http.StatusMethodNotAllowed, "method", "GET, HEAD, PUT and DELETE are for a key; POST is for batch."}
	errKey       = refusal{http.StatusBadRequest, "key", fmt.Sprintf("A key is 1 to %d bytes, percent-encoded once.", cache.MaxKey)}
	errMissing   = refusal{http.StatusNotFound, "miss", "There is nothing under this key that may be served. Fetch it, and PUT it with the Freshwire-Fill-Token of this answer."}
	errNoToken   = refusal{http.StatusPreconditionRequired, "no-token", "PUT needs the Freshwire-Fill-Token of a GET that came before the content was fetched."}
	errToken     = refusal{http.StatusBadRequest, "token", "This Freshwire-Fill-Token is none of ours."}
	errConflict  = refusal{http.StatusConflict, "conflict", "The entry was purged, or newer content came, after this token was given. Fetch the content again, and PUT it with the token of this answer."}
	errAway      = refusal{http.StatusServiceUnavailable, "away", "Redis does not answer."}
	errLarge     = refusal{http.StatusRequestEntityTooLarge, "large", "The body is larger than FRESHWIRE_CACHE_MAX_BODY."}
	errCut       = refusal{http.StatusBadRequest, "cut", "The body did not come whole."}
	errNotKept   = refusal{http.StatusUnprocessableEntity, "refused", "The cache does not keep this: it has no time to live, or more or longer tags than are kept."}
	errBatchBody = refusal{http.StatusBadRequest, "batch", fmt.Sprintf(`The body is one JSON object {"keys":["a","b"]} with 1 to %d keys.`, maxBatch)}
)

func bad(format string, args ...any) refusal {
	return refusal{http.StatusBadRequest, "parameter", fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	outcome, err := h.serve(w, r)
	if err != nil {
		var ref refusal
		switch {
		case errors.As(err, &ref):
		case errors.Is(err, cache.ErrKey):
			ref = errKey
		case errors.Is(err, cache.ErrToken):
			ref = errToken
		case errors.Is(err, cache.ErrRefused):
			ref = errNotKept
		default:
			ref = errAway
			h.log.WarnContext(r.Context(), "entry request unanswered", "method", r.Method, "err", err)
		}
		if ref.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "2")
		}
		admin.Problem(w, ref.status, ref.detail)
		outcome = ref.outcome
	}
	h.requests.WithLabelValues(method(r.Method), outcome).Inc()
}

// method bounds the label: anybody can make up methods.
func method(m string) string {
	if slices.Contains([]string{"GET", "HEAD", "PUT", "DELETE", "POST"}, m) {
		return m
	}
	return "other"
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (outcome string, err error) {
	key, err := keyOf(r)
	if err != nil {
		return "", err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.get(w, r, key)
	case http.MethodPut:
		return h.put(w, r, key)
	case http.MethodDelete:
		return h.delete(w, r, key)
	case http.MethodPost:
		if key == "batch" {
			return h.batch(w, r)
		}
	}
	w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
	return "", errMethod
}

// keyOf returns the key that r names: the path behind the prefix as it was
// sent, decoded once.
func keyOf(r *http.Request) (string, error) {
	raw, ok := strings.CutPrefix(r.URL.EscapedPath(), Prefix)
	if !ok {
		return "", errKey
	}
	key, err := url.PathUnescape(raw)
	if err != nil || key == "" || len(key) > cache.MaxKey {
		return "", errKey
	}
	return key, nil
}

func (h *Handler) get(w http.ResponseWriter, r *http.Request, key string) (string, error) {
	h.giveToken(w) // first: what is fetched after this answer is newer than it
	found, err := h.cache.LookMany(r.Context(), []string{key})
	if err != nil {
		return "", err
	}
	res := found[0]
	if res.Entry == nil || res.Entry.Status/100 != 2 {
		return "", errMissing
	}
	body, err := res.Entry.Body()
	if err != nil {
		return "", fmt.Errorf("reading the body of an entry: %w", err)
	}
	head := w.Header()
	for _, name := range []string{"Content-Type", "Content-Language", "Content-Encoding", "Last-Modified"} {
		if values := res.Entry.Header[name]; len(values) > 0 {
			head[name] = values
		}
	}
	if len(head["Content-Type"]) == 0 {
		head.Set("Content-Type", "application/octet-stream")
	}
	head.Set("Cache-Control", "no-store") // a copy elsewhere would hear of no purge
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("X-Cache", strings.ToUpper(string(res.Verdict)))
	head.Set("Age", strconv.Itoa(int(res.Age/time.Second)))
	head.Set("Freshwire-Seq", strconv.FormatUint(res.Token, 10))
	if res.Entry.ETag != "" {
		head.Set("ETag", res.Entry.ETag)
		if matches(r.Header.Values("If-None-Match"), res.Entry.ETag) {
			head.Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return "not-modified", nil
		}
	}
	head.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body)
	}
	return string(res.Verdict), nil
}

// giveToken tells from when on a fetch is new. Where no ledger was ever
// reached there is nothing to tell, and nothing could be kept.
func (h *Handler) giveToken(w http.ResponseWriter) {
	if t := h.cache.Begin(); !t.IsZero() {
		w.Header().Set(TokenHeader, t.String())
	}
}

// matches compares as If-None-Match does, weakly.
func matches(lines []string, etag string) bool {
	for _, line := range lines {
		for given := range strings.SplitSeq(line, ",") {
			given = strings.TrimPrefix(strings.TrimSpace(given), "W/")
			if given == "*" || given == strings.TrimPrefix(etag, "W/") {
				return true
			}
		}
	}
	return false
}

func (h *Handler) delete(w http.ResponseWriter, r *http.Request, key string) (string, error) {
	start := time.Now()
	receipt, err := h.purge(r.Context(), key)
	if err != nil {
		return "", err
	}
	h.log.InfoContext(r.Context(), "purged", "keys", []string{key}, "by", "entries", "took", time.Since(start))
	return "purged", reply(w, receipt)
}

func reply(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(body, '\n'))
	return nil
}
