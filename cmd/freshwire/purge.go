package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/event"
)

// Who purges where no event does. The ledger remembers it, for who asks why.
const (
	byOperator   = "operator"
	byRevalidate = "api-revalidate"
	byEntries    = "api-entries"
)

// reclaimBound is how long a person waits for the count of deleted entries.
const reclaimBound = 2 * time.Second

// purgeNow makes p void everywhere and returns the receipt.
func (a *app) purgeNow(ctx context.Context, p admin.Purge) (admin.Receipt, error) {
	purge := cachePurge(p.Purge)
	purge.Soft, purge.By = p.Soft, byOperator
	return a.purge(ctx, purge)
}

func (a *app) purge(ctx context.Context, p cache.Purge) (admin.Receipt, error) {
	m, err := a.cache.Invalidate(ctx, p, cache.Mark{})
	if errors.Is(err, cache.ErrPurge) {
		return admin.Receipt{}, fmt.Errorf("%w: %w", admin.ErrPurge, err)
	} else if err != nil {
		return admin.Receipt{}, err
	}
	m, report, err := a.cache.Barrier(ctx, p, m)
	if err != nil {
		return admin.Receipt{}, err
	}
	receipt := admin.Receipt{Seq: m.Seq, Nodes: report.Nodes, WaitedMS: report.Waited.Milliseconds(), Settled: report.Settled}
	if p.Soft { // what is stale is still there
		receipt.Soft, receipt.Note = true, admin.SoftNote
		return receipt, nil
	}
	if receipt.Entries, receipt.Left, err = a.cache.DeleteForeign(ctx, p); err != nil {
		return receipt, err
	}
	bound, cancel := context.WithTimeout(ctx, reclaimBound)
	defer cancel()
	done, err := a.cache.Reclaim(bound, p, m)
	receipt.Entries += done.Entries
	receipt.Reclaiming = !done.Done
	if err != nil && ctx.Err() == nil {
		// The entries are void; only their memory is not back yet.
		a.log.WarnContext(ctx, "memory not given back", "err", err)
	}
	return receipt, nil
}

// previewPurge tells what p would make void.
func (a *app) previewPurge(ctx context.Context, p admin.Purge) (admin.Preview, error) {
	seen, err := a.cache.Preview(ctx, cachePurge(p.Purge))
	if errors.Is(err, cache.ErrPurge) {
		err = fmt.Errorf("%w: %w", admin.ErrPurge, err)
	}
	return adminPreview(seen), err
}

func adminPreview(seen cache.Preview) admin.Preview {
	out := admin.Preview{Entries: seen.Entries, Exact: seen.Exact, Samples: orEmpty(seen.Samples), By: []admin.Count{}}
	for _, c := range seen.ByScope {
		out.By = append(out.By, admin.Count(c))
	}
	return out
}

func newPurgeCommand() *cobra.Command {
	var purge event.Purge
	var soft, dryRun bool
	c := &cobra.Command{
		Use:   "purge --tag T | --key K | --pattern P | --path P | --all",
		Short: "Purge now, wait until no node serves it any more, and print the receipt",
		Long: "Purge now, wait until no node serves it any more, and print the receipt.\n\n" +
			"With --dry-run nothing is purged: the answer tells how many entries would be, and some of their keys.\n" +
			"With --soft entries become stale instead of void: readers may get older content once more, while it is fetched again.",
		Example: "  freshwire purge --tag post:42\n  freshwire purge --path '/blog/*' --dry-run\n" +
			"  freshwire purge --pattern 'products:*' --key posts:all",
	}
	flags := c.Flags()
	flags.StringArrayVar(&purge.Tags, "tag", nil, "a tag (may be repeated, as all of these)")
	flags.StringArrayVar(&purge.Keys, "key", nil, "a key")
	flags.StringArrayVar(&purge.Patterns, "pattern", nil, "a Redis glob over keys")
	flags.StringArrayVar(&purge.Paths, "path", nil, "a path; /blog/* takes everything below, too")
	flags.BoolVar(&purge.All, "all", false, "everything")
	flags.BoolVar(&soft, "soft", false, "make stale, not void")
	flags.BoolVar(&dryRun, "dry-run", false, "only tell what would be purged")
	base := addURLFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if purge.Empty() {
			return usageError{"nothing to purge: give --tag, --key, --pattern, --path or --all"}
		}
		r, err := newRemote(*base)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
		defer cancel()
		answer, err := r.purge(ctx, purge, soft, dryRun)
		if err != nil {
			return fmt.Errorf("purging: %w", err)
		}
		fmt.Fprintln(c.OutOrStdout(), string(answer))
		var receipt admin.Receipt
		if !dryRun && json.Unmarshal(answer, &receipt) == nil && !receipt.Settled {
			return errors.New("not settled: a node may still serve the old content for a moment; purge again")
		}
		return nil
	}
	return c
}

func (r *remote) purge(ctx context.Context, p event.Purge, soft, dryRun bool) ([]byte, error) {
	body, err := json.Marshal(struct {
		event.Purge
		Soft   bool `json:"soft,omitempty"`
		DryRun bool `json:"dry_run,omitempty"`
	}{p, soft, dryRun})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/admin/purge", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	r.authorize(req)
	answer, err := r.do(req)
	return bytes.TrimSpace(answer), err
}
