package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/internal/yamlfile"
)

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the environment and freshwire.yaml, and print every mistake at once",
		RunE: func(c *cobra.Command, _ []string) error {
			env, s, err := loadAll("")
			_, configErr := loadConfigs(env)
			err = errors.Join(err, configErr)
			for _, note := range append(env.notes(), s.notesOrNone()...) {
				fmt.Fprintln(c.OutOrStdout(), "note:", note)
			}
			if err != nil {
				return report(err)
			}
			if s.name == "" {
				fmt.Fprintln(c.OutOrStdout(), "ok: the environment; there is no", defaultConfigFile)
				return nil
			}
			fmt.Fprintf(c.OutOrStdout(), "ok: the environment and %s: %s, %s, %s, %s\n", s.name, count(len(s.sources), "source"),
				count(len(s.file.Rules), "rule"), count(len(s.targets), "target"), count(len(s.file.Routes), "route"))
			return nil
		},
	}
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// loadAll reads the environment and the config file and joins their mistakes.
func loadAll(fallback string) (environment, *site, error) {
	env, envErr := loadEnvironment()
	s, fileErr := loadSite(env, fallback)
	return env, s, errors.Join(envErr, fileErr)
}

func (s *site) notesOrNone() []string {
	if s == nil {
		return nil
	}
	return s.notes
}

// report prints each of the joined errors in err on a line of its own, and
// returns errReported.
func report(err error) error {
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintln(os.Stderr, line)
	}
	return errReported
}

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of freshwire.yaml, for completion in editors",
		Long: "Print the JSON Schema (draft-07) of freshwire.yaml. Editors that speak with the YAML language server complete\n" +
			"and check the file when its first line is\n\n  # yaml-language-server: $schema=freshwire.schema.json",
		RunE: func(c *cobra.Command, _ []string) error {
			schema, err := fileSchema()
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(append(schema, '\n'))
			return err
		},
	}
}

func fileSchema() ([]byte, error) {
	return yamlfile.Schema(&configFile{}, yamlfile.Meta{
		ID:          "freshwire.schema.json",
		Title:       "freshwire.yaml",
		Description: "Configuration of freshwire: who sends webhooks, what they make void, who is told, what is served from the cache.",
	})
}
