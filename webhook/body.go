package webhook

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// errBusy says that the bodies in memory leave no room for another.
var errBusy = errors.New("webhook: bodies in memory are at their limit")

// memory bounds what the bodies of all deliveries under way hold together.
type memory struct {
	limit int64 // fixed
	used  atomic.Int64
}

// smallBody is the size to which a body may grow while memory is short. The
// last quarter is kept for these: what large bodies that trickle in hold
// must not keep out the usual ones.
const smallBody = 64 << 10

// grow takes more bytes for a body of the given size.
func (m *memory) grow(by, size int64) bool {
	limit := m.limit
	if size > smallBody {
		limit = m.forLarge()
	}
	if m.used.Add(by) > limit {
		m.used.Add(-by)
		return false
	}
	return true
}

func (m *memory) free(held int64) { m.used.Add(-held) }

// forLarge is what large bodies may hold together.
func (m *memory) forLarge() int64 { return m.limit - m.limit/4 }

// firstRead is what a body is given before any of it has come.
const firstRead = 4 << 10

// read returns the body of r, of at most limit bytes, and how many bytes to
// free once nothing refers to it any more. Memory follows what has come and
// not what is announced.
//
// The body is a slice of its own and not a pooled one: events refer to it, and
// how long somebody reads them is not ours to know.
func (m *memory) read(r *http.Request, limit int64) (body []byte, held int64, err error) {
	announced := r.ContentLength
	if announced > limit {
		return nil, 0, &http.MaxBytesError{Limit: limit}
	}
	if announced < 0 {
		announced = limit // chunks: anything may come
	}
	for {
		// One byte more than may come is room to see that nothing more does.
		size := min(max(firstRead, 4*int64(len(body))), announced+1)
		if !m.grow(size-held, size) {
			return body, held, errBusy
		}
		body, held = append(make([]byte, 0, size), body...), size
		for len(body) < cap(body) {
			n, err := r.Body.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
			switch {
			case int64(len(body)) > announced && r.ContentLength < 0:
				return body, held, &http.MaxBytesError{Limit: limit}
			case int64(len(body)) > announced:
				return body, held, errors.New("longer than announced")
			case err == io.EOF && r.ContentLength >= 0 && int64(len(body)) < r.ContentLength:
				return body, held, io.ErrUnexpectedEOF
			case err == io.EOF:
				return body, held, nil
			case err != nil:
				return body, held, err
			}
		}
	}
}
