package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// level tells how much a finding matters.
type level string

const (
	levelFine level = "ok"
	levelWarn level = "warn"
	levelFail level = "fail"
)

// finding is one row of the report: what is and, where that is not good, what
// to do. It never holds a secret, nor the query of an address.
type finding struct {
	Check string  `json:"check"`
	Level level   `json:"level"`
	Text  string  `json:"text"`
	MS    float64 `json:"ms,omitempty"` // where a time was measured
}

func fine(check, format string, args ...any) finding {
	return finding{Check: check, Level: levelFine, Text: fmt.Sprintf(format, args...)}
}

func warn(check, format string, args ...any) finding {
	return finding{Check: check, Level: levelWarn, Text: fmt.Sprintf(format, args...)}
}

func fail(check, format string, args ...any) finding {
	return finding{Check: check, Level: levelFail, Text: fmt.Sprintf(format, args...)}
}

// took adds the time that was measured.
func (f finding) took(d time.Duration) finding {
	f.MS = milliseconds(d)
	return f
}

// examination looks at one thing within a bounded time.
type examination func(ctx context.Context) []finding

// examBound is how long one examination may take. Those of a stream have bounds of their own.
const examBound = 10 * time.Second

// bounded ends what look does after d.
func bounded(d time.Duration, look examination) examination {
	return func(ctx context.Context) []finding {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		return look(ctx)
	}
}

func newDoctorCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at Redis, the settings, the origins, the disk and the stream, and say what is wrong and what to do",
		Long: "Look at Redis, the environment and freshwire.yaml, the origins and targets, the disk of the journal, the limits of this machine,\n" +
			"and at the freshwire that runs at --url. Run it where freshwire runs, with the same environment.\n\n" +
			"With --stream it looks only at a stream, through whatever stands between here and there: proxies that buffer, compress or cut,\n" +
			"and how long a change takes. With FRESHWIRE_ADMIN_TOKEN it publishes changes at --url on a channel that nobody else knows, and waits for them.\n\n" +
			"Exit code 1 when a row says fail; warnings do not count.",
		Example: "  freshwire doctor\n  freshwire doctor --json\n  freshwire doctor --stream https://example.com/api/events --wait",
	}
	asJSON := c.Flags().Bool("json", false, "one JSON object a row")
	streamURL := c.Flags().String("stream", "", "look at the stream of this address")
	wait := c.Flags().Bool("wait", false, "with --stream: stay for 25 s, to see a ping")
	base := addURLFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		r, err := newRemote(*base)
		if err != nil {
			return err
		}
		named := c.Flags().Changed("url") || os.Getenv("FRESHWIRE_URL") != ""
		var exams []examination
		switch {
		case *streamURL != "":
			p, err := newStreamProbe(*streamURL)
			if err != nil {
				return err
			}
			p.wait = *wait
			p.publishThrough(r, named)
			exams = []examination{p.examine}
		case *wait:
			return usageError{"--wait needs --stream"}
		default:
			exams = newDoctor(r, named).examinations()
		}
		failed, err := examine(c.Context(), exams, rowPrinter(c.OutOrStdout(), *asJSON))
		if err != nil {
			return err
		}
		if failed {
			return errReported
		}
		return nil
	}
	return c
}

// examine does all examinations at once and shows what they found, in their
// order. failed tells whether a row does.
func examine(ctx context.Context, exams []examination, show func(finding) error) (failed bool, err error) {
	found := make([]chan []finding, len(exams))
	for i, look := range exams {
		found[i] = make(chan []finding, 1)
		go func() { found[i] <- look(ctx) }()
	}
	for _, rows := range found {
		for _, f := range <-rows {
			failed = failed || f.Level == levelFail
			if err := show(f); err != nil {
				return failed, err
			}
		}
	}
	return failed, nil
}

// rowPrinter returns what writes a finding for people, or as JSON.
func rowPrinter(w io.Writer, asJSON bool) func(finding) error {
	if asJSON {
		out := json.NewEncoder(w)
		out.SetEscapeHTML(false)
		return func(f finding) error { return out.Encode(f) }
	}
	return func(f finding) error {
		_, err := fmt.Fprintf(w, "%-5s %-12s %s\n", f.Level, f.Check, strings.ReplaceAll(f.Text, "\n", "; "))
		return err
	}
}

// doctor looks at one installation, with the eyes of the process that is to run here.
type doctor struct {
	env     environment
	configs configs
	site    *site // nil when the config file cannot be read at all

	mistakes []error  // of the environment
	wrong    []error  // in the config file
	notes    []string // of both
	redisErr error    // REDIS_URL cannot be understood

	remote *remote
	named  bool // somebody said where freshwire runs
}

func newDoctor(r *remote, named bool) *doctor {
	d := &doctor{remote: r, named: named}
	var err error
	d.env, err = loadEnvironment()
	d.mistakes = perLine(err)
	d.configs, err = loadConfigs(d.env)
	d.mistakes = append(d.mistakes, perLine(err)...)
	d.site, err = loadSite(d.env, "")
	d.wrong = perLine(err)
	d.notes = append(d.env.notes(), d.site.notesOrNone()...)
	if d.env.RedisURL != "" {
		_, d.redisErr = parseRedisURL(d.env.RedisURL)
	}
	return d
}

// perLine takes joined errors apart, as people see them: one a line.
func perLine(err error) []error {
	if err == nil {
		return nil
	}
	var out []error
	for line := range strings.SplitSeq(err.Error(), "\n") {
		out = append(out, fmt.Errorf("%s", line))
	}
	return out
}

func (d *doctor) examinations() []examination {
	exams := []examination{
		d.settings,
		bounded(examBound, d.examineRedis),
		d.journal,
		d.openFiles,
		d.certificate,
	}
	for _, o := range d.elsewhere() {
		exams = append(exams, bounded(examBound, o.examine))
	}
	return append(exams, d.server)
}

// settings tells every mistake of the environment and the config file.
func (d *doctor) settings(context.Context) []finding {
	var rows []finding
	for _, err := range d.mistakes {
		rows = append(rows, fail("environment", "%v", err))
	}
	if len(rows) == 0 {
		rows = append(rows, fine("environment", "no mistakes"))
	}
	for _, err := range d.wrong {
		rows = append(rows, fail("config", "%v", err))
	}
	switch {
	case len(d.wrong) > 0 || d.site == nil:
	case d.site.name == "":
		rows = append(rows, fine("config", "there is no %s: no sources, rules and routes (`freshwire dev` shows its demo)", defaultConfigFile))
	default:
		rows = append(rows, fine("config", "%s: %s, %s, %s, %s", d.site.name, count(len(d.site.sources), "source"),
			count(len(d.site.file.Rules), "rule"), count(len(d.site.targets), "target"), count(len(d.site.file.Routes), "route")))
	}
	for _, note := range d.notes {
		rows = append(rows, warn("config", "%s", note))
	}
	const shortToken = 16
	switch token := d.env.AdminToken; {
	case token == "" && d.env.RedisURL != "":
		rows = append(rows, warn("admin", "FRESHWIRE_ADMIN_TOKEN is not set: every caller on this machine is an operator, also a proxy that sends no X-Forwarded-For"))
	case token != "" && len(token) < shortToken:
		rows = append(rows, warn("admin", "FRESHWIRE_ADMIN_TOKEN has less than %d characters: take 32 random ones, such as of `openssl rand -hex 16`", shortToken))
	}
	return rows
}

// bare is an address without what may be secret in it: scheme, host and path.
func bare(u *url.URL) string { return u.Scheme + "://" + u.Host + u.Path }

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// inMS writes a time as the report does: 0.3 ms, 42 ms.
func inMS(d time.Duration) string {
	ms := milliseconds(d)
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// worst returns the level that matters more.
func worst(a, b level) level {
	rank := map[level]int{levelFine: 0, levelWarn: 1, levelFail: 2}
	if rank[b] > rank[a] {
		return b
	}
	return cmp.Or(a, b)
}
