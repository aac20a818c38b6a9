package read

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshwire/freshwire/internal/testkit"
)

func TestOriginIsAskedBySoManyAtATime(t *testing.T) {
	t.Parallel()
	const most, readers = 3, 40
	var now, peak atomic.Int64
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for seen := peak.Load(); n > seen && !peak.CompareAndSwap(seen, n); seen = peak.Load() {
		}
		<-time.After(2 * time.Millisecond)
		io.WriteString(w, "x")
	})
	s.reader = New(s.store, func() string { return "" }, testkit.Logger(t), Config{OriginConcurrency: most})
	s.mount(posts)
	s.mount(RouteConfig{Path: "/other/{id}", Origin: "ORIGIN/other/{id}"}) // of the same host
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			for _, path := range []string{"/api/posts/", "/other/"} {
				if a := s.get(path + strconv.Itoa(i)); a.body != "x" {
					t.Errorf("got %v", a)
				}
			}
		})
	}
	wg.Wait()
	if p := peak.Load(); p > most || p < 2 {
		t.Errorf("the origin was asked %d at a time, want at most %d", p, most)
	}
}

func TestWhoWaitsTooLongIsTurnedAway(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	cfg := posts
	cfg.Timeout = 50 * time.Millisecond
	asked := make(chan struct{}, 10)
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-hang
	})
	defer close(hang)
	s.reader = New(s.store, func() string { return "" }, testkit.Logger(t), Config{OriginConcurrency: 1})
	s.mount(RouteConfig{Path: "/slow", Origin: "ORIGIN/slow"})
	s.mount(cfg)
	go s.get("/slow")
	testkit.Wait(t, asked, "the origin to be asked")
	a := s.get("/api/posts/1")
	if a.status != 503 || a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("no place = %v with %v, want 503", a, a.header)
	}
	if len(asked) != 0 {
		t.Error("the origin was asked all the same")
	}
}

func TestGateIsNotAQueueWithoutEnd(t *testing.T) {
	t.Parallel()
	g := newGate(1, prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"}))
	if err := g.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxWaiting {
		wg.Go(func() {
			if err := g.enter(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("who left = %v", err)
			}
		})
	}
	testkit.Until(t, "all wait", func() bool { return g.waiting.Load() == maxWaiting })
	if err := g.enter(t.Context()); !errors.Is(err, errOriginBusy) || !errors.Is(err, errCrowd) {
		t.Errorf("one more = %v, want turned away", err)
	}
	leave()
	wg.Wait()
	g.leave()
	if err := g.enter(t.Context()); err != nil {
		t.Errorf("after all left: %v", err)
	}
}
