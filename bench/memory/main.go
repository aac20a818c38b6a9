// Command memory measures what cached entries, their tags and purges cost in
// memory, in Redis and in a process, on a redis-server that it starts itself:
//
//	go run ./bench/memory -entries 1000000
//
// Entries are written by cache.Store.Fetch, with bodies of 100 bytes so that
// the rest shows, and 3 of 10,000 tags each. What the index of the tags takes
// is what Redis gives back when it is deleted. A million takes some minutes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"text/tabwriter"
	"time"
)

func main() {
	o := options{entries: 1_000_000, tags: 10_000, scopes: 100_000}
	flag.IntVar(&o.entries, "entries", o.entries, "entries of the first table")
	flag.IntVar(&o.tags, "tags", o.tags, "different tags of these entries")
	flag.IntVar(&o.scopes, "scopes", o.scopes, "tags that are purged")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench/memory:", err)
		os.Exit(1)
	}
}

type options struct{ entries, tags, scopes int }

func (o options) validate() error {
	if o.entries < 100 || o.entries > 10_000_000 || o.tags < tagsEach || o.scopes < 10 || o.scopes > mostScopes {
		return fmt.Errorf("entries: 100 to 10000000; tags: at least %d; scopes: 10 to %d, since a ledger drops the oldest beyond twice that", tagsEach, mostScopes)
	}
	return nil
}

const (
	bodySize   = 100
	tagsEach   = 3
	mostScopes = 100_000
)

func bench(ctx context.Context, o options, out io.Writer) error {
	if err := o.validate(); err != nil {
		return err
	}
	s, err := newStand(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	version, err := s.version(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "redis-server %s, %s, %s; bodies of %d bytes\n\n", version, runtime.Version(), time.Now().Format(time.DateOnly), bodySize)

	few := max(100, o.entries/20)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "bytes in Redis\tentries\tan entry without its body\tits index members\tone of them\tall of it, with the body\t")
	for _, k := range []kind{
		{name: fmt.Sprintf("%d of %d tags each", tagsEach, o.tags), entries: o.entries, tags: o.tags},
		{name: "the same, as a route writes it", entries: few, tags: max(tagsEach, o.tags/20), route: true},
		{name: "one tag for all", entries: few, tags: 1},
	} {
		c, err := s.entries(ctx, k)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.1f\t%.0f\t%.0f\t\n", k.name, k.entries, c.entry, c.members, c.member, c.entry+c.members*c.member+bodySize)
	}
	t.Flush()

	l, err := s.ledger(ctx, o.scopes)
	if err != nil {
		return fmt.Errorf("purging: %w", err)
	}
	fmt.Fprintf(out, "\n%d purged tags: %.0f bytes each in the ledger and %.0f in each process; %.0f bytes for each of %d remembered events\n",
		o.scopes, l.scope, l.mirror, l.event, l.events)

	m, err := s.memoryTier(ctx, min(o.entries, 100_000))
	if errors.Is(err, errNoTier) {
		fmt.Fprintln(out, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("the memory tier: %w", err)
	}
	fmt.Fprintf(out, "%d entries in the memory of a process: %.0f bytes each besides the body; it counts %.0f of them against its bound\n", m.entries, m.real-bodySize, m.counted-bodySize)
	return nil
}
