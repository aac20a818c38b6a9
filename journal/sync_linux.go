package journal

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData makes the content of f durable, and its length, without its times.
func syncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
