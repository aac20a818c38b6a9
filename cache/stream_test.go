package cache

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// atOnce is a stream that is there already.
func atOnce(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

// slowBody is a stream that the test writes.
type slowBody struct {
	*io.PipeReader
	w      *io.PipeWriter
	closed atomic.Bool
}

func newSlowBody() *slowBody {
	r, w := io.Pipe()
	return &slowBody{PipeReader: r, w: w}
}

func (b *slowBody) Close() error {
	b.closed.Store(true)
	return b.PipeReader.Close()
}

func (b *slowBody) write(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(b.w, s); err != nil {
		t.Errorf("writing %q: %v", s, err)
	}
}

func (b *slowBody) fill(context.Context, *Entry) (Fill, error) {
	return Fill{Status: 200, Header: map[string][]string{"Content-Type": {"text/plain"}}, TTL: time.Minute, Stream: b}, nil
}

func readSome(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Errorf("read %q, %v; want %q", b, err, want)
	}
}

func readAll(t *testing.T, r io.ReadCloser) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("reading: %v", err)
	}
	r.Close()
	return string(b)
}

func quiet(o *options) { o.lease = time.Hour }

func TestFirstReaderGetsTheBodyAsItComes(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t), quiet)
	syncNow(t, s)
	b := newSlowBody()
	r := fetch(t, s, Request{Key: "k"}, b.fill)
	if r.Stream == nil || r.Verdict != Miss || r.Entry.Header["Content-Type"][0] != "text/plain" {
		t.Fatalf("read = %+v, want a stream", r)
	}
	if _, err := r.Entry.Body(); !errors.Is(err, ErrNoBody) {
		t.Errorf("Body = %v, want ErrNoBody: it is still to come", err)
	}
	b.write(t, "one ")
	readSome(t, r.Stream, "one ")
	b.write(t, "two")
	readSome(t, r.Stream, "tw")
	b.w.Close()
	if rest := readAll(t, r.Stream); rest != "o" {
		t.Errorf("the rest is %q, want o", rest)
	}
	testkit.Until(t, "it is stored", func() bool {
		e, ok, _ := s.Get(t.Context(), "k")
		return ok && text(e) == "one two"
	})
	if !b.closed.Load() {
		t.Error("the origin's body was left open")
	}
}

func TestWhoJoinsAStreamGetsItWhole(t *testing.T) {
	s := node(t, testkit.Redis(t), quiet)
	syncNow(t, s)
	b := newSlowBody()
	first := fetch(t, s, Request{Key: "k"}, b.fill)
	b.write(t, "one ")
	joined := make(chan Result, 2)
	for range 2 {
		go func() {
			r, err := s.Fetch(t.Context(), Request{Key: "k"}, answers("another call"))
			if err != nil {
				t.Errorf("Fetch: %v", err)
			}
			joined <- r
		}()
	}
	testkit.Until(t, "both wait", func() bool { return waitingReaders("fetch") >= 2 })
	first.Stream.Close() // its reader leaves, the fetch goes on
	if _, err := first.Stream.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read after Close = %v", err)
	}
	b.write(t, "two")
	b.w.Close()
	for range 2 {
		if r := testkit.Wait(t, joined, "a joiner"); r.Stream != nil || saw(r) != "one two miss" || !r.Collapsed {
			t.Errorf("joiner = %q, collapsed %v; want one two", saw(r), r.Collapsed)
		}
	}
}

// What is made of the body is kept with the entry: tags void it.
func TestFinishTellsOfTheWholeBody(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t), quiet)
	syncNow(t, s)
	req := Request{Key: "k"}
	finish := func(b []byte) Fill {
		return Fill{Status: 200, TTL: time.Minute, ETag: `"` + string(b) + `"`, Tags: []string{"of:" + string(b)}}
	}
	r := fetch(t, s, req, func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 200, TTL: time.Minute, Stream: atOnce("x"), Finish: finish}, nil
	})
	if got := readAll(t, r.Stream); got != "x" {
		t.Errorf("stream = %q", got)
	}
	var e *Entry
	testkit.Until(t, "it is stored", func() (ok bool) { e, ok, _ = s.Get(t.Context(), "k"); return ok })
	if e.ETag != `"x"` || len(e.Tags()) != 1 || text(e) != "x" {
		t.Errorf("entry %+v, want the ETag and the tag of its body", e)
	}
	invalidate(t, s, tag("of:x"))
	if _, ok, _ := s.Get(t.Context(), "k"); ok {
		t.Error("the tag does not void the entry")
	}
	r = fetch(t, s, req, func(context.Context, *Entry) (Fill, error) { // a body that is there already
		return Fill{Status: 200, TTL: time.Minute, Body: []byte("y"), Finish: finish}, nil
	})
	if text(r.Entry) != "y" || r.Entry.ETag != `"y"` || !r.Stored {
		t.Errorf("read = %q %s", saw(r), r.Entry.ETag)
	}
}

func TestBodyThatBreaksOffIsNotKept(t *testing.T) {
	broken := errors.New("origin is on fire")
	judge := func(t *testing.T, change ...func(*options)) (stored bool) {
		s := node(t, testkit.Redis(t), append(change, quiet)...)
		syncNow(t, s)
		b := newSlowBody()
		first := fetch(t, s, Request{Key: "k"}, b.fill)
		b.write(t, "half")
		joined := make(chan error, 1)
		go func() {
			_, err := s.Fetch(t.Context(), Request{Key: "k"}, answers("x"))
			joined <- err
		}()
		testkit.Until(t, "the second waits", func() bool { return waitingReaders("fetch") >= 1 })
		b.w.CloseWithError(broken)
		got, err := io.ReadAll(first.Stream)
		if string(got) != "half" || !errors.Is(err, broken) {
			t.Errorf("the first read %q, %v; want half of it and the error", got, err)
		}
		if err := testkit.Wait(t, joined, "the second"); !errors.Is(err, broken) && len(change) == 0 {
			t.Errorf("the second got %v, want the origin's error", err)
		}
		_, stored, _ = s.Get(t.Context(), "k")
		return stored
	}
	if judge(t) {
		t.Error("half a body was stored")
	}
	if !judge(t, func(o *options) { o.faults.brokenKept = true }) {
		t.Error("not stored without the check: this test proves nothing")
	}
}

func TestStaleIsServedWhenABodyBreaksOff(t *testing.T) {
	c := newClocks()
	s := node(t, testkit.Redis(t), c.set, quiet)
	syncNow(t, s)
	expiredEntry(t, s, c, Request{Key: "k"}, Fill{Body: []byte("old"), SIE: time.Hour})
	b := newSlowBody()
	first := fetch(t, s, Request{Key: "k"}, b.fill)
	second := make(chan Result, 1)
	go func() {
		r, err := s.Fetch(t.Context(), Request{Key: "k"}, answers("x"))
		if err != nil {
			t.Errorf("Fetch: %v", err)
		}
		second <- r
	}()
	testkit.Until(t, "the second waits", func() bool { return waitingReaders("fetch") >= 1 })
	b.w.CloseWithError(io.ErrUnexpectedEOF)
	if r := testkit.Wait(t, second, "the second"); saw(r) != "old stale" {
		t.Errorf("read = %q, want old stale", saw(r))
	}
	first.Stream.Close()
}

// A download that is too large to keep goes to its reader, at its pace.
func TestLargeBodyIsForItsReaderOnly(t *testing.T) {
	s := node(t, testkit.Redis(t), quiet)
	s.cfg.MaxBody = 1000
	syncNow(t, s)
	var sent atomic.Int64
	const size = 8 << 20
	large := func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 200, TTL: time.Minute, Stream: io.NopCloser(io.LimitReader(counted{&sent}, size))}, nil
	}
	first := fetch(t, s, Request{Key: "k"}, large)
	if first.Stream == nil {
		t.Fatal("no stream")
	}
	// Nobody else waits for it.
	if r := fetch(t, s, Request{Key: "k"}, answers("small")); text(r.Entry) != "small" {
		t.Errorf("another read = %q", saw(r))
	}
	testkit.Until(t, "the buffer is full", func() bool { n := sent.Load(); return n > flowWindow && waitingIn("(*flow).wanted") == 1 })
	if n := sent.Load(); n > 4*flowWindow {
		t.Errorf("%d bytes were read ahead of a reader who took none", n)
	}
	n, err := io.Copy(io.Discard, first.Stream)
	if n != size || err != nil {
		t.Errorf("read %d bytes, %v; want %d", n, err, size)
	}
	first.Stream.Close()
	testkit.Until(t, "nothing is left of it", func() bool { return waitingIn("(*flow)") == 0 && waitingIn("(*Store).fly") == 0 })

	invalidate(t, s, Purge{All: true})
	if r, err := s.Fill(t.Context(), Request{Key: "k"}, large); err != nil || r.Stored || r.Stream != nil || r.Detail != DetailTooLarge {
		t.Errorf("Fill = %+v, %v; want nothing stored", r, err)
	}
}

type counted struct{ n *atomic.Int64 }

func (c counted) Read(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// waitingIn counts goroutines that are anywhere in a function.
func waitingIn(fn string) int {
	buf := make([]byte, 1<<20)
	n := 0
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, fn) {
			n++
		}
	}
	return n
}

func TestJoinersOfALargeBodyAskForThemselves(t *testing.T) {
	s := node(t, testkit.Redis(t), quiet)
	s.cfg.MaxBody = 10
	syncNow(t, s)
	b := newSlowBody()
	first := fetch(t, s, Request{Key: "k"}, b.fill)
	second := make(chan Result, 1)
	go func() {
		r, err := s.Fetch(t.Context(), Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
			return Fill{Status: 200, TTL: time.Minute, Stream: atOnce("of its own, and large")}, nil
		})
		if err != nil {
			t.Errorf("Fetch: %v", err)
		}
		second <- r
	}()
	testkit.Until(t, "the second waits", func() bool { return waitingReaders("fetch") >= 1 })
	b.write(t, "more than ten bytes")
	r := testkit.Wait(t, second, "the second")
	if r.Verdict != Bypass || r.Detail != DetailTooLarge || r.Stream == nil {
		t.Errorf("read = %+v, want a bypass", r)
	} else if got := readAll(t, r.Stream); got != "of its own, and large" {
		t.Errorf("read %q", got)
	}
	first.Stream.Close()
	b.w.Close()
	testkit.Until(t, "the origin's body is closed", b.closed.Load)
}

func TestPrivateStreamIsForItsReaderOnly(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t), quiet)
	syncNow(t, s)
	b := newSlowBody()
	first := fetch(t, s, Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
		return Fill{Status: 200, NoStore: true, Stream: b}, nil
	})
	if first.Verdict != Bypass || first.Detail != DetailNoStore {
		t.Errorf("read is a %s, %s; want a bypass", first.Verdict, first.Detail)
	}
	if got := saw(fetch(t, s, Request{Key: "k"}, answers("of bob"))); got != "of bob miss" && got != "of bob bypass" {
		t.Errorf("another read = %q, want its own", got)
	}
	b.write(t, "of ann")
	b.w.Close()
	if got := readAll(t, first.Stream); got != "of ann" {
		t.Errorf("stream = %q", got)
	}
}

func TestReaderWhoIsGoneHoldsNoStreamOpen(t *testing.T) {
	for name, leave := range map[string]func(r Result, cancel func()){
		"closes": func(r Result, _ func()) { r.Stream.Close() },
		"ends":   func(_ Result, cancel func()) { cancel() },
	} {
		s := node(t, testkit.Redis(t), quiet)
		s.cfg.MaxBody = 1000
		syncNow(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		var sent atomic.Int64
		r, err := s.Fetch(ctx, Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
			return Fill{Status: 200, TTL: time.Minute, Stream: io.NopCloser(counted{&sent})}, nil // endless
		})
		if err != nil {
			t.Fatal(err)
		}
		testkit.Until(t, "it waits for its reader", func() bool { return waitingIn("(*flow).wanted") == 1 })
		leave(r, cancel)
		testkit.Until(t, name+": nothing is left of it", func() bool { return waitingIn("(*Store).fly") == 0 })
		cancel()
	}
}

// panicking is a body that fails in the worst way.
type panicking struct{ io.Reader }

func (p panicking) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if err != nil {
		panic("oh")
	}
	return n, nil
}
func (p panicking) Close() error { return nil }

func TestBodyThatPanicsWedgesNothing(t *testing.T) {
	t.Parallel()
	for _, maxBody := range []int64{1000, 1} {
		s := node(t, testkit.Redis(t), quiet)
		s.cfg.MaxBody = maxBody
		syncNow(t, s)
		r := fetch(t, s, Request{Key: "k"}, func(context.Context, *Entry) (Fill, error) {
			return Fill{Status: 200, TTL: time.Minute, Stream: panicking{strings.NewReader("half")}}, nil
		})
		if got, err := io.ReadAll(r.Stream); string(got) != "half" || err == nil {
			t.Errorf("read %q, %v; want half, and an error", got, err)
		}
		testkit.Until(t, "it has landed", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.flights) == 0
		})
		if got := saw(fetch(t, s, Request{Key: "k"}, answers("x"))); got != "x miss" {
			t.Errorf("read = %q, want x miss", got)
		}
	}
}

func TestBodyThatStallsIsLate(t *testing.T) {
	t.Parallel()
	s := node(t, testkit.Redis(t), quiet)
	s.cfg.FillTimeout = 50 * time.Millisecond
	syncNow(t, s)
	r := fetch(t, s, Request{Key: "k"}, func(ctx context.Context, _ *Entry) (Fill, error) {
		b := newSlowBody()
		context.AfterFunc(ctx, func() { b.w.CloseWithError(ctx.Err()) }) // as net/http does
		return Fill{Status: 200, TTL: time.Minute, Stream: b}, nil
	})
	if _, err := io.ReadAll(r.Stream); err == nil {
		t.Error("a body that stalls came to its end")
	}
}
