package entries

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/cache"
)

// Bounds of one batch.
const (
	maxBatch     = 100
	maxBatchBody = 256 << 10
	maxAnswer    = 16 << 20 // bytes of bodies in one answer; beyond it entries are to be asked for alone
)

// item is one entry in the answer to a batch.
type item struct {
	Key    string `json:"key"`
	Status string `json:"status"` // hit, stale, miss, or large: ask for it alone
	Type   string `json:"content_type,omitempty"`
	ETag   string `json:"etag,omitempty"`
	Seq    uint64 `json:"seq,omitempty"`
	Age    int    `json:"age,omitempty"` // seconds
	TTL    int    `json:"ttl,omitempty"` // seconds
	Body   string `json:"body,omitempty"`
	Base64 string `json:"body_base64,omitempty"` // in place of body, where that is not UTF-8
}

// batch answers POST /v1/entries/batch.
func (h *Handler) batch(w http.ResponseWriter, r *http.Request) (string, error) {
	keys, err := decodeBatch(http.MaxBytesReader(w, r.Body, maxBatchBody))
	if err != nil {
		return "", err
	}
	h.giveToken(w)
	found, err := h.cache.LookMany(r.Context(), keys)
	if err != nil {
		return "", err
	}
	items, room := make([]item, len(keys)), maxAnswer
	for i, res := range found {
		if items[i], err = itemOf(keys[i], res, &room); err != nil {
			return "", err
		}
	}
	return "batch", reply(w, map[string]any{"entries": items})
}

func itemOf(key string, res cache.Result, room *int) (item, error) {
	it := item{Key: key, Status: "miss"}
	e := res.Entry
	if e == nil || e.Status/100 != 2 {
		return it, nil
	}
	if e.Size > *room {
		it.Status = "large"
		return it, nil
	}
	*room -= e.Size
	body, err := e.Body()
	if err != nil {
		return it, err
	}
	it.Status, it.ETag, it.Seq = string(res.Verdict), e.ETag, res.Token
	it.Age, it.TTL = int(res.Age/time.Second), int(res.TTL/time.Second)
	if kind := e.Header["Content-Type"]; len(kind) > 0 {
		it.Type = kind[0]
	}
	if utf8.Valid(body) {
		it.Body = string(body)
	} else {
		it.Base64 = base64.StdEncoding.EncodeToString(body)
	}
	return it, nil
}

func decodeBatch(body io.Reader) ([]string, error) {
	var in struct {
		Keys []string `json:"keys"`
	}
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil || len(in.Keys) == 0 || len(in.Keys) > maxBatch {
		return nil, errBatchBody
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errBatchBody
	}
	for _, key := range in.Keys {
		if key == "" || len(key) > cache.MaxKey {
			return nil, errKey
		}
	}
	return in.Keys, nil
}
