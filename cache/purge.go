package cache

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Purge is what to make void. The zero value names nothing.
type Purge struct {
	Tags     []string
	Keys     []string
	Patterns []string // Redis globs over keys
	Paths    []string // "/a" that path; "/a/*" it and all below
	All      bool

	// Soft makes stale what would be void: it is served while it is fetched
	// again. Such a purge promises nothing to those who are told of it.
	Soft bool
	// Announced are versions that the origin will show. Until it does, what it
	// answers is an old view, which is not kept.
	Announced []Announcement
	// By names who purges, such as the id of an event: told to who asks why.
	By string
}

// Announcement is the version of a thing that an event told of.
type Announcement struct {
	Tag     string // of the thing, such as "post:42"
	Version string // as the CMS tells it: a number, a time, a hash
	Gone    bool   // in place of a version: the thing is not to be found any more
}

// Mark is an invalidation in the ledger. Keep it with the event: a retry that
// hands it to Invalidate again does not make a second one.
type Mark struct {
	Seq    uint64 // position in the ledger
	Member string // seq and a nonce: the same seq of another master is another event
	Epoch  string // of the ledger
}

// maxScopes bounds the scopes of one event. Beyond it everything is void: that
// is one scope, and the script stays short for everybody else.
const maxScopes = 2000

// ErrPurge is wrapped by the errors of a Purge that cannot be carried out.
var ErrPurge = errors.New("cache: bad purge")

// Validate reports every pattern of p that Redis would not match as written.
func (p Purge) Validate() error {
	var errs []error
	for _, pat := range p.Patterns {
		if err := validGlob(pat); err != nil {
			errs = append(errs, fmt.Errorf("%w: pattern %q: %w", ErrPurge, pat, err))
		}
	}
	return errors.Join(errs...)
}

// Scopes of entries and events. An event voids the entries that were filled
// before it and share a scope with it.
const (
	tagScope  = "t:"
	keyScope  = "k:"
	pathScope = "p:" // with "/" at the end: that directory and all below
	globScope = "g:"
	negative  = "n:" // every entry that says "not found"; every event voids it
	everyone  = "*"
	softly    = "~" // before one of these: what it covers is stale, not void
)

// scopes returns what p makes void, sorted, each once. What no entry can carry
// (an empty or overlong tag or key) is left out. It is never empty: an event
// may have created what a negative entry denies.
func scopes(p Purge) []string {
	out := []string{negative}
	for _, t := range p.Tags {
		if t != "" && len(t) <= MaxTag {
			out = append(out, tagScope+t)
		}
	}
	for _, k := range p.Keys {
		if checkKey(k) == nil {
			out = append(out, keyScope+k)
		}
	}
	for _, pat := range p.Patterns {
		out = append(out, globScope+pat)
	}
	for _, q := range p.Paths {
		out = append(out, purgedPath(q))
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if p.All || len(out) > maxScopes {
		out = []string{everyone, negative}
	}
	if p.Soft {
		for i, s := range out {
			out[i] = softly + s
		}
	}
	return out
}

// purgedPath returns the scope of "/a" (that path) or "/a/*" (it and all below).
func purgedPath(p string) string {
	dir, subtree := strings.CutSuffix(p, "/*")
	if subtree {
		return pathScope + cleanPath(dir) + "/"
	}
	return pathScope + cleanPath(p)
}

// pathScopes returns the scopes of an entry at p: the path itself, and every
// directory that holds it.
func pathScopes(p string) []string {
	if p == "" {
		return nil
	}
	p = cleanPath(p)
	out := []string{pathScope + p, pathScope + p + "/"}
	for i := strings.LastIndexByte(p, '/'); i >= 0; i = strings.LastIndexByte(p[:i], '/') {
		out = append(out, pathScope+p[:i+1])
	}
	return out
}

// cleanPath resolves dots and doubled slashes and drops the last slash, so
// that "/" is "": the path and the directory of the same name stay apart.
func cleanPath(p string) string {
	return strings.TrimSuffix(path.Clean("/"+p), "/")
}
