package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// openFileLimit returns how many files a process may open that is started here.
func openFileLimit() (limit uint64, ok bool) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, false
	}
	return r.Cur, true // the runtime has raised it as far as it goes, as it will there
}

// diskOf tells what dir lies on.
func diskOf(dir string) (disk, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return disk{}, err
	}
	d := disk{free: int64(fs.Bavail) * int64(fs.Bsize)}
	switch uint32(fs.Type) {
	case unix.TMPFS_MAGIC:
		d.kind, d.forgets = "tmpfs (memory)", true
	case unix.RAMFS_MAGIC:
		d.kind, d.forgets = "ramfs (memory)", true
	case unix.OVERLAYFS_SUPER_MAGIC:
		d.kind, d.forgets = "overlayfs (a container's own layer)", true
	}
	return d, nil
}
