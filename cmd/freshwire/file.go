package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/foreign"
	"github.com/freshwire/freshwire/internal/yamlfile"
	"github.com/freshwire/freshwire/read"
	"github.com/freshwire/freshwire/rules"
	"github.com/freshwire/freshwire/session"
	"github.com/freshwire/freshwire/target"
	"github.com/freshwire/freshwire/webhook"
)

// configFile is freshwire.yaml.
type configFile struct {
	Sources  map[string]webhook.SourceConfig `yaml:"sources" keys:"^[a-z0-9][a-z0-9_-]{0,63}$" desc:"who may send webhooks; each gets the URL /webhooks/<name>"`
	Rules    []rules.Rule                    `yaml:"rules" desc:"what an event makes void, who is told; every matching rule applies. No rules at all: one rule for every event"`
	Targets  map[string]target.Config        `yaml:"targets" keys:"^[a-z0-9][a-z0-9_-]{0,63}$" desc:"who is told after the purge, before the browsers"`
	Routes   []read.RouteConfig              `yaml:"routes" desc:"read handlers: GET and HEAD, served from the cache"`
	Channels []session.ChannelConfig         `yaml:"channels" desc:"who may listen to which channel; a channel not listed is public"`
	Foreign  cache.ForeignConfig             `yaml:"foreign" desc:"what other programs do in the same Redis"`
}

// site is what the config file says, checked and ready for use.
type site struct {
	name     string // of the file, for people; empty when there is none
	file     configFile
	sources  []*webhook.Source
	rules    *rules.Set
	targets  map[string]*target.Target
	channels *session.Channels
	notes    []string // of settings that are right but weak
}

const defaultConfigFile = "freshwire.yaml"

// loadSite reads the config file that env names. No file at all is a site
// without sources and routes; fallback, when not empty, is read instead of it.
func loadSite(env environment, fallback string) (*site, error) {
	name := env.Config
	if name == "" {
		name = defaultConfigFile
	}
	text, err := os.ReadFile(name)
	switch {
	case err == nil:
		return parseSite(name, text)
	case errors.Is(err, os.ErrNotExist) && env.Config == "":
		s, err := parseSite("(built in)", []byte(fallback))
		if s != nil {
			s.name = ""
		}
		return s, err
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("FRESHWIRE_CONFIG: there is no file %s", name)
	}
	return nil, fmt.Errorf("reading the config file: %w", err)
}

// parseSite reads a config file and returns every mistake of it, joined.
func parseSite(name string, text []byte) (*site, error) {
	s := &site{name: name, targets: map[string]*target.Target{}}
	if len(strings.TrimSpace(string(text))) == 0 {
		text = []byte("{}")
	}
	doc, err := yamlfile.Parse(name, text)
	if err != nil {
		return nil, err
	}
	var secretErrs []error
	decodeErr := doc.Decode(&s.file, func(name string) (string, bool) {
		value, ok, err := lookupSecret(name)
		secretErrs = append(secretErrs, err)
		return value, ok
	})
	mistakes := doc.Locate(errors.Join(decodeErr, without(decodeErr, doc.Locate(s.compile(doc)))))
	return s, errors.Join(append(secretErrs, mistakes)...)
}

// compile makes what runs of what the file says, and joins all mistakes.
func (s *site) compile(doc *yamlfile.Doc) error {
	errs := []error{checkSources(s.file)}
	for _, name := range doc.Keys("sources") {
		source, err := webhook.NewSource(name, s.file.Sources[name])
		errs = append(errs, err)
		if err == nil {
			s.sources = append(s.sources, source)
			s.notes = append(s.notes, source.Warnings()...)
			s.notes = append(s.notes, source.ExpiryWarnings(time.Now())...)
		}
	}
	var err error
	for _, name := range doc.Keys("targets") {
		s.targets[name], err = target.New(name, s.file.Targets[name])
		errs = append(errs, err)
	}
	s.rules, err = rules.Compile(s.file.Rules, slices.Sorted(maps.Keys(s.file.Targets)))
	errs = append(errs, err)
	s.channels, err = session.CompileChannels(s.file.Channels)
	errs = append(errs, err, checkForeign(s.file.Foreign.Channels))
	if s.rules != nil && s.channels.HasPrivate() {
		s.rules.Private(s.channels.Private)
	}
	known := map[string]int{}
	for i, route := range s.file.Routes {
		at := fmt.Sprintf("routes[%d]", i)
		errs = append(errs, within(at, route.Validate()), within(at, checkPath(route.Path)))
		s.notes = append(s.notes, route.Warnings()...)
		shape := pathNames.ReplaceAllString(route.Path, "{}")
		if first, ok := known[shape]; ok {
			errs = append(errs, &misplaced{at + ".path", fmt.Errorf("routes[%d] answers %s already", first, route.Path)})
		} else {
			known[shape] = i
		}
	}
	return errors.Join(errs...)
}

// pathNames finds {name} in a path; with a pattern, {name:pattern} may differ.
var pathNames = regexp.MustCompile(`\{[^{}:]*\}`)

// without leaves out of more what found says already: mistakes of values that
// could not be read, and the same mistake found twice.
func without(found, more error) error {
	unread, said := map[string]bool{}, map[string]bool{}
	for _, e := range yamlfile.Flatten(found) {
		said[e.Error()] = true
		var at *yamlfile.Error
		if errors.As(e, &at) {
			unread[at.Path] = true
		}
	}
	var errs []error
	for _, e := range yamlfile.Flatten(more) {
		var at *yamlfile.Error
		if said[e.Error()] || errors.As(e, &at) && unread[at.Path] {
			continue
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// checkSources finds rules about sources that do not exist.
func checkSources(f configFile) error {
	var errs []error
	for i, rule := range f.Rules {
		if _, ok := f.Sources[rule.Source]; !ok && rule.Source != "" {
			errs = append(errs, &misplaced{fmt.Sprintf("rules[%d].source", i), fmt.Errorf("there is no source %q; the sources are %s",
				rule.Source, strings.Join(slices.Sorted(maps.Keys(f.Sources)), ", "))})
		}
	}
	return errors.Join(errs...)
}

// checkForeign finds channels of other programs that nobody could listen to.
func checkForeign(channels []string) error {
	var errs []error
	for _, err := range yamlfile.Flatten(foreign.Config{Channels: channels}.Validate()) {
		at := "foreign.channels"
		if m := (*foreign.Mistake)(nil); errors.As(err, &m) && m.Index < len(channels) {
			at = fmt.Sprintf("%s[%d]", at, m.Index)
		}
		errs = append(errs, &misplaced{at, err})
	}
	return errors.Join(errs...)
}

// ourPaths are the beginnings of paths that no route may take.
var ourPaths = []string{"/webhooks/", "/api/webhooks/", "/api/revalidate", "/api/events", "/api/auth/", "/v1/entries/", "/admin/", "/debug/why", "/debug/tag", "/monitoring", "/metrics", "/healthz", "/readyz", "/_freshwire", "/_demo"}

func checkPath(path string) error {
	if path == "/" || path == "/favicon.svg" {
		return &misplaced{"path", fmt.Errorf("%s is the live page's", path)}
	}
	for _, ours := range ourPaths {
		if strings.HasPrefix(path, ours) || path+"/" == ours {
			return &misplaced{"path", fmt.Errorf("%s is freshwire's own", ours)}
		}
	}
	return nil
}

// misplaced is a mistake at a place of the config file.
type misplaced struct {
	path string
	err  error
}

func (m *misplaced) Error() string    { return m.path + ": " + m.err.Error() }
func (m *misplaced) Unwrap() error    { return m.err }
func (m *misplaced) YAMLPath() string { return m.path }

// within puts the places of all mistakes joined in err below prefix.
func within(prefix string, err error) error {
	var errs []error
	for _, e := range yamlfile.Flatten(err) {
		var at yamlfile.Located
		if errors.As(e, &at) {
			e = &misplaced{prefix + "." + at.YAMLPath(), errors.Unwrap(at)}
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
