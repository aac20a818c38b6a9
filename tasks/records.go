package tasks

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/redis/go-redis/v9"
)

// Records tells how events fared: those of the last 24 hours, at most 10 000.
type Records struct {
	cfg     Config
	keys    keys
	rdb     redis.UniversalClient
	log     *slog.Logger
	metrics *metrics
	pipes   *pipelines
}

// NewRecords returns the records on rdb, which stays the caller's to close.
func NewRecords(rdb redis.UniversalClient, log *slog.Logger, cfg Config) *Records {
	cfg = cfg.withDefaults()
	return &Records{cfg: cfg, keys: keys(cfg.Namespace), rdb: rdb, log: log, metrics: newMetrics(rdb, cfg), pipes: &pipelines{rdb: rdb}}
}

// List returns up to limit (default 50, at most 200) records, newest first, of
// the given status or of all. A next that is not empty is the cursor of the
// page that follows.
func (r *Records) List(ctx context.Context, status Status, limit int, cursor string) (page []Record, next string, err error) {
	if limit <= 0 {
		limit = 50
	}
	limit = min(limit, 200)
	from := "+"
	if cursor != "" {
		m, err := parseCursor(cursor)
		if err != nil {
			return nil, "", err
		}
		from = "(" + m
	}
	page = []Record{}
	batch := limit + 1
	if status != "" {
		batch = 1000 // most may have another status, and only that is read of them
	}
	for {
		members, err := r.rdb.ZRevRangeByLex(ctx, r.keys.index(), &redis.ZRangeBy{Min: "-", Max: from, Count: int64(batch)}).Result()
		if err != nil {
			return nil, "", fmt.Errorf("listing events: %w", err)
		}
		chosen := members
		if status != "" {
			if chosen, err = r.having(ctx, status, members); err != nil {
				return nil, "", err
			}
		}
		more := len(chosen) > limit-len(page)
		if more {
			chosen = chosen[:limit-len(page)]
		}
		records, err := r.load(ctx, chosen)
		if err != nil {
			return nil, "", err
		}
		page = append(page, records...)
		switch {
		case more:
			return page, formatCursor(chosen[len(chosen)-1]), nil
		case len(members) < batch:
			return page, "", nil
		case len(page) == limit:
			return page, formatCursor(members[len(members)-1]), nil
		}
		from = "(" + members[len(members)-1]
	}
}

// Get returns the record of one event, or ErrNotFound.
func (r *Records) Get(ctx context.Context, id string) (Record, error) {
	reply, err := r.read(ctx, []string{id})
	if err != nil {
		return Record{}, err
	}
	rec, ok := r.decode(ctx, id, reply[0])
	if !ok {
		return Record{}, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	return rec, nil
}

// having returns those of members that have the status.
func (r *Records) having(ctx context.Context, status Status, members []string) ([]string, error) {
	pipe := r.rdb.Pipeline()
	replies := make([]rawRecord, len(members))
	for i, m := range members {
		replies[i].fields = pipe.HMGet(ctx, r.keys.record(idOf(m)), "status")
		replies[i].task = pipe.HGet(ctx, r.keys.task(idOf(m)), "state")
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("listing events: %w", err)
	}
	var out []string
	for i, m := range members {
		stored, _ := replies[i].fields.Val()[0].(string)
		if truth(Status(stored), replies[i].task.Val()) == status {
			out = append(out, m)
		}
	}
	return out, nil
}

// load reads the records of members; one that is gone by now is left out.
func (r *Records) load(ctx context.Context, members []string) ([]Record, error) {
	ids := make([]string, len(members))
	for i, m := range members {
		ids[i] = idOf(m)
	}
	replies, err := r.read(ctx, ids)
	if err != nil {
		return nil, err
	}
	var out []Record
	for i, m := range members {
		rec, ok := r.decode(ctx, ids[i], replies[i])
		// An id that came again after its record had ended is listed once, at its newer time.
		if ok && member(rec.ReceivedAt, rec.ID) == m {
			out = append(out, rec)
		}
	}
	return out, nil
}

type rawRecord struct {
	fields *redis.SliceCmd
	task   *redis.StringCmd
}

func (r *Records) read(ctx context.Context, ids []string) ([]rawRecord, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	pipe := r.rdb.Pipeline()
	out := make([]rawRecord, len(ids))
	for i, id := range ids {
		out[i].fields = pipe.HMGet(ctx, r.keys.record(id), "event", "status", "attempts", "queued", "run", "delivered")
		out[i].task = pipe.HGet(ctx, r.keys.task(id), "state")
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("reading event records: %w", err)
	}
	return out, nil
}

// decode reports false when there is no record.
func (r *Records) decode(ctx context.Context, id string, raw rawRecord) (Record, bool) {
	var text struct{ event, status, attempts, queued, run, delivered string }
	for i, to := range []*string{&text.event, &text.status, &text.attempts, &text.queued, &text.run, &text.delivered} {
		*to, _ = raw.fields.Val()[i].(string)
	}
	if text.event == "" {
		return Record{}, false
	}
	var ev recordedEvent
	var rec Record
	err := json.Unmarshal([]byte(text.event), &ev)
	if text.run != "" {
		err = errors.Join(err, json.Unmarshal([]byte(text.run), &rec.Outcome))
	}
	if err != nil {
		r.log.WarnContext(ctx, "event record cannot be read", "event_id", id, "err", err)
		return Record{}, false
	}
	rec.ID, rec.Source, rec.Name, rec.Type, rec.Action, rec.Entity = id, ev.Source, ev.Name, ev.Type, ev.Action, ev.Entity
	rec.Slug, rec.PreviousSlug, rec.Locale, rec.Environment = ev.Slug, ev.PreviousSlug, ev.Locale, ev.Environment
	rec.Version, rec.DeliveryID, rec.Tags, rec.ReplayOf, rec.ReceivedAt = ev.Version, ev.DeliveryID, ev.Tags, ev.ReplayOf, ev.ReceivedAt
	rec.Follows = ev.Follows
	if m := rec.Recalled; m != nil {
		rec.Slug, rec.PreviousSlug = cmp.Or(m.Slug, rec.Slug), cmp.Or(m.PreviousSlug, rec.PreviousSlug)
	}
	if ev.Type != "" {
		rec.Event = ev.Kind()
	}
	fmt.Sscan(text.attempts, &rec.Attempts)
	fmt.Sscan(text.delivered, &rec.Delivered)
	rec.Status = truth(Status(text.status), raw.task.Val())
	if rec.Status == Failed && rec.Error == "" {
		rec.Error = "its workers ended before they could say why"
	}
	if len(rec.Steps) == 0 {
		rec.step("received", ev.ReceivedAt, ev.ReceivedAt)
		var micros int64
		if _, err := fmt.Sscan(text.queued, &micros); err == nil {
			rec.step("queued", time.UnixMicro(micros), ev.ReceivedAt)
		}
	}
	return rec, true
}

// truth corrects the stored status of an event whose worker died: the state of
// its task knows better.
func truth(stored Status, task string) Status {
	switch {
	case stored != Queued && stored != Running && stored != Retrying:
		return stored
	case task == "archived":
		return Failed
	case task == "retry":
		return Retrying
	case task == "pending" && stored == Running:
		return Queued
	}
	return stored
}

func idOf(member string) string { return member[min(len(member), 17):] }

var memberPattern = regexp.MustCompile(`^[0-9]{16}-[a-zA-Z0-9_-]{1,64}$`)

func formatCursor(member string) string { return base64.RawURLEncoding.EncodeToString([]byte(member)) }

func parseCursor(s string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || !memberPattern.Match(b) {
		return "", ErrCursor
	}
	return string(b), nil
}
