//go:build !linux

package sse

import (
	"net"
	"time"
)

// poller watches sockets, where that is done without a goroutine for each.
type poller struct{}

func (*poller) close() {}

func newSocket(net.Conn, time.Duration) socket { return nil }
