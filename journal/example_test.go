package journal_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/freshwire/freshwire/journal"
)

func Example() {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	j, err := journal.Open(dir, slog.New(slog.DiscardHandler), journal.Config{})
	if err != nil {
		panic(err)
	}
	defer j.Close()

	var mark uint64 // lives beside what Deliver writes, and is lost with it
	go j.Run(context.Background(), journal.Sink{
		Deliver: func(_ context.Context, recs []journal.Record) error {
			for _, r := range recs {
				fmt.Printf("%d %s %s\n", r.Seq, r.ID, r.Data)
			}
			return nil
		},
		Advance: func(_ context.Context, _ string, from, to uint64) (uint64, error) {
			found := mark
			if found == from {
				mark = to
			}
			return found, nil
		},
	})

	seq, _, err := j.Append(context.Background(), []journal.Record{
		{ID: "a1", Data: []byte("post 42 changed")},
		{ID: "a2", Data: []byte("post 43 changed")},
	})
	if err != nil {
		panic(err) // not on the disk for certain: the sender must try again
	}
	if err := j.Wait(context.Background(), seq); err != nil {
		panic(err)
	}
	// Output:
	// 1 a1 post 42 changed
	// 2 a2 post 43 changed
}
