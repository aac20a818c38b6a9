package main

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/freshwire/freshwire/internal/testkit"
)

// arrivals is a listener whose connections come from a channel.
type arrivals chan net.Conn

func (a arrivals) Accept() (net.Conn, error) {
	if conn := <-a; conn != nil {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (a arrivals) Close() error   { return nil }
func (a arrivals) Addr() net.Addr { return &net.TCPAddr{} }

// caller is a connection from the address that it says.
type caller struct {
	net.Conn
	peer string
}

func (c caller) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.peer))
}

func TestConnectionsBeyondTheLimitsAreClosedAtOnce(t *testing.T) {
	coming := make(arrivals, 16)
	l := limitConnections(coming, environment{MaxConnections: 6, MaxConnectionsPerAddress: 2, TrustedProxies: []string{"10.0.0.0/8"}},
		testkit.Discard(), prometheus.NewRegistry()).(*connLimit)
	connect := func(peer string) net.Conn {
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close() })
		client.SetDeadline(time.Now().Add(10 * time.Second))
		coming <- caller{server, peer}
		return client
	}
	accept := func(want string) net.Conn {
		t.Helper()
		conn, err := l.Accept()
		if err != nil || conn.RemoteAddr().String() != want {
			t.Fatalf("Accept = %v, %v, want the one of %s", conn, err, want)
		}
		return conn
	}
	closed := func(client net.Conn) {
		t.Helper()
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection too many reads %v, want it closed", err)
		}
	}
	connect("[2001:db8::1]:1")
	connect("[2001:db8::2]:2")
	third := connect("[2001:db8::3]:3") // the same /64
	connect("[2001:db8:0:1::1]:4")
	first := accept("[2001:db8::1]:1")
	accept("[2001:db8::2]:2")
	accept("[2001:db8:0:1::1]:4")
	closed(third)

	first.Close()
	first.Close() // counted once
	connect("[2001:db8::4]:5")
	accept("[2001:db8::4]:5")
	for _, peer := range []string{"10.0.0.1:6", "10.0.0.1:7", "10.0.0.1:8"} { // a trusted proxy
		connect(peer)
		accept(peer)
	}
	seventh := connect("127.0.0.1:9") // nobody is exempt from the limit of all
	coming <- nil                     // ends Accept
	if conn, err := l.Accept(); err == nil {
		t.Errorf("Accept = %v, want the seventh refused", conn.RemoteAddr())
	}
	closed(seventh)
	if n := testutil.ToFloat64(l.refused.WithLabelValues("all")); n != 1 {
		t.Errorf("%v refused by all, want 1", n)
	}
	if n := testutil.ToFloat64(l.refused.WithLabelValues("address")); n != 1 {
		t.Errorf("%v refused by address, want 1", n)
	}
}
