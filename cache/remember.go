package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// RememberOptions say how long a value is kept, and what it was made from. The
// zero value keeps it for five minutes, or until its key is purged.
type RememberOptions struct {
	TTL  time.Duration // fresh for; zero means 5m
	SWR  time.Duration // then returned while it is made again, for
	SIE  time.Duration // or returned when making it fails, for
	Tags []string      // purging one makes it again; AddTags adds to them
	Path string        // of the page that shows it

	// Missing is how long it is remembered that there is nothing: an error of fn
	// that is ErrNotFound. Any purge ends it. Zero means not at all, as for all
	// other errors.
	Missing time.Duration
}

const defaultRemember = 5 * time.Minute

// ErrNotFound is what fn returns, wrapped or not, where there is nothing to
// remember, and what Remember then returns to all.
var ErrNotFound = errors.New("cache: nothing there")

// Remember returns the value that is kept under key, or else makes it with fn
// and keeps it, as JSON. Of many that ask at once, in all processes, one makes
// it. Each caller gets a value of its own.
//
// An error is fn's, and is not remembered, or that of a bad key, an ended
// context or a value that JSON cannot hold. Redis being away is no error: then
// fn makes each value.
func Remember[T any](ctx context.Context, s *Store, key string, o RememberOptions, fn func(context.Context) (T, error)) (T, error) {
	var none T
	req := Request{Key: key, Path: o.Path, Tags: o.Tags}
	fill := func(ctx context.Context, _ *Entry) (Fill, error) {
		learnt := &learntTags{}
		value, err := fn(context.WithValue(ctx, tagsKey{}, learnt))
		if errors.Is(err, ErrNotFound) && o.Missing > 0 {
			return Fill{Status: 404, TTL: o.Missing, Tags: learnt.all(), Header: jsonHeader}, nil
		}
		if err != nil {
			return Fill{}, err
		}
		body, err := json.Marshal(value)
		if err != nil {
			return Fill{}, fmt.Errorf("remembering %q: %w", key, err)
		}
		ttl := o.TTL
		if ttl == 0 {
			ttl = defaultRemember
		}
		return Fill{Status: 200, Body: body, Header: jsonHeader, Packable: true, Tags: learnt.all(), TTL: ttl, SWR: o.SWR, SIE: o.SIE}, nil
	}
	res, err := s.Fetch(ctx, req, fill)
	if err != nil {
		return none, err
	}
	value, err := remembered[T](res.Entry)
	if err == nil || errors.Is(err, ErrNotFound) {
		return value, err
	}
	// What is kept was made by another program, or before T was what it is now.
	if res, err = s.Fill(ctx, req, fill); err != nil {
		return none, err
	}
	return remembered[T](res.Entry)
}

// jsonHeader is kept with remembered values. It is never changed.
var jsonHeader = map[string][]string{"Content-Type": {"application/json"}}

func remembered[T any](e *Entry) (value T, err error) {
	if e.Negative {
		return value, ErrNotFound
	}
	body, err := e.Body()
	if err != nil {
		return value, err
	}
	if err := json.Unmarshal(body, &value); err != nil {
		var none T
		return none, fmt.Errorf("reading what was remembered: %w", err)
	}
	return value, nil
}

// learntTags are tags that fn adds while it makes a value.
type learntTags struct {
	mu   sync.Mutex
	tags []string
}

type tagsKey struct{}

func (l *learntTags) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tags
}

// AddTags adds tags to the value that is being made: those of ctx's Remember.
// It does nothing with any other context.
func AddTags(ctx context.Context, tags ...string) {
	if l, ok := ctx.Value(tagsKey{}).(*learntTags); ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tags = append(l.tags, tags...)
	}
}

// Receipt says what a purge did.
type Receipt struct {
	Seq uint64 // of the event, see Request.After
	Report
}

// PurgeTags makes everything under the tags void, and returns when no process
// serves it any more.
func (s *Store) PurgeTags(ctx context.Context, tags ...string) (Receipt, error) {
	return s.Purge(ctx, Purge{Tags: tags})
}

// Purge makes void what p names, and returns when no process serves it any
// more. Memory is given back in the background.
func (s *Store) Purge(ctx context.Context, p Purge) (Receipt, error) {
	m, err := s.Invalidate(ctx, p, Mark{})
	if err != nil {
		return Receipt{}, err
	}
	m, report, err := s.Barrier(ctx, p, m)
	if err != nil {
		return Receipt{m.Seq, report}, err
	}
	s.ReclaimLater(p, m)
	return Receipt{m.Seq, report}, nil
}
