package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// profiling is added to the program where its profile is wanted: it has no
// such listener of its own.
//
//go:embed profiling.go.txt
var profiling []byte

const profileVariable = "FRESHWIRE_BENCH_PROFILE"

// profileTo writes the profile of one load, and what was allocated beside it.
func profileTo(ctx context.Context, o options, file string) error {
	name := nameFreshwire
	if len(o.Only) > 0 {
		name = o.Only[0]
	}
	if len(o.Only) > 1 || name != nameFreshwire && name != nameFreshwireRedis {
		return errors.New("cpuprofile: of freshwire or freshwire-redis only")
	}
	dir, err := os.MkdirTemp("", "freshwire-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", mainPackage).CombinedOutput()
	if err != nil {
		return fmt.Errorf("looking for the program's source: %w: %s", err, source)
	}
	added := filepath.Join(dir, "profiling.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(strings.TrimSpace(string(source)), "profiling_bench.go"): added,
	}})
	if err != nil {
		return err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := errors.Join(os.WriteFile(added, profiling, 0o600), os.WriteFile(list, overlay, 0o600)); err != nil {
		return err
	}
	if o.Binary, err = buildFreshwire(ctx, dir, list); err != nil {
		return err
	}
	if o.profile, err = rig.FreeAddr(); err != nil {
		return err
	}
	o.Only = []string{name}
	s, err := newStand(ctx, o)
	if err != nil {
		return err
	}
	defer s.stop()
	return s.profile(ctx, file)
}

// profile loads the one server and takes its profile meanwhile.
func (s *stand) profile(ctx context.Context, file string) error {
	seconds := max(1, int(s.options.Seconds))
	s.options.Seconds = float64(seconds + 1)
	var m measure
	both, running := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		m, err = s.measure(running, s.servers[0])
		return err
	})
	both.Go(func() error {
		select {
		case <-time.After(s.options.warm()):
		case <-running.Done():
			return running.Err()
		}
		return s.download(running, fmt.Sprintf("profile?seconds=%d", seconds), file)
	})
	if err := both.Wait(); err != nil {
		return err
	}
	if err := s.download(ctx, "allocs", file+".allocs"); err != nil {
		return err
	}
	fmt.Printf("%s: %.0f requests/s while profiled, %s of processor time and %.1f allocations a request\n\n", s.servers[0].name, m.Rate, short(m.ServerTime), m.Allocations)
	for _, args := range [][]string{{file}, {"-sample_index=alloc_objects", file + ".allocs"}} {
		out, err := exec.CommandContext(ctx, "go", append([]string{"tool", "pprof", "-top", "-nodecount=35"}, args...)...).Output()
		if err != nil {
			return fmt.Errorf("go tool pprof: %w", err)
		}
		fmt.Printf("%s\n", out)
	}
	return nil
}

func (s *stand) download(ctx context.Context, what, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.options.profile+"/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, res.Body)
	return errors.Join(err, out.Close())
}
