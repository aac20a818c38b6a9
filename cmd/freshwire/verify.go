package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/webhook"
)

func newVerifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify FILE…",
		Short: "Check captured webhook requests, and say why a signature fails",
		Long: "Check captured requests as the webhook handler would, and say why one is refused and what to do about it.\n\n" +
			"A FILE holds {\"cms\", \"method\", \"path\", \"headers\", \"body\", \"config\", \"now_unix_ms\"}, or several of these one after the\n" +
			"other; - is standard input. \"body\" is the exact text, as a JSON string. \"config\" has the keys of a source; with\n" +
			"--source those that it leaves out come from freshwire.yaml, unless it names a scheme of its own. \"now_unix_ms\" is\n" +
			"the clock to judge by: the time at which the request came.",
		Example: "  freshwire verify --source blog request.json\n  freshwire verify --json captures/*.json | jq 'select(.valid | not)'",
		Args:    cobra.MinimumNArgs(1),
	}
	name := c.Flags().String("source", "", "name of the source in freshwire.yaml that the requests came to")
	asJSON := c.Flags().Bool("json", false, "one JSON object a line for each request")
	c.RunE = func(c *cobra.Command, files []string) error {
		s, base, err := baseSource(*name)
		if err != nil {
			return err
		}
		v := verifier{site: s, base: base, name: *name, out: c.OutOrStdout(), print: printVerdict}
		if *asJSON {
			v.print = printVerdictJSON
		}
		ok := true
		for _, file := range files {
			valid, err := v.file(file, c.InOrStdin())
			if err != nil {
				return err
			}
			ok = ok && valid
		}
		if !ok {
			return errReported
		}
		return nil
	}
	return c
}

// verdict is what verify finds of one request.
type verdict struct {
	file    string
	result  webhook.Result
	explain string

	// problem is not empty when there was nothing to judge.
	problem string
	err     error
}

// What a verdict is when there was nothing to judge.
const (
	unreadable = "unreadable" // the file, or what it holds is no captured request
	badConfig  = "bad_config"
)

type verifier struct {
	site  *site                 // nil without --source
	base  *webhook.SourceConfig // likewise
	name  string
	out   io.Writer
	print func(io.Writer, verdict) error
}

// file judges all requests of a file, and reports whether all are valid. What
// is wrong with one is told and does not keep the others from being judged.
func (v verifier) file(name string, stdin io.Reader) (valid bool, err error) {
	text, err := readLimited(name, stdin)
	if err != nil {
		return false, v.print(v.out, verdict{file: name, problem: unreadable, err: err})
	}
	requests, mistake := objects(text)
	valid = true
	for _, request := range requests {
		verdict := v.judge(request)
		verdict.file = name
		valid = valid && verdict.problem == "" && verdict.result.Valid()
		if err := v.print(v.out, verdict); err != nil {
			return false, err
		}
	}
	if mistake != nil {
		return false, v.print(v.out, verdict{file: name, problem: unreadable, err: mistake})
	}
	return valid, nil
}

func (v verifier) judge(request json.RawMessage) verdict {
	c, err := parseCapture(request)
	if err != nil {
		return verdict{problem: unreadable, err: err}
	}
	name := cmp.Or(v.name, capturedSource)
	source, err := c.source(name, v.base)
	if err != nil {
		return verdict{problem: badConfig, err: err}
	}
	d, err := c.delivery(name)
	if err != nil {
		return verdict{problem: unreadable, err: err}
	}
	var others []*webhook.Source
	if v.site != nil {
		others = v.site.sources
	}
	res := source.Verify(d, c.now())
	return verdict{result: res, explain: source.Explain(d, c.now(), res, others...)}
}

// capturedSource is what a source is called that no --source names.
const capturedSource = "capture"

// printVerdictJSON prints {"file":…, and the fields of the result}.
func printVerdictJSON(w io.Writer, v verdict) error {
	head := struct {
		File        string `json:"file"`
		Explanation string `json:"explanation,omitempty"`
	}{v.file, v.explain}
	var rest any = v.result
	if v.problem != "" {
		var none *string
		rest = struct {
			Valid       bool    `json:"valid"`
			Reason      string  `json:"reason"`
			DeliveryID  *string `json:"delivery_id"`
			Event       *string `json:"event"`
			Action      *string `json:"action"`
			ContentType *string `json:"content_type"`
			ID          *string `json:"id"`
			Slug        *string `json:"slug"`
			Locale      *string `json:"locale"`
			Why         string  `json:"why"`
		}{false, v.problem, none, none, none, none, none, none, none, v.err.Error()}
	}
	return printJoined(w, head, rest)
}

// printJoined prints the fields of both, which are structs, as one object on one line.
func printJoined(w io.Writer, head, rest any) error {
	a, err := json.Marshal(head)
	if err != nil {
		return err
	}
	b, err := json.Marshal(rest)
	if err != nil {
		return err
	}
	line := append(a[:len(a)-1], ',')
	_, err = fmt.Fprintf(w, "%s%s\n", line, b[1:])
	return err
}

func printVerdict(w io.Writer, v verdict) error {
	var b strings.Builder
	say := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "  %-9s %s\n", label, wrapped(text))
		}
	}
	res := v.result
	switch {
	case v.problem != "":
		fmt.Fprintf(&b, "%s: %s\n", v.file, strings.ReplaceAll(v.problem, "_", " "))
		say("why", v.err.Error())
	case res.Valid():
		fmt.Fprintf(&b, "%s: valid\n", v.file)
		if res.Ping {
			say("ping", "a test of the connection; answered 200 and ignored")
		}
		describeItem(say, res.Whole)
		say("delivery", res.DeliveryID)
		for i, it := range res.Batch {
			fmt.Fprintf(&b, "  item %d of %d\n", i+1, len(res.Batch))
			describeItem(func(label, text string) { say("  "+label, text) }, it)
		}
		if !res.Ping && len(res.Events) == 0 {
			say("ignored", "it speaks of nothing that the source cares for")
		}
	default:
		fmt.Fprintf(&b, "%s: refused with %d: %s\n", v.file, res.Status(), res.Reason)
		if res.Err != nil {
			say("reason", res.Err.Error())
		}
		say("explained", v.explain)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrapped breaks a long text between words, for lines that begin with a label.
func wrapped(text string) string {
	const width = 100
	var b strings.Builder
	column := 0
	for i, word := range strings.Split(text, " ") {
		switch n := utf8.RuneCountInString(word); {
		case i > 0 && column+1+n > width:
			b.WriteString("\n            ")
			column = n
		case i > 0:
			b.WriteByte(' ')
			column += 1 + n
		default:
			column = n
		}
		b.WriteString(word)
	}
	return b.String()
}

func describeItem(say func(label, text string), it webhook.Item) {
	event := it.Event
	if it.Action != "" {
		event = strings.TrimSpace(event + " (" + string(it.Action) + ")")
	}
	say("event", event)
	say("type", it.ContentType)
	say("id", it.ID)
	say("slug", it.Slug)
	say("before", it.PreviousSlug)
	say("locale", it.Locale)
	say("in", it.Environment)
	say("version", it.Version)
	say("path", it.Path)
	say("ref", it.Ref)
	say("tags", strings.Join(it.Tags, ", "))
	if it.All {
		say("changes", "anything may have changed: everything is purged")
	}
}
