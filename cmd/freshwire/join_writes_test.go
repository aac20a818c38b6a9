package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// countingListener counts the writes of its connections.
type countingListener struct {
	net.Listener
	writes *atomic.Int32
}

type countingConn struct {
	net.Conn
	writes *atomic.Int32
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return &countingConn{conn, l.writes}, err
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// joiningServer serves h; writes counts what is written below.
func joiningServer(t *testing.T, h http.HandlerFunc) (addr string, writes *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	writes = new(atomic.Int32)
	server := &http.Server{Handler: h, ConnState: sendHeld, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(joinWrites(countingListener{l, writes}))
	t.Cleanup(func() { server.Close() })
	return l.Addr().String(), writes
}

// ofSize answers with n bytes, written part by part.
func ofSize(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	part, _ := strconv.Atoi(r.URL.Query().Get("part"))
	w.Header().Set("Content-Length", strconv.Itoa(n))
	for piece := range slices.Chunk(make([]byte, n), part) {
		w.Write(piece)
	}
}

func TestAnswersOfAnySizeComeWhole(t *testing.T) {
	addr, writes := joiningServer(t, ofSize)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	answers := bufio.NewReader(conn)
	for n := range 8400 { // near the ends of the server's buffer, each size
		if n%4096 > 20 && n%4096 < 3800 {
			continue
		}
		for _, part := range []int{n + 1, 1000, 4096} {
			before := writes.Load()
			fmt.Fprintf(conn, "GET /?n=%d&part=%d HTTP/1.1\r\nHost: x\r\n\r\n", n, part)
			res, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("%d bytes by %d: %v", n, part, err)
			}
			if body, err := io.ReadAll(res.Body); err != nil || len(body) != n {
				t.Fatalf("%d bytes by %d: got %d, %v", n, part, len(body), err)
			}
			if most := int32(1); n < 7900 && part == n+1 && writes.Load()-before > most {
				t.Errorf("%d bytes in %d writes", n, writes.Load()-before)
			}
		}
	}
}

// What is held back goes out when a handler leaves its answer unfinished.
func TestBrokenAnswerIsSentAsFarAsItCame(t *testing.T) {
	addr, _ := joiningServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10000")
		w.Write(make([]byte, 4096))
		panic(http.ErrAbortHandler)
	})
	res, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != io.ErrUnexpectedEOF || len(body) == 0 {
		t.Errorf("got %d bytes, %v", len(body), err)
	}
}

func TestStreamsAreNotHeldBack(t *testing.T) {
	more := make(chan struct{})
	addr, _ := joiningServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 5000))
		http.NewResponseController(w).Flush()
		<-more
	})
	defer close(more)
	res, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(res.Body, make([]byte, 5000))
		got <- err
	}()
	if err := testkit.Wait(t, got, "what was flushed"); err != nil {
		t.Error(err)
	}
}

func TestOnlyTheBeginningOfAnAnswerIsHeldBack(t *testing.T) {
	fill := func(s string) []byte { return append([]byte(s), make([]byte, serverBuffer-len(s))...) }
	for name, tc := range map[string]struct {
		piece []byte
		held  bool
	}{
		"more to come":        {fill("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"), true},
		"one byte to come":    {fill("HTTP/1.1 200 OK\r\nContent-Length: 4056\r\n\r\n"), true},
		"nothing to come":     {fill("HTTP/1.1 200 OK\r\nContent-Length: 4055\r\n\r\n"), false},
		"length not known":    {fill("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), false},
		"length in the body":  {fill("HTTP/1.1 200 OK\r\nX: y\r\n\r\n\r\nContent-Length: 9000\r\n\r\n"), false},
		"head not at its end": {fill("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n"), false},
		"a body":              {fill("\r\nContent-Length: 9000\r\n\r\n"), false},
	} {
		if got := begins(tc.piece); got != tc.held {
			t.Errorf("%s: held %v", name, got)
		}
	}
}
