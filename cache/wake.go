package cache

import (
	"context"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// wakes tells fetches of this process that the fill of another, for which they
// wait, has ended. It may miss one: who waits looks by itself now and then.
type wakes struct {
	changed chan struct{} // holds one: waiting is not what is subscribed

	mu      sync.Mutex
	waiting map[string][]chan struct{} // :: channel → those who wait for its next message
}

func newWakes() *wakes {
	return &wakes{changed: make(chan struct{}, 1), waiting: make(map[string][]chan struct{})}
}

// await returns what is signalled at each message of a channel, until leave.
func (w *wakes) await(channel string) (woken <-chan struct{}, leave func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	w.waiting[channel] = append(w.waiting[channel], c)
	w.mu.Unlock()
	w.change()
	return c, func() {
		w.mu.Lock()
		rest := slices.DeleteFunc(w.waiting[channel], func(other chan struct{}) bool { return other == c })
		if w.waiting[channel] = rest; len(rest) == 0 {
			delete(w.waiting, channel)
		}
		w.mu.Unlock()
		w.change()
	}
}

func (w *wakes) change() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// run hears messages until ctx ends. It alone talks to the server: nobody who
// waits holds a lock over the network.
func (w *wakes) run(ctx context.Context, rdb redis.UniversalClient) {
	var sub *redis.PubSub // from the first that waits on
	var messages <-chan *redis.Message
	heard := map[string]bool{}
	for {
		select {
		case <-w.changed:
			more, less := w.diff(heard)
			if sub == nil && len(more) > 0 {
				sub = rdb.Subscribe(ctx)
				defer sub.Close()
			}
			// A failure is no loss: the client subscribes again when it reconnects.
			if len(more) > 0 {
				sub.Subscribe(ctx, more...)
				messages = sub.Channel()
			}
			if len(less) > 0 {
				sub.Unsubscribe(ctx, less...)
			}
		case m, ok := <-messages:
			if !ok {
				return
			}
			w.wake(m.Channel)
		case <-ctx.Done():
			return
		}
	}
}

// diff brings heard to what is waited for, and tells the difference.
func (w *wakes) diff(heard map[string]bool) (more, less []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for channel := range w.waiting {
		if !heard[channel] {
			heard[channel] = true
			more = append(more, channel)
		}
	}
	for channel := range heard {
		if len(w.waiting[channel]) == 0 {
			delete(heard, channel)
			less = append(less, channel)
		}
	}
	return more, less
}

func (w *wakes) wake(channel string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.waiting[channel] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
