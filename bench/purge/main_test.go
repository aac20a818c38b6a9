package main

import (
	"os"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestEmbeddedStoreIsRefused(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	if version, err := realServer(t.Context(), rdb); err == nil {
		t.Errorf("the embedded store passes as Redis %q", version)
	}
	if version, err := realServer(t.Context(), testkit.Redis(t)); err != nil || version == "" {
		t.Errorf("a real server is refused: %q, %v", version, err)
	}
}

// Each purge checks itself that nothing is served after it and that the keys are gone.
func TestEveryPurgeOfTheTableWorks(t *testing.T) {
	ctx := t.Context()
	srv, err := startServer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.stop()
	rdb := redis.NewClient(&redis.Options{Addr: srv.addr})
	defer rdb.Close()
	site, err := startSite(ctx, rdb, srv)
	if err != nil {
		t.Fatal(err)
	}
	defer site.stop()
	for _, p := range []purge{site.purge(), seed(rdb, srv), pipelined(rdb, srv), script(rdb, srv)} {
		r, err := measure(ctx, p, 300, 1)
		if err != nil || r.invisible == 0 || r.back < r.invisible || r.first.Max == 0 {
			t.Errorf("%s: %+v, %v", p.name, r, err)
		}
	}
}

// The other client is this program anew: the test binary, too.
func TestMain(m *testing.M) {
	if os.Getenv(askServer) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}
