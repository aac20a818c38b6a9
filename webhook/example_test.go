package webhook_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"time"

	"github.com/gorilla/mux"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/webhook"
)

func Example() {
	blog, err := webhook.NewSource("blog", webhook.SourceConfig{CMS: "ghost", Secret: "hush, this is the blog's secret"})
	if err != nil {
		fmt.Println(err)
		return
	}
	enqueue := func(_ context.Context, evs []event.Event) ([]bool, error) {
		fmt.Println("queued:", evs[0].Source, evs[0].Kind(), evs[0].Slug)
		return []bool{true}, nil
	}
	hooks := webhook.NewHandler([]*webhook.Source{blog}, enqueue, slog.New(slog.NewTextHandler(io.Discard, nil)), webhook.Config{})
	r := mux.NewRouter()
	r.Handle("/webhooks/{source}", hooks)
	srv := httptest.NewServer(r)
	defer srv.Close()

	delivery, err := blog.Sign([]byte(`{"post":{"current":{"id":"1","slug":"hello","status":"published"},"previous":{"status":"draft"}}}`), "", time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	req, err := delivery.NewRequest(context.Background(), srv.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(delivery.Target, "→", resp.Status)
	// Output:
	// queued: blog post.publish hello
	// /webhooks/blog?event=post.published → 200 OK
}
