package main

import (
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

	"github.com/spf13/cobra"
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
	if path := resp.Request.URL.Path; resp.StatusCode == http.StatusUnauthorized && (strings.Contains(path, "/admin/") || strings.Contains(path, "/debug/")) {
		text += " Set FRESHWIRE_ADMIN_TOKEN."
	}
	return errors.New(text)
}

// get asks for a page of operators, and decodes its JSON.
func (r *remote) get(ctx context.Context, path string, query url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	r.authorize(req)
	body, err := r.do(req)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

func (r *remote) authorize(req *http.Request) {
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
}
