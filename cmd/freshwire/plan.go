package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/rules"
	"github.com/freshwire/freshwire/webhook"
)

func newPlanCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "plan FILE…",
		Short: "Show what an event would purge, revalidate and publish, without doing it",
		Long: "Show what the rules of freshwire.yaml make of a delivery: what would be purged, which targets told, on which\n" +
			"channels browsers would hear of it. Nothing is done, and no signature is needed.\n\n" +
			"A FILE holds a captured request as `freshwire verify` reads it, or, with --source, just a body; - is standard input.",
		Example: "  freshwire plan --source blog post.json\n  freshwire plan --source blog --event post.published post.json\n  freshwire plan --json request.json",
		Args:    cobra.MinimumNArgs(1),
	}
	name := c.Flags().String("source", "", "name of the source in freshwire.yaml that the delivery comes to")
	kind := c.Flags().String("event", "", "the CMS's own event name, for those that do not tell it in the body")
	asJSON := c.Flags().Bool("json", false, "one JSON object a line for each event")
	c.RunE = func(c *cobra.Command, files []string) error {
		_, s, err := loadAll(demoConfig(""))
		if err != nil {
			return report(err)
		}
		p := dryRun{site: s, name: *name, kind: *kind, out: c.OutOrStdout(), print: printPlan}
		if *asJSON {
			p.print = printPlanJSON
		}
		if *name != "" {
			cfg, ok := s.file.Sources[*name]
			if !ok {
				_, err := s.source(*name)
				return usageError{err.Error()}
			}
			p.base = &cfg
		}
		ok := true
		for _, file := range files {
			if err := p.file(file, c.InOrStdin()); err != nil {
				fmt.Fprintf(c.ErrOrStderr(), "%s: %v\n", file, err)
				ok = false
			}
		}
		if !ok {
			return errReported
		}
		return nil
	}
	return c
}

// planned is one event and what the rules make of it.
type planned struct {
	file     string
	verified string // valid, the reason why not, or empty for a body alone
	event    *event.Event
	plan     rules.Plan
}

type dryRun struct {
	site  *site
	name  string // of --source
	base  *webhook.SourceConfig
	kind  string // of --event
	out   io.Writer
	print func(io.Writer, planned, []rules.Rule) error
}

func (r dryRun) file(name string, stdin io.Reader) error {
	text, err := readLimited(name, stdin)
	if err != nil {
		return err
	}
	requests, mistake := objects(text)
	if len(requests) == 0 || !looksCaptured(requests[0]) {
		if r.base == nil {
			return fmt.Errorf("is a body, not a captured request: say with --source which of %s it comes to",
				strings.Join(slices.Sorted(maps.Keys(r.site.file.Sources)), ", "))
		}
		return r.body(name, text)
	}
	for _, request := range requests {
		if err := r.request(name, request); err != nil {
			return err
		}
	}
	return mistake
}

// body plans for a bare body, as --source would send it.
func (r dryRun) body(file string, body []byte) error {
	source, err := r.site.source(r.name)
	if err != nil {
		return err
	}
	d, err := source.Sign(body, r.kind, time.Now())
	if err != nil { // what only the sender's private key can sign, or no object; Decode tells
		d = webhook.Delivery{Method: http.MethodPost, Target: "/webhooks/" + r.name, Header: http.Header{}, Body: body}
	}
	return r.show(file, "", source, d, capture{})
}

// request plans for a captured request, whether it verifies or not.
func (r dryRun) request(file string, text json.RawMessage) error {
	c, err := parseCapture(text)
	if err != nil {
		return err
	}
	name, base := r.name, r.base
	if base == nil { // the URL that it came to may tell
		path, _, _ := strings.Cut(c.Path, "?")
		name = strings.TrimPrefix(path, "/webhooks/")
		if cfg, ok := r.site.file.Sources[name]; ok {
			base = &cfg
		} else {
			name = capturedSource
		}
	}
	source, err := c.source(name, base)
	if err != nil {
		return err
	}
	d, err := c.delivery(name)
	if err != nil {
		return err
	}
	verified := "valid"
	if res := source.Verify(d, c.now()); !res.Valid() {
		verified = string(res.Reason)
	}
	return r.show(file, verified, source, d, c)
}

func (r dryRun) show(file, verified string, source *webhook.Source, d webhook.Delivery, c capture) error {
	events, err := source.Decode(d, c.now())
	if err != nil {
		return err
	}
	if len(events) == 0 {
		return r.print(r.out, planned{file: file, verified: verified}, nil)
	}
	for _, ev := range events {
		p := planned{file: file, verified: verified, event: &ev, plan: r.site.rules.Plan(ev)}
		if err := r.print(r.out, p, r.site.file.Rules); err != nil {
			return err
		}
	}
	return nil
}

// printPlanJSON prints the event without its payload, and the plan.
func printPlanJSON(w io.Writer, p planned, _ []rules.Rule) error {
	type plan struct {
		Purge      event.Purge    `json:"purge"`
		Revalidate []string       `json:"revalidate"`
		Channels   []string       `json:"channels"`
		Fields     map[string]any `json:"fields,omitempty"`
		Coalesce   int64          `json:"coalesce_ms,omitempty"`
		Refill     int            `json:"refill,omitempty"`
		Rules      []int          `json:"rules"`
		Problems   []string       `json:"problems,omitempty"`
	}
	line := struct {
		File     string       `json:"file"`
		Verified *bool        `json:"verified"` // null: a body alone
		Reason   string       `json:"reason,omitempty"`
		Event    *event.Event `json:"event"` // null: nothing to do
		Plan     *plan        `json:"plan"`
	}{File: p.file}
	if p.verified != "" {
		valid := p.verified == "valid"
		if line.Verified = &valid; !valid {
			line.Reason = p.verified
		}
	}
	if p.event != nil {
		ev := *p.event
		ev.Payload = nil
		line.Event = &ev
		line.Plan = &plan{p.plan.Purge, orEmpty(p.plan.Targets), orEmpty(p.plan.Channels), p.plan.Fields,
			p.plan.Coalesce.Milliseconds(), p.plan.Refill, p.plan.Rules, p.plan.Problems}
		if line.Plan.Rules == nil {
			line.Plan.Rules = []int{}
		}
	}
	return json.NewEncoder(w).Encode(line)
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func printPlan(w io.Writer, p planned, written []rules.Rule) error {
	var b strings.Builder
	say := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", label, text)
		}
	}
	list := func(label string, items []string) { say(label, strings.Join(items, "  ")) }
	if p.event == nil {
		fmt.Fprintf(&b, "%s: nothing to do: a test of the connection, or of nothing that the source cares for\n", p.file)
	} else {
		ev := p.event
		fmt.Fprintf(&b, "%s: %s", p.file, ev.Kind())
		if ev.Name != "" && ev.Name != ev.Kind() {
			fmt.Fprintf(&b, " (%s)", ev.Name)
		}
		fmt.Fprintln(&b)
		say("id", ev.Entity)
		say("slug", ev.Slug)
		say("before", ev.PreviousSlug)
		say("locale", ev.Locale)
		say("in", ev.Environment)
		say("version", ev.Version)
	}
	switch p.verified {
	case "":
		say("signature", "none: a body alone")
	case "valid":
		say("signature", "valid")
	default:
		say("signature", p.verified+": it would be refused; `freshwire verify` says why")
	}
	if p.event != nil {
		say("rules", matched(p, written))
		if p.plan.Purge.All {
			say("purge", "everything")
		}
		list("tags", p.plan.Purge.Tags)
		list("keys", p.plan.Purge.Keys)
		list("patterns", p.plan.Purge.Patterns)
		list("paths", p.plan.Purge.Paths)
		list("revalidate", p.plan.Targets)
		list("channels", p.plan.Channels)
		if len(p.plan.Fields) > 0 {
			fields, err := json.Marshal(p.plan.Fields)
			if err != nil {
				return err
			}
			say("fields", string(fields))
		}
		if p.plan.Coalesce > 0 {
			say("coalesced", "with what else happens to it within "+p.plan.Coalesce.String())
		}
		if p.plan.Refill > 0 {
			say("refilled", fmt.Sprintf("the %d most read of these entries, before browsers are told", p.plan.Refill))
		}
		for _, problem := range p.plan.Problems {
			say("problem", problem)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// matched names the rules that matched by their place in the file and what they are on.
func matched(p planned, written []rules.Rule) string {
	var all []string
	for _, i := range p.plan.Rules {
		if i >= len(written) {
			return "none in the file: the usual one for every event"
		}
		text := fmt.Sprintf("rules[%d]", i)
		if on := strings.Join(written[i].On, ", "); on != "" {
			text += " (on " + on + ")"
		}
		all = append(all, text)
	}
	if all == nil {
		return "no rule matches: the event is kept, and nothing is done"
	}
	return strings.Join(all, ", ")
}
