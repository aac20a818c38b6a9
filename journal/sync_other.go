//go:build !linux

package journal

import "os"

// syncData makes the content of f durable. On darwin Sync asks the drive, too.
func syncData(f *os.File) error { return f.Sync() }
