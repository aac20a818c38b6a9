package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTime is how long a process may take to say whether it is ready.
const healthTime = 3 * time.Second

func newHealthcheckCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running freshwire whether it is ready; exit code 0 or 1, for containers",
		Long: "Ask /readyz of a running freshwire. Without --url and FRESHWIRE_URL that is the one which this environment starts:\n" +
			"at FRESHWIRE_ADDR or PORT, with TLS where FRESHWIRE_TLS_CERT is set.",
		Example: "  HEALTHCHECK CMD [\"freshwire\", \"healthcheck\"]",
	}
	base := addURLFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		address, client := *base, &http.Client{}
		if !c.Flags().Changed("url") && os.Getenv("FRESHWIRE_URL") == "" {
			var err error
			if address, client, err = ownAddress(); err != nil {
				return err
			}
		}
		r, err := newRemote(address)
		if err != nil {
			return err
		}
		if client.Transport != nil {
			r.client.Transport = client.Transport
		}
		notReady, err := r.readiness(c.Context())
		switch {
		case err != nil:
			return err
		case len(notReady) > 0:
			return fmt.Errorf("not ready: %s", strings.Join(notReady, ", "))
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "ready")
		return err
	}
	return c
}

// readiness asks /readyz, and returns the names of what is not ready.
func (r *remote) readiness(ctx context.Context) (notReady []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/readyz", nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct{ Checks map[string]string }
	decodeErr := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&answer)
	switch {
	case resp.StatusCode == http.StatusOK && decodeErr == nil && answer.Checks != nil:
		return nil, nil
	case resp.StatusCode == http.StatusServiceUnavailable && decodeErr == nil && answer.Checks != nil:
		for _, name := range slices.Sorted(maps.Keys(answer.Checks)) {
			if answer.Checks[name] != "ok" {
				notReady = append(notReady, name)
			}
		}
		return notReady, nil
	}
	return nil, fmt.Errorf("/readyz answers %s, and not as freshwire does", resp.Status)
}

// ownAddress returns where the process listens that this environment starts,
// and a client for it. That one looks at no certificate: it is for the site's
// name and not for this machine's address, may have been renewed since the
// start, and nothing secret is sent.
func ownAddress() (base string, client *http.Client, err error) {
	env, err := loadEnvironment()
	if err != nil {
		return "", nil, report(err)
	}
	host, port, err := net.SplitHostPort(env.listenAddr())
	if err != nil {
		return "", nil, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if port == "0" {
		return "", nil, usageError{"port 0 is another one at each start; --url says where to ask"}
	}
	scheme, client := "http://", &http.Client{}
	if env.TLSCert != "" {
		scheme, client.Transport = "https://", &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	}
	return scheme + net.JoinHostPort(host, port), client, nil
}
