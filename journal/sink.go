package journal

import "context"

// Sink is where Run hands records to. Its functions are called by one
// goroutine, with 5s each, and again after an error.
type Sink struct {
	// Deliver hands on recs, in order. It returns nil when all of them are
	// accepted; a record may come again, and must be harmless then. After an
	// error all of them come again, for ever: what can never be accepted has to
	// be answered nil.
	Deliver func(ctx context.Context, recs []Record) error

	// Advance moves the mark of node to `to` if it stands at from, and returns
	// where it stood before; a mark that is not there stands at 0. With from
	// equal to `to` it only looks, and need not write.
	//
	// The mark must be lost whenever something delivered before it is lost: it
	// belongs into the same shard. What Deliver wrote must be visible where
	// Advance writes: both go to the same server, in this order.
	Advance func(ctx context.Context, node string, from, to uint64) (found uint64, err error)

	// Over tells which of these records were applied for good, and need not
	// come again should the store be emptied. One that is not over 30s after it
	// was handed on is delivered once more. Nil knows nothing: then none is left
	// out, and none comes once more.
	Over func(ctx context.Context, ids []string) ([]bool, error)
}
