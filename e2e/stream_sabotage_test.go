package e2e

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// The judge must see what is done to real streams, too.
func TestStreamJudgeFindsABrokenServer(t *testing.T) {
	for _, tc := range []struct {
		name     string
		sabotage func(t *testing.T) (*lab, []*process, func())
		wrong    string
	}{
		{"an entry vanishes from the log before its node reads it", entryVanishes, "before change"},
		{"a proxy swallows a frame", frameSwallowed, "before change"},
		{"a proxy swallows the last frames", tailSwallowed, "changes never told"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, nodes, publish := tc.sabotage(t)
			c := newCrowd(t, l.book, 10, nodes, func(int) []int { return []int{0} })
			publish()
			c.patience = time.Second // for what will never come
			v, errs := c.judge(t)
			if v.wrong != 10 || !strings.Contains(errs[0].Error(), tc.wrong) {
				t.Errorf("judged %d of 10 clients wrong, %v; want all, for what they missed", v.wrong, errs)
			}
			c.complain(t) // each stream for itself was as it should be
		})
	}
}

func entryVanishes(t *testing.T) (*lab, []*process, func()) {
	l, lines := linked(t, 1, nil)
	return l, l.nodes, func() {
		for range 5 {
			l.publish(t, 0)
		}
		testkit.Until(t, "the node has five", func() bool { return l.nodes[0].holds(t, 5) })
		lines[0].Hold()
		l.publish(t, 0) // answers the read that waits
		n := l.publish(t, 0)
		if err := l.redis.Client(t).XDel(t.Context(), "fw:{fw}:log", l.book.entries[n-1].pos.String()).Err(); err != nil {
			t.Fatal(err)
		}
		lines[0].Release()
		for range 5 {
			l.publish(t, 0)
		}
		testkit.Until(t, "the node has what is left", func() bool { return l.nodes[0].holds(t, 11) })
	}
}

func frameSwallowed(t *testing.T) (*lab, []*process, func()) { return swallowing(t, 4, 4) }
func tailSwallowed(t *testing.T) (*lab, []*process, func())  { return swallowing(t, 8, 10) }

// swallowing puts a proxy before a node that leaves out changes of each stream.
func swallowing(t *testing.T, from, to int) (*lab, []*process, func()) {
	l := newLab(t, 1, nil)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), "GET", l.nodes[0].URL+r.URL.String(), nil)
		req.Header = r.Header
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		blocks := bufio.NewScanner(resp.Body)
		blocks.Split(untilBlankLine)
		for n := 0; blocks.Scan(); {
			if isChange := strings.HasPrefix(blocks.Text(), "id:") && !strings.Contains(blocks.Text(), "\nevent:"); isChange {
				if n++; n >= from && n <= to {
					continue
				}
			}
			w.Write(append(blocks.Bytes(), "\n\n"...))
			http.NewResponseController(w).Flush()
		}
	}))
	t.Cleanup(func() { proxy.CloseClientConnections(); proxy.Close() })
	return l, []*process{{URL: proxy.URL}}, func() {
		for range 10 {
			l.publish(t, 0)
		}
		testkit.Until(t, "the node has ten", func() bool { return l.nodes[0].holds(t, 10) })
	}
}

func untilBlankLine(data []byte, _ bool) (advance int, token []byte, err error) {
	if before, _, found := strings.Cut(string(data), "\n\n"); found {
		return len(before) + 2, data[:len(before)], nil
	}
	return 0, nil, nil
}
