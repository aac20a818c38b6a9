package sse

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/internal/testkit"
	"golang.org/x/sys/unix"
)

func TestSlowReaderIsServedWhileItReads(t *testing.T) {
	h := testHandler(t, nil, Config{WriteTimeout: 500 * time.Millisecond})
	s := serve(t, h)
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error { // segments as on a real network
		return raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400)
		})
	}}
	conn, err := dialer.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /api/events?channel=posts HTTP/1.1\r\nHost: x\r\n\r\n")
	var b [2048]byte
	if n, err := conn.Read(b[:]); err != nil || !strings.Contains(string(b[:n]), "200") {
		t.Fatalf("got %q, %v", b[:n], err)
	}
	testkit.Until(t, "a subscriber", func() bool { return h.hub.Subscribers() == 1 })
	h.hub.Broadcast([]event.Record{record(1, strings.Repeat("x", 1<<20), "posts")})
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for total := 0; total < 100<<10; { // too slow for the socket to have room again within the timeout
		<-pause.C
		n, err := io.ReadFull(conn, b[:])
		if total += n; err != nil {
			t.Fatalf("%v after %d bytes", err, total)
		}
	}
	if n := h.hub.Stats(); n.Subscribers != 1 || n.Stalled != 0 {
		t.Errorf("%d subscribers, %d stalled, want the slow reader", n.Subscribers, n.Stalled)
	}
	testkit.Until(t, "it is closed when it reads no more", func() bool { return h.hub.Subscribers() == 0 })
}

// A ping that is not confirmed ends the connection, whoever serves it.
func TestVanishedClientIsFoundOnEveryKindOfConnection(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			h := way.handler(t, nil, Config{Heartbeat: 12 * time.Second})
			h.hub.Reset("", at(7))
			s := httptest.NewUnstartedServer(h)
			conns := make(chan net.Conn, 1)
			s.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
				conns <- conn
				return ConnContext(ctx, conn)
			}
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetHTTP1(true)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.Start()
			t.Cleanup(s.Close)
			stream, _ := listen(t, way.client(), s.URL, "channel=posts", "")
			next(t, stream)
			got := 0
			control(<-conns, func(fd int) { got, _ = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) })
			if want := 15_000; got != want {
				t.Errorf("unconfirmed bytes are kept for %d ms, want %d", got, want)
			}
		})
	}
}
