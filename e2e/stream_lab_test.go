package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/internal/testkit"
)

// modes are the values of FRESHWIRE_SSE_MODE.
var modes = []string{"auto", "plain"}

// inBothModes runs a test with streams that were taken over, and with those of
// the ordinary handler: a client cannot tell them apart.
func inBothModes(t *testing.T, test func(t *testing.T, mode string)) {
	t.Parallel() // much of it is waiting
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { test(t, mode) })
	}
}

// lab is a Redis, stream nodes on it, and a publisher that is neither.
type lab struct {
	redis *testkit.Server
	nodes []*process
	book  *book
	log   *feed.Log
}

// newLab starts a Redis and n stream nodes.
func newLab(t *testing.T, n int, redisArgs []string, env ...string) *lab {
	t.Helper()
	l := &lab{redis: testkit.StartServer(t, redisArgs...), book: &book{}}
	l.log = feed.New(publisher(t, l.redis), testkit.Discard(), feed.Config{})
	for range n {
		l.nodes = append(l.nodes, startStream(t, l.redis.URL(), env...))
	}
	return l
}

// publisher is a client that asks once: the book tries again.
func publisher(t *testing.T, s *testkit.Server) *redis.Client {
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, ReadTimeout: 2 * time.Second})
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// startStream starts a stream node on the Redis at url.
func startStream(t *testing.T, url string, env ...string) *process {
	t.Helper()
	return startStreamAt(t, testkit.FreeAddr(t), url, env...)
}

func startStreamAt(t *testing.T, addr, url string, env ...string) *process {
	t.Helper()
	return startAt(t, addr, "sse", append([]string{"REDIS_URL=" + url, "LOG_LEVEL=warn", "FRESHWIRE_RATE_LIMIT=0", "FRESHWIRE_CONFIG=" + os.DevNull}, env...)...)
}

// publish appends one change, and fails the test if that is not possible.
func (l *lab) publish(t testing.TB, channels ...int) int {
	t.Helper()
	n, err := l.book.publish(t.Context(), l.log, "", channels...)
	if err != nil {
		t.Fatalf("publishing change %d: %v", n, err)
	}
	return n
}

// publishMany appends n changes on channel 0 at once, to a log that keeps about
// keep of them. pad is added to each as a field.
func (l *lab) publishMany(t testing.TB, n int, keep int64, pad string) {
	t.Helper()
	pipe := l.redis.Client(t).Pipeline()
	numbers := map[int]*redis.StringCmd{}
	for range n {
		n, c := l.book.begin(0)
		if pad != "" {
			c.Fields = map[string]any{"pad": pad}
		}
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		numbers[n] = pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: "fw:{fw}:log", MaxLen: keep, Approx: true, Values: []any{"d", data, "c", channelName(0)}})
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n, added := range numbers {
		at, err := event.ParsePosition(added.Val())
		if err != nil {
			t.Fatal(err)
		}
		l.book.acknowledged(n, at)
	}
}

// publishing appends changes until stop is called, which returns how many: one
// a pace, each on one of the channels or on two.
func (l *lab) publishing(t testing.TB, pace time.Duration, channels int, pad string) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	count := 0
	done.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			on := []int{count % channels}
			if count%3 == 0 && channels > 1 {
				on = append(on, (count+1)%channels)
			}
			// One that was begun is carried through: whether the log has it must be known.
			if _, err := l.book.publish(t.Context(), l.log, pad, on...); err != nil {
				return
			}
			count++
		}
	})
	stop = sync.OnceValue(func() int {
		cancel()
		done.Wait()
		return count
	})
	t.Cleanup(func() { stop() })
	return stop
}

// flow waits until so many more changes were published.
func flow(t testing.TB, l *lab, changes int) {
	t.Helper()
	until := l.book.len() + changes
	testkit.Until(t, "changes flow", func() bool { return l.book.len() > until })
}

// spreadOver gives each client two of n channels.
func spreadOver(n int) func(int) []int {
	return func(i int) []int { return []int{i % n, (i + 1 + i/n%max(1, n-1)) % n} }
}

func (p *process) addr() string { return strings.TrimPrefix(p.URL, "http://") }

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// cpu returns the processor time that p has used.
func (p *process) cpu(t testing.TB) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid()))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // ticks of 1/100 s
}

// rss returns the memory of p that is in RAM.
func (p *process) rss(t testing.TB) int {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.pid()))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
	return pages * os.Getpagesize()
}

// fds returns how many descriptors p has open.
func (p *process) fds(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// scraper opens a connection each time, so that it leaves none behind.
var scraper = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testkit.Patience}

// metrics returns what /metrics says: the sum of each name's series.
func (p *process) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	req, err := http.NewRequest("GET", p.URL+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := scraper.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil || resp.StatusCode != 200 {
		t.Fatalf("GET /metrics = %s, %v", resp.Status, err)
	}
	sums := map[string]float64{}
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.Contains(series, "{") { // labels may hold spaces
			i := strings.LastIndex(line, "}")
			series, value = line[:i], strings.TrimSpace(line[i+1:])
		}
		name, _, _ := strings.Cut(series, "{")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sums[name] += v
	}
	return sums
}

// holds reports whether a node has taken n changes since it started.
func (p *process) holds(t testing.TB, n int) bool {
	return p.metrics(t)["freshwire_sse_frames_total"] >= float64(n)
}

func (p *process) subscribers(t testing.TB) int {
	t.Helper()
	n, ok := p.metrics(t)["freshwire_sse_subscribers"]
	if !ok {
		t.Fatal("no metric freshwire_sse_subscribers")
	}
	return int(n)
}

// tortured reports whether long runs were asked for.
func tortured() bool { return os.Getenv("FRESHWIRE_TORTURE_STREAM") != "" }

// size returns how many of something to take: the long run's number if that was asked for.
func size(short, long int) int {
	if tortured() {
		return long
	}
	return short
}
