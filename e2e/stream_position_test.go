package e2e

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// Whatever a client says where it stands: it is refused, or is told to refetch
// and goes on. It is never left in silence.
func TestStreamAnswersEveryPosition(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		l := newLab(t, 2, nil, "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_SSE_RESET_SPREAD=1ms")
		l.publish(t, 0)
		formerLife := l.book.last(bits(0)).String()
		l.redis.Kill()
		testkit.Until(t, "the nodes have noticed", func() bool { return !l.nodes[0].ready() && !l.nodes[1].ready() })
		l.redis.Start(t)
		for _, p := range l.nodes {
			p.awaitReady(t)
		}
		l.publish(t, 0)
		good := l.book.last(bits(0)).String()
		l.publish(t, 1) // so that good is not the newest
		for _, p := range l.nodes {
			testkit.Until(t, "the node has all", func() bool { return p.holds(t, 2) })
		}

		type ask struct{ name, header, query string }
		header := func(name, position string) ask { return ask{name, "Last-Event-ID: " + position + "\r\n", ""} }
		query := func(name, position string) ask {
			return ask{name, "", "&lastEventId=" + url.QueryEscape(position)}
		}
		wrong := map[string]string{
			"zero": "0-0", "one": "1-0", "tomorrow": "9999999999999-0", "the end of time": "18446744073709551615-18446744073709551615",
			"beyond it": "18446744073709551616-0", "letters": "abc", "dollar": "$", "plus": "+", "minus": "-", "greater": ">", "star": "*",
			"exclusive": "(1-0", "huge": strings.Repeat("9", 200) + "-0", "negative": "-5-0", "negative part": "5--1", "no part": good[:13],
			"three parts": good + "-0", "a space": good + " x", "unicode digits": "١٢٣-٠", "emoji": "🦖", "hexadecimal": "0x10-0", "a point": "1.5-0",
			"exponent": "1e12-0", "command": "1-0\nFLUSHALL", "another life": formerLife, "null": "null", "undefined": "undefined",
		}
		asks := []ask{
			header("10,000 characters", strings.Repeat("7", 10_000)), header("100 KB", strings.Repeat("7", 100<<10)), query("100 KB in the URL", strings.Repeat("7", 100<<10)),
			{"CR in the header", "Last-Event-ID: 1-0\rX: y\r\n", ""}, {"NUL in the header", "Last-Event-ID: 1-0\x00\r\n", ""},
			{"folded header", "Last-Event-ID: 1-0\r\n 2-0\r\n", ""}, {"two wrong headers", "Last-Event-ID: abc\r\nLast-Event-ID: 1-0\r\n", ""},
			{"wrong header, good query", "Last-Event-ID: abc\r\n", "&lastEventId=" + good}, {"broken escape", "", "&lastEventId=%zz"},
			{"encoded CR LF", "", "&lastEventId=1-0%0d%0aevent:%20x"}, {"encoded NUL", "", "&lastEventId=1-0%00"}, {"broken UTF-8", "", "&lastEventId=%ff%fe-0"},
		}
		for name, position := range wrong {
			if !strings.ContainsAny(position, "\r\n") {
				asks = append(asks, header(name, position))
			}
			asks = append(asks, query(name+" in the URL", position))
		}
		rightAsks := []ask{
			header("good", good), query("good in the URL", good), {"nothing", "", ""}, {"empty", "Last-Event-ID: \r\n", "&lastEventId="},
			{"empty header, good query", "Last-Event-ID:\r\n", "&lastEventId=" + good}, {"good header, wrong query", "Last-Event-ID: " + good + "\r\n", "&lastEventId=abc"},
		}

		var mu sync.Mutex
		reasons := map[string]int{}
		var opened []*wire
		var wait sync.WaitGroup
		var slowest time.Duration
		try := func(a ask, mustReset bool, node string) {
			began := time.Now()
			w, reason, err := firstWord(t, node, a.header, a.query)
			mu.Lock()
			defer mu.Unlock()
			slowest = max(slowest, time.Since(began))
			reasons[reason]++
			switch {
			case err != nil:
				t.Errorf("%s: %v", a.name, err)
			case w != nil:
				opened = append(opened, w)
				if (reason != "ready") != mustReset {
					t.Errorf("%s: answered %q first", a.name, reason)
				}
			case !mustReset:
				t.Errorf("%s: answered %s", a.name, reason)
			}
		}
		for _, p := range l.nodes {
			for _, a := range asks {
				wait.Go(func() { try(a, true, p.addr()) })
			}
			for _, a := range rightAsks {
				wait.Go(func() { try(a, false, p.addr()) })
			}
		}
		wait.Wait()
		id := l.last(t, 0)
		heard := 0
		for _, w := range opened {
			if _, before, err := w.until(func(e told) bool { return e.name == "" && e.id == id }); err != nil {
				t.Errorf("a stream ended after %q, before the next change: %v", before, err)
			} else {
				heard++
			}
			w.Close()
		}
		t.Logf("time-traveller, %s: %d positions, first words %v, slowest %v; %d streams heard the next change",
			mode, 2*(len(asks)+len(rightAsks)), reasons, slowest.Round(time.Millisecond), heard)
	})
}

// last publishes one change and returns its position.
func (l *lab) last(t *testing.T, channel int) string {
	l.publish(t, channel)
	return l.book.last(bits(channel)).String()
}

// firstWord asks for a stream and returns what it is told first: ready, the
// reason of a reset, or "refused"; with a stream that is ready.
func firstWord(t *testing.T, node, header, query string) (*wire, string, error) {
	w, err := openWire(t.Context(), dialTCP, node, "channel=c0"+query, header)
	var status statusError
	switch {
	case errors.As(err, &status) && status >= 400 && status < 500:
		return nil, "refused", nil
	case err != nil:
		return nil, "failed", err
	}
	e, _, err := w.until(func(told) bool { return true })
	if err != nil {
		return nil, "failed", err
	}
	word := e.name
	if e.name == "reset" {
		var said struct{ Reason string }
		if err := json.Unmarshal(e.data, &said); err != nil {
			return nil, "failed", err
		}
		word = said.Reason
		if e, _, err = w.until(func(told) bool { return true }); err != nil || e.name != "ready" {
			return nil, "failed", errors.Join(err, errors.New("no ready after reset, but "+e.name))
		}
	}
	return w, word, nil
}
