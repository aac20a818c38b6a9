package main

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// silenceTime is how long a peer may leave what we sent unconfirmed. Without
// a bound a client that vanished without a word keeps its stream for a quarter
// of an hour, since a ping still fits into the send buffer.
const silenceTime = 30_000 // ms

// keepAlive leaves probes to the listener: Go would set them on each connection, with four calls.
const keepAlive = -1

// endSilentConnections sets that bound on a listener, and probes after 15 s of
// silence; its connections inherit both.
func endSilentConnections(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, silenceTime),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15))
	})
	if err != nil {
		return err
	}
	return failed
}
