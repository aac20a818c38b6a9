package main

import (
	"context"
	"fmt"
	"time"

	"github.com/freshwire/freshwire/cache"
	"github.com/freshwire/freshwire/read"
)

// whyAnswer is what GET /debug/why?key= answers.
type whyAnswer struct {
	Key       string          `json:"key"`
	Verdict   cache.Standing  `json:"verdict"` // fresh, stale, void, missing, unknown
	Why       string          `json:"why"`     // a sentence for people
	Entry     *entryAnswer    `json:"entry,omitempty"`
	Causes    []causeAnswer   `json:"causes,omitempty"` // the newest first
	Announced []versionAnswer `json:"announced,omitempty"`
}

// entryAnswer is what is stored under a key, without its content.
type entryAnswer struct {
	InMemory   bool      `json:"in_memory"`      // of the process that answers
	RedisBytes int64     `json:"redis_bytes"`    // 0: not there
	Expires    int64     `json:"expires_ms"`     // until Redis drops it
	Status     int       `json:"status"`         // of the origin's answer
	Size       int       `json:"size"`           // of the content, in bytes
	Coding     string    `json:"coding"`         // as it is stored: identity or zstd
	ETag       string    `json:"etag,omitempty"` //
	Token      uint64    `json:"token"`          // position of the ledger before the fetch
	StoredAt   time.Time `json:"stored_at"`
	AgeMS      int64     `json:"age_ms"`
	TookMS     float64   `json:"took_ms"` // to fetch it
	FreshUntil time.Time `json:"fresh_until"`
	StaleUntil time.Time `json:"stale_until"`
	ErrorUntil time.Time `json:"error_until"`
	Target     string    `json:"target,omitempty"`   // how to ask for it
	Position   string    `json:"position,omitempty"` // of the change log, before the fetch
	Scopes     []string  `json:"scopes"`             // purges of these void it
}

// causeAnswer is a purge, and the event that it came with.
type causeAnswer struct {
	Kind      string    `json:"kind"`
	Name      string    `json:"name,omitempty"`
	Soft      bool      `json:"soft,omitempty"`
	Seq       uint64    `json:"seq,omitempty"`
	At        time.Time `json:"at,omitzero"`
	By        string    `json:"by,omitempty"`    // id of the event, or who else it was
	Event     string    `json:"event,omitempty"` // "<type>.<action>", where the record is still there
	Source    string    `json:"source,omitempty"`
	Forgotten bool      `json:"forgotten,omitempty"` // too old to tell by whom
}

// versionAnswer is what an event announced.
type versionAnswer struct {
	Tag     string    `json:"tag"`
	Version string    `json:"version,omitempty"`
	Gone    bool      `json:"gone,omitempty"`
	Seq     uint64    `json:"seq"`
	At      time.Time `json:"at"`
}

// tagAnswer is what GET /debug/tag?tag= answers.
type tagAnswer struct {
	Tag       string         `json:"tag"`
	Entries   int            `json:"entries"`
	Exact     bool           `json:"exact"`
	Samples   []string       `json:"samples"`
	Purges    []causeAnswer  `json:"purges"` // the last one of each kind
	Announced *versionAnswer `json:"announced,omitempty"`
}

// cacheAnswer is what GET /admin/cache answers, of the process that is asked.
type cacheAnswer struct {
	Memory struct {
		Entries int    `json:"entries"`
		Bytes   uint64 `json:"bytes"`
		Limit   int64  `json:"limit"`
	} `json:"memory"`
	Ledger struct {
		Scopes int    `json:"scopes"`
		AgeMS  int64  `json:"age_ms"`
		Token  uint64 `json:"token"`
		Epoch  string `json:"epoch"`
	} `json:"ledger"`
	Counters map[string]map[string]float64 `json:"counters"` // since the process began
	Routes   []read.RouteStats             `json:"routes"`
}

// why answers GET /debug/why.
func (a *app) why(ctx context.Context, key string) (any, error) {
	w, err := a.cache.Why(ctx, key)
	if err != nil {
		return nil, err
	}
	named := map[string]causeAnswer{}
	out := whyAnswer{Key: key, Verdict: w.Standing, Causes: a.causes(ctx, w.By, named)}
	out.Why = w.Sentence(func(by string) string { return callEvent(named[by]) })
	if e := w.Entry; e != nil {
		out.Entry = &entryAnswer{
			InMemory: w.InMemory, RedisBytes: w.InRedis, Expires: w.Expires.Milliseconds(), Status: e.Status, Size: e.Size, Coding: "identity",
			ETag: e.ETag, Token: e.Token, StoredAt: e.StoredAt.UTC(), AgeMS: w.Age.Milliseconds(), TookMS: float64(e.Took.Microseconds()) / 1000,
			FreshUntil: e.FreshUntil.UTC(), StaleUntil: e.StaleUntil.UTC(), ErrorUntil: e.ErrorUntil.UTC(),
			Target: e.Target, Position: e.Position, Scopes: e.Scopes(),
		}
		if w.Packed {
			out.Entry.Coding = "zstd"
		}
	}
	for _, v := range w.Versions {
		out.Announced = append(out.Announced, versionOf(v))
	}
	return out, nil
}

// causes are purges with what their events' records tell. They are also put
// into named, by whose they are.
func (a *app) causes(ctx context.Context, by []cache.Cause, named map[string]causeAnswer) []causeAnswer {
	out := make([]causeAnswer, len(by))
	for i, c := range by {
		at := c.At.UTC()
		if c.Seq == 0 {
			at = time.Time{}
		}
		out[i] = causeAnswer{Kind: c.Kind, Name: c.Name, Soft: c.Soft, Seq: c.Seq, At: at, By: c.By, Forgotten: c.Forgotten}
		if known, ok := named[c.By]; ok {
			out[i].Event, out[i].Source = known.Event, known.Source
		} else if c.By != "" && c.By != byOperator && c.By != byRevalidate && c.By != byEntries {
			if rec, err := a.records.Get(ctx, c.By); err == nil { // else it is older than records are kept
				out[i].Event, out[i].Source = rec.Event, rec.Source
			}
		}
		named[c.By] = out[i]
	}
	return out
}

// callEvent says what people call who purged.
func callEvent(c causeAnswer) string {
	switch {
	case c.By == byOperator:
		return "an operator"
	case c.By == byRevalidate:
		return "/api/revalidate"
	case c.By == byEntries:
		return "DELETE /v1/entries"
	case c.Event != "":
		return fmt.Sprintf("event %s (%s from %s)", c.By, c.Event, c.Source)
	}
	return "event " + c.By
}

func versionOf(v cache.Announced) versionAnswer {
	return versionAnswer{v.Tag, v.Version, v.Gone, v.Seq, time.UnixMicro(int64(v.Seq)).UTC()}
}

// aboutTag answers GET /debug/tag.
func (a *app) aboutTag(ctx context.Context, tag string) (any, error) {
	about, err := a.cache.AboutTag(ctx, tag)
	if err != nil {
		return nil, err
	}
	out := tagAnswer{Tag: tag, Entries: about.Carried.Entries, Exact: about.Carried.Exact, Samples: orEmpty(about.Carried.Samples),
		Purges: a.causes(ctx, about.By, map[string]causeAnswer{})}
	if about.Version.Seq != 0 {
		v := versionOf(about.Version)
		out.Announced = &v
	}
	return out, nil
}

// counters are the metrics of the cache that /admin/cache shows, each with the
// label that it is shown by.
var counters = map[string]string{
	"freshwire_cache_reads_total": "verdict", "freshwire_cache_void_total": "scope", "freshwire_cache_refused_total": "reason",
	"freshwire_cache_collapsed_total": "", "freshwire_cache_given_back_total": "", "freshwire_cache_ledger_lost_total": "",
	"freshwire_read_requests_total": "verdict", "freshwire_entries_requests_total": "outcome",
}

// showCache answers GET /admin/cache.
func (a *app) showCache(context.Context) (any, error) {
	var out cacheAnswer
	s := a.cache.Stats()
	out.Memory.Entries, out.Memory.Bytes, out.Memory.Limit = s.MemoryEntries, s.MemoryBytes, s.MemoryLimit
	out.Ledger.Scopes, out.Ledger.AgeMS, out.Ledger.Token, out.Ledger.Epoch = s.Scopes, s.LedgerAge.Milliseconds(), s.Token, s.Epoch
	families, err := a.reg.Gather()
	if err != nil {
		a.log.Warn("gathering metrics", "err", err) // the others are told
	}
	out.Counters = map[string]map[string]float64{}
	for name, label := range counters {
		if by := sums(families, name, label); len(by) > 0 {
			out.Counters[name] = by
		}
	}
	if out.Routes = a.reader.Stats(); out.Routes == nil {
		out.Routes = []read.RouteStats{}
	}
	return out, nil
}

// Where these answers are.
const (
	whyPath   = "/debug/why"
	tagPath   = "/debug/tag"
	cachePath = "/admin/cache"
)
