package entries

import (
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/freshwire/freshwire/cache"
)

// Bounds of one PUT.
const (
	defaultTTL = 5 * time.Minute
	maxSpan    = 365 * 24 * time.Hour
	maxTags    = 500
	maxType    = 256 // bytes of Content-Type
)

// put keeps content that a program fetched itself.
func (h *Handler) put(w http.ResponseWriter, r *http.Request, key string) (string, error) {
	given := r.Header.Get(TokenHeader)
	if given == "" {
		h.giveToken(w)
		return "", errNoToken
	}
	token, err := cache.ParseToken(given)
	if err != nil {
		return "", errToken
	}
	req, fill, err := parsePut(key, r.URL.Query(), r.Header)
	if err != nil {
		return "", err
	}
	if fill.Body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.MaxBody)); err != nil {
		if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
			return "", errLarge
		}
		return "", errCut
	}
	fill.ETag = etagOf(fill.Body)
	before, err := h.cache.LookMany(r.Context(), []string{key})
	if err != nil {
		return "", err
	}
	stored, err := h.cache.Put(r.Context(), req, fill, token)
	if err != nil {
		return "", err
	}
	if !stored {
		h.giveToken(w)
		return "", errConflict
	}
	w.Header().Set("ETag", fill.ETag)
	w.Header().Set("Cache-Control", "no-store")
	if before[0].Entry == nil {
		w.WriteHeader(http.StatusCreated)
		return "created", nil
	}
	w.WriteHeader(http.StatusNoContent)
	return "replaced", nil
}

// parsePut reads how long content is kept and what voids it, from the query or,
// where that does not say, from headers that origins send.
func parsePut(key string, query url.Values, header http.Header) (cache.Request, cache.Fill, error) {
	req := cache.Request{Key: key, Path: query.Get("path")}
	fill := cache.Fill{Status: http.StatusOK, TTL: defaultTTL}
	for name := range query {
		switch name {
		case "ttl", "swr", "tag", "path":
		default:
			return req, fill, bad("Known parameters are ttl, swr, tag and path.")
		}
	}
	if req.Path != "" && (req.Path[0] != '/' || len(req.Path) > cache.MaxKey) {
		return req, fill, bad("path begins with a slash, and is at most %d bytes.", cache.MaxKey)
	}
	life := cacheControl(header.Values("Cache-Control"))
	if life.private {
		return req, fill, bad("Cache-Control says private or no-store: that is not for a cache that others read.")
	}
	if life.ttl != 0 {
		fill.TTL = life.ttl
	}
	fill.SWR = life.swr
	for name, to := range map[string]*time.Duration{"ttl": &fill.TTL, "swr": &fill.SWR} {
		if !query.Has(name) {
			continue
		}
		span, ok := parseSpan(query.Get(name))
		if !ok {
			return req, fill, bad("%s is a span such as 90s, 5m or 1h, or a number of seconds; at most a year.", name)
		}
		*to = span
	}
	if fill.TTL == 0 && fill.SWR == 0 {
		return req, fill, bad("ttl is above zero.")
	}
	req.Tags = tags(query["tag"], header)
	if len(req.Tags) > maxTags {
		return req, fill, bad("At most %d tags.", maxTags)
	}
	for _, t := range req.Tags {
		if len(t) > cache.MaxTag {
			return req, fill, bad("A tag is at most %d bytes.", cache.MaxTag)
		}
	}
	kind := header.Get("Content-Type")
	if kind == "" {
		kind = "application/octet-stream"
	}
	if len(kind) > maxType {
		return req, fill, bad("Content-Type is at most %d bytes.", maxType)
	}
	fill.Header = map[string][]string{"Content-Type": {kind}}
	for _, name := range []string{"Content-Language", "Content-Encoding"} {
		if v := header.Get(name); v != "" && len(v) <= maxType {
			fill.Header[name] = []string{v}
		}
	}
	fill.Packable = fill.Header["Content-Encoding"] == nil && isText(kind)
	return req, fill, nil
}

// tags are those of the query, and of the headers by which origins name them.
func tags(query []string, header http.Header) []string {
	var out []string
	seen := map[string]bool{}
	add := func(list []string) {
		for _, t := range list {
			if t = strings.TrimSpace(t); t != "" && !seen[t] {
				seen[t] = true
				out = append(out, t)
			}
		}
	}
	add(query)
	for _, line := range header.Values("Surrogate-Key") {
		add(strings.Fields(line))
	}
	for _, line := range header.Values("Cache-Tag") {
		add(strings.Split(line, ","))
	}
	return out
}

// parseSpan reads "5m" or a number of seconds.
func parseSpan(s string) (time.Duration, bool) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		d := time.Duration(n) * time.Second
		return d, d <= maxSpan
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0 && d <= maxSpan && (d == 0 || d >= time.Millisecond)
}

// lifetime is what Cache-Control says.
type lifetime struct {
	ttl, swr time.Duration
	private  bool
}

// cacheControl reads the directives that tell a shared cache how long; s-maxage
// wins over max-age. What cannot be read says nothing.
func cacheControl(lines []string) (l lifetime) {
	shared := false
	for _, line := range lines {
		for d := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
			span, ok := time.Duration(0), false
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 32); err == nil {
				span, ok = min(time.Duration(n)*time.Second, maxSpan), true
			}
			switch name = strings.ToLower(name); {
			case name == "private" || name == "no-store":
				l.private = true
			case name == "s-maxage" && ok:
				l.ttl, shared = span, true
			case name == "max-age" && ok && !shared:
				l.ttl = span
			case name == "stale-while-revalidate" && ok:
				l.swr = span
			}
		}
	}
	return l
}

// isText reports whether packing is worth a try.
func isText(kind string) bool {
	kind, _, _ = strings.Cut(strings.ToLower(kind), ";")
	kind = strings.TrimSpace(kind)
	return strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "json") || strings.HasSuffix(kind, "xml") || strings.HasSuffix(kind, "javascript")
}

func etagOf(body []byte) string {
	sum := xxh3.Hash128(body).Bytes()
	return `"` + hex.EncodeToString(sum[:]) + `"`
}
