package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// buildFreshwire builds the program, with what overlay says.
func buildFreshwire(ctx context.Context, dir, overlay string) (string, error) {
	binary := filepath.Join(dir, "freshwire")
	args := []string{"build", "-o", binary}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, mainPackage)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building freshwire: %w: %s", err, out)
	}
	return binary, nil
}

const mainPackage = "github.com/freshwire/freshwire/cmd/freshwire"

const config = `
routes:
  - path: %s
    origin: http://%s/posts/{id}
    key: post:{id}
    tags: ["posts", "post:{id}", "site"]
    ttl: 24h
`

// startFreshwire runs the web role with one route, in a namespace of its own.
func (s *stand) startFreshwire(ctx context.Context, name string, env []string) (*server, error) {
	file := filepath.Join(s.dir, name+".yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, pattern, s.origin.addr), 0o600); err != nil {
		return nil, err
	}
	addr, err := rig.FreeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.binary, "web")
	cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+s.redis.Addr, "FRESHWIRE_ADDR="+addr, "FRESHWIRE_CONFIG="+file,
		"FRESHWIRE_NAMESPACE="+name, "FRESHWIRE_RATE_LIMIT=0", "LOG_LEVEL=error")
	cmd.Env = append(cmd.Env, env...)
	if s.options.profile != "" && s.options.wants(name) {
		cmd.Env = append(cmd.Env, profileVariable+"="+s.options.profile)
	}
	p, err := rig.Start(cmd, s.core)
	if err != nil {
		return nil, err
	}
	p.Addr = addr
	srv := &server{name: name, Process: p, marker: "X-Cache: HIT", askRedis: name == nameFreshwireRedis, countable: true}
	return srv, p.Ready(ctx, func(ctx context.Context) error {
		res, body, err := fetch(ctx, addr, "/readyz")
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("/readyz: %s: %s", res.Status, body)
		}
		return err
	})
}
