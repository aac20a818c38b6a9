package main

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawIO reads into b, or writes it, without a word to the Go scheduler. The
// descriptor does not block.
func rawIO(call uintptr, fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}
