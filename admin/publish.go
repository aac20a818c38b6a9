package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// Publisher tells the subscribers of channels data, one JSON object, and
// returns its position in the log.
type Publisher func(ctx context.Context, channels []string, data []byte) (id string, err error)

// ErrPublish is wrapped by a Publisher's error for what can never be published.
// Its text is for the caller, and repeats nothing of the data.
var ErrPublish = errors.New("admin: cannot publish this")

// Bounds of one publish request. What the data and the names may be, the
// Publisher knows; as JSON they are up to six times as long.
const (
	maxPublishBody     = 512 << 10
	maxPublishChannels = 64
)

// NewPublishHandler answers POST /admin/publish.
func NewPublishHandler(publish Publisher, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		channels, data, complaint := decodePublish(http.MaxBytesReader(w, r.Body, maxPublishBody))
		if complaint != "" {
			Problem(w, http.StatusBadRequest, complaint)
			return
		}
		id, err := publish(r.Context(), channels, data)
		switch {
		case errors.Is(err, ErrPublish):
			Problem(w, http.StatusBadRequest, "This cannot be published: "+strings.TrimPrefix(err.Error(), ErrPublish.Error()+": ")+".")
		case err != nil:
			unavailable(w, r, log, "publishing", err)
		default:
			log.InfoContext(r.Context(), "published", "position", id, "channels", len(channels), "bytes", len(data), "took", time.Since(start))
			reply(w, http.StatusOK, map[string]string{"id": id})
		}
	})
}

// decodePublish reads one request. The complaint, empty when there is none, is
// for the caller and holds nothing of the body.
func decodePublish(body io.Reader) (channels []string, data []byte, complaint string) {
	const want = `The body is one JSON object such as {"channels":["news"],"data":{"text":"hello"}}.`
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, nil, fmt.Sprintf("The body cannot be read, or is longer than %d bytes.", maxPublishBody)
	}
	if !utf8.Valid(text) {
		return nil, nil, "The body is no UTF-8."
	}
	var in struct {
		Channels []string        `json:"channels"`
		Data     json.RawMessage `json:"data"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return nil, nil, want
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, "The body holds more than one JSON object."
	}
	switch {
	case len(in.Channels) == 0:
		return nil, nil, "channels is missing: a list of 1 to 64 names."
	case len(in.Channels) > maxPublishChannels:
		return nil, nil, fmt.Sprintf("channels holds %d names, at most %d are taken at once.", len(in.Channels), maxPublishChannels)
	case len(in.Data) == 0 || in.Data[0] != '{':
		return nil, nil, "data is missing, or no JSON object."
	}
	var line bytes.Buffer
	if err := json.Compact(&line, in.Data); err != nil { // it was read already
		return nil, nil, want
	}
	return in.Channels, line.Bytes(), ""
}
