//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package journal

import (
	"errors"
	"os"
)

var errHeld = errors.New("held by another process")

// flock does nothing: a lock that outlives its process would keep the program
// from starting again, which is worse. Two processes on one directory are the
// operator's to prevent here.
func flock(*os.File) error { return nil }

// syncDir does nothing: directories cannot be synced everywhere.
func syncDir(string) error { return nil }
