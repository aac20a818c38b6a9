package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// silenceTime is how long a peer may leave what we sent unconfirmed. Without
// a bound a client that vanished without a word keeps its stream for a quarter
// of an hour, since a ping still fits into the send buffer.
const silenceTime = 30_000 // ms

// endSilentConnections sets that bound on a listener; its connections inherit it.
func endSilentConnections(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, silenceTime)
	})
	if err != nil {
		return err
	}
	return failed
}
