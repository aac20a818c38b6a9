package main

import (
	"os"
	"strings"
	"testing"
	"time"

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
	defer srv.Stop()
	rdb := client(srv)
	defer rdb.Close()
	site, err := startSite(ctx, rdb, srv)
	if err != nil {
		t.Fatal(err)
	}
	defer site.stop()
	for _, p := range []purge{site.purge(), seed(rdb, srv), pipelined(rdb, srv), script(rdb, srv)} {
		r, err := measure(ctx, p, 300, 1)
		if err != nil || r.void == 0 || r.invisible < r.void || r.back < r.invisible || r.first.Max == 0 {
			t.Errorf("%s: %+v, %v", p.name, r, err)
		}
		if ours := p.name == site.purge().name; ours && r.trips != 1 || r.trips < 1 {
			t.Errorf("%s: void after %d round trips", p.name, r.trips)
		}
	}
}

func TestPauseAboveTheGoalIsTold(t *testing.T) {
	good := measured{trips: 1, void: time.Millisecond, pause: waits{Max: 30 * time.Millisecond, Busy: 9 * time.Millisecond}}
	bad := good
	bad.pause.Busy = 11 * time.Millisecond
	chatty := good
	chatty.trips = 2
	for _, test := range []struct {
		ours   []measured
		missed int
	}{{[]measured{good, good}, 0}, {[]measured{good, bad}, 1}, {[]measured{chatty, good}, 1}, {[]measured{bad, chatty}, 2}} {
		if got := goals([]int{10, 1000}, test.ours); strings.Count(got, "MISSED") != test.missed {
			t.Errorf("%d goals are missed, told: %s", test.missed, got)
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
