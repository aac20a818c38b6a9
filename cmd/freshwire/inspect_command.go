package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/cache"
)

func newInspectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect",
		Short: "Look into the cache: why a key is fresh or void, what carries a tag, how often it hits",
		Args:  cobra.ArbitraryArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError{"inspect needs one of: key K, tag T, cache"}
		},
	}
	c.AddCommand(
		newLookCommand("key K", "Tell what is stored under a key, whether it may be served, and who made it void", "  freshwire inspect key post:42",
			whyPath, "key", printWhy),
		newLookCommand("tag T", "Tell how many entries carry a tag, and who purged it last", "  freshwire inspect tag posts",
			tagPath, "tag", printTag),
		newLookCommand("cache", "Tell how often each route is answered from the cache, and what the process holds", "  freshwire inspect cache",
			cachePath, "", printCache),
	)
	return c
}

// newLookCommand asks a running freshwire at path, with its one argument as the
// parameter of that name, and prints the answer for people or as JSON.
func newLookCommand[T any](use, short, example, path, param string, show func(io.Writer, T)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.NoArgs}
	if param != "" {
		c.Args = cobra.ExactArgs(1)
	}
	asJSON := c.Flags().Bool("json", false, "the answer as JSON")
	base := addURLFlag(c)
	args := c.Args
	c.Args = func(c *cobra.Command, given []string) error { return asUsage(c, args(c, given)) }
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := newRemote(*base)
		if err != nil {
			return err
		}
		query := url.Values{}
		if param != "" {
			query.Set(param, args[0])
		}
		ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
		defer cancel()
		var raw json.RawMessage
		if err := r.get(ctx, path, query, &raw); err != nil {
			return fmt.Errorf("inspecting: %w", err)
		}
		if *asJSON {
			_, err := fmt.Fprintln(c.OutOrStdout(), string(raw))
			return err
		}
		var answer T
		if err := json.Unmarshal(raw, &answer); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		show(c.OutOrStdout(), answer)
		return nil
	}
	return c
}

func printWhy(w io.Writer, a whyAnswer) {
	fmt.Fprintf(w, "%s is %s\n", a.Key, a.Why)
	say := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	if e := a.Entry; e != nil {
		var where []string
		if e.InMemory {
			where = append(where, "in memory")
		}
		if e.RedisBytes > 0 {
			where = append(where, fmt.Sprintf("in Redis (%s, for %v more)", size(e.RedisBytes), (time.Duration(e.Expires)*time.Millisecond).Round(time.Second)))
		}
		say("stored", "%s", strings.Join(where, " and "))
		say("content", "status %d, %s, kept as %s", e.Status, size(int64(e.Size)), e.Coding)
		took := ""
		if e.TookMS > 0 { // else another program fetched it
			took = fmt.Sprintf(", in %v", time.Duration(e.TookMS*float64(time.Millisecond)))
		}
		say("fetched", "%s, %v ago%s", e.StoredAt.Format(time.DateTime), (time.Duration(e.AgeMS) * time.Millisecond).Round(time.Millisecond), took)
		say("fresh", "until %s", e.FreshUntil.Format(time.DateTime))
		for name, until := range map[string]time.Time{"stale": e.StaleUntil, "on error": e.ErrorUntil} {
			if until.After(e.FreshUntil) {
				say(name, "until %s", until.Format(time.DateTime))
			}
		}
		say("token", "%d", e.Token)
		if e.Target != "" {
			say("target", "%s", e.Target)
		}
		say("carries", "%s", cmp.Or(strings.Join(e.Scopes, ", "), "nothing but its key"))
	}
	printCauses(w, "purged", a.Causes)
	for _, v := range a.Announced {
		printVersion(w, v)
	}
	if a.Verdict == cache.StandsVoid {
		say("next", "the next read fetches it")
	}
}

func printCauses(w io.Writer, name string, causes []causeAnswer) {
	for _, c := range causes {
		if c.Seq == 0 {
			continue
		}
		what := strings.TrimSpace(c.Kind + " " + c.Name)
		if c.Soft {
			what += ", softly"
		}
		who := callEvent(c)
		switch {
		case c.Forgotten:
			who = "(forgotten)"
		case c.By == "":
			who = "nobody who said so"
		}
		fmt.Fprintf(w, "  %-10s %s  %s, by %s, seq %d\n", name, c.At.Format("2006-01-02 15:04:05.000"), what, who, c.Seq)
	}
}

func printVersion(w io.Writer, v versionAnswer) {
	what := "version " + v.Version
	if v.Gone {
		what = "that it is gone"
	}
	fmt.Fprintf(w, "  %-10s %s  %s: %s\n", "announced", v.At.Format("2006-01-02 15:04:05.000"), v.Tag, what)
}

func printTag(w io.Writer, a tagAnswer) {
	about := ""
	if !a.Exact {
		about = "about "
	}
	fmt.Fprintf(w, "%s is carried by %s%s\n", a.Tag, about, countEntries(a.Entries))
	for _, key := range a.Samples {
		fmt.Fprintf(w, "  %-10s %s\n", "such as", key)
	}
	if len(a.Purges) == 0 {
		fmt.Fprintf(w, "  %-10s %s\n", "purged", "never, as far as the ledger remembers")
	}
	printCauses(w, "purged", a.Purges)
	if a.Announced != nil {
		printVersion(w, *a.Announced)
	}
}

func countEntries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprint(n, " entries")
}

func printCache(w io.Writer, a cacheAnswer) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "route\treads\thit rate\torigin calls\tp50\tp99")
	for _, r := range a.Routes {
		fmt.Fprintf(t, "%s\t%d\t%.1f %%\t%d\t%v\t%v\n", r.Route, r.Reads, 100*r.HitRate, r.OriginCalls, r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond))
	}
	if len(a.Routes) == 0 {
		fmt.Fprintln(t, "(no routes)")
	}
	t.Flush()
	limit := "off"
	if a.Memory.Limit > 0 {
		limit = fmt.Sprintf("%s in %s of %s", countEntries(a.Memory.Entries), size(int64(a.Memory.Bytes)), size(a.Memory.Limit))
	}
	fmt.Fprintf(w, "\nmemory  %s\nledger  %d tags, keys, paths and patterns purged, heard %v ago\n", limit, a.Ledger.Scopes, time.Duration(a.Ledger.AgeMS)*time.Millisecond)
	reads := a.Counters["freshwire_cache_reads_total"]
	fmt.Fprintf(w, "cache   %.0f hit, %.0f missed, %.0f stale, %.0f past the cache\n", reads["hit"], reads["miss"], reads["stale"], reads["bypass"])
}

// size writes bytes as people read them.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
