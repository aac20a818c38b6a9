package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/event"
)

// remote is a running freshwire that send, tail and purge talk to.
type remote struct {
	base   string // without a slash at its end
	token  string
	client *http.Client
}

// addURLFlag gives c the flag --url.
func addURLFlag(c *cobra.Command) *string {
	return c.Flags().String("url", cmp.Or(os.Getenv("FRESHWIRE_URL"), "http://127.0.0.1:8080"), "a running freshwire (FRESHWIRE_URL)")
}

func newRemote(base string) (*remote, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usageError{fmt.Sprintf("--url %q is not a URL such as http://127.0.0.1:8080", base)}
	}
	token, _, err := lookupSecret("FRESHWIRE_ADMIN_TOKEN")
	return &remote{base: strings.TrimRight(base, "/"), token: token, client: &http.Client{
		// A redirect would carry the token or a signature to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, err
}

// do sends req and returns the answer's body, at most 1 MiB of it. An answer
// other than 2xx is an error that says what to do.
func (r *remote) do(req *http.Request) ([]byte, error) {
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w\nIs freshwire running there? --url or FRESHWIRE_URL says where", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	return body, answerError(resp, body)
}

func answerError(resp *http.Response, body []byte) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	var problem struct{ Detail, Title string }
	json.Unmarshal(body, &problem) // a proxy's page is no JSON: then the status alone tells
	text := resp.Status
	if why := cmp.Or(problem.Detail, problem.Title); why != "" {
		text += ": " + why
	}
	if resp.StatusCode == http.StatusUnauthorized && strings.Contains(resp.Request.URL.Path, "/admin/") {
		text += " Set FRESHWIRE_ADMIN_TOKEN."
	}
	return errors.New(text)
}

func (r *remote) authorize(req *http.Request) {
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
}

func newPurgeCommand() *cobra.Command {
	var purge event.Purge
	c := &cobra.Command{
		Use:   "purge --tag T | --key K | --pattern P | --path P | --all",
		Short: "Purge now, wait until no node serves it any more, and print the receipt",
		Example: "  freshwire purge --tag post:42\n  freshwire purge --path '/blog/*'\n" +
			"  freshwire purge --pattern 'products:*' --key posts:all",
	}
	flags := c.Flags()
	flags.StringArrayVar(&purge.Tags, "tag", nil, "a tag (may be repeated, as all of these)")
	flags.StringArrayVar(&purge.Keys, "key", nil, "a key")
	flags.StringArrayVar(&purge.Patterns, "pattern", nil, "a Redis glob over keys")
	flags.StringArrayVar(&purge.Paths, "path", nil, "a path; /blog/* takes everything below, too")
	flags.BoolVar(&purge.All, "all", false, "everything")
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
		receipt, err := r.purge(ctx, purge)
		if err != nil {
			return fmt.Errorf("purging: %w", err)
		}
		fmt.Fprintln(c.OutOrStdout(), string(receipt))
		var parsed admin.Receipt
		if json.Unmarshal(receipt, &parsed) == nil && !parsed.Settled {
			return errors.New("not settled: a node may still serve the old content for a moment; purge again")
		}
		return nil
	}
	return c
}

func (r *remote) purge(ctx context.Context, p event.Purge) ([]byte, error) {
	body, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/admin/purge", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	r.authorize(req)
	receipt, err := r.do(req)
	return bytes.TrimSpace(receipt), err
}
