//go:build !linux

package sse

import "net"

// poller watches sockets, where that is done without a goroutine for each.
type poller struct{}

func (*poller) close() {}

func newSocket(net.Conn) socket { return nil }

func limitBuffer(net.Conn) {}

func limitSilence(net.Conn, Config) {}
