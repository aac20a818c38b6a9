package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/webhook"
)

func newSendCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "send --source NAME [FILE]",
		Short: "Sign a sample body as that CMS does, now, and post it",
		Long: "Sign a body with the secret of a source, as its CMS would, and post it to a running freshwire.\n" +
			"FILE holds the body; - is standard input. Without FILE a small sample is sent.",
		Example: "  freshwire send --source blog post.json\n  freshwire send --source blog --event post.published post.json",
		Args:    cobra.MaximumNArgs(1),
	}
	name := c.Flags().String("source", "", "name of the source in freshwire.yaml")
	event := c.Flags().String("event", "", "the CMS's own event name, for those that do not tell it in the body")
	base := addURLFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *name == "" {
			return usageError{"--source is missing: the name of a source in freshwire.yaml"}
		}
		_, s, err := loadAll(demoConfig(""))
		if err != nil {
			return report(err)
		}
		source, err := s.source(*name)
		if err != nil {
			return err
		}
		body := source.Sample()
		if len(args) == 1 {
			if body, err = readFileOrStdin(args[0], c.InOrStdin()); err != nil {
				return err
			}
		}
		r, err := newRemote(*base)
		if err != nil {
			return err
		}
		return r.send(c.Context(), c.OutOrStdout(), source, body, *event)
	}
	return c
}

func readFileOrStdin(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

func (s *site) source(name string) (*webhook.Source, error) {
	for _, source := range s.sources {
		if source.Name() == name {
			return source, nil
		}
	}
	return nil, fmt.Errorf("there is no source %q in the config; the sources are %s", name, strings.Join(slices.Sorted(maps.Keys(s.file.Sources)), ", "))
}

func (r *remote) send(ctx context.Context, out io.Writer, source *webhook.Source, body []byte, event string) error {
	delivery, err := source.Sign(body, event, time.Now())
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := delivery.NewRequest(ctx, r.base)
	if err != nil {
		return err
	}
	start := time.Now()
	answer, err := r.do(req)
	if err != nil {
		return fmt.Errorf("posting to %s: %w", req.URL.Redacted(), err)
	}
	fmt.Fprintf(out, "%s (%v)\n", strings.TrimSpace(string(answer)), time.Since(start).Round(100*time.Microsecond))
	return nil
}
