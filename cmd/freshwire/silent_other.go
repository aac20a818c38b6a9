//go:build !linux

package main

import "syscall"

// endSilentConnections leaves it to TCP's own patience, and to pings.
func endSilentConnections(_, _ string, _ syscall.RawConn) error { return nil }

// keepAlive is Go's own.
const keepAlive = 0
