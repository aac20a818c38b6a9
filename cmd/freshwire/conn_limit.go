package main

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// connLimit bounds the connections of a listener, in all and per client
// address (an IPv4 address, or the /64 of an IPv6 one): half-sent requests
// cost little each, and many of them all the same. A connection too many is
// closed at once, so that others still get through.
//
// This machine and trusted proxies are not counted by address: they speak for
// many clients. Other proxies that stand in front of all clients must be named
// in FRESHWIRE_TRUSTED_PROXIES, or their limit be raised.
type connLimit struct {
	net.Listener
	all, perAddress int // 0: no limit
	trusted         trustedProxies
	log             *slog.Logger
	refused         *prometheus.CounterVec

	mu    sync.Mutex
	open  int
	byNet map[netip.Addr]int // only addresses with open connections
}

func limitConnections(l net.Listener, env environment, log *slog.Logger, reg prometheus.Registerer) net.Listener {
	c := &connLimit{
		Listener: l, all: env.MaxConnections, perAddress: env.MaxConnectionsPerAddress, trusted: env.TrustedProxies, log: log,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_connections_refused_total",
			Help: "Connections closed at once, by the limit that they were beyond: all, address.",
		}, []string{"limit"}),
		byNet: map[netip.Addr]int{},
	}
	reg.MustRegister(c.refused)
	return c
}

// Accept returns the next connection within the limits.
func (c *connLimit) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := c.network(conn.RemoteAddr())
		if limit := c.enter(from); limit != "" {
			c.refused.WithLabelValues(limit).Inc()
			c.log.Debug("connection refused", "limit", limit, "address", conn.RemoteAddr().String())
			conn.Close()
			continue
		}
		return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { c.leave(from) })}, nil
	}
}

// network returns what the connections of a peer are counted by; the zero Addr
// for one that is not counted.
func (c *connLimit) network(peer net.Addr) netip.Addr {
	tcp, ok := peer.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	if addr.IsLoopback() || c.trusted.trusts(addr.String()) {
		return netip.Addr{}
	}
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

// enter counts a connection, or returns the limit that it is beyond.
func (c *connLimit) enter(from netip.Addr) (limit string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.all > 0 && c.open >= c.all:
		return "all"
	case c.perAddress > 0 && from.IsValid() && c.byNet[from] >= c.perAddress:
		return "address"
	}
	c.open++
	if from.IsValid() {
		c.byNet[from]++
	}
	return ""
}

func (c *connLimit) leave(from netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if !from.IsValid() {
		return
	}
	if c.byNet[from]--; c.byNet[from] == 0 {
		delete(c.byNet, from)
	}
}

// limitedConn is counted until it is closed, whoever has it then.
type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// SyscallConn lets streams be written without a goroutine for each.
func (c *limitedConn) SyscallConn() (syscall.RawConn, error) { return syscallConn(c.Conn) }

func syscallConn(conn net.Conn) (syscall.RawConn, error) {
	if c, ok := conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
