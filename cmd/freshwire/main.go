// Command freshwire stands between a CMS, Redis and browsers: it takes the
// CMS's webhooks, makes what they change void in every cache, and tells
// browsers once nobody can read the old content any more.
//
// This folder only wires the parts together: subcommands, configuration, and
// every URL on one screen (urls.go).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes of every subcommand.
const (
	exitDone   = 0
	exitFailed = 1 // a check or a run failed
	exitUsage  = 2
)

func main() {
	// The first signal drains; after stop the second one kills, as usual.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:]))
}

// usageError is a mistake in the words of the command line: exit code 2.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

// errReported marks errors that the user has been told about already.
var errReported = errors.New("already reported")

func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintf(os.Stderr, "freshwire: %v\n", err)
	}
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	dev := newRoleCommand("dev", "Run everything in one process, with an embedded store and a demo site", roles{web: true, worker: true, sse: true, dev: true})
	root := &cobra.Command{
		Use:   "freshwire",
		Short: "Makes a CMS edit appear everywhere within milliseconds, and never shows older content again",
		Long: "freshwire takes the webhooks of your CMS, makes what they change void in Redis and on your site,\n" +
			"and tells open browsers once nobody can read the old content any more.\n\n" +
			"Without a subcommand it runs `freshwire dev`.",
		Args:          unknownCommand,
		RunE:          dev.RunE,
		SilenceErrors: true,

		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return asUsage(c, err) })
	root.AddCommand(dev,
		newRoleCommand("all", "Run every role in one process, on a real Redis", roles{web: true, worker: true, sse: true}),
		newRoleCommand("web", "Run the web role: webhooks, cached routes, admin, dashboard", roles{web: true}),
		newRoleCommand("worker", "Run the worker role: purge, tell the site, publish", roles{worker: true}),
		newRoleCommand("sse", "Run the stream role: /api/events alone", roles{sse: true}),
		newCheckCommand(), newSchemaCommand(), newVerifyCommand(), newPlanCommand(), newSendCommand(), newPurgeCommand(), newInspectCommand(), newReplayCommand(), newTailCommand(), newDoctorCommand(), newHealthcheckCommand(), newVersionCommand())
	root.Version = version()
	root.SetVersionTemplate("freshwire {{.Version}}\n")
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args = cobra.ArbitraryArgs
			c.RunE = func(*cobra.Command, []string) error {
				return usageError{"completion needs a shell: bash, fish, powershell or zsh"}
			}
			continue
		}
		if c.Args == nil {
			c.Args = cobra.NoArgs
		}
		args := c.Args
		c.Args = func(c *cobra.Command, given []string) error { return asUsage(c, args(c, given)) }
	}
	return root
}

// unknownCommand complains of words that are no subcommand, with the nearest.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see `freshwire --help`"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usageError{fmt.Sprintf("unknown command %q; %s", args[0], hint)}
}

func asUsage(c *cobra.Command, err error) error {
	if err == nil || errors.As(err, new(usageError)) {
		return err
	}
	return usageError{fmt.Sprintf("%v; see `%s --help`", err, c.CommandPath())}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version",
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "freshwire", version())
			return err
		},
	}
}

// version returns the module version or, for a build of a checkout, its commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v, dirty := info.Main.Version, ""
	if v != "" && v != "(devel)" {
		return v + " " + info.GoVersion
	}
	v = "devel"
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v = "devel-" + s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	return v + dirty + " " + info.GoVersion
}
