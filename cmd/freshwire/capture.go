package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/internal/yamlfile"
	"github.com/freshwire/freshwire/webhook"
)

// capture is a request as it came in, written down: the form that `verify` and
// `plan` read and testdata/cms holds. A file may hold several, one after the other.
type capture struct {
	CMS     string          `json:"cms"`
	Method  string          `json:"method"`
	Path    string          `json:"path"` // the raw request target
	Headers map[string]any  `json:"headers"`
	Body    *string         `json:"body"`
	Base64  *string         `json:"body_base64"` // of a body that is no UTF-8
	Config  json.RawMessage `json:"config"`
	Now     *int64          `json:"now_unix_ms"`
}

// captureConfig is the config of a capture: the keys of a source.
type captureConfig struct {
	webhook.SourceConfig
	Seconds int64 `yaml:"tolerance_seconds" desc:"another way to write tolerance"`

	there map[string]bool // keys that are written
}

const maxCaptureFile = 256 << 20

// readLimited reads a file, or standard input for -.
func readLimited(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, maxCaptureFile+1))
	if err == nil && len(text) > maxCaptureFile {
		err = fmt.Errorf("has more than %d bytes", maxCaptureFile)
	}
	return text, err
}

// objects splits text into the JSON objects that it holds. Those before a
// mistake are returned with it.
func objects(text []byte) ([]json.RawMessage, error) {
	var all []json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	for {
		var one json.RawMessage
		switch err := dec.Decode(&one); {
		case err == io.EOF && len(all) == 0:
			return nil, errors.New("is empty")
		case err == io.EOF:
			return all, nil
		case err != nil:
			return all, fmt.Errorf("is not JSON: %w", err)
		}
		all = append(all, one)
	}
}

// parseCapture reads one captured request.
func parseCapture(text json.RawMessage) (capture, error) {
	var c capture
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("is not a captured request: %w", err)
	}
	switch {
	case c.Body == nil && c.Base64 == nil:
		return c, errors.New(`is not a captured request: "body" is missing, the exact body as a JSON string`)
	case c.Body != nil && c.Base64 != nil:
		return c, errors.New(`has "body" and "body_base64"; write one of them`)
	}
	return c, nil
}

// looksCaptured reports whether text is a captured request rather than a body.
func looksCaptured(text json.RawMessage) bool {
	var keys map[string]json.RawMessage
	if json.Unmarshal(text, &keys) != nil {
		return false
	}
	return (keys["body"] != nil || keys["body_base64"] != nil) && (keys["headers"] != nil || keys["config"] != nil)
}

// delivery is the request of c as it came to the source called name.
func (c capture) delivery(name string) (webhook.Delivery, error) {
	d := webhook.Delivery{Method: c.Method, Target: c.Path, Header: http.Header{}}
	if d.Method == "" {
		d.Method = http.MethodPost
	}
	if d.Target == "" {
		d.Target = "/webhooks/" + name
	}
	for name, value := range c.Headers {
		values, ok := value.([]any)
		if !ok {
			values = []any{value}
		}
		for _, v := range values {
			text, ok := v.(string)
			if !ok {
				return d, fmt.Errorf("header %q is neither text nor a list of texts", name)
			}
			d.Header.Add(name, text)
		}
	}
	if c.Body != nil {
		d.Body = []byte(*c.Body)
		return d, nil
	}
	var err error
	if d.Body, err = base64.StdEncoding.DecodeString(*c.Base64); err != nil {
		return d, errors.New("body_base64 is not base64")
	}
	return d, nil
}

func (c capture) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return time.UnixMilli(*c.Now)
}

// source makes a source of what the capture says, on top of the settings of
// the source of the config file, if there is one. A config that names its own
// scheme, or another CMS, stands alone.
func (c capture) source(name string, base *webhook.SourceConfig) (*webhook.Source, error) {
	written, err := c.config()
	if err != nil {
		return nil, err
	}
	cfg := written.SourceConfig
	if c.CMS != "" {
		cfg.CMS = c.CMS
	}
	switch {
	case base == nil && len(written.there) == 0 && cfg.CMS == "":
		return nil, errors.New("nothing says whose request it is: give --source NAME, or cms and config in the file")
	case base != nil && cfg.CMS == "" && written.there["scheme"]:
		cfg.CMS = base.CMS
	case base != nil && !written.there["scheme"] && (cfg.CMS == "" || cfg.CMS == base.CMS):
		cfg = overlay(*base, cfg, written.there)
	}
	if written.there["secret"] && cfg.Secret == "" {
		// A captured request is judged, not guarded: nothing is signed with an
		// empty secret, so any that nobody knows gives the right verdict.
		cfg.Secret = hex.EncodeToString([]byte(rand.Text()))
	}
	source, err := webhook.NewSource(name, cfg)
	if err != nil && written.there["tolerance_seconds"] { // captures carry it also where no time is signed
		cfg.Tolerance = 0
		if lenient, err := webhook.NewSource(name, cfg); err == nil {
			return lenient, nil
		}
	}
	return source, inConfig(name, err)
}

// config reads the keys of a source as freshwire.yaml is read, with the names
// of those that are there. A captured request is data: ${NAME} in it stands for
// itself.
func (c capture) config() (captureConfig, error) {
	cfg := captureConfig{there: map[string]bool{}}
	keys := map[string]any{}
	if len(c.Config) > 0 {
		dec := json.NewDecoder(bytes.NewReader(c.Config))
		dec.UseNumber()
		if err := dec.Decode(&keys); err != nil {
			return cfg, errors.New("config is not an object")
		}
	}
	for key := range keys {
		cfg.there[key] = true
	}
	if _, ok := keys["cms"]; !ok {
		keys["cms"] = "generic" // required in the file; here it stands at the top, and is set below
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text) // YAML knows JSON, but not its pairs of \u
	enc.SetEscapeHTML(false)
	if err := enc.Encode(keys); err != nil {
		return cfg, err
	}
	err := yamlfile.Decode("config", bytes.ReplaceAll(text.Bytes(), []byte("${"), []byte("$${")), &cfg, func(string) (string, bool) { return "", false })
	if err != nil {
		return cfg, flatly(err)
	}
	if !cfg.there["cms"] {
		cfg.CMS = ""
	}
	if cfg.there["tolerance_seconds"] {
		cfg.SourceConfig.Tolerance = time.Duration(min(cfg.Seconds, 1<<31)) * time.Second
	}
	return cfg, nil
}

// flatly drops the places of mistakes in a config that has one line.
func flatly(err error) error {
	var all []string
	for _, e := range yamlfile.Flatten(err) {
		var at *yamlfile.Error
		if errors.As(e, &at) {
			place := "config"
			if at.Path != "" {
				place += "." + at.Path
			}
			e = fmt.Errorf("%s: %w", place, at.Err)
		}
		all = append(all, e.Error())
	}
	return errors.New(strings.Join(all, "; "))
}

// inConfig tells mistakes of a source by their keys in a capture's config.
func inConfig(name string, err error) error {
	if err == nil {
		return nil
	}
	var all []string
	for _, e := range yamlfile.Flatten(err) {
		all = append(all, "config."+strings.TrimPrefix(e.Error(), "sources."+name+"."))
	}
	return errors.New(strings.Join(all, "; "))
}

// overlay returns base with the keys of written that are there.
func overlay(base, written webhook.SourceConfig, there map[string]bool) webhook.SourceConfig {
	to, from := reflect.ValueOf(&base).Elem(), reflect.ValueOf(written)
	for i := range to.NumField() {
		key := to.Type().Field(i).Tag.Get("yaml")
		if there[key] || key == "tolerance" && there["tolerance_seconds"] {
			to.Field(i).Set(from.Field(i))
		}
	}
	if there["secret"] {
		base.PreviousSecrets, base.Secrets, base.Password = written.PreviousSecrets, written.Secrets, written.Password
	}
	return base
}

// baseSource is the source of the config file that --source names, and all
// others of it; nil without a name.
func baseSource(name string) (*site, *webhook.SourceConfig, error) {
	if name == "" {
		return nil, nil, nil
	}
	_, s, err := loadAll(demoConfig(""))
	if err != nil {
		return nil, nil, report(err)
	}
	cfg, ok := s.file.Sources[name]
	if !ok {
		return nil, nil, usageError{fmt.Sprintf("there is no source %q in the config; the sources are %s", name, strings.Join(slices.Sorted(maps.Keys(s.file.Sources)), ", "))}
	}
	return s, &cfg, nil
}
